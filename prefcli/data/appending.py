"""A file of JSON lines that grows one row at a time and is whole at any moment: what people decide is nowhere else."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from prefcli.errors import DataError, SurroundingsError

try:
    import fcntl
except ImportError:  # Windows: two writers of one file are not told from each other there
    fcntl = None  # type: ignore[assignment]

_TOKEN = re.compile(r"[\w\\.+-]*")  # of a number, a word or an escape: a part of it


class JsonLines:
    """An open file of rows, held by this process alone; it is made where there is none, and after a `with` block that
    wrote nothing there is none again.

    A last line that a killed process left half-written is cut off (`cut` bytes); a whole one without its newline is
    given it. Raises DataError: a line that is not a JSON object, nor the beginning of one; the file then stays as it
    is. SurroundingsError: another process holds the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._made = path, not os.path.lexists(path)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            self.rows, self._starts, self.cut = self._read()
        except BaseException:
            self.close()
            raise

    def append(self, *rows: Mapping[str, Any]) -> None:
        """The rows are on disk when this returns. Where the disk does not take them the file is as it was."""
        start, starts, lines = os.fstat(self._handle).st_size, [], b""
        for row in rows:
            starts.append(start + len(lines))
            line = json.dumps(row, ensure_ascii=False, default=str)  # a message may have a date
            lines += line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            self._write(lines)
        except OSError:
            os.ftruncate(self._handle, start)
            raise
        self._starts += starts
        self.rows += map(dict, rows)

    def take_back(self, place: int = -1) -> dict[str, Any]:
        """Remove a row, the last one by default, and return it: it is there or gone, never half.

        At the end the file is cut; elsewhere it is written anew beside, and renamed.
        """
        place %= len(self.rows)
        if place == len(self.rows) - 1:
            os.ftruncate(self._handle, self._starts[-1])
            os.fsync(self._handle)
            self._starts.pop()
        else:
            self._rewrite(place)
        return self.rows.pop(place)

    def close(self) -> None:
        os.close(self._handle)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._made and not self.rows:
            with suppress(PermissionError):  # Windows removes no open file
                self.path.unlink(missing_ok=True)
        self.close()

    def _lock(self) -> None:
        try:
            if fcntl is not None:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SurroundingsError(
                f"{self.path} is being written by another process", "wait for it, or choose another file"
            ) from error
        except OSError:  # a file system without locks
            pass
        if not os.path.samestat(os.fstat(self._handle), os.stat(self.path)):  # it was written anew meanwhile
            raise SurroundingsError(f"{self.path} is being written by another process", "try again")

    def _rewrite(self, without: int) -> None:
        """The file without a row, under the same name and lock."""
        content = self.path.read_bytes()
        ends = [*self._starts[1:], len(content)]
        start, end = self._starts[without], ends[without]
        path = Path(os.path.realpath(self.path))  # a link stays one
        draft = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, stat.S_IMODE(path.stat().st_mode))
        try:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write(handle, content[:start] + content[end:])
            os.replace(draft, path)
        except BaseException:
            os.close(handle)
            draft.unlink(missing_ok=True)
            raise
        os.close(self._handle)
        self._handle = handle
        self._starts = self._starts[:without] + [place - (end - start) for place in self._starts[without + 1 :]]

    def _read(self) -> tuple[list[dict[str, Any]], list[int], int]:
        *lines, last = self.path.read_bytes().split(b"\n")
        rows, starts, start = [], [], 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                if (row := _object(line)) is None:
                    raise self._refused(number)
                rows.append(row)
                starts.append(start)
            start += len(line) + 1
        if not last.strip():
            return rows, starts, 0
        if (row := _object(last)) is None:
            if not _cut_short(last):
                raise self._refused(len(lines) + 1)
            os.ftruncate(self._handle, start)
            return rows, starts, len(last)
        self._write(b"\n")
        return [*rows, row], [*starts, start], 0

    def _refused(self, number: int) -> DataError:
        return DataError(f"{self.path}, line {number}: not a JSON object", "repair the line, or take it out")

    def _write(self, data: bytes) -> None:
        _write(self._handle, data)


def _write(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
    os.fsync(handle)


def _cut_short(line: bytes) -> bool:
    """Whether this is the beginning of an object: what cannot be read is a token at its end, and no more."""
    try:
        json.loads(line.decode(errors="replace"))
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos :].strip()
        return line[:1] == b"{" and (error.msg.startswith("Unterminated") or bool(_TOKEN.fullmatch(rest)))
    except RecursionError:
        pass
    return False


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None

"""A file of JSON lines that grows one row at a time and is whole at any moment: what people decide is nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from prefcli.errors import DataError, SurroundingsError

try:
    import fcntl
except ImportError:  # Windows: two writers of one file are not told from each other there
    fcntl = None  # type: ignore[assignment]


class JsonLines:
    """An open file of rows, held by this process alone; it is made where there is none.

    A last line that a killed process left half-written is cut off (`cut` bytes); a whole one without its newline is
    given it. Raises DataError: a line that is no JSON object. SurroundingsError: another process holds the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            self.rows, self._starts, self.cut = self._read()
        except BaseException:
            self.close()
            raise

    def append(self, row: Mapping[str, Any]) -> None:
        """The row is on disk when this returns."""
        self._starts.append(os.fstat(self._handle).st_size)
        self.rows.append(dict(row))
        self._write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def take_back(self) -> dict[str, Any]:
        """Remove the last row, and return it. The file is cut at the row's start: it is there or gone, never half."""
        os.ftruncate(self._handle, self._starts.pop())
        os.fsync(self._handle)
        return self.rows.pop()

    def close(self) -> None:
        os.close(self._handle)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
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

    def _read(self) -> tuple[list[dict[str, Any]], list[int], int]:
        *lines, last = self.path.read_bytes().split(b"\n")
        rows, starts, start = [], [], 0
        for number, line in enumerate(lines, 1):
            if line.strip():
                if (row := _object(line)) is None:
                    raise DataError(f"{self.path}, line {number}: not a JSON object", "repair the line, or take it out")
                rows.append(row)
                starts.append(start)
            start += len(line) + 1
        if not last:
            return rows, starts, 0
        if (row := _object(last)) is None:
            os.ftruncate(self._handle, start)
            return rows, starts, len(last)
        self._write(b"\n")
        return [*rows, row], [*starts, start], 0

    def _write(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._handle, data) :]
        os.fsync(self._handle)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None

"""Files written whole, and digests of files and of JSON values; a file's is remembered by size, times and inode."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# A file younger than this may be written again within one tick of its clock, unseen: it is not remembered.
SETTLED = 2 * 10**9  # nanoseconds; FAT counts in two seconds


def digest_json(value: Any) -> str:
    """sha256 of a JSON value, the same whatever the order of its keys; a date counts as its text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DigestCache:
    """sha256 by path, size, times and inode, kept in one file, so that a 7B model is read once.

    A cache that cannot be read or written costs a recompute and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            loaded = json.loads(path.read_text())
            self._known: dict[str, list[Any]] = loaded if isinstance(loaded, dict) else {}
        except (OSError, ValueError, RecursionError):
            self._known = {}
        self._changed = False

    def digest(self, path: Path) -> str:
        now = path.stat()
        # The time of change beside that of modification: the latter can be set back (cp -p, touch -r).
        mark = [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]
        name = str(path.resolve())
        entry = self._known.get(name)
        if isinstance(entry, list) and entry[:-1] == mark:
            return str(entry[-1])
        found = digest_file(path)
        if time.time_ns() - max(now.st_mtime_ns, now.st_ctime_ns) > SETTLED:
            self._known[name] = [*mark, found]
            self._changed = True
        return found

    def gone(self) -> list[str]:
        """Files that are known and no longer there."""
        return sorted(name for name in self._known if not os.path.exists(name))

    def forget(self, names: list[str]) -> None:
        for name in names:
            self._changed |= self._known.pop(name, None) is not None
        self.save()

    def save(self) -> None:
        """Where there is a store: looking at a model makes none."""
        if not self._changed or not self._path.parent.is_dir():
            return
        try:
            write_atomically(self._path, json.dumps(self._known))
        except OSError:
            pass
        self._changed = False


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that no reader ever sees half of it."""
    with written_whole(path) as file:
        # a path that is not UTF-8 becomes the very escape that JSON has for it
        file.write(text.encode("utf-8", "backslashreplace"))


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when all of it is written; where that fails nothing is left, or what was there.

    It has the mode that the file had, and a new one what the umask says. A link stays one: what it leads to is written.
    What is not a file (a device, a pipe) is written to as it is.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file() and not path.is_dir():  # renamed onto, /dev/null would be one no more
        with path.open("wb") as device:
            yield device
        return
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    draft = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    # What nobody else may read is not to be read while it is written either.
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666 & (mode or 0o666))
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(draft, mode)
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise

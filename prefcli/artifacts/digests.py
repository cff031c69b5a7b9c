"""Digests of files and of JSON values; a file's is remembered by its size, times and inode."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20
# A file younger than this may be written again within one tick of its clock, unseen: it is not remembered.
SETTLED = 2 * 10**9  # nanoseconds; FAT counts in two seconds


def digest_json(value: Any) -> str:
    """sha256 of a JSON value, the same whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            found.update(block)
    return found.hexdigest()


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
        stat = path.stat()
        # The time of change beside that of modification: the latter can be set back (cp -p, touch -r).
        mark = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
        name = str(path.resolve())
        entry = self._known.get(name)
        if isinstance(entry, list) and entry[:-1] == mark:
            return str(entry[-1])
        found = digest_file(path)
        if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED:
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
    """A file that takes its name when all of it is written; where that fails nothing is left, or what was there."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise

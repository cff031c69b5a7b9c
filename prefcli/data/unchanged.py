"""Checks that a file that is read repeatedly still has its digest."""

from __future__ import annotations

import hashlib
import os
from typing import IO

from prefcli.errors import DataError

HINT = (
    "do not change a file while a run reads it: restore it, and the same command resumes from the last checkpoint; "
    "as it is now, it makes another run"
)


class Watched:
    """An open file (`file`, or a handle of its own): size, times and inode as they were before a byte of it was read.

    It is the file and not its path: another one that takes its name does not change what is read.
    """

    def __init__(self, path: str, file: IO[bytes] | None = None) -> None:
        self.path = path
        self._handle = open(path, "rb") if file is None else file  # noqa: SIM115  for as long as it is read from
        self._mark = self._now()

    def check(self, digest: str) -> None:
        """Raise DataError where it was written to. `digest` is its sha256 as it was."""
        mark = self._now()
        if mark == self._mark:
            return
        # Of a file that is renamed, linked or replaced the time of change moves alone: then its bytes decide.
        if mark[:2] != self._mark[:2] or self._digest() != digest:
            raise changed(self.path)
        self._mark = mark

    def _now(self) -> tuple[int, int, int, int]:
        now = os.fstat(self._handle.fileno())
        return now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino

    def _digest(self) -> str:
        self._handle.seek(0)
        return hashlib.file_digest(self._handle, "sha256").hexdigest()  # type: ignore[arg-type]  # a file on a disk


def changed(path: str, place: str = "") -> DataError:
    return DataError(f"{path}{place and f', {place}'} was changed while it was read", HINT)

"""Unfinished versions on disk: their locks, what they have saved, and how the next number is claimed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefcli.artifacts import alive
from prefcli.files import digest_file

try:
    import fcntl
except ImportError:  # Windows: no lock, and so no clearing of what a killed writer left
    fcntl = None  # type: ignore[assignment]

VERSION = re.compile(r"v([1-9][0-9]{0,8})")
LOCK = ".lock"
HIGHEST = ".highest"  # beside the versions: the highest number that was ever removed
RUN = "run.json"  # of an unfinished version: its key, and under what it runs
NOTED = {"key", "environment", "parents"}  # in it
LOG = "metrics.jsonl"
DIGESTS = "digests.json"  # in a saved state: the sha256 of its files
MARK = b"prefcli\n"  # in a version's lock file, which tells it from one of another program
GOES_ON = (LOCK, RUN, LOG, "state")  # what an unfinished version resumes with
STEP = re.compile(r"step([1-9][0-9]{0,17})")


def open_to_readers(folder: Path) -> None:
    """Give the files below a folder the mode that the umask gave the folder: safetensors lets nobody else read its own.

    Links are passed over: what they lead to is not ours.
    """
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


def digests_below(folder: Path) -> dict[str, str]:
    """sha256 of every file, by its path below the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != DIGESTS)
    return {str(path.relative_to(folder)): digest_file(path) for path in files}


def saved_steps(version: Path) -> list[int]:
    """Steps of the whole states in a version, ascending."""
    found = (STEP.fullmatch(entry.name) for entry in (version / "state").glob("step*"))
    return sorted(int(match.group(1)) for match in found if match)


def run_of(version: Path) -> dict[str, Any]:
    try:
        run = json.loads((version / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def candidates(folder: Path, key: str | None) -> list[Path]:
    """The unfinished versions with this key and a saved state, whoever may be at work on them; the newest first: an
    older one may be what --force was given for."""
    found = folder.glob("v*.partial") if key is not None else ()
    numbers = {int(match[1]): path for path in found if (match := VERSION.fullmatch(path.stem))}
    return [
        path
        for _, path in sorted(numbers.items(), reverse=True)
        if run_of(path).get("key") == key and saved_steps(path)
    ]


def at_work(folder: Path, key: str | None) -> str | None:
    """That another machine is at work on the same run, in a sentence."""
    for path in candidates(folder, key):
        if (machine := alive.elsewhere(path)) is not None:
            return f"{path} is left alone: {machine} is writing it"
    return None


def is_ours(partial: Path) -> bool:
    """Whether an unfinished version is provably one of a store, and not another program's folder of that name.

    It is not a link, and holds what a writer noted, a lock file with our mark, or nothing yet.
    """
    if partial.is_symlink() or not partial.is_dir():
        return False
    if not {entry.name for entry in partial.iterdir()} - {LOCK, alive.FILE, f".{alive.FILE}"}:
        return _is_mark(partial / LOCK) or not os.path.lexists(partial / LOCK) or (partial / LOCK).stat().st_size == 0
    run = {} if (partial / RUN).is_symlink() else run_of(partial)
    noted = isinstance(run.get("key"), str) and run.keys() <= NOTED
    return noted or _is_mark(partial / LOCK)


def _is_mark(lock: Path) -> bool:
    try:
        return not lock.is_symlink() and lock.stat().st_size == len(MARK) and lock.read_bytes() == MARK
    except OSError:
        return False


def highest_ever(folder: Path) -> int:
    """The highest version number of a name that was removed, which is never used again; 0 where none was."""
    try:
        return int((folder / HIGHEST).read_text())
    except (OSError, ValueError):
        return 0


@contextmanager
def hold(partial: Path) -> Iterator[bool]:
    """Keep writers away from an unfinished version; False where one is at work on it (or there are no locks here)."""
    lock = locked(partial / LOCK, os.O_CREAT) if alive.elsewhere(partial) is None else None
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def clear_half_written(version: Path) -> None:
    """Remove what a writer that did not come to its end left beside its states: half a model, half a state, a log's
    draft."""
    halves = [path for path in version.iterdir() if path.name not in GOES_ON]
    for path in (*halves, *(version / "state").glob("*.partial")):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def claim(folder: Path) -> tuple[Path, int, int | None]:
    """Make and lock the first free `vN.partial`."""
    while True:
        taken = [highest_ever(folder)]
        for entry in folder.iterdir():
            match = VERSION.fullmatch(entry.name.removesuffix(".partial"))
            if match:
                taken.append(int(match.group(1)))
        version = max(taken) + 1
        path = folder / f"v{version}.partial"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        lock = locked(path / LOCK, os.O_CREAT)
        # Between the listing and the mkdir another writer may have finished this very number.
        if (folder / f"v{version}").exists():
            shutil.rmtree(path, ignore_errors=True)
            if lock is not None:
                os.close(lock)
            continue
        if lock is not None:
            os.write(lock, MARK)
        return path, version, lock


def locked(path: Path, flags: int = 0) -> int | None:
    """An open, locked file; None where it is gone or somebody else holds it (or there are no locks here)."""
    if fcntl is None:
        return None
    try:
        handle = os.open(path, flags | os.O_RDWR, 0o666)
    except FileNotFoundError:
        return None
    if not _flock(handle, wait=False):
        os.close(handle)
        return None
    return handle


def _flock(handle: int, *, wait: bool) -> bool:
    """Whether the lock was taken; a file system without locks gives none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise
    return True


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Wait for the other writers of this name to have claimed their version."""
    handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        if fcntl is not None:
            _flock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def clear_abandoned(folder: Path) -> dict[str, str]:
    """Remove what a killed writer left: a partial version without a saved state, whose lock file nobody holds.

    Returns what became of those writers, by their key. Who calls this holds the folder's lock, so that no writer is
    about to make that file.
    """
    killed = {}
    for path in folder.glob("v*.partial"):
        run = run_of(path)
        if (saved_steps(path) and run) or alive.elsewhere(path) is not None or not is_ours(path):
            continue
        if (lock := locked(path / LOCK, os.O_CREAT)) is not None:
            if (words := alive.last_words(path)) is not None:
                killed[str(run.get("key"))] = words
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
    return killed


def sync(path: Path) -> None:
    """Ask the disk to keep it: a rename must not outlive the bytes it names. A directory is passed over where that
    cannot be asked of one: on vboxsf, CIFS and Windows."""
    try:
        # Windows keeps only what is open for writing, and opens no directory
        handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        cannot = (errno.EINVAL, errno.EBADF, errno.EACCES, errno.ENOTSUP)
        if not (error.errno in cannot and path.is_dir()):
            raise

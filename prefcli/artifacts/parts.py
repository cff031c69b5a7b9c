"""Work that is done in parts: each is on disk whole, or not at all, as soon as it is made.

    OUT.<digest>.partial/
      work.json               what decides the result: of the same the work is resumed
      rows-00000012.part      the sha256 of what follows, what was noted of the part, its rows: a line each

A part is a fixed range of items, made by itself: whatever ends the process, and however many processes share the
work, the parts are the same, and so is what they are joined to. Of N processes each makes every N-th
missing part, and the first one reads them all. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prefcli import stopping
from prefcli.errors import DataError, PrefcliError, SurroundingsError, from_foreign
from prefcli.files import digest_json, write_atomically, written_whole
from prefcli.progress import SILENT, Reporter

try:
    import fcntl
except ImportError:  # Windows: two writers of one file are not told from each other there
    fcntl = None  # type: ignore[assignment]

ABOUT, LOCK, FAILED = "work.json", ".lock", "failed.json"
PART = re.compile(r"(?P<job>[a-z][a-z0-9-]*)-(?P<number>[0-9]{8})\.part")
EVALUATIONS = ".cache/evaluations"  # below an artifact store
POLL = 0.2  # seconds between two looks at what the other processes have made


@dataclass(frozen=True)
class Share:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that checks, reads all parts and speaks."""
        return self.rank == 0


ALONE = Share()


@dataclass(frozen=True)
class Part:
    """Items `span` as they were made: JSON lines, and what was noted of them (a JSON value)."""

    span: range
    lines: bytes
    noted: Any


Make = Callable[[range], tuple[bytes, Any]]  # a span of items → JSON lines, and what is noted of them


@dataclass
class Job:
    """`items` things to do, `size` of them a part. `unit`: what they are, in messages."""

    work: Work
    name: str
    items: int
    size: int
    unit: str
    done: set[int]  # parts that are known to be on disk
    missing: list[int]  # those that were not, at the start
    todo: list[int]  # those of them that this process is to make: a fixed share

    @property
    def count(self) -> int:
        return -(-self.items // self.size)

    @property
    def kept(self) -> int:
        """Items that are known to be on disk."""
        return sum(len(self.span(number)) for number in self.done)

    @property
    def idle(self) -> bool:
        """Whether this process makes no part, and has none to make with the others."""
        return not (self.todo if self.work.pace is None else self.missing)

    def span(self, number: int) -> range:
        return range(number * self.size, min((number + 1) * self.size, self.items))

    def run(self, make: Make) -> Iterator[Part]:
        """Every part in order, made or read; in all processes but the first none, once this one's are made."""
        if self.work.share == ALONE:
            for number in range(self.count):
                yield self.part(number) if number in self.done else self._made(number, make)
            return
        with nullcontext() if self.work.pace is None or self.idle else self.work.pace():
            for number in self.todo:
                self._made(number, make)
        if self.work.share.first:
            yield from self.read()

    def read(self) -> Iterator[Part]:
        """Every part in order, from disk; waits for those of other processes."""
        return map(self.part, range(self.count))

    def part(self, number: int) -> Part:
        """Waits for it where another process makes it. Raises DataError: it was damaged since the start."""
        self.work.await_part(self, number)
        found = _intact(self._path(number))
        if found is None:
            raise DataError(f"{self._path(number)} was damaged", "start the command again: it makes that part again")
        return Part(self.span(number), *found)

    def tick(self, items: float) -> None:
        """`items` more of the part that is being made are done."""
        self.work.advance(items)

    def _made(self, number: int, make: Make) -> Part:
        self.work.ticked = 0
        lines, noted = make(self.span(number))
        self.work.check()
        if self.work.folder is not None:
            text = json.dumps(noted).encode() + b"\n" + lines
            with written_whole(self._path(number)) as file:
                file.write(hashlib.sha256(text).hexdigest().encode() + b"\n" + text)
            self.work.refuse_failed()
        self.done.add(number)
        self.work.ticked = 0
        self.work.advance(0)
        return Part(self.span(number), lines, noted)

    def _path(self, number: int) -> Path:
        assert self.work.folder is not None
        return self.work.folder / f"{self.name}-{number:08}.part"


@dataclass
class Work:
    """What is done in parts, in a folder once it is opened. Without one nothing is kept, and parts can be had once."""

    share: Share = ALONE
    reporter: Reporter = SILENT
    folder: Path | None = None
    check: Callable[[], None] = lambda: None  # before a part counts: are the rows still what they were?
    resumable: bool = True  # the same command finds the folder again
    jobs: list[Job] = field(default_factory=list)
    ticked: float = 0  # items of the part that is being made
    there: dict[str, set[int]] = field(default_factory=dict)  # parts by job, at the start
    tells: str = ""  # the name under which the other processes are told of it
    pace: Callable[[], AbstractContextManager[None]] | None = None  # around the parts that processes make together
    hears: bool = True  # the first process comes back from its waiting when another one ends
    _shown: list[Job] = field(default_factory=list)
    _closing: ExitStack = field(default_factory=ExitStack)

    def open(self, folder: Path, causes: dict[str, Any], *, shared: bool = False) -> None:
        """Take the work in `folder` up where it was left; what is not of the same `causes`, or damaged, is removed.

        Where another process is at work in it: SurroundingsError, or, where a result may well be made twice (`shared`),
        a folder that is thrown away. Raises SurroundingsError: it is not prefcli's, or cannot be made.
        """
        if _claimed(folder, causes, self._closing):
            self.folder = folder
        elif shared:
            self.open_aside()
        else:
            raise SurroundingsError(
                f"{folder} is being written by another process", "wait for it, or choose another --out"
            )
        self.there = _checked(self.folder)

    def open_aside(self) -> None:
        """A folder that is thrown away: there is no place where the same command would look."""
        self.folder, self.resumable = Path(self._closing.enter_context(tempfile.TemporaryDirectory())), False

    def at_end(self, call: Callable[[], None]) -> None:
        """When the work is closed, the last call first."""
        self._closing.callback(call)

    def close(self) -> None:
        if self.folder is not None and self.share.first and not any(_parts_in(self.folder).values()):
            shutil.rmtree(self.folder, ignore_errors=True)
        self._closing.close()

    def job(self, name: str, items: int, size: int, unit: str) -> Job:
        job = Job(self, name, items, size, unit, set(self.there.get(name, ())), [], [])
        job.missing += [number for number in range(job.count) if number not in job.done]
        # Another process begins each job: models of one part each are shared out too.
        job.todo += job.missing[(self.share.rank + len(self.jobs)) % self.share.world :: self.share.world]
        self.jobs.append(job)
        stopping.made = self.kept_in_words()
        return job

    def begin(self, what: str, *jobs: Job) -> None:
        """Show the progress over the items of these jobs from here on."""
        self._shown = list(jobs)
        self.reporter.begin(what, sum(job.items for job in jobs), jobs[0].unit)
        self.ticked = 0
        self.advance(0)

    def advance(self, items: float) -> None:
        self.ticked += items
        if self.share.first and self.share.world > 1 and items == 0:
            self.look()
        stopping.made = self.kept_in_words()
        done = sum(job.kept for job in self._shown) + self.ticked
        if done:
            self.reporter.advance(int(done))

    def look(self) -> None:
        """See what other processes have made meanwhile."""
        if self.folder is not None:
            there = _parts_in(self.folder)
            for job in self.jobs:
                job.done |= there.get(job.name, set())

    def await_part(self, job: Job, number: int) -> None:
        while number not in job.done:
            self.look()
            if number not in job.done:
                self.refuse_failed()
                self.advance(0)
                time.sleep(POLL)

    def refuse_failed(self) -> None:
        """In the first process raise the error that ended another one."""
        if (error := self.failure()) is not None:
            raise error

    def failure(self) -> PrefcliError | None:
        """In the first process the error that ended another one."""
        if self.share.world > 1 and self.share.first and self.folder is not None:
            with suppress(OSError, ValueError, KeyError):
                said = json.loads((self.folder / FAILED).read_text(encoding="utf-8"))
                error = PrefcliError(said["message"], said["hint"])
                error.exit_code = said["exit_code"]
                return error
        return None

    def fail(self, error: PrefcliError) -> None:
        """In another process than the first: let that one say it."""
        assert self.folder is not None
        said = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        with suppress(FileNotFoundError):  # the first process has ended with an error of its own
            write_atomically(self.folder / FAILED, json.dumps(said))
        error.told = self.hears

    def kept_in_words(self) -> str | None:
        """None where nothing is kept."""
        if self.folder is None or not self.resumable or not any(job.done for job in self.jobs):
            return None
        units = {job.unit: [0, 0] for job in self.jobs}
        for job in self.jobs:
            units[job.unit][0] += job.kept
            units[job.unit][1] += job.items
        told = ", ".join(f"{kept:,} of {items:,} {unit}" for unit, (kept, items) in units.items())
        return f"kept {told} in {self.folder}"

    def remove(self) -> None:
        """The result is there: what it was joined from goes."""
        if self.folder is not None:
            with stopping.busy():
                shutil.rmtree(self.folder, ignore_errors=True)
        self.jobs.clear()


def open_beside(work: Work, out: Path, causes: dict[str, Any]) -> None:
    """Open the work on a file, in a folder beside it, be it a link. Work for the same file by other commands is told,
    and stays as it is. Raises SurroundingsError as `Work.open`."""
    real = Path(os.path.realpath(out))
    folder = real.with_name(f"{real.name[:100]}.{digest_json(causes)[:8]}.partial")
    for told in _of_others(folder, causes):
        work.reporter.notice(told)
    work.open(folder, causes)


def open_in_store(work: Work, root: Path, causes: dict[str, Any]) -> None:
    """Open work that has no file of its own in an artifact store's cache, which is made where there is none; aside
    where that cannot be, or another process is at the very same."""
    folder = root / EVALUATIONS / digest_json(causes)[:32]
    for above in (root, root / ".cache", root / EVALUATIONS):
        if above != root or not root.is_dir():
            work.at_end(partial(_remove_empty, above))
    try:
        work.open(folder, causes, shared=True)
    except SurroundingsError:
        work.open_aside()


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def held(folder: Path) -> bool:
    """Whether a process is at work in an unfinished folder, or it is somebody else's, so that nothing tells."""
    try:
        with (folder / LOCK).open("r+b") as file:  # NFS gives an exclusive lock on what is open for writing alone
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # flock may say either of a lock that another one holds
        return True
    except OSError:
        pass
    return False


def join(job: Job, out: Path) -> None:
    """Write the rows of all parts to a file, which appears whole. Raises SurroundingsError where that cannot be."""
    write_file(out, (part.lines for part in job.read()))


def write_file(out: Path, pieces: Iterable[bytes]) -> None:
    """Raises SurroundingsError where the file cannot be written."""
    try:
        with written_whole(out) as file:
            for piece in pieces:
                file.write(piece)
    except OSError as error:
        raise SurroundingsError(f"--out {out}: {error.strerror or error}", "choose another place") from error


def _of_others(folder: Path, causes: dict[str, Any]) -> Iterator[str]:
    """Notices of unfinished work for the same file by other commands."""
    for other in sorted(folder.parent.glob(f"{_escaped(folder.name[: -len('.00000000.partial')])}.????????.partial")):
        about = _about(other)
        if other == folder or about is None:
            continue
        before = about["causes"]
        differ = sorted(name for name in causes.keys() | before.keys() if causes.get(name) != before.get(name))
        yield (
            f"{other} was left by another command ({', '.join(differ)} differ), and is not used: this one starts from "
            "scratch. Remove it if that command is not to be resumed"
        )


@contextmanager
def unfinished(share: Share, reporter: Reporter) -> Iterator[Work]:
    """Work that is opened, done and removed within. An error, or KeyboardInterrupt, that passes tells what is kept; one
    of another process than the first is told by that."""
    work = Work(share, reporter)
    try:
        yield work
    except KeyboardInterrupt as error:
        work.refuse_failed()  # a launcher ends all processes where one has failed
        if share.first:
            error.args = (_interrupted(work),)
        raise
    except Exception as error:
        if share.first:
            if (kept := work.kept_in_words()) is not None:
                reporter.notice(f"{kept}: the same command resumes")
            if (other := work.failure()) is not None:  # a process that others wait for has ended
                raise other from error
            raise
        known = error if isinstance(error, PrefcliError) else from_foreign(error)
        if known is None and not os.path.isdir(str(work.folder)):  # the first process has ended
            known = SurroundingsError(f"{work.folder} is gone")
        if known is None:
            raise
        work.fail(known)
        raise known from error
    finally:
        stopping.made = None
        reporter.end()
        work.close()


def _interrupted(work: Work) -> str:
    work.look()
    kept = work.kept_in_words()
    if kept is not None:
        return f"interrupted: {kept}; the same command resumes"
    if work.folder is None or not work.resumable:
        return "interrupted: nothing is kept" + (
            "" if work.folder else " (with --out FILE.jsonl the same command resumes)"
        )
    return "interrupted before the first part was made: nothing is kept"


def _claimed(folder: Path, causes: dict[str, Any], stack: ExitStack) -> bool:
    """Whether the folder is ours now, locked until the end. Raises SurroundingsError: it is not prefcli's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SurroundingsError(f"{folder}: {error.strerror or error}", "choose another place") from error
    about = _about(folder)
    if about is None and {path.name for path in folder.iterdir()} - {LOCK}:
        raise SurroundingsError(f"{folder} is in the way, and was not written by prefcli", "move it elsewhere")
    handle = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
    stack.callback(os.close, handle)
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        pass
    if about is None or about["causes"] != json.loads(json.dumps(causes)):
        for path in folder.glob("*.part"):
            path.unlink()
        write_atomically(folder / ABOUT, json.dumps({"causes": causes}))
    (folder / FAILED).unlink(missing_ok=True)
    for draft in folder.glob(".*.part.*"):  # of a writer that was killed
        draft.unlink(missing_ok=True)
    return True


def _about(folder: Path) -> dict[str, Any] | None:
    """The notes in a folder of ours; None for another one."""
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return found if isinstance(found["causes"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _checked(folder: Path | None) -> dict[str, set[int]]:
    """The parts that are there; damaged ones are removed."""
    for path in folder.glob("*.part") if folder is not None else ():
        if _intact(path) is None:
            path.unlink()
    return {} if folder is None else _parts_in(folder)


def _parts_in(folder: Path) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(folder):
            if match := PART.fullmatch(entry.name):
                found.setdefault(match["job"], set()).add(int(match["number"]))
    return found


def _intact(path: Path) -> tuple[bytes, Any] | None:
    """(lines, noted) of a part, or None where it is damaged."""
    try:
        digest, _, text = path.read_bytes().partition(b"\n")
        if digest.decode() != hashlib.sha256(text).hexdigest():
            return None
        noted, _, lines = text.partition(b"\n")
        return lines, json.loads(noted)
    except (OSError, ValueError):
        return None


def _escaped(name: str) -> str:
    return re.sub(r"([\[*?])", r"[\1]", name)

"""A sign of life in an unfinished version: of a run on another machine it says that it lives, of a killed one why.

A run that ends by itself, by an error or by Ctrl-C takes its sign away. One that stays was left by a process that had
no last word: kill -9, the kernel's out-of-memory killer, a power cut. It says what was known a second before.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from prefcli import machine

FILE = "alive.json"
FILES = (FILE, f".{FILE}")
SECONDS = 1.0  # between two signs
FRESH = 60.0  # seconds in which a sign on a shared disk means life: its writer and the disk may be slow
_SMALLER = (
    "use a smaller --batch-size or a larger --grad-accum, --lora-rank 16, --gradient-checkpointing, or a shorter "
    "--max-length"
)


class Sign:
    """Keeps the sign in `version` fresh, from a thread of its own, until `end`."""

    def __init__(self, version: Path) -> None:
        self._version, self._ended = version, threading.Event()
        _write(version)  # from the first moment: another machine may look
        _signs.add(self)
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Take the sign away: the run ends, and says itself why."""
        _signs.discard(self)
        self._ended.set()
        self._thread.join()
        for name in FILES:
            (self._version / name).unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(SECONDS):
            _write(self._version)


_signs: set[Sign] = set()


def end_all() -> None:
    """Take the signs of this process away, from whatever thread."""
    for sign in list(_signs):
        sign.end()


def elsewhere(version: Path) -> str | None:
    """The machine on which the writer of an unfinished version lives, where that is another one; None where none does.

    Locks may be local to a machine; the sign is not. It is compared with the file server's own clock.
    """
    try:
        sign: dict[str, Any] = json.loads((version / FILE).read_text(encoding="utf-8"))
        if _here(sign):
            return None
        silent = _now(version.parent) - (version / FILE).stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(sign.get("host") or "another machine") if silent < FRESH else None


def process(version: Path) -> int | None:
    """The process on this machine that writes an unfinished version now; None where none does.

    A number alone proves nothing: it may be of another process by now, or of another container. Its sign must be
    fresh, and, where the system tells, it must hold the version's lock file open.
    """
    try:
        sign: dict[str, Any] = json.loads((version / FILE).read_text(encoding="utf-8"))
        number, fresh = int(sign["process"]), time.time() - sign["time"] < 10 * SECONDS
        lock = os.stat(version / ".lock")
        if not fresh or not _here(sign) or sign.get("host") != socket.gethostname():
            return None
        if os.name != "nt":  # there 0 is the signal of Ctrl-C
            os.kill(number, 0)
        handles = Path(f"/proc/{number}/fd")
        if handles.parent.is_dir() and not any(_leads_to(handle, lock) for handle in handles.iterdir()):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return number


def _leads_to(handle: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(handle), file)
    except OSError:  # closed meanwhile
        return False


def await_silence(version: Path) -> None:
    """Where another machine's sign is fresh: wait until it is renewed, or so old that its writer is gone."""
    before = _text(version)
    while elsewhere(version) is not None and _text(version) == before:
        time.sleep(SECONDS)


def _text(version: Path) -> str | None:
    try:
        return (version / FILE).read_text(encoding="utf-8")
    except OSError:
        return None


def _here(sign: dict[str, Any]) -> bool:
    """Whether it is of this machine: as long as it has not been started again, a lock tells who lives."""
    boot = sign["boot"]
    return bool(boot == machine.boot() if boot else sign.get("host") == socket.gethostname())


def _now(folder: Path) -> float:
    """The time by the clock of the disk that holds `folder`."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now-") as file:
        return os.stat(file.name).st_mtime


def last_words(version: Path) -> str | None:
    """How the killed writer of an unfinished version ended, in a sentence; None where none was killed."""
    try:
        sign: dict[str, Any] = json.loads((version / FILE).read_text(encoding="utf-8"))
        used, limit, before = sign["memory"], sign["memory_limit"], sign["oom_kills"]
        last_seen = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(sign["time"]))
        who = f"the run before (process {sign['process']}, last seen {last_seen})"
        boot = sign["boot"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if sign.get("host") not in (None, socket.gethostname()):
        return f"{who} ended on {sign['host']}, for an unknown reason"
    held = f"using {used / 2**30:.1f} of {limit / 2**30:.1f} GiB" if used and limit else "memory unknown"
    if boot != machine.boot():
        return f"{who} was ended by a restart of the machine, {held}"
    now = machine.oom_kills()
    # It counts for the whole machine too, and takes the largest: one that held little was not what it was after.
    large = not (used and limit) or used >= limit / 4
    if large and any(now.get(counter, 0) > count for counter, count in before.items()):
        return f"{who} was killed, {held}, and the kernel's out-of-memory killer was at work meanwhile: {_SMALLER}"
    return f"{who} was killed from outside, {held}"


def _write(version: Path) -> None:
    sign = {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "time": time.time(),
        "boot": machine.boot(),
        "memory": machine.resident(),
        "memory_limit": machine.memory_limit(),
        "oom_kills": machine.oom_kills(),
    }
    aside = version / f".{FILE}"
    try:
        aside.write_text(json.dumps(sign), encoding="utf-8")
        os.replace(aside, version / FILE)  # not synced: after a power cut it is worth little
    except OSError:  # a full disk: what matters is written elsewhere, and says so
        pass

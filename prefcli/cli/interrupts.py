"""Ctrl-C, SIGTERM and SIGUSR1, the same for every command.

The first signal raises KeyboardInterrupt in the main thread, on whose way out everything is put in order; in training
it lets the running step end first, for STEP seconds at most, and the state is written (prefcli/stopping.py). A second
one ends the process at once, which is as safe as kill -9 is: nothing is ever half written.

Python runs a handler between two of its own instructions, and a call into a library may last (a collective that waits
for a process that is gone). So a thread sees the signals too, and ends the process where the main thread does not.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from prefcli import stopping
from prefcli.artifacts import alive
from prefcli.cli.stdout import result
from prefcli.progress import is_main_process
from prefcli.stopping import SIGNALS, USR1, Phase

STEP = 10.0  # seconds that a running step gets
GRACE = 8.0  # seconds in which to leave
# Seconds in which a second signal is the first one's echo: launchers hand on what the terminal has sent to all.
ECHO = 5.0 if os.environ.get("WORLD_SIZE", "1") != "1" else 1.0

_heard = 0.0  # when the main thread last heard a signal


def install() -> None:
    """Called once, in the main thread, before anything else."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _time_is_up)
    ear, mouth = socket.socketpair()  # not a pipe, which Windows cannot wait for
    for end in (ear, mouth):
        end.setblocking(False)
    signal.set_wakeup_fd(mouth.detach(), warn_on_full_buffer=False)  # it stays open to the end
    threading.Thread(target=_watch, args=(ear,), daemon=True).start()


def goes_on() -> None:
    """For a command that has caught KeyboardInterrupt and stays: the next signal is a first one again."""
    stopping.forget()


def leave(code: int) -> NoReturn:
    """End the process now that everything is in order. Taking an interpreter with torch in it apart lasts seconds, in
    which a further signal would count again, and may wait for a process that is gone."""
    for stream in (result(), sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # None where it was closed from the start
            stream.flush()
    os._exit(code)


def _interrupt(number: int, frame: Any) -> None:
    global _heard
    _heard = time.monotonic()
    if stopping.asked is not None:  # the thread sees to a second one
        return
    if stopping.heard(number):
        raise stopping.leave()
    when = "as soon as the current write or step is complete"
    if stopping.phase is not Phase.BUSY:
        # A scheduler's may wait longer (`stopping.overdue`).
        when = "when this step has ended" + ("" if number == USR1 else f", in {STEP:.0f} s at most")
    _say(f"stopping {when}; a second signal leaves at once")
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, STEP)


def _time_is_up(number: int, frame: Any) -> None:
    if stopping.left is None and stopping.asked is not None and stopping.overdue():
        raise stopping.leave()


def _say(text: str) -> None:
    """Past Python's streams: a handler may have interrupted one of them."""
    if is_main_process():
        with suppress(OSError):
            os.write(2, f"{text}\n".encode())


def _watch(ear: socket.socket) -> None:
    first, asked = 0.0, 0
    while True:
        told = select.select([ear], [], [], 0.1 if first else None)[0]
        now = time.monotonic()
        if first and stopping.asked is None and _heard > first - 1:  # a command that stays
            first = 0.0
        for number in ear.recv(64) if told else b"":
            if number not in SIGNALS or signal.getsignal(number) is not _interrupt:  # an editor's own affair, say
                continue
            if first and now - first > ECHO:
                _end(asked, "interrupted: left at once")
            if not first:
                first, asked = now, number
        if first and now > _limit(first, asked):
            _end(asked, "interrupted: the running work did not stop in time and was ended")


def _limit(first: float, asked: int) -> float:
    """Until when the main thread may take to leave, after a signal seen at `first`."""
    if stopping.phase is Phase.BUSY:
        return float("inf")
    if stopping.left is not None:
        return max(stopping.left, stopping.changed) + GRACE
    if stopping.phase is Phase.IDLE:
        return first + GRACE
    return float("inf") if asked == USR1 else first + STEP + GRACE


def _end(asked: int, text: str) -> NoReturn:
    kept = stopping.made if stopping.kept is None else f"kept up to step {stopping.kept}"
    _say(text + (f"; {kept}: {stopping.again} there" if kept else ""))
    alive.end_all()  # or the next start would say that the run was killed
    stopping.asked = stopping.asked or asked
    os._exit(stopping.exit_code())

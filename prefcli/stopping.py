"""Between the signal handler (cli/interrupts.py) and the running work: may it be stopped now, and what is lost then?

A signal that comes while nothing is trained is raised at once, as KeyboardInterrupt. One that comes in training sets
`asked`: the loop looks at it after each step, writes the state and leaves. A step that has not ended after ten seconds
is dropped, where that is safe: as long as it has changed nothing of what a state holds.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from prefcli.errors import INTERRUPTED, TRY_AGAIN, Terminated

USR1 = getattr(signal, "SIGUSR1", None)  # Windows has none
SIGNALS = tuple(number for number in (signal.SIGINT, signal.SIGTERM, USR1) if number is not None)


class Phase(Enum):
    """The effect of a signal."""

    IDLE = "nothing is trained: it is raised at once"
    WHOLE = "a step runs that has changed nothing yet: it may be dropped, and the state of the last one written"
    HALF = "a step has changed weights, and continues: without its end the last saved state counts"
    BUSY = "what must not be interrupted, and ends soon: an optimizer step, a checkpoint or the model being written"


asked: int | None = None  # the first signal
kept: int | None = None  # the step of the last saved state of what runs
RESUMES = "the same command resumes"
again = RESUMES  # what resumes what runs, in words
made: str | None = None  # what a command that answers or scores has on disk, in words
phase = Phase.IDLE
changed = 0.0  # when the phase last did
left: float | None = None  # when the stop was raised
_overdue = False  # ten seconds have passed


def heard(number: int) -> bool:
    """Note the first signal; whether it is to be raised now."""
    global asked
    asked = asked or number
    return phase is Phase.IDLE


def overdue() -> bool:
    """Note that the step had its ten seconds; whether to raise now.

    A scheduler's SIGUSR1 comes long before its end: a step that cannot be dropped without loss may end.
    """
    global _overdue
    _overdue = True
    return phase in (Phase.IDLE, Phase.WHOLE) or (phase is Phase.HALF and asked != USR1)


def leave() -> KeyboardInterrupt:
    """The exception to raise; from here on everything is put in order."""
    global left
    left = time.monotonic()
    return KeyboardInterrupt() if asked in (None, signal.SIGINT) else Terminated()


def enter(new: Phase) -> None:
    """Raises the stop where it was only waiting for a step that may be dropped."""
    _set(new)
    if new is Phase.WHOLE and _overdue and left is None:
        raise leave()


def _set(new: Phase) -> None:
    global phase, changed
    phase, changed = new, time.monotonic()


@contextmanager
def busy() -> Iterator[None]:
    """Work that must not be interrupted."""
    before = phase
    _set(Phase.BUSY)
    try:
        yield
    finally:  # without a raise: that is for the end of a step
        _set(before)


def forget() -> None:
    """What was stopped stays: the next signal is a first one again."""
    global asked, left, _overdue
    asked, left, _overdue = None, None, False


def exit_code() -> int:
    """75 where a scheduler asked, which may run the same command again; 130 for Ctrl-C, and for anybody's SIGTERM."""
    if asked is not None and (asked == USR1 or (asked == signal.SIGTERM and "SLURM_JOB_ID" in os.environ)):
        return TRY_AGAIN
    return INTERRUPTED

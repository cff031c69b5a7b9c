"""Ctrl-C and SIGTERM, the same for every command: the running step is abandoned, and the process has left within 10 s.

The first signal raises KeyboardInterrupt in the main thread, on whose way out everything is put in order; further ones
are not heard. Python raises it between two of its own instructions, and a call into a library may last (a collective
that waits for a process that is gone). So a thread sees the signal too, and ends the process where it is still there
after GRACE: as safe as kill -9 is, since nothing is ever half written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any, NoReturn

from prefcli.cli.stdout import result
from prefcli.errors import INTERRUPTED, Terminated

GRACE = 8.0  # seconds
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_leaving = False
_heard = 0.0  # when the main thread last heard a signal


def install() -> None:
    """Called once, in the main thread, before anything else."""
    for number in SIGNALS:
        signal.signal(number, _interrupt)
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(ear,), daemon=True).start()


def goes_on() -> None:
    """For a command that has caught KeyboardInterrupt and stays: the next signal is a first one again."""
    global _leaving
    _leaving = False


def leave() -> NoReturn:
    """End the process now that everything is in order. Taking an interpreter with torch in it apart lasts seconds, in
    which a further signal would count again, and may wait for a process that is gone."""
    for stream in (result(), sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # None where it was closed from the start
            stream.flush()
    os._exit(INTERRUPTED)


def _interrupt(number: int, frame: Any) -> None:
    global _leaving, _heard
    _heard = time.monotonic()
    if not _leaving:
        _leaving = True
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _watch(ear: int) -> None:
    while True:
        number = os.read(ear, 1)[0]
        if number not in SIGNALS or signal.getsignal(number) is not _interrupt:  # an editor's own affair, say
            continue
        seen = time.monotonic()
        time.sleep(GRACE)
        if _leaving or _heard < seen - 1:
            os.write(2, b"interrupted: what was running did not come to an end, and was ended\n")
            os._exit(INTERRUPTED)

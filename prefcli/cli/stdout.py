"""stdout is the result's alone: in a process of ours file descriptor 1 leads to stderr, and results go to what it was.

A reward function, a library or a child process may print what it likes, from Python or past it. In a process that is
not ours (a test's, a notebook's) nothing is moved, and results go to `sys.stdout`.

A result in a file or a pipe is UTF-8, which is what every command reads, whatever the locale's encoding is.

Nor does it matter to a command of ours whether stderr can be written to: what was said is lost, and nothing else.
"""

from __future__ import annotations

import atexit
import codecs
import functools
import io
import os
import sys
from contextlib import suppress
from typing import TextIO

_LENIENT = "prefcli"  # the name under which Python finds `_lenient`
_claimed = False
_result: TextIO | None = None


def claim() -> None:
    """Called by the entry point: this process is ours, and the command that runs in it may set stdout aside."""
    global _claimed
    _claimed = True
    if sys.stderr is None:  # what is printed to None goes to stdout
        sys.stderr = _nowhere()
    elif isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Unheard(
            sys.stderr.buffer, sys.stderr.encoding, sys.stderr.errors, line_buffering=sys.stderr.line_buffering
        )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors=_LENIENT)


def _lenient(error: UnicodeError) -> tuple[str | bytes, int]:
    """A path that is not UTF-8 as the bytes it is; what a terminal's encoding lacks escaped."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(_LENIENT, _lenient)


class _Unheard(io.TextIOWrapper):
    """A stderr on a full disk, or whose reader left, ends no run and changes no exit code."""

    def write(self, text: str, /) -> int:
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            super().flush()


def result() -> TextIO:
    """The stream for results."""
    return _result or sys.stdout or _nowhere()


@functools.cache
def _nowhere() -> TextIO:
    """For a stdout that was closed by who started the process."""
    return open(os.devnull, "w", encoding="utf-8", errors=_LENIENT)


def print_result(text: str) -> None:
    """The result, unwrapped."""
    write_result(text + "\n")


def write_result(text: str) -> None:
    """A piece of the result, as it is."""
    stream = result()
    stream.write(text)
    stream.flush()


def write_rows(lines: bytes) -> None:
    """Rows as a file would have them."""
    stream = result()
    if not isinstance(stream, io.TextIOWrapper):
        write_result(lines.decode())
        return
    stream.flush()
    stream.buffer.write(lines)
    stream.buffer.flush()


def set_aside() -> None:
    """From here on file descriptor 1, and `sys.stdout` with it, lead to stderr. Nothing, in a process not ours."""
    global _result
    if not _claimed or _result is not None or not isinstance(sys.stdout, io.TextIOWrapper):
        return
    sys.stdout.flush()
    lines = 1 if sys.stdout.line_buffering else -1
    _result = open(os.dup(1), "w", lines, encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    os.dup2(sys.stderr.fileno(), 1)  # 2, or, where that was closed from the start and may be any file, nowhere
    sys.stdout.reconfigure(line_buffering=True)
    sys.stdout = sys.stderr
    atexit.register(_let_go)


def give_up() -> None:
    """The reader of our results left: what is still to be written goes nowhere, and Python does not complain of it."""
    stream = result()
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.flush()


def _let_go() -> None:
    """What a full disk did not take would be tried again when the interpreter ends, and be complained of there."""
    try:
        result().flush()
    except OSError:
        give_up()

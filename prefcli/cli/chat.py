"""`prefcli chat REF [REF2]`: a line in, an answer on stdout, at a terminal or from a pipe."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from prefcli.cli.console import reporter, result_console
from prefcli.cli.interrupts import goes_on
from prefcli.cli.out import out_file
from prefcli.cli.stdout import result
from prefcli.config.chat import ChatConfig
from prefcli.data.appending import JsonLines
from prefcli.errors import DataError, Terminated, UsageError
from prefcli.labelling.side_by_side import side_by_side
from prefcli.progress import Reporter
from prefcli.text import shown

HELP = """\
/retry         other answers to the last question
/save          append the question and its answer to --out (one model)
/left, /right  append a pair to --out; the dialogue continues with the better answer (two models)
/system TEXT   set the system message; without TEXT remove it
/reset         forget the dialogue
/quit          leave (so does Ctrl-D)"""


def run(config: ChatConfig) -> None:
    """stdout carries the answers alone; notes and the prompt sign go to stderr."""
    out = out_file("--out", config.out, {})
    report = reporter(config.quiet)
    for stream in (sys.stdin, result()):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdin else "backslashreplace")
    with ExitStack() as stack:
        file = stack.enter_context(_opened(out, config.ref2 is not None)) if out else None
        if file and file.cut:
            report.notice(f"{file.path}: the last line was half-written and is cut off")
        from prefcli.evaluation.chat import open_chat

        chat = open_chat(config, report, stack.callback)
        names = " (left) and ".join(speaker.name for speaker in chat.speakers)
        report.notice(f"talking to {names}{' (right)' if config.ref2 else ''}; /help lists the commands")
        _talk(chat, file, report)


@contextmanager
def _opened(path: Path, two: bool) -> Iterator[JsonLines]:
    """The file of --out.

    Raises UsageError: its rows are of the other form, and no command reads both from one file.
    """
    with JsonLines(path) as file:
        needed = {"chosen", "rejected"} if two else {"completion"}
        if file.rows and not needed <= set(file.rows[0]):
            raise UsageError(f"--out {path} holds rows without {' and '.join(sorted(needed))}", "choose another file")
        yield file


def _talk(chat: Any, file: JsonLines | None, report: Reporter) -> None:
    """Until the input ends or /quit. At a terminal what goes wrong with a line is said, and the next one is read."""
    terminal = sys.stdin is not None and sys.stdin.isatty()
    while (line := _line(terminal)) is not None:
        text = line.rstrip("\r\n")
        if text.strip() == "/quit":
            return
        if not text.strip():
            continue
        try:
            if text.startswith("/"):
                _command(chat, text, file, report)
            else:
                _print(chat, chat.ask(text, _stream(chat)))
        except (UsageError, DataError) as error:
            if not terminal:
                raise
            print(shown(error.message + (f" ({error.hint})" if error.hint else "")), file=sys.stderr)
        except KeyboardInterrupt as error:
            if not terminal or isinstance(error, Terminated):
                raise
            goes_on()
            print("\nstopped; /retry asks again", file=sys.stderr)


def _command(chat: Any, text: str, file: JsonLines | None, report: Reporter) -> None:
    """Raises UsageError for what is not a command, or does not go now."""
    word, _, rest = text.strip().partition(" ")
    if word == "/retry":
        _print(chat, chat.retry(_stream(chat)))
    elif word in ("/save", "/left", "/right"):
        if file is None:
            raise UsageError(f"{word} needs a file: prefcli chat … --out FILE.jsonl")
        file.append(chat.demonstration() if word == "/save" else chat.preference(word[1:]))
        report.notice(f"saved as row {len(file.rows):,} of {file.path}")
    elif word == "/system":
        chat.instruct(rest.strip() or None)
        report.notice("the system message is set" if chat.system else "there is no system message now")
    elif word == "/reset":
        chat.reset()
        report.notice("the dialogue is forgotten")
    elif word == "/help":
        print(HELP, file=sys.stderr)
    else:
        raise UsageError(
            f"no such command: {shown(word)}", "/help lists them; a space before the slash makes it a question"
        )


def _stream(chat: Any) -> Any:
    """The function that writes an answer as it is sampled; None for two, which are drawn when both are there."""
    return None if len(chat.speakers) > 1 else _write


def _write(text: str) -> None:
    stream = result()
    stream.write(shown(text))
    stream.flush()


def _print(chat: Any, answers: list[str]) -> None:
    """The end of an answer that was streamed, or two answers."""
    if len(answers) == 1:
        _write("\n")
    elif result().isatty():
        left, right = (speaker.name for speaker in chat.speakers)
        side_by_side(result_console(), (f"left: {left}", answers[0]), (f"right: {right}", answers[1]))
    else:
        _write(f"left: {answers[0]}\nright: {answers[1]}\n")


def _line(terminal: bool) -> str | None:
    """The next line that is typed or piped; None at the end."""
    if terminal and sys.stdout.isatty():
        try:
            importlib.import_module("readline")  # edits and recalls lines, where input() has C's stdout
        except ImportError:
            pass
        try:
            with redirect_stdout(sys.__stdout__ if sys.stdout is sys.stderr else sys.stdout):
                return input("> ")
        except EOFError:
            return None
    if terminal:
        print("> ", end="", file=sys.stderr, flush=True)
    return (sys.stdin.readline() if sys.stdin is not None else "") or None

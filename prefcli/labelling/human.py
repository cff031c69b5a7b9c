"""A person as the labeller: two answers at a time, blind, one key each; every decision is on disk before the next.

A decision is known again by a digest of the prompt and both answers, so that the work continues where it stopped,
whatever the order of the rows.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from prefcli.config.shared import read_as
from prefcli.data.appending import JsonLines
from prefcli.data.dataset import read_dataset
from prefcli.data.decisions import ORDERS, answer_in, is_decision
from prefcli.data.row import Prompt, text_of, written
from prefcli.errors import DataError
from prefcli.files import digest_json
from prefcli.labelling.preferences import different_answers
from prefcli.labelling.side_by_side import side_by_side
from prefcli.progress import Reporter
from prefcli.text import shown

try:
    import termios
    import tty
except ImportError:  # Windows: a line for each key there
    termios = None  # type: ignore[assignment]

KEYS = {"l": "left", "r": "right", "t": "tie", "s": "skip", "e": "edit", "u": "undo", "q": "quit"}
SAME_AS = {"\x1b[D": "left", "\x1bOD": "left", "\x1b[C": "right", "\x1bOC": "right", "\x04": "quit"}  # arrows, Ctrl-D
LEGEND = "l ← left is better   r → right is better   t tie   s skip   e edit the better one   u undo   q quit"
WHICH = "which is the better one, to edit?  l left   r right   u back   q quit"
ANNOTATOR = "PREFCLI_ANNOTATOR"
WINDOWS = os.name == "nt"

Keys = Callable[[], str]  # the next key, or line, that the person types; "q" where there is no more


@dataclass(frozen=True)
class Comparison:
    """A prompt and two different answers to it, as they are shown."""

    prompt: Prompt
    left: str
    right: str
    digest: str


@dataclass
class Record:
    """The decisions, oldest first: preferences in `pairs`, ties and skips in a file beside it."""

    pairs: JsonLines
    passed: JsonLines | None = None  # made by the first tie or skip
    decided: list[tuple[str, JsonLines]] = field(default_factory=list)  # digest, and the file whose last row it is then

    @property
    def beside(self) -> Path:
        return self.pairs.path.with_name(self.pairs.path.name + ".skipped")

    @property
    def files(self) -> list[JsonLines]:
        return [self.pairs, self.passed] if self.passed else [self.pairs]

    @property
    def seconds(self) -> list[float]:
        return [row["seconds"] for file in self.files for row in file.rows]

    def add(self, digest: str, row: dict[str, Any]) -> None:
        file = self.file_of(row)
        file.append(row)
        self.decided.append((digest, file))

    def file_of(self, row: dict[str, Any]) -> JsonLines:
        """Where a decision is written; for a tie or a skip the file is made."""
        if "verdict" not in row:
            return self.pairs
        if self.passed is None:
            self.passed = JsonLines(self.beside)
        return self.passed

    def read_back(self, reporter: Reporter, is_decision: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The rows of both files, oldest first. Raises DataError: rows that no person made."""
        if self.beside.exists():
            self.passed = JsonLines(self.beside)
        found = []
        for file in self.files:
            if file.cut:
                reporter.notice(
                    f"{file.path}: the last line was half-written and is cut off; that decision is asked again"
                )
            if not all(map(is_decision, file.rows)):
                raise DataError(f"{file.path} holds rows that no person made", "choose another --out")
            found.append(file.rows)
        rows = list(heapq.merge(*found, key=lambda row: row["at"]))
        if rows:
            reporter.notice(f"resuming after {len(rows):,} decisions in {self.pairs.path}")
        return rows

    def close(self) -> None:
        """The file beside; who opened `pairs` closes it."""
        if self.passed:
            self.passed.close()


def run(config: Any, reporter: Reporter, *, keys: Keys | None = None, console: Console | None = None) -> dict[str, Any]:
    """{"rows", "edited", "ties", "skips", "left_share", "median_seconds", "open"}: what the files hold now, not what
    this session added; "open" is the number of comparisons that are left.

    Reads `config.data`, `.split`, `.map`, `.as_chat`, `.skip_bad`, `.out` and `.seed`. `keys` and `console` are the
    terminal's by default.
    Raises DataError: no prompt has two different answers, or --out holds rows that no person made. SurroundingsError:
    somebody else writes it. KeyboardInterrupt: Ctrl-C; every decision is kept.
    """
    read = read_as(config)
    todo = comparisons(config.data, config.seed, config.skip_bad, reporter, **read)
    with JsonLines(Path(config.out)) as pairs:
        record = Record(pairs)
        try:
            rows = record.read_back(reporter, is_decision)
            record.decided = [(digest_in(row), record.file_of(row)) for row in rows]
            _ask_all(todo, record, keys or next_key, console or Console(stderr=True, highlight=False))
            result = _summary(record, todo)
        finally:
            record.close()
    reporter.plan(_told(result))
    return result


def answered(data: list[str], skip_bad: bool, reporter: Reporter, **read: Any) -> list[tuple[Prompt, list[str]]]:
    """Each prompt with its different answers, as they first come. `read`: see `config.shared.read_as`."""
    found = read_dataset(data, "demos", skip_bad, every=True, **read)
    for note in found.notes:
        reporter.notice(note)
    rows = found.rows
    texts = [[text for text in (row.completion, row.rejected) if text is not None] for row in rows]
    return [(rows[next(iter(answers.values()))[0]].prompt, list(answers)) for answers in different_answers(rows, texts)]


def comparisons(data: list[str], seed: int, skip_bad: bool, reporter: Reporter, **read: Any) -> list[Comparison]:
    """Every two different answers to a prompt: first one comparison of each prompt, then a second of each, and so on.

    Drawn with the seed: which of a prompt's comparisons comes first (the order of the file may say whose answers they
    are), and which answer is on the left, for each comparison by itself. Raises DataError: there is none.
    """
    rounds: list[list[Comparison]] = []
    for prompt, answers in answered(data, skip_bad, reporter, **read):
        made = []
        for one, other in itertools.combinations(answers, 2):
            digest = digest_of(prompt, one, other)
            drawn = hashlib.sha256(f"{seed} {digest}".encode()).digest()
            left, right = sorted((one, other), reverse=drawn[0] % 2 == 1)
            made.append((drawn[1:], Comparison(prompt, left, right, digest)))
        made.sort(key=lambda entry: entry[0])
        rounds += [[] for _ in range(len(made) - len(rounds))]
        for part, (_, comparison) in zip(rounds, made):
            part.append(comparison)
    if not rounds:
        raise DataError(
            f"no prompt of {', '.join(data)} has two different answers",
            "sample several: prefcli sample --num-generations 4",
        )
    return [comparison for part in rounds for comparison in part]


def digest_of(prompt: Prompt, one: str, other: str) -> str:
    """The same for both orders of the answers."""
    return digest_json([prompt, sorted((one, other))])


def sides_in(row: dict[str, Any]) -> tuple[str, str]:
    """The two answers that a decision is between, the better one first, as they were shown."""
    one, other = row["answers"] if "verdict" in row else (row.get("edited", row["chosen"]), row["rejected"])
    return answer_in(one) or "", answer_in(other) or ""


def digest_in(row: dict[str, Any]) -> str:
    """The comparison that a decision is of."""
    return digest_of(row["prompt"], *sides_in(row))


def _ask_all(todo: list[Comparison], record: Record, keys: Keys, console: Console) -> None:
    """Until all is decided, or the person quits."""
    by = os.environ.get(ANNOTATOR) or os.environ.get("USER") or "unknown"
    place = {comparison.digest: i for i, comparison in enumerate(todo)}
    done = {digest for digest, _ in record.decided} & place.keys()
    i = 0
    while i < len(todo):
        comparison = todo[i]
        if comparison.digest in done:
            i += 1
            continue
        _show(comparison, len(done), len(todo), record.seconds, console)
        started = time.monotonic()
        action = _press(keys, console, LEGEND, KEYS)
        if edit := action == "edit":
            action = _press(keys, console, WHICH, {key: KEYS[key] for key in "lruq"})
            if action == "undo":
                continue
        if action == "quit":
            return
        if action == "undo":
            digest, file = record.decided[-1] if record.decided else ("", record.pairs)
            if digest not in place or file.rows[-1]["by"] != by:
                console.print("nothing of yours to undo")
                continue
            file.take_back()
            record.decided.pop()
            done.discard(digest)
            i = place[digest]
            continue
        sides = _sides(comparison, action, edit, console)
        if sides is None:
            continue
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        seconds = round(time.monotonic() - started, 2)
        record.add(comparison.digest, {"prompt": comparison.prompt, **sides, "by": by, "at": at, "seconds": seconds})
        done.add(comparison.digest)


def _sides(comparison: Comparison, action: str, edit: bool, console: Console) -> dict[str, Any] | None:
    """The part of a row that says what was decided; None where an edit came to nothing."""
    if action in ("tie", "skip"):
        return {"answers": [comparison.left, comparison.right], "verdict": action}
    left_is_better = action == "left"
    better, worse = comparison.left, comparison.right
    if not left_is_better:
        better, worse = worse, better
    order = ORDERS[0] if left_is_better else ORDERS[1]
    if not edit:
        return {"chosen": written(better), "rejected": written(worse), "shown": order}
    text = _edited(better, console)
    if text is None:
        return None
    if text == worse or not text.strip() or text == better:
        console.print("nothing recorded: the text is empty, unchanged or that of the other answer")
        return None
    return {"chosen": text, "rejected": written(worse), "edited": better, "shown": order}


def _edited(text: str, console: Console) -> str | None:
    """The text after the person's editor; None where that failed."""
    name = os.environ.get("EDITOR") or ("notepad" if WINDOWS else "vi")
    with tempfile.TemporaryDirectory() as folder, _no_interrupt():
        path = Path(folder) / "answer.txt"
        path.write_bytes(text.encode())
        try:
            # Not our stdout, which carries the result, and not our stdin where that holds the keys.
            ended = subprocess.run(editing(name, path), stdin=None if _at_terminal() else subprocess.DEVNULL, stdout=2)
            found = path.read_bytes().decode("utf-8", "replace")
        except (OSError, ValueError) as error:
            console.print(Text(f"nothing recorded: EDITOR {name!r} does not work ({error})"))
            return None
    if ended.returncode:
        console.print(Text(f"nothing recorded: EDITOR {name!r} ended with {ended.returncode}"))
        return None
    return found if text.endswith("\n") else found.rstrip("\n")  # editors end a file with a newline


def editing(editor: str, path: Path, windows: bool = WINDOWS) -> list[str] | str:
    """The command by which an editor opens a file: words, or on Windows, whose paths have backslashes, a line."""
    if windows:
        return f"{editor} {subprocess.list2cmdline([str(path)])}"
    return [*shlex.split(editor), str(path)]


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C is the editor's own affair while it runs; unlike SIG_IGN a handler is not handed down to it."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _show(comparison: Comparison, done: int, total: int, seconds: list[float], console: Console) -> None:
    left = f", about {math.ceil(median(seconds) * (total - done) / 60)} min left" if seconds else ""
    console.print(Rule(f"{done:,} of {total:,} done{left}", characters="─"))
    console.print(Text(shown(text_of(comparison.prompt)) + "\n", style="bold"))
    side_by_side(console, ("left", comparison.left), ("right", comparison.right))


def _press(keys: Keys, console: Console, question: str, known: dict[str, str]) -> str:
    """The meaning of the next valid key."""
    console.print(Text(question, style="dim"))
    while True:
        key = keys()
        word = SAME_AS.get(key, key.strip().lower())
        action = known.get(word, word)
        if action in known.values():
            return action
        console.print(Text(f"{shown(word)!r} is not a key here: {question}"))


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def next_key() -> str:
    """One key where stdin is a terminal, else one line of it; "q" at its end."""
    if termios is None or not _at_terminal():
        line = sys.stdin.buffer.readline() if sys.stdin is not None else b""
        return line.decode("utf-8", "replace") if line else "q"
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    try:
        tty.setcbreak(handle)  # what was typed before the answers were shown is dropped; Ctrl-C stays a signal
        pressed = os.read(handle, 16).decode("utf-8", "replace")
    except OSError:  # the terminal is gone
        pressed = ""
    finally:
        termios.tcsetattr(handle, termios.TCSADRAIN, before)
    return (pressed if pressed.startswith("\x1b") else pressed[:1]) or "q"


def _summary(record: Record, todo: list[Comparison]) -> dict[str, Any]:
    rows = record.pairs.rows
    verdicts = [row.get("verdict") for row in record.passed.rows] if record.passed else []
    decided = {digest for digest, _ in record.decided}
    return {
        "rows": len(rows),
        "edited": sum("edited" in row for row in rows),
        "ties": verdicts.count("tie"),
        "skips": verdicts.count("skip"),
        "left_share": sum(row["shown"] == ORDERS[0] for row in rows) / len(rows) if rows else None,
        "median_seconds": median(record.seconds) if record.seconds else None,
        "open": sum(comparison.digest not in decided for comparison in todo),
    }


def _told(result: dict[str, Any]) -> dict[str, str]:
    """The summary in words."""
    told = {
        "labelled": f"{result['rows']:,} pairs ({result['edited']:,} edited), {result['ties']:,} ties, "
        f"{result['skips']:,} skips"
    }
    if result["rows"]:
        told["position"] = f"the left answer was preferred in {result['left_share']:.0%}; without bias it is 50%"
    if result["median_seconds"] is not None:
        told["pace"] = f"{result['median_seconds']:.1f} s a decision (median)"
    again = f"{result['open']:,} comparisons; the same command resumes"
    return told | {"left to do": again if result["open"] else "nothing: all comparisons are decided"}

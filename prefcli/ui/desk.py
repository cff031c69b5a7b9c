"""Who is asked what, and what they said: the file of decisions, several annotators at a time.

The file is that of `label --by human`, and either goes on with the other's. A ranking is written as the pairs that it
implies; thumbs are rows for `kto`. Every method holds the desk's lock: requests come from several threads.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from prefcli.config.ui import Kind
from prefcli.data.appending import JsonLines
from prefcli.data.decisions import ORDERS, answer_in, is_decision, is_thumb
from prefcli.data.row import written
from prefcli.errors import UsageError
from prefcli.files import digest_json
from prefcli.labelling.human import Record, digest_in, sides_in
from prefcli.progress import Reporter
from prefcli.statistics.agreement import Unit, agreement
from prefcli.statistics.intervals import wilson_interval
from prefcli.text import shown
from prefcli.ui.needed import Needed
from prefcli.ui.questions import Question, draw

HELD = 15 * 60  # seconds for which a question is one annotator's; then it may be asked of another
NAME, COMMENT, ANSWER = 60, 10_000, 200_000  # characters at most


class Stale(Exception):
    """The answer is to a question that is not the annotator's own now: given already, also by another, or in another
    window."""


@contextmanager
def opened(config: Any, todo: list[Question], reporter: Reporter, needed: Needed | None = None) -> Iterator[Desk]:
    """The desk with the file of `config.out`, which is this process's until the block ends.

    Raises DataError: --out holds other rows. SurroundingsError: somebody else writes it.
    """
    with JsonLines(Path(config.out)) as file:
        record = Record(file)
        try:
            rows = record.read_back(reporter, is_thumb if config.to == "binary" else is_decision)
            yield Desk(todo, record, rows, config, needed)
        finally:
            record.close()


def thumb_in(row: dict[str, Any]) -> str:
    """The question that a decision on one answer is of."""
    return digest_json([row["prompt"], row["answers"][0] if "verdict" in row else answer_in(row["completion"])])


class Desk:
    """The questions, and each annotator's way through them."""

    def __init__(
        self, todo: Sequence[Question], record: Record, rows: list[dict[str, Any]], config: Any,
        needed: Needed | None = None,
    ) -> None:  # fmt: skip
        """`needed`: how many labels a better reward model needs, where that is told."""
        self.kind: Kind = config.to
        self.reasons: list[str] = config.reason
        self.objectives: list[str] = config.objective
        self._todo, self._record, self._seed, self._needed = todo, record, config.seed, needed
        self._overlap: float = config.overlap
        self._lock = threading.Lock()
        self._digest: Callable[[dict[str, Any]], str] = thumb_in if self.kind == "binary" else digest_in
        self._of = {part: question for question in todo for part in question.parts}
        self._place = {question.digest: place for place, question in enumerate(todo)}
        self._shared = {q.digest for q in todo if int.from_bytes(draw("overlap", self._seed, q.digest)[:8])
                        < self._overlap * 2**64}  # fmt: skip
        self._done: set[str] = set()  # of the questions that one annotator is asked
        self._own: dict[str, set[str]] = {}  # annotator → of those that all are asked
        self._mine: dict[str, list[tuple[str, str]]] = {}  # annotator → (question, time) of what they decided
        self._at_hand: dict[str, tuple[Question, float]] = {}  # annotator → what they are shown, since when
        self._from: dict[str, int] = {}  # annotator → the first question that may be theirs
        self._seconds: dict[str, list[float]] = {}
        self._given: dict[
            tuple[str, str], set[str]
        ] = {}  # (annotator, question) → its decisions that were there before
        self._read(rows)

    def _read(self, rows: list[dict[str, Any]]) -> None:
        self._others = 0  # rows of --out that are of other data
        for row in rows:
            if (question := self._of.get(self._digest(row))) is None:
                self._others += "verdict" not in row
                continue
            parts = self._given.setdefault((row["by"], question.digest), set())
            parts.add(self._digest(row))
            if len(parts) == len(question.parts):
                self._note(row["by"], question, row["at"], row["seconds"])

    def _note(self, by: str, question: Question, at: str, seconds: float) -> None:
        self._mine.setdefault(by, []).append((question.digest, at))
        self._seconds.setdefault(by, []).append(seconds)
        self._done_by(by, question).add(question.digest)

    def _done_by(self, by: str, question: Question) -> set[str]:
        return self._own.setdefault(by, set()) if question.digest in self._shared else self._done

    def next(self, by: str) -> dict[str, Any]:
        """{"question": {"id", "prompt", "answers"} or None, "progress": …} for an annotator."""
        by = name_of(by)
        with self._lock:
            return self._state(by)

    def decide(self, by: str, digest: str, said: dict[str, Any]) -> dict[str, Any]:
        """Write what an annotator said of the question at hand; the next one, once that is on disk.

        Raises Stale: it is another question that is at hand. UsageError: it says nothing that is known. OSError: the
        disk does not take it, and the question stays.
        """
        by = name_of(by)
        with self._lock:
            question, since = self._in_hand(by)
            if question is None or question.digest != digest:
                raise Stale
            more = self._remarks(said)
            rows = list(self._rows(question, self._order(by, question), said))
            # Of a ranking some pairs may have been decided at the terminal.
            given = self._given.get((by, question.digest), set())
            rated = self._rated(said)
            rows = [{"prompt": question.prompt, **row, **_rated_as(row, rated)} for row in rows]
            rows = [row for row in rows if self._digest(row) not in given]
            at = datetime.now(UTC).isoformat(timespec="microseconds")
            seconds = round(time.monotonic() - since, 2)
            about: dict[str, Any] = {"by": by, "at": at, "seconds": seconds, **more}
            self._record.file_of(rows[0]).append(*(row | about for row in rows))
            self._note(by, question, at, seconds)
            del self._at_hand[by]
            return self._state(by)

    def undo(self, by: str) -> dict[str, Any]:
        """Take an annotator's last decision back, and show that question again. Raises UsageError: there is none."""
        by = name_of(by)
        with self._lock:
            if not self._mine.get(by):
                raise UsageError("nothing of yours to take back")
            digest, at = self._mine[by][-1]
            given = self._given.get((by, digest), set())
            for file in self._record.files:
                for place in reversed(range(len(file.rows))):
                    if file.rows[place]["at"] == at and file.rows[place]["by"] == by:
                        given.discard(self._digest(file.take_back(place)))
            self._mine[by].pop()
            self._seconds[by].pop()
            question = self._todo[self._place[digest]]
            if digest in self._shared or not any(entry[0] == digest for own in self._mine.values() for entry in own):
                self._done_by(by, question).discard(digest)
            for name in self._from:
                self._from[name] = min(self._from[name], self._place[digest])
            self._at_hand[by] = (question, time.monotonic())
            return self._state(by)

    def _in_hand(self, by: str) -> tuple[Question | None, float]:
        """What an annotator is shown, since when; not what was handed on to another, who has decided it."""
        question, since = self._at_hand.get(by, (None, 0.0))
        if question is not None and question.digest in self._done_by(by, question):
            del self._at_hand[by]
            return None, 0.0
        return question, since

    def _state(self, by: str) -> dict[str, Any]:
        question, since = self._in_hand(by)
        if question is None:
            question = self._find(by)
            since = time.monotonic()
        told = None
        if question is not None:
            self._at_hand[by] = (question, since)
            answers = [question.answers[place] for place in self._order(by, question)]
            told = {"id": question.digest, "prompt": question.prompt, "answers": answers}
        return {"question": told, "progress": self._progress(by)}

    def _find(self, by: str) -> Question | None:
        now = time.monotonic()
        taken = {question.digest for name, (question, since) in self._at_hand.items()
                 if name != by and now - since < HELD and question.digest not in self._shared}  # fmt: skip
        open_ones = (place for place in range(self._from.get(by, 0), len(self._todo))
                     if self._todo[place].digest not in self._done_by(by, self._todo[place]))  # fmt: skip
        for number, place in enumerate(open_ones):
            if number == 0:
                self._from[by] = place
            if self._todo[place].digest not in taken:
                return self._todo[place]
        return None

    def _order(self, by: str, question: Question) -> list[int]:
        """Which answer stands where: drawn for each annotator and question, always the same."""
        places = range(len(question.answers))
        return sorted(places, key=lambda place: draw(self._seed, by, question.digest, place))

    def _rows(self, question: Question, order: list[int], said: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The rows that a verdict gives, without who and when."""
        answers, verdict = [question.answers[place] for place in order], said.get("verdict")
        if verdict == "skip" and self.kind == "ranking":
            for two in itertools.combinations(answers, 2):
                yield {"answers": list(two), "verdict": "skip"}
        elif verdict == "skip" or (verdict == "tie" and self.kind == "pairs"):
            yield {"answers": answers, "verdict": verdict}
        elif self.kind == "binary" and verdict in ("good", "bad"):
            yield {"completion": written(answers[0]), "label": verdict == "good"}
        elif self.kind == "ranking" and isinstance(verdict, list):
            if sorted(map(str, verdict)) != sorted(map(str, range(len(answers)))):
                raise UsageError("a ranking names each answer once, the best first")
            for better, worse in itertools.combinations(verdict, 2):
                sides = {"chosen": written(answers[better]), "rejected": written(answers[worse])}
                yield sides | {"shown": ORDERS[int(better > worse)]}
        elif self.kind == "pairs" and verdict in ("left", "right"):
            better, worse = answers if verdict == "left" else reversed(answers)
            yield _edited(better, worse, said.get("text")) | {"shown": ORDERS[int(verdict == "right")]}
        else:
            raise UsageError(f"{str(verdict)[:50]!r} is not a verdict here")

    def _remarks(self, said: dict[str, Any]) -> dict[str, Any]:
        """The comment and the reasons, where there are any."""
        comment, reasons = said.get("comment", ""), said.get("reasons", [])
        if not isinstance(comment, str) or len(comment) > COMMENT:
            raise UsageError(f"a comment has {COMMENT:,} characters at most")
        if not isinstance(reasons, list) or not all(reason in self.reasons for reason in reasons):
            raise UsageError("a reason is one of those of --reason")
        return ({"comment": comment} if comment.strip() else {}) | ({"reasons": reasons} if reasons else {})

    def _rated(self, said: dict[str, Any]) -> dict[str, str]:
        """Which side is better at each objective that was rated: left, right or equal."""
        rated = said.get("objectives", {})
        if not isinstance(rated, dict) or not all(
            name in self.objectives and side in ("left", "right", "equal") for name, side in rated.items()
        ):
            raise UsageError("an objective is one of those of --objective, and left, right or equal")
        return rated

    def _progress(self, by: str) -> dict[str, Any]:
        """How far an annotator is: "mine" is theirs, "left" everybody's; "minutes" are left at their own pace.

        Where it is known "needed" is `Needed.told`.
        """
        own = self._own.get(by, set())
        left = len(self._todo) - len(self._done) - len(own)
        minutes = math.ceil(self._pace(by) * left / 60) if self._seconds.get(by) else None
        found: dict[str, Any] = {
            "mine": len(self._mine.get(by, [])),
            "left": left,
            "total": len(self._todo),
            "minutes": minutes,
        }
        if self._needed is not None:
            found["needed"] = self._needed.told(len(self._record.pairs.rows), self._labels_a_second())
        return found

    def _pace(self, by: str) -> float:
        """Seconds for a decision: the median of an annotator's last hundred."""
        return median(self._seconds[by][-100:])

    def _labels_a_second(self) -> float:
        """Rows that all who are at work write to --out in a second; a tie or a skip is none."""
        now = time.monotonic()
        at_work = [by for by, (_, since) in self._at_hand.items() if now - since < HELD and self._seconds.get(by)]
        decisions = sum(map(len, self._mine.values()))
        rows = (len(self._record.pairs.rows) - self._others) / decisions if decisions else 0.0
        return rows * sum(1 / max(self._pace(by), 0.01) for by in at_work)

    def report(self) -> dict[str, Any]:
        """{"annotators": […], "agreement": {"all", "annotators", "pairs", "objectives"}}: for after the work."""
        with self._lock:
            rows = [row for file in self._record.files for row in file.rows]
        names = sorted({row["by"] for row in rows})
        both = self._agreement(rows, self._value)
        return {
            "annotators": [_habits(name, [row for row in rows if row["by"] == name]) for name in names],
            "agreement": {
                "all": both(),
                "annotators": [{"by": name, **both(name)} for name in names] if len(names) > 1 else [],
                "pairs": [{"by": list(two), **both(*two)} for two in itertools.combinations(names, 2)],
                "objectives": [
                    {"objective": name, **self._agreement(rows, partial(_preferred, objective=name))()}
                    for name in self.objectives
                ],
            },
        }

    def _agreement(
        self, rows: list[dict[str, Any]], value_of: Callable[[dict[str, Any]], str | None]
    ) -> Callable[..., dict[str, Any]]:
        """`agreement`, of who gave which value to each decision; the pairs of one ranking are drawn together."""
        units: dict[str, Unit] = {}
        for row in rows:
            if (value := value_of(row)) is not None:
                units.setdefault(self._digest(row), {})[row["by"]] = value
        asked = [self._of[part].digest if part in self._of else part for part in units]
        return partial(agreement, list(units.values()), of=asked)

    def _value(self, row: dict[str, Any]) -> str | None:
        """What was decided, whatever the sides; None of a skip."""
        if row.get("verdict") == "skip":
            return None
        if self.kind == "binary":
            return "good" if row["label"] else "bad"
        better, worse = sides_in(row)
        return "tie" if "verdict" in row else str(better < worse)


def name_of(by: Any) -> str:
    """An annotator's name as it is written. Raises UsageError: none, or too long."""
    name = " ".join(shown(by).split()) if isinstance(by, str) else ""
    if not name or len(name) > NAME:
        raise UsageError(f"an annotator has a name of {NAME} characters at most")
    return name


def _edited(better: str, worse: str, text: Any) -> dict[str, Any]:
    """The sides of a pair, the better one as it was edited. Raises UsageError: the edit came to nothing."""
    if text is None:
        return {"chosen": written(better), "rejected": written(worse)}
    if not isinstance(text, str) or len(text) > ANSWER:
        raise UsageError(f"an answer has {ANSWER:,} characters at most")
    if not text.strip() or _typed(text) in (_typed(better), _typed(worse)):
        raise UsageError("the edited text is empty, unchanged or that of the other answer")
    return {"chosen": text, "rejected": written(worse), "edited": better}


def _typed(text: str) -> str:
    """A text with the newlines that a text field of a page gives back."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _rated_as(row: dict[str, Any], rated: dict[str, str]) -> dict[str, Any]:
    """The ratings by what a row calls its sides: chosen and rejected, or (of a tie or a skip) first and second."""
    sides = row.get("shown", ["first", "second"])
    called = {"left": sides[0], "right": sides[1], "equal": "equal"}
    return {"objectives": {name: called[side] for name, side in rated.items()}} if rated else {}


def _preferred(row: dict[str, Any], objective: str) -> str | None:
    """Which answer is better at an objective, whatever the sides; None where that was not said."""
    said = row.get("objectives", {}).get(objective)
    if said in (None, "equal"):
        return said
    one, other = sides_in(row)
    return str((one < other) == (said in ("chosen", "first")))


def _habits(by: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How an annotator decides: how many, how fast, and how often for the left or upper answer, with an interval."""
    sides = [row["shown"] == ORDERS[0] for row in rows if "shown" in row]
    first = sum(sides) / len(sides) if sides else None
    # The rows of one ranking, or of its skip, are one decision.
    seconds = {(row["at"], row.get("verdict")): row["seconds"] for row in rows}
    verdicts = [verdict for _, verdict in seconds]
    chosen = verdicts.count(None)
    return {
        "by": by,
        "decisions": len(verdicts),
        "ties": verdicts.count("tie"),
        "skips": verdicts.count("skip"),
        "first": first,
        "first_ci95": list(wilson_interval(first * chosen, chosen)) if first is not None else None,
        "seconds": median(seconds.values()),
    }

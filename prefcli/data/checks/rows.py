"""What is wrong with a row alone: why it is none, or what looks odd about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from prefcli.data.row import BadRow, Row

# What a BadRow says → the kind it is of; the first that fits. "does not fit" is what none fits.
_BAD = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"not valid UTF-8|surrogate", "not UTF-8"),
        (r"not valid JSON|expected an object|columns, and the header", "broken line"),
        (r"^there is no '|there is no 'prompt' column|needs two$", "missing column"),
        (r"are the same$|have the score", "same sides"),
        (r"differ before|no user says", "prompts differ"),
        (r"has the role|has a turn from|must be one assistant message", "bad role"),
        (r"must end (with|before)|ends with the assistant|and no question|must start with", "bad turns"),
        (r"must be true or false", "bad label"),
        (r"not to be trained", "not to be trained"),
        (r"is empty|that is not empty", "empty"),
        (r"must be|must hold|must have", "wrong type"),
    )
)
SKIPPABLE = frozenset(name for _, name in _BAD) | {"does not fit"}  # what --skip-bad leaves out
REPEATED = 12  # a shorter prompt may well be how an answer begins
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))


def bad(error: BadRow) -> str:
    """The kind of finding that a row's error is."""
    return next((name for pattern, name in _BAD if pattern.search(str(error))), "does not fit")


def odd(row: Row) -> Iterator[tuple[str, str]]:
    """(kind of finding, example) of everything that looks odd about a row."""
    answers = [text for text in (row.completion, row.chosen, row.rejected) if text is not None]
    if isinstance(row.prompt, str):
        texts = [row.prompt, *answers]
        if len(row.prompt) >= REPEATED and any(text.startswith(row.prompt) for text in answers):
            yield "prompt repeated", row.prompt
    else:
        texts = [*(turn["content"] for turn in row.prompt), *answers]
        if roles := _out_of_order([turn["role"] for turn in row.prompt]):
            yield "turn order", roles
    if broken := next((text for text in texts if "\ufffd" in text), None):
        yield "broken characters", broken[max(0, broken.index("\ufffd") - 20) :]
    margin = margin_of(row)
    if margin is not None and margin < 0:
        yield "scores against labels", f"a margin of {margin:g}"


def margin_of(row: Row) -> float | None:
    """By how much the row's own columns say that chosen is better: a `margin`, or the difference of two scores."""
    if row.chosen is None or not row.columns:
        return None
    if (margin := _number(row.columns.get("margin"))) is not None:
        return margin
    for names in SCORES:
        one, other = (_number(row.columns.get(name)) for name in names)
        if one is not None and other is not None:
            return one - other
    return None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _out_of_order(roles: list[str]) -> str:
    """The roles up to the one that is out of order; nothing where all are in order."""
    before = None
    for place, role in enumerate(roles):
        late = role == "system" and place > 0
        opens = role == "assistant" and before in (None, "system")
        if late or opens or (role == before and role != "tool"):
            return ", ".join(roles[: place + 1])
        before = role
    return ""

"""Findings in a single row. Why it is not a row at all, a BadRow says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prefcli.data.formats.fields import margin_in
from prefcli.data.row import BadKind, Row, said

SKIPPABLE = frozenset(get_args(BadKind)) | {"template refuses"}  # what --skip-bad leaves out
OPENING = ("system", "developer")  # what such messages say comes before all turns
REPEATED = 12  # a shorter prompt may well be how an answer begins


def odd(row: Row) -> Iterator[tuple[str, str]]:
    """(kind of finding, example) of everything that looks odd about a row."""
    answers = row.answers
    if isinstance(row.prompt, str):
        texts = [row.prompt, *answers]
        if len(row.prompt) >= REPEATED and any(text.startswith(row.prompt) for text in answers):
            yield "prompt repeated", row.prompt
    else:
        texts = [*map(said, row.prompt), *answers]
        roles = [turn["role"] for turn in row.prompt]
        if (empty := next((place for place, text in enumerate(texts) if not text.strip()), None)) is not None:
            yield "empty turn", ", ".join(roles[: empty + 1])
        if out_of_order := _out_of_order(roles + ["assistant"] * bool(answers)):
            yield "turn order", out_of_order
    if broken := next((text for text in texts if "\ufffd" in text), None):
        yield "broken characters", broken[max(0, broken.index("\ufffd") - 20) :]
    margin = margin_of(row)
    if margin is not None and margin < 0:
        yield "scores against labels", f"a margin of {margin:g}"


def margin_of(row: Row) -> float | None:
    """By how much a pair's own columns say that chosen is better."""
    return margin_in(row.columns) if row.chosen is not None and row.columns else None


def _out_of_order(roles: list[str]) -> str:
    """The roles up to the one that is out of order; nothing where all are in order."""
    before = None
    for place, role in enumerate(roles):
        late = role in OPENING and place > 0
        opens = role == "assistant" and before in (None, *OPENING)
        if late or opens or (role == before and role != "tool"):
            return ", ".join(roles[: place + 1])
        before = role
    return ""

"""All formats in one table, and which of them a file's first row is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from prefcli.config.stages import Purpose
from prefcli.data.formats import (
    alpaca,
    completions,
    implicit,
    messages,
    openai,
    pairs,
    prompts,
    ranked,
    sharegpt,
    swift,
    text,
    votes,
)
from prefcli.data.formats.fields import VOTES, words_of
from prefcli.data.formats.form import Form
from prefcli.data.row import Row
from prefcli.errors import DataError

# Of several that fit the first is taken: what many tools write, then what one does; the plainest last.
FORMS: tuple[Form, ...] = (
    *messages.FORMS,
    *completions.FORMS,
    *pairs.FORMS,
    *openai.FORMS,
    *swift.FORMS,
    *sharegpt.FORMS,
    *alpaca.FORMS,
    *ranked.FORMS,
    *votes.FORMS,
    *implicit.FORMS,
    *prompts.FORMS,
    *text.FORMS,
)
KINDS: tuple[Purpose, ...] = ("pairs", "labelled", "demos", "prompts")
# What rows are taken for a purpose: the first kind that is there.
TAKEN: dict[Purpose, tuple[Purpose, ...]] = {
    "demos": ("demos", "pairs"),
    "pairs": ("pairs",),
    "labelled": ("labelled", "pairs"),
    "prompts": ("pairs", "demos", "prompts"),
}
WHY = {
    "demos": "a file's own answers go before the chosen side of its pairs",
    "labelled": "a file's own labels go before its pairs",
    "prompts": "the prompts of pairs go first, then those of dialogues",
}
EXPECTED = {
    "demos": "messages, or prompt and completion, or text (or pairs, whose chosen side is taken)",
    "pairs": "prompt, chosen and rejected, or whole dialogues in chosen and rejected, or prompt, a, b and winner",
    "labelled": "prompt, completion and label, or messages and label (or pairs, each side of which is taken)",
    "prompts": "prompt (or any row that holds one: messages, pairs)",
}


@dataclass(frozen=True)
class Recognised:
    """The format that a file's rows are of, and how they become rows. `note`: which was taken of several, and why."""

    form: Form
    name: str  # with what is taken of it
    purpose: Purpose
    convert: Callable[[dict[str, Any]], Row]
    note: str | None = None


def recognise(where: str, row: dict[str, Any], purpose: Purpose | None = None) -> Recognised:
    """The format of a file by its first row. Without a purpose its rows are taken for what they are.

    Raises DataError: no format that gives such rows has these columns.
    """
    fitting = [form for form in FORMS if form.is_that_of(row)]
    passed_over = fitting if purpose is None else []
    if purpose is None:
        purpose = _kind(fitting, row)
    if purpose == "prompts":
        fitting = [form for form in fitting if form.has_prompt and not _prompt_alone(form, fitting)]
    fitting = [form for kind in TAKEN[purpose] for form in fitting if form.gives == kind]
    if not fitting:
        found = ", ".join(sorted(map(str, row))) or "none"
        raise DataError(
            f"{where}: expected columns {EXPECTED[purpose]}; found: {found}",
            _nearest(row, purpose) + "rename columns with --map OURS=THEIRS; prefcli data formats lists all formats",
        )
    form, note = fitting[0], _note(fitting, passed_over, purpose)
    name, convert = form.name, form.convert
    if purpose == "demos" and form.gives == "pairs":
        # as the DPO paper does where there are pairs alone (arXiv 2305.18290, section 6)
        name = f"{name}, the chosen side"
        convert = lambda raw: replace(pair := form.convert(raw), completion=pair.chosen)  # noqa: E731
    return Recognised(form, name, purpose, convert, note)


def _note(fitting: list[Form], passed_over: list[Form], purpose: Purpose) -> str | None:
    """Which of several fitting formats is taken, the first, and why.

    `passed_over`: where no command says what is wanted, all that fit, whatever rows they give.
    """
    form = fitting[0]
    rivals = [other for other in fitting[1:] if not _nested(form, other)]
    strangers = [
        other
        for other in passed_over
        if other.gives not in (form.gives, "prompts") and other.has_prompt
        if other not in fitting and not _nested(form, other)
    ]
    if not (rivals or strangers):
        return None
    if not rivals:
        why = "pairs go first, then labelled answers"
    elif rivals[0].gives != form.gives:
        why = WHY[purpose]
    else:
        why = "of two such formats the more common one comes first"
    names = " and ".join(other.name for other in rivals + strangers)
    return f"read as {form.name}, though its columns also fit {names}: {why}"


def _kind(fitting: list[Form], row: dict[str, Any]) -> Purpose:
    """The kind of a file's rows; prompts where no format fits, whose reader then reports the error."""
    found = {form.gives for form in fitting if form.has_prompt} or {form.gives for form in fitting}
    if row.get("label") is None and row.get("kto_tag") is None:
        found -= {"labelled"}  # a column of nulls labels nothing
    return next((kind for kind in KINDS if kind in found), "prompts")


def _nearest(row: dict[str, Any], purpose: Purpose) -> str:
    """The format that lacks least of its columns, where one of them is there."""
    if {"message_id", "parent_id", "text"} <= set(row):
        return "of OASST the files of trees are read, whose rows have a message_tree_id and a prompt; "
    if purpose in ("pairs", "labelled") and (sides := votes.sides_in(row)):
        return f"two answers and a vote: --map a={sides[0]} --map b={sides[1]} --map winner=COLUMN; "
    forms = [form for kind in TAKEN[purpose] for form in FORMS if form.gives == kind and set(form.columns) & set(row)]
    lacking = {form.name: [column for column in form.columns if column not in row] for form in forms}
    lacking = {name: columns for name, columns in lacking.items() if columns}
    if not lacking:
        return ""
    name = min(lacking, key=lambda name: len(lacking[name]))
    if lacking[name] == ["label"] and (labels := [column for column in map(str, row) if words_of(column) & VOTES]):
        return f"--map label={labels[0]}; "
    return f"the nearest format is {name}, but {' and '.join(lacking[name])} is missing; "


def _prompt_alone(form: Form, fitting: list[Form]) -> bool:
    """Whether another format reads the same prompt without the answers, which prompts have no need of."""
    return form.gives == "demos" and any(
        other.gives == "prompts" and set(other.columns) <= set(form.columns) for other in fitting
    )


def _nested(one: Form, other: Form) -> bool:
    """Whether the columns of one are among the other's: such rows are of both by nature."""
    return set(one.columns) <= set(other.columns) or set(other.columns) <= set(one.columns)

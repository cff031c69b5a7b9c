"""What is measured in the user's files: the kind of rows of each, and how many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from prefcli.data.formats import EXPECTED, BadRow, Purpose, Row, recognise
from prefcli.data.reading import raise_for, read_file, unit

Kind = Literal["pairs", "labels", "demos", "prompts"]
PURPOSE: dict[Kind, Purpose] = {"pairs": "pairs", "labels": "labelled", "demos": "demos", "prompts": "prompts"}


@dataclass(frozen=True)
class Measured:
    """One file. `rows` are the usable ones, `ties` pairs with two equal sides, `unread` all that do not fit."""

    path: str
    kind: Kind
    form: str
    rows: list[Row]
    unread: int
    ties: int


def measure(path: str, kind: Kind | None = None) -> Measured:
    """One file, read as `kind`, or as what its first row's columns say it is.

    Raises DataError as `read_dataset` does; rows that do not fit are counted, as long as one does.
    """
    lines, _ = read_file(path)
    kind = kind or kind_of(lines[0][1])
    form, convert = recognise(f"{path}, {unit(path)} {lines[0][0]}", lines[0][1], PURPOSE[kind])
    rows, problems, ties = [], [], 0
    for number, raw in lines:
        try:
            rows.append(convert(raw))
        except BadRow as error:
            problems.append(f"{unit(path)} {number}: {error}")
            ties += kind == "pairs" and raw.get("chosen") == raw.get("rejected") is not None
    if not rows:
        raise_for(path, problems, f"every row needs: {EXPECTED[PURPOSE[kind]]}")
    return Measured(path, kind, form, rows, len(problems), ties)


def kind_of(row: dict[str, Any]) -> Kind:
    """The kind of rows with these columns; `prompts` where nothing else fits, whose reader then says what is amiss."""
    columns = set(row)
    if {"chosen", "rejected"} <= columns:
        return "pairs"
    answered = "messages" in columns or {"prompt", "completion"} <= columns
    if answered and row.get("label") is not None:
        return "labels"
    return "demos" if answered or ("text" in columns and "prompt" not in columns) else "prompts"

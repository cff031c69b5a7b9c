"""Measurements of the user's files: the kind of rows of each, and their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prefcli.config.stages import Purpose
from prefcli.data.row import BadRow, Row
from prefcli.data.scan import scan

Kind = Literal["pairs", "labels", "demos", "prompts"]
PURPOSE: dict[Kind, Purpose] = {"pairs": "pairs", "labels": "labelled", "demos": "demos", "prompts": "prompts"}


@dataclass(frozen=True)
class Measured:
    """One file. `rows` are the usable ones, `ties` those without a winner, `unread` all that do not fit,
    among them pairs with the `same_sides`."""

    path: str
    kind: Kind
    form: str
    rows: list[Row]
    unread: int
    ties: int
    same_sides: int
    notes: list[str]


def measure(
    path: str, kind: Kind | None = None, *, split: str | None = None, names: Sequence[str] = (), beside: bool = False
) -> Measured:
    """One file, read as `kind`, or as what its first row's columns say it is; the other options are `scan`'s.

    Raises DataError as `read_dataset` does; rows that do not fit are counted, as long as one does.
    """
    found = scan(path, PURPOSE[kind] if kind else None, split=split, names=names, beside=beside)
    rows, bad = [], []
    for _, row in found:
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            rows.append(row)
    if not rows:
        found.first()  # says what is wrong
    if kind is None:
        (kind,) = (own for own, purpose in PURPOSE.items() if purpose == found.purpose)
    ties, same = (sum(row.kind == name for row in bad) for name in ("tie", "same sides"))
    return Measured(path, kind, found.format, rows, len(bad) - ties, ties, same, found.notes)

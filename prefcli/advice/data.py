"""What is measured in the user's files: the kind of rows of each, how many, and how far the labels can be trusted."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prefcli.data.formats import BadRow, Purpose, Row, Tie
from prefcli.data.scan import scan
from prefcli.data.shares import wilson_interval

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


@dataclass(frozen=True)
class Agreement:
    """What the labels of pairs say about themselves.

    A pair is the same whichever side was chosen. `wrong` counts labels against their pair's majority: at least so
    many are wrong. `estimate` and `least` are shares of wrong labels, see `agreement`.
    """

    rows: int
    relabelled: int
    contradicted: int
    confirmed: int  # pairs labelled again, never the other way, in rows that differ in their other columns
    copies: int  # rows that are there once more, all columns alike
    wrong: float
    estimate: float | None
    least: float


@dataclass(frozen=True)
class Lengths:
    """How often the longer side was chosen, among pairs whose sides differ in length (in characters)."""

    longer: float | None = None
    interval: tuple[float, float] | None = None
    counted: int = field(default=0)


def measure(path: str, kind: Kind | None = None) -> Measured:
    """One file, read as `kind`, or as what its first row's columns say it is.

    Raises DataError as `read_dataset` does; rows that do not fit are counted, as long as one does.
    """
    found = scan(path, PURPOSE[kind] if kind else None)
    rows, bad = [], []
    for _, row in found:
        if isinstance(row, BadRow):
            bad.append(row)
        else:
            rows.append(row)
    if not rows:
        found.sorted_out(skip_bad=False)  # says which
    if kind is None:
        (kind,) = (own for own, purpose in PURPOSE.items() if purpose == found.purpose)
    return Measured(path, kind, found.format, rows, len(bad), sum(isinstance(row, Tie) for row in bad))


def agreement(rows: Sequence[Row]) -> Agreement:
    """How often the same pair is labelled both ways.

    Where each label is wrong with probability e on its own, two labels of one pair disagree with d = 2e(1 − e), so
    e = (1 − √(1 − 2d)) / 2. d is the mean, over the pairs labelled more than once, of the share of their labels' pairs
    that disagree; `estimate` is e there, `least` at the lower end of d's 95 % interval, with each pair as one draw.
    Wrong labels that both labellers share, and rows that were copied, make it look better than it is.
    """
    counts: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    others: dict[Any, set[str]] = defaultdict(set)
    for row in rows:
        assert row.chosen is not None and row.rejected is not None
        sides = sorted((row.chosen, row.rejected))
        pair = (row.prompt_text, sides[0], sides[1])
        counts[pair][row.chosen == sides[1]] += 1
        others[pair].add(f"{row.chosen == sides[1]} {row.columns!r}")
    again = [(one, other) for one, other in counts.values() if one + other > 1]
    apart = [one * other / math.comb(one + other, 2) for one, other in again]
    minority = sum(min(pair) for pair in again)
    certain = minority / len(rows) if rows else 0.0
    copies = len(rows) - sum(map(len, others.values()))
    contradicted = sum(min(pair) > 0 for pair in again)
    confirmed = sum(min(counts[pair]) == 0 and len(seen) > 1 for pair, seen in others.items())
    if not again:
        return Agreement(len(rows), 0, 0, 0, copies, 0, None, 0.0)
    low, _ = wilson_interval(sum(apart), len(again))
    estimate, least = _wrong(sum(apart) / len(again)), max(certain, _wrong(low))
    return Agreement(len(rows), len(again), contradicted, confirmed, copies, minority, estimate, least)


def _wrong(disagreement: float) -> float:
    return (1 - math.sqrt(max(0.0, 1 - 2 * disagreement))) / 2


def lengths(rows: Iterable[Row]) -> Lengths:
    """Whether the longer answer is the chosen one."""
    signs = [len(row.chosen or "") > len(row.rejected or "") for row in rows if _differ(row)]
    if not signs:
        return Lengths()
    return Lengths(sum(signs) / len(signs), wilson_interval(sum(signs), len(signs)), len(signs))


def _differ(row: Row) -> bool:
    return len(row.chosen or "") != len(row.rejected or "")

"""Findings over all rows together, from a few bytes kept of each: repeats, contradictions, leaks, one-sidedness."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator

import numpy as np

from prefcli.data.agreement import Labels
from prefcli.data.checks.found import Found
from prefcli.data.checks.rows import margin_of
from prefcli.data.fingerprints import asked, fingerprint, loosely
from prefcli.data.lengths import length_bias
from prefcli.data.row import Row

# A prompt with more than this share of the rows is in nearly every batch of 16 (1 − 0.95¹⁶ = 56 %), and what is learnt
# of it outweighs the rest. Fewer than 10 are no matter, whatever their share.
OFTEN, OFTEN_AT_LEAST = 0.05, 10
# That so many margins are equal by chance is out of the question; two or three may well be.
CONSTANT_AT_LEAST = 20
BYTES_A_ROW = 45  # two fingerprints of the prompt, 17 of `Labels`, two lengths and the number: 16 + 17 + 8 + 4


class Gathered:
    """The record of rows: `BYTES_A_ROW` each, whatever their length."""

    def __init__(self) -> None:
        self.labels = Labels()
        self.prompts, self.loose = array("Q"), array("Q")
        self.lengths = (array("I"), array("I"))  # of chosen and rejected answers, in characters
        self._files: list[str] = []
        self._starts: list[int] = []
        self._numbers = array("I")
        self.kinds = [0, 0, 0]  # labelled false, labelled true, pairs
        self.margin: float | None = None
        self.margins, self.margins_vary = 0, False

    def __len__(self) -> int:
        return len(self.prompts)

    def open(self, file: str) -> None:
        """The rows that follow are of this file."""
        self._files.append(file)
        self._starts.append(len(self))

    def add(self, number: int, row: Row) -> None:
        self._numbers.append(number)
        text = asked(row)
        self.prompts.append(fingerprint(text))
        self.loose.append(fingerprint(loosely(text)))
        self.labels.add(row)
        if row.label is not None:
            self.kinds[row.label] += 1
        if row.chosen is not None and row.rejected is not None:
            self.kinds[2] += 1
            self.lengths[0].append(len(row.chosen))
            self.lengths[1].append(len(row.rejected))
        if (margin := margin_of(row)) is not None:
            self.margin = margin if self.margin is None else self.margin
            self.margins, self.margins_vary = self.margins + 1, self.margins_vary or margin != self.margin

    def place(self, position: int) -> tuple[str, int]:
        file = self._files[bisect_right(self._starts, position) - 1]
        return file, self._numbers[position]

    def shown(self, position: int) -> str:
        return "{}:{}".format(*self.place(position))


def duplicates(rows: Gathered) -> Iterator[tuple[int, int]]:
    """(a row that is there once more, the first like it): the same prompt and answers, labelled alike."""
    # The way is one bit, and so is what it takes of the fingerprint.
    same = np.asarray(rows.labels.subjects) & np.uint64(2**64 - 2) | np.asarray(memoryview(rows.labels.ways))
    firsts, inverse = _firsts(same)
    for position in np.flatnonzero(firsts[inverse] != np.arange(len(same))):
        yield int(position), int(firsts[inverse[position]])


def both_ways(rows: Gathered) -> Iterator[tuple[int, int]]:
    """(a row whose label is the other one than the first row's of the same answers, that first row)."""
    ways = np.asarray(memoryview(rows.labels.ways))
    firsts, inverse = _firsts(np.asarray(rows.labels.subjects))
    for position in np.flatnonzero(ways[firsts[inverse]] != ways):
        yield int(position), int(firsts[inverse[position]])


def leaks(rows: Gathered, held_out: Gathered, loosely: bool) -> Iterator[tuple[int, int]]:
    """(a row whose prompt is held out, the held-out row): the very prompt, or `loosely` one that is nearly the same."""
    same = np.isin(rows.prompts, held_out.prompts)
    mine, theirs = (np.asarray(part.loose if loosely else part.prompts) for part in (rows, held_out))
    found = np.isin(mine, theirs) & ~same if loosely else same
    order = np.argsort(theirs, kind="stable")
    for position in np.flatnonzero(found):
        yield int(position), int(order[np.searchsorted(theirs, mine[position], sorter=order)])


def find(rows: Gathered, held_out: Gathered | None, found: Found) -> None:
    """Add all that shows in the rows together."""
    if not len(rows):
        return
    if sum(rows.kinds[:2]) > 0 and min(rows.kinds[:2]) == 0 and not rows.kinds[2]:
        found.add("one kind of label", f"{sum(rows.kinds):,} rows labelled {'true' if rows.kinds[1] else 'false'}")
    _in_pairs(rows, duplicates, "duplicates", "as in {}", found)
    if any(rows.kinds):
        _in_pairs(rows, both_ways, "labelled both ways", "the other way in {}", found)
    _often(rows, found)
    if held_out is not None:
        for name, loose in (("in held-out too", False), ("nearly in held-out", True)):
            for position, other in leaks(rows, held_out, loose):
                found.add(name, f"as in {held_out.shown(other)}", *rows.place(position))
    bias = length_bias(zip(*rows.lengths))
    if bias is not None and bias.large:
        found.add("longer chosen", bias.told("characters"), count=round(bias.share * bias.pairs))
    if rows.margins >= CONSTANT_AT_LEAST and not rows.margins_vary:
        found.add("constant margins", f"{rows.margin:g} in all {rows.margins:,}", count=rows.margins)


def _in_pairs(
    rows: Gathered, check: Callable[[Gathered], Iterator[tuple[int, int]]], name: str, text: str, found: Found
) -> None:
    for position, first in check(rows):
        found.add(name, text.format(rows.shown(first)), *rows.place(position))


def _often(rows: Gathered, found: Found) -> None:
    _, firsts, counts = np.unique(np.asarray(rows.prompts), return_index=True, return_counts=True)
    most = int(counts.argmax())
    count = int(counts[most])
    if count >= OFTEN_AT_LEAST and count > OFTEN * len(rows):
        first = int(firsts[most])
        text = f"the prompt of {rows.shown(first)} is in {count / len(rows):.0%} of the rows"
        found.add("one prompt often", text, *rows.place(first), count=count)


def _firsts(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first position of each value, and each position's value as an index into those."""
    _, firsts, inverse = np.unique(values, return_index=True, return_inverse=True)
    return firsts, inverse

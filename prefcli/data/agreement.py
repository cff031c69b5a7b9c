"""Label noise: how often the same pair, or the same answer, is labelled again, and both ways."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from prefcli.data.fingerprints import fingerprint
from prefcli.data.row import Row
from prefcli.statistics.intervals import wilson_interval


@dataclass(frozen=True)
class Agreement:
    """Label noise of pairs, from the labels alone.

    A pair is the same whichever side was chosen. `wrong` counts labels against their pair's majority: at least that
    many are wrong. `estimate` and `least` are fractions of wrong labels, see `Labels.agreement`.
    """

    rows: int
    relabelled: int
    contradicted: int
    confirmed: int  # pairs labelled again, never the other way, in rows that differ in their other columns
    copies: int  # rows that are there once more, all columns alike
    wrong: float
    estimate: float | None
    least: float


@dataclass
class Labels:
    """Rows as 17 bytes each: what is labelled, which way (1 byte), and the row with all its columns."""

    subjects: array[int] = field(default_factory=lambda: array("Q"))
    ways: bytearray = field(default_factory=bytearray)
    rows: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, row: Row) -> None:
        """A pair's subject is its prompt with both answers, another row's its prompt with its answer, if any."""
        if row.chosen is not None and row.rejected is not None:
            sides = sorted((row.chosen, row.rejected))
            subject, way = fingerprint(row.prompt_text, *sides), row.chosen == sides[1]
        else:
            subject, way = fingerprint(row.prompt_text, row.completion or ""), bool(row.label)
        self.subjects.append(subject)
        self.ways.append(way)
        self.rows.append(fingerprint(str(subject), str(way), repr(row.columns)) if row.columns else subject & ~1 | way)

    def agreement(self) -> Agreement:
        """How often the same pair is labelled both ways.

        Where each label is wrong with probability e on its own, two labels of one pair disagree with d = 2e(1 − e), so
        e = (1 − √(1 − 2d)) / 2. d is the mean, over the pairs labelled more than once, of the fraction of their labels'
        pairs that disagree; `estimate` is e there, `least` at the lower end of d's 95 % interval, with each pair as one
        draw. Wrong labels that both labellers share, and rows that were copied, make it look better than it is.
        """
        count = len(self.subjects)
        if not count:
            return Agreement(0, 0, 0, 0, 0, 0, None, 0.0)
        subjects, ways, rows = (np.asarray(values) for values in (self.subjects, memoryview(self.ways), self.rows))
        order = np.lexsort((rows, subjects))
        new = np.concatenate(([True], np.diff(subjects[order]) != 0))  # a subject's first row, sorted
        starts = np.flatnonzero(new)
        labels = np.diff(np.append(starts, count))
        ones = np.add.reduceat(ways[order].astype(np.int64), starts)
        fewer = np.minimum(ones, labels - ones)
        different = np.add.reduceat(new | np.concatenate(([True], np.diff(rows[order]) != 0)), starts, dtype=np.int64)
        again = labels > 1
        minority, copies = int(fewer.sum()), count - int(different.sum())
        relabelled, contradicted = int(again.sum()), int((fewer > 0).sum())
        confirmed = int(((fewer == 0) & (different > 1)).sum())
        if not relabelled:
            return Agreement(count, 0, 0, 0, copies, 0, None, 0.0)
        apart = float((ones * (labels - ones) / np.maximum(labels * (labels - 1) / 2, 1))[again].sum())
        low, _ = wilson_interval(apart, relabelled)
        estimate, least = _wrong(apart / relabelled), max(minority / count, _wrong(low))
        return Agreement(count, relabelled, contradicted, confirmed, copies, minority, estimate, least)


def agreement(rows: Iterable[Row]) -> Agreement:
    """`Labels.agreement` of these rows."""
    labels = Labels()
    for row in rows:
        labels.add(row)
    return labels.agreement()


def _wrong(disagreement: float) -> float:
    return (1 - math.sqrt(max(0.0, 1 - 2 * disagreement))) / 2

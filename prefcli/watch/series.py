"""Short histories and the arithmetic on them: windows, medians, standard errors.

No function raises, whatever finite or infinite numbers it is given, or none: a watcher must not end a run. Where a
quotient or a sum is undefined it says so beside it; comparisons with NaN are false, so that nothing is seen in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """Summary of many values: enough for the mean and its standard error."""

    n: float
    mean: float
    variance: float

    @property
    def deviation(self) -> float:
        return math.sqrt(self.variance)


def mean(values: Iterable[float]) -> float:
    """0 of no values. Infinities and overflow give an infinity or NaN, where statistics.fmean raises."""
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def summary(values: Sequence[float]) -> Sample:
    """Number, mean and population variance; zeros of no values."""
    middle = mean(values)
    return Sample(len(values), middle, mean((x - middle) * (x - middle) for x in values))


def pooled(samples: Sequence[Sequence[float]]) -> Sample:
    """The summary of all values that the samples stand for."""
    parts = [Sample(*sample) for sample in samples]
    n = sum(part.n for part in parts)
    if not n:
        return Sample(0, 0.0, 0.0)
    middle = sum(part.n * part.mean for part in parts) / n
    spread = (part.n * (part.variance + (part.mean - middle) * (part.mean - middle)) for part in parts)
    return Sample(n, middle, sum(spread) / n)


def z_score(before: Sample, after: Sample) -> float:
    """By how many standard errors the mean rose (Welch's statistic); 0 where one side has no values."""
    if not before.n or not after.n:
        return 0.0
    error = math.sqrt(before.variance / before.n + after.variance / after.n)
    rise = after.mean - before.mean
    return rise / error if error > 0 else math.copysign(math.inf, rise) if rise else 0.0


def deviations_from(history: Sequence[float], value: float, floor: float) -> float:
    """(value − median) / scale, scale = 1.4826·MAD, at least `floor`; ±inf where the scale is 0 and the value differs.

    1.4826·MAD is the standard deviation of normal values, and outliers do not move it (Leys et al. 2013).
    """
    middle = median(history)
    off, scale = value - middle, max(1.4826 * median(abs(x - middle) for x in history), floor)
    return off / scale if scale > 0 else math.copysign(math.inf, off) if off else 0.0


def steps_of(rows: int, batch_size: int, least: int) -> int:
    """The number of steps that hold `rows` rows, but `least` at least: with small batches a few steps tell little."""
    return max(least, math.ceil(rows / batch_size))


class Track:
    """The first values of a series and its newest ones; the two never overlap once it is `ready`.

    A value is anything that JSON holds, or a Sample, which comes back as a list.
    """

    def __init__(self, first: int, last: int) -> None:
        self._sizes = first, last
        self.start: list[Any] = []
        self.recent: list[Any] = []
        self.seen = 0

    def add(self, value: Any) -> None:
        first, last = self._sizes
        if self.seen < first:  # in a state of other sizes too
            self.start.append(value)
        self.recent = [*self.recent, value][-last:]
        self.seen += 1

    @property
    def ready(self) -> bool:
        return self.seen >= sum(self._sizes)

    def state_dict(self) -> dict[str, Any]:
        return {"start": list(self.start), "recent": list(self.recent), "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start, self.recent, self.seen = list(state["start"]), list(state["recent"]), state["seen"]

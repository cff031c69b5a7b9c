"""Intervals by bootstrap, with torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prefcli.statistics.intervals import percentile_tail, student_t, wilson_interval

RESAMPLES = 2000
ROOM = 200_000  # numbers in one block of resamples: what a cache holds
FEW = 5  # of fewer values too many resamples are of one value alone


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of few or many values, as `mean_intervals` gives it; Wilson's where all are 0 or 1."""
    if not values:
        return (math.nan, math.nan)
    if all(value in (0, 1) for value in values):
        return wilson_interval(sum(values), len(values))
    return mean_intervals(torch.tensor([list(values)], dtype=torch.float64), seed)[0]


def mean_intervals(values: Tensor, seed: int = 0) -> list[tuple[float, float]]:
    """95 % intervals of the means of the rows of `values` [rows, n], by bootstrap-t from 2,000 resamples, the same for
    all rows (Efron and Tibshirani 1993, section 12.5).

    Each resample's mean is taken in its own standard errors, so the interval is as wide as few values make it, and
    leans as they lean; the percentile interval is too short (0.90 for 0.95 of ten normal values). Where resamples
    without any spread leave no end to it (fewer than five values, or nearly all the same) it is Student's; one value
    has itself.
    """
    rows, n = values.shape
    if n == 1:
        return [(float(value), float(value)) for value in values[:, 0]]
    middle, spread = values.mean(1), values.std(1)
    squares = (values - middle[:, None]).square()  # or those of large values would lose all digits
    blocks = (block.T.contiguous() for block in resample_blocks(n, seed))
    drawn = [(values @ counts / n, squares @ counts / n) for counts in blocks]
    means, squared = (torch.cat(part, dim=1) for part in zip(*drawn))
    variances = (squared - (means - middle[:, None]).square()).clamp(min=0)
    pivots = (means - middle[:, None]) / (variances / (n - 1)).sqrt()  # NaN and ±inf without spread
    error = spread / math.sqrt(n)
    student = student_t(n - 1)
    found = []
    for row in range(rows):
        low, high = (-student, student)
        if n >= FEW and not _flat(variances[row], error[row], n):
            low, high = percentile_interval(pivots[row])
        at, wide = float(middle[row]), float(error[row])
        found.append((at - high * wide, at - low * wide))
    return found


def _flat(variances: Tensor, error: Tensor, n: int) -> bool:
    """Whether more resamples have no spread at all than lie beyond one end of the interval, so that it has none."""
    return float((variances <= 1e-12 * n * error.square()).double().mean()) >= 0.0125


def resample_counts(n: int, seed: int = 0) -> Tensor:
    """[2,000, n] how often each of n units stands in each resample: 16 kB a unit. Of many take the blocks."""
    return torch.cat(list(resample_blocks(n, seed)))


def resample_blocks(n: int, seed: int = 0, at_a_time: int | None = None) -> Iterator[Tensor]:
    """The same, some rows at a time: [at most `at_a_time`, n] each, by default as many as a cache holds, or 16."""
    generator = torch.Generator().manual_seed(seed)
    size = at_a_time or max(16, ROOM // n)
    for start in range(0, RESAMPLES, size):
        draws = torch.randint(n, (min(size, RESAMPLES - start), n), generator=generator)
        counts, one = torch.zeros(draws.shape, dtype=torch.float64), torch.ones((), dtype=torch.float64)
        yield counts.scatter_add_(1, draws, one.expand(draws.shape))


def percentile_interval(found: Tensor, units: int | None = None) -> tuple[float, float]:
    """95 % interval from what the resamples gave, [resamples]; infinite ones may be among them.

    `units`: how many were resampled; of few the interval is widened (`statistics.intervals.percentile_tail`).
    """
    ordered = found.sort().values
    last = len(ordered) - 1
    tail = 0.025 if units is None or units < 2 else percentile_tail(units)
    return (float(ordered[round(tail * last)]), float(ordered[round((1 - tail) * last)]))

"""Student's t, and the interval of a mean of few values. No torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev


@functools.cache
def student_t(df: int, level: float = 0.95) -> float:
    """The t with P(|T| ≤ t) = level for T of Student's distribution with `df` ≥ 1 degrees of freedom."""
    low, high = 0.0, 1.0
    while _within(high, df) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < level else (low, middle)
    return (low + high) / 2


def _within(t: float, df: int) -> float:
    """P(|T| ≤ t): a finite sum for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    theta = math.atan(t / math.sqrt(df))
    cos, sin = math.cos(theta), math.sin(theta)
    odd = df % 2
    term = total = cos if odd else 1.0
    for k in range(2 + odd, df, 2):
        term *= (k - 1) / k * cos * cos
        total += term
    if odd:
        return 2 / math.pi * (theta + (sin * total if df > 1 else 0.0))
    return sin * total


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None for fewer than two values."""
    if len(values) < 2:
        return None
    half = student_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return (fmean(values) - half, fmean(values) + half)


@functools.cache
def percentile_tail(units: int) -> float:
    """The share of resamples of `units` ≥ 2 units to leave out at each end of a 95 % percentile interval.

    Less than 2.5 %, since resamples of few units spread too little: Φ(−√(n/(n−1))·t), which gives a mean of normal
    values Student's interval ("expanded percentile", Hesterberg, arXiv 1411.5279, section 5.3).
    """
    return NormalDist().cdf(-math.sqrt(units / (units - 1)) * student_t(units - 1))

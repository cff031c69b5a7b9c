"""Intervals in closed form: of a fraction that was counted, of a mean of few values, of a difference. No torch."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev, variance
from typing import Any

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927), right at 0 and at 1 too. `successes` may count ties as halves."""
    if n == 0:
        return (0.0, 1.0)
    share, square = successes / n, Z95 * Z95
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    # Exactly 0 and 1 at the ends: rounding may leave 3e-17 above 0.
    return (max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes != n else 1.0)


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


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, least, most, standard deviation (n − 1; None for one value) and the interval of the mean."""
    interval = mean_interval(values)
    return {
        "mean": fmean(values),
        "min": min(values),
        "max": max(values),
        "std": stdev(values) if len(values) > 1 else None,
        "ci95": list(interval) if interval else None,
    }


def welch_interval(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of mean(a) − mean(b) of independent samples with variances of their own (Welch 1947), with the
    smaller sample's degrees of freedom, which is on the safe side. None where one has fewer than two values."""
    if min(len(a), len(b)) < 2:
        return None
    half = student_t(min(len(a), len(b)) - 1) * math.sqrt(variance(a) / len(a) + variance(b) / len(b))
    middle = fmean(a) - fmean(b)
    return (middle - half, middle + half)


@functools.cache
def percentile_tail(units: int) -> float:
    """The fraction of resamples of `units` ≥ 2 units to leave out at each end of a 95 % percentile interval.

    Less than 2.5 %, since resamples of few units spread too little: Φ(−√(n/(n−1))·t), which gives a mean of normal
    values Student's interval ("expanded percentile", Hesterberg, arXiv 1411.5279, section 5.3).
    """
    return NormalDist().cdf(-math.sqrt(units / (units - 1)) * student_t(units - 1))

"""The interval of a share that was counted. No torch."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """95 % score interval of a share (Wilson 1927), right at 0 and at 1 too. `successes` may count ties as halves."""
    if n == 0:
        return (0.0, 1.0)
    share, square = successes / n, Z95 * Z95
    centre = (share + square / (2 * n)) / (1 + square / n)
    half = Z95 / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return (max(0.0, centre - half), min(1.0, centre + half))

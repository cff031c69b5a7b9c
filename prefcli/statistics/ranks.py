"""Correlation of ranks: how far two scores put the same answers in the same order (Spearman's ρ)."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Spearman's ρ, ties at the mean of their ranks; None where either side is constant or holds a NaN, which has no
    rank. `left[i]` and `right[i]` are of the same answer."""
    if any(map(math.isnan, (*left, *right))):
        return None
    a, b = ranks(left), ranks(right)
    center = (len(a) - 1) / 2
    spread = sum((x - center) ** 2 for x in a) * sum((y - center) ** 2 for y in b)
    return sum((x - center) * (y - center) for x, y in zip(a, b)) / math.sqrt(spread) if spread > 0 else None


def ranks(values: Sequence[float]) -> list[float]:
    """From 0; equal values share their mean rank. No value is NaN."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for index in order[start:end]:
            found[index] = (start + end - 1) / 2
        start = end
    return found

"""Slopes over a factor of three, and areas under curves over log rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

FACTOR = 3.0  # a step of a hyperparameter as people try them: 0.03, 0.1, 0.3


def slope_per_factor(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Least-squares slope of y on log₃ x: how far y moves where x is tripled. `xs` are above 0, two of them differ."""
    logs = [math.log(x, FACTOR) for x in xs]
    centre, middle = fmean(logs), fmean(ys)
    square = sum((log - centre) ** 2 for log in logs)
    return sum((log - centre) * (y - middle) for log, y in zip(logs, ys)) / square


def area_under(rows: Sequence[float], scores: Sequence[float]) -> float:
    """Area under the score over log rows, by trapezoids, over the width: a mean score, in the score's own unit.

    `rows` ascend, and are two or more.
    """
    logs = [math.log(n) for n in rows]
    parts = [(logs[i + 1] - logs[i]) * (scores[i] + scores[i + 1]) / 2 for i in range(len(logs) - 1)]
    return sum(parts) / (logs[-1] - logs[0])

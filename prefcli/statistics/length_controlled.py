"""A win rate at equal length: wins that answers owe to their length taken out by a generalised linear model.

Of Dubois et al. (arXiv 2404.04475, section 3), without their term for an instruction's difficulty, which the outcomes
of many models would be needed for:

    P(win) = σ(θ + φ·tanh((length − baseline's) / s)),    s the standard deviation of that difference

The length-controlled win rate is σ(θ), P(win) where both answers are equally long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefcli.statistics.intervals import Z95

WIDE = 5.0  # standard deviation of the normal prior on φ, which keeps it finite where the longer answer always wins
FARTHEST = 20.0  # |θ|: a win rate of 1 − 2e-9
Vector = NDArray[np.float64]


def length_controlled(wins: Sequence[Sequence[float]], longer_by: Sequence[Sequence[float]]) -> dict[str, Any]:
    """{"win_rate_lc", "win_rate_lc_ci95": [low, high]} of outcomes (1, 0, or ½ of a tie) [prompts][answers].

    `longer_by` [prompts][answers], in any unit of length: the answer's length less that of the baseline's. A prompt has
    the weight of one outcome, however many answers it has. The interval is by profile likelihood, so right at 0 and at
    1 too, and on the safe side where there are ties.
    """
    outcomes = np.array([value for row in wins for value in row], dtype=float)
    weights = np.array([1 / len(row) for row in wins for _ in row])
    lengths = np.array([value for row in longer_by for value in row], dtype=float)
    spread = float(lengths.std())
    fit = _Fit(outcomes, weights, np.tanh(lengths / spread) if spread > 0 else np.zeros_like(lengths))
    best = _root(fit.slope, -FARTHEST, FARTHEST)
    lowest = fit.log_likelihood(best) - Z95 * Z95 / 2
    low = _root(lambda theta: lowest - fit.log_likelihood(theta), -FARTHEST, best)
    high = _root(lambda theta: fit.log_likelihood(theta) - lowest, best, FARTHEST)
    return {"win_rate_lc": _sigmoid(best), "win_rate_lc_ci95": [_sigmoid(low), _sigmoid(high)]}


class _Fit:
    """The likelihood as a function of θ, φ at its best for each."""

    def __init__(self, outcomes: Vector, weights: Vector, shifts: Vector) -> None:
        self._outcomes, self._weights, self._shifts = outcomes, weights, shifts

    def slope(self, theta: float) -> float:
        """d log likelihood / dθ, falling: φ is at its best, so it does not count."""
        return float((self._weights * (self._outcomes - self._chances(theta, self._phi(theta)))).sum())

    def log_likelihood(self, theta: float) -> float:
        phi = self._phi(theta)
        logits = theta + phi * self._shifts
        found = self._weights * (self._outcomes * logits - np.logaddexp(0, logits))
        return float(found.sum()) - phi * phi / (2 * WIDE * WIDE)

    def _phi(self, theta: float) -> float:
        if not self._shifts.any():
            return 0.0

        def slope(phi: float) -> float:
            residuals = self._weights * (self._outcomes - self._chances(theta, phi))
            return float((residuals * self._shifts).sum()) - phi / (WIDE * WIDE)

        return _root(slope, -10 * WIDE, 10 * WIDE)

    def _chances(self, theta: float, phi: float) -> Vector:
        chances: Vector = 1 / (1 + np.exp(-(theta + phi * self._shifts)))
        return chances


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function is 0, by bisection; an end where it is not between them."""
    for _ in range(32):  # to 1e-8 of the range
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))

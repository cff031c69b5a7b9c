"""The spread of runs that differ in the seed, and whether one route's is larger than another's.

The figure is the mean difference of two runs, over all pairs (Gini's mean difference): it needs no centre. Distances
from the median, which Levene's test in the form of Brown and Forsythe (1974) compares, have a structural zero: of an
odd number of runs one is the median itself, so that three runs could show nothing whatever their scores (Hines and
Hines 2000), and without that zero five runs show a ratio of 5 in 35 cases of 100.

Two spreads are compared by their ratio, against the ratios that normal scores with one spread give by chance: exact for
those, whatever the numbers of runs. Scores with heavier tails give false findings more often (docs/compare.md).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean

import torch
from torch import Tensor

from prefcli.comparison.figures import Figure, Measure

DRAWS = 200_000  # of normal scores: an error of 0.0002 in TAIL
TAIL = 0.0245  # at each side, so that with that error both stay below 5 %


def mean_difference(values: Sequence[float]) -> float:
    """Mean of |x − y| over all pairs of the values, two or more."""
    return fmean(abs(x - y) for x, y in combinations(values, 2))


def spread_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean difference of two runs, for normal scores: its ratio to the true one does not depend on
    mean and spread."""
    drawn = _drawn(len(values)) / _true()
    found, last = mean_difference(values), len(drawn) - 1
    return (found / float(drawn[round((1 - TAIL) * last)]), found / float(drawn[round(TAIL * last)]))


def farther_apart(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the runs of `a` are shown to lie farther apart than those of `b`. Fewer than three runs show nothing.

    Of two routes alike one or the other is named in less than 5 cases of 100.
    """
    if min(len(a), len(b)) < 3:
        return False
    mine, theirs = mean_difference(a), mean_difference(b)
    return mine > _critical(len(a), len(b)) * theirs


def over_seeds(measure: str, unit: str, values: Mapping[str, Sequence[float]], source: Mapping[str, str]) -> Measure:
    """The spreads of several runs of each route; the smaller one is ahead."""
    figures = {
        ref: Figure(mean_difference(runs), source.get(ref, ""), spread_interval(runs)) if len(runs) > 1 else None
        for ref, runs in values.items()
    }
    ahead = [(a, b) for a in values for b in values if a != b and farther_apart(values[b], values[a])]
    return Measure(measure, unit, figures, "lower", tuple(ahead))


@functools.cache
def _critical(n: int, m: int) -> float:
    """The ratio of two spreads, of n and m normal scores alike, that is exceeded with the probability `TAIL`: over all
    pairs of draws, by bisection."""
    generator = torch.Generator().manual_seed(0)
    one, other = (_draw(size, generator).sort().values for size in (n, m))
    low, high = 1.0, 1e6
    for _ in range(40):
        middle = (low * high) ** 0.5
        below = torch.searchsorted(one, middle * other).double().mean().item() / DRAWS
        low, high = (middle, high) if 1 - below > TAIL else (low, middle)
    return high


@functools.cache
def _drawn(n: int) -> Tensor:
    """[DRAWS] spreads of n standard normal scores, ascending."""
    return _draw(n, torch.Generator().manual_seed(1)).sort().values


def _draw(n: int, generator: torch.Generator) -> Tensor:
    """[DRAWS] mean differences: Σ (2i − n + 1)·x of the ascending x, over the n(n − 1)/2 pairs."""
    scores = torch.randn(DRAWS, n, generator=generator, dtype=torch.float64)
    weights = 2 * torch.arange(n, dtype=torch.float64) - n + 1
    return scores.sort(1).values @ weights / (n * (n - 1) / 2)


def _true() -> float:
    """E|x − y| of two standard normal scores: 2/√π."""
    return 2 / float(torch.pi) ** 0.5

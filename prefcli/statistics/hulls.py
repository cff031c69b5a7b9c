"""The best reward for a KL: the upper hull of points, and whether one method's lies above another's. numpy, no torch.

The hull at k is what a mixture of two models attains: the one with a probability of λ, else the other, has the mean of
their rewards, and at most the mean of their KLs to the start, which is convex. More KL need not be spent.

A maximum over noisy points is too high, and the higher the more points there are. So the mixtures are chosen on one
half of the prompts and their reward is taken on the other, both ways round. The luck of a run's seed is in both halves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefcli.statistics.intervals import student_t

RESAMPLES = 1000
GRID = 24  # places on the KL axis where hulls are compared, at equal steps of √KL
NORMAL = 1.96  # standard deviations on each side of 95 % of normal draws
Array = NDArray[np.float64]
Measured = tuple[Array, Array, Sequence[str]]  # a point: KL and reward, [runs, prompts] both, and its runs' names


def hull(kl: Sequence[float], reward: Sequence[float], at: Sequence[float]) -> Array:
    """[places, points] the weights of the points in the best mixture whose KL is at most that of each place.

    The first point is the start, with a KL of 0; no other is below 0. Of points with one KL the best counts.
    """
    order = sorted(range(len(kl)), key=lambda i: (kl[i], -reward[i]))
    corners: list[int] = []
    for i in order:
        if corners and reward[i] <= reward[corners[-1]]:
            continue  # as good for less
        while len(corners) > 1 and _slope(corners[-2], i, kl, reward) >= _slope(corners[-2], corners[-1], kl, reward):
            corners.pop()
        corners.append(i)
    weights = np.zeros((len(at), len(kl)))
    for place, k in enumerate(at):
        beyond = next((n for n, i in enumerate(corners) if kl[i] > k), len(corners))
        left = corners[max(beyond - 1, 0)]
        right = corners[beyond] if 0 < beyond < len(corners) else left
        share = (k - kl[left]) / (kl[right] - kl[left]) if right != left else 0.0
        weights[place, left] += 1 - share
        weights[place, right] += share
    return weights


def _slope(one: int, other: int, kl: Sequence[float], reward: Sequence[float]) -> float:
    return (reward[other] - reward[one]) / (kl[other] - kl[one])


class Draws:
    """Points of several methods under resampled prompts, the same for all, and under other seeds.

    `start` [prompts] are the start's rewards; `points`: method → points. Row 0 of every array is the data as they are.
    The rest adds up two deviations, each so wide that percentiles of it alone are a 95 % interval:

    - of resampled prompts by √(h/(h − 1)), since resamples of the h of a half spread too little;
    - of a point's S runs Σ z (x − x̄)/√(S(S − 1)) · t/1.96: normal draws z, and t Student's of S − 1 degrees of freedom.
      Each run has one z for all its points, since its kept steps share its luck. One run alone adds nothing.
    """

    def __init__(self, start: Array, points: Mapping[str, Sequence[Measured]], seed: int = 0) -> None:
        dice = np.random.default_rng(seed)
        halves = [np.arange(len(start))[half::2] for half in (0, 1)]
        counts = [_shares(dice, len(half)) for half in halves]
        self.sizes = np.array([len(half) for half in halves]) / len(start)
        self.kl: dict[str, list[Array]] = {}  # method → halves, each [resamples, points], the start first
        self.reward: dict[str, list[Array]] = {}
        for method, several in points.items():
            luck = {run: _luck(dice) for run in dict.fromkeys(run for *_, runs in several for run in runs)}
            self.kl[method], self.reward[method] = [], []
            for half, count in zip(halves, counts):
                found = [
                    [_mean(values[:, half], count, np.stack([luck[run] for run in runs], 1)) for values in (kl, reward)]
                    for kl, reward, runs in several
                ]
                first = count @ start[half]
                kls, rewards = ([one[i] for one in found] for i in (0, 1))
                self.kl[method].append(np.stack([np.zeros_like(first), *(np.maximum(kl, 0) for kl in kls)], 1))
                self.reward[method].append(np.stack([first, *rewards], 1))

    def whole(self, of: dict[str, list[Array]], method: str) -> Array:
        """[resamples, points] over both halves."""
        one, other = (size * half for size, half in zip(self.sizes, of[method]))
        return np.asarray(one + other)

    def hulls(self, method: str, at: Array) -> Array:
        """[resamples, places] the reward of the mixtures that the other half of the prompts holds for the best."""
        (kl_a, kl_b), (reward_a, reward_b) = self.kl[method], self.reward[method]
        found = np.empty((len(kl_a), len(at)))
        for b in range(len(kl_a)):
            by_a = hull(kl_a[b].tolist(), reward_a[b].tolist(), at.tolist())
            by_b = hull(kl_b[b].tolist(), reward_b[b].tolist(), at.tolist())
            found[b] = self.sizes[1] * (by_a @ reward_b[b]) + self.sizes[0] * (by_b @ reward_a[b])
        return found


def _shares(dice: np.random.Generator, n: int) -> Array:
    """[1 + resamples, n] the share of each of n prompts in each resample; the first row is all of them alike."""
    drawn = dice.multinomial(n, [1 / n] * n, RESAMPLES) / n
    return np.concatenate([np.full((1, n), 1 / n), 1 / n + (drawn - 1 / n) * (n / max(n - 1, 1)) ** 0.5])


def _luck(dice: np.random.Generator) -> Array:
    """[1 + resamples] of one run; the first is none."""
    return np.concatenate([[0.0], dice.standard_normal(RESAMPLES)])


def _mean(values: Array, prompts: Array, luck: Array) -> Array:
    """[1 + resamples] of `values` [runs, prompts] under the shares of the prompts and each run's luck."""
    per_run = prompts @ values.T
    middle, count = per_run.mean(1), values.shape[0]
    if count == 1:
        return np.asarray(middle)
    wide = student_t(count - 1) / NORMAL / (count * (count - 1)) ** 0.5
    return np.asarray(middle + wide * ((per_run - middle[:, None]) * luck).sum(1))


def interval(drawn: Array) -> list[float]:
    """95 % by percentiles, row 0 being the data."""
    return [float(np.quantile(drawn[1:], q)) for q in (0.025, 0.975)]


def compare(draws: Draws, methods: Sequence[str]) -> dict[str, Any]:
    """{"hulls": [{"method", "kl", "reward", "low", "high"}, …], "range": [low, high],
    "differences": [{"a", "b", "kl", "mean", "low", "high", "where": [{"above", "from", "to"}, …]}, …]}.

    Hulls are over the KL that all methods reach, with their intervals at each place by itself. A difference, a less b,
    has bands that hold all differences at all places at once in 95 % of cases (the largest |difference − estimate| in
    standard errors, over resamples), so "where" one is above the other is no choice among many.
    """
    farthest = min(float(draws.whole(draws.kl, method)[0].max()) for method in methods)
    at = farthest * (np.arange(1, GRID + 1) / GRID) ** 2
    hulls = {method: draws.hulls(method, at) for method in methods}
    gaps = {pair: hulls[pair[0]] - hulls[pair[1]] for pair in combinations(methods, 2)}
    errors = {pair: gap[1:].std(0) for pair, gap in gaps.items()}
    ratios = [
        np.where(errors[pair] > 1e-12, np.abs(gap[1:] - gap[0]) / np.maximum(errors[pair], 1e-12), 0).max(1)
        for pair, gap in gaps.items()
    ]
    wide = float(np.quantile(np.stack(ratios).max(0), 0.95)) if ratios else 0.0
    return {
        "range": [float(at[0]), farthest],
        "hulls": [
            {"method": method, "kl": at.tolist(), "reward": found[0].tolist()}
            | dict(zip(("low", "high"), np.quantile(found[1:], (0.025, 0.975), axis=0).tolist()))
            for method, found in hulls.items()
        ],
        "differences": [_difference(pair, gap[0], wide * errors[pair], at) for pair, gap in gaps.items()],
    }


def _difference(pair: tuple[str, str], gap: Array, half: Array, at: Array) -> dict[str, Any]:
    low, high = gap - half, gap + half
    where: list[dict[str, Any]] = []
    for place, k in enumerate(at.tolist()):
        above = pair[0] if low[place] > 1e-12 else pair[1] if high[place] < -1e-12 else None
        if above is None:
            continue
        if where and where[-1]["above"] == above and where[-1]["last"] == place - 1:
            where[-1] |= {"to": k, "last": place}
        else:
            where.append({"above": above, "from": k, "to": k, "last": place})
    for one in where:
        del one["last"]
    return {
        "a": pair[0], "b": pair[1], "kl": at.tolist(), "mean": gap.tolist(), "low": low.tolist(),
        "high": high.tolist(), "where": where,
    }  # fmt: skip

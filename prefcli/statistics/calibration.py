"""Whether the margins of a reward mean what Bradley and Terry's model says, and which pairs it gets right.

That model has P(chosen ≻ rejected) = σ(margin), so a source holds the answer that it prefers for the better one with a
confidence of σ(|margin|). It is calibrated where it is right as often (Guo et al., arXiv 1706.04599).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from prefcli.statistics.bootstrap import RESAMPLES
from prefcli.statistics.intervals import wilson_interval
from prefcli.statistics.pairs import right

BINS, LEAST = 10, 20  # of pairs in the order of their margins: as many bins as have so many pairs each
PARTS = 4


def calibration(margins: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """{"ece", "ece_chance", "bins": [{"low", "high", "pairs", "accuracy", "accuracy_ci95", "confidence"}, …]}.

    "ece" is the expected calibration error, Σ pairs/all · |accuracy − confidence| over bins of equally many pairs, by
    |margin|. It is above 0 for a calibrated source too, since pairs are few: of such a one with these margins it is
    below "ece_chance" in 95 % of cases (drawn from normal approximations to each bin's count).
    """
    count = max(1, min(BINS, len(margins) // LEAST))
    bins, gaps, means, deviations = [], [], [], []
    for chosen in parts_of([abs(margin) for margin in margins], count):
        some = [margins[i] for i in chosen]
        sure = [1 / (1 + math.exp(-abs(margin))) for margin in some]
        entry = _accuracy(some) | {"low": abs(some[0]), "high": abs(some[-1]), "confidence": sum(sure) / len(sure)}
        bins.append(entry)
        gaps.append(abs(sum(map(right, some)) - sum(sure)))
        means.append(sum(sure))
        deviations.append(math.sqrt(sum(p * (1 - p) for p, margin in zip(sure, some) if margin)))
    noise = torch.randn(RESAMPLES, len(bins), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    by_chance = (noise * torch.tensor(deviations, dtype=torch.float64)).abs().sum(1) / len(margins)
    return {
        "ece": sum(gaps) / len(margins),
        "ece_chance": float(by_chance.quantile(0.95)),
        "bins": bins,
    }


def by(keys: Sequence[float], margins: Sequence[float]) -> list[dict[str, Any]]:
    """[{"low", "high", "pairs", "accuracy", "accuracy_ci95"}, …] of the pairs in four parts, by their keys."""
    return [
        _accuracy([margins[i] for i in part]) | {"low": keys[part[0]], "high": keys[part[-1]]}
        for part in parts_of(keys, PARTS)
    ]


def longer(differences: Sequence[float], margins: Sequence[float]) -> dict[str, Any]:
    """{"pairs", "chosen", "preferred", "preferred_ci95"} of the pairs whose answers differ in length: how often the
    longer one is the chosen one, and how often it has the higher score. `differences`: chosen less rejected."""
    found = [(d > 0, right(m if d > 0 else -m)) for d, m in zip(differences, margins) if d]
    if not found:
        return {"pairs": 0, "chosen": None, "preferred": None, "preferred_ci95": None}
    preferred = sum(score for _, score in found)
    return {
        "pairs": len(found),
        "chosen": sum(chosen for chosen, _ in found) / len(found),
        "preferred": preferred / len(found),
        "preferred_ci95": list(wilson_interval(preferred, len(found))),
    }


def parts_of(keys: Sequence[float], count: int) -> Iterator[list[int]]:
    """The indices in the order of their keys, in at most `count` parts of about one size; equal keys are in one."""
    order = sorted(range(len(keys)), key=keys.__getitem__)
    start = 0
    for number in range(1, count + 1):
        end = max(start, round(len(order) * number / count))
        while 0 < end < len(order) and keys[order[end]] == keys[order[end - 1]]:
            end += 1
        if end > start:
            yield order[start:end]
        start = end


def _accuracy(margins: Sequence[float]) -> dict[str, Any]:
    share = sum(map(right, margins))
    return {
        "pairs": len(margins),
        "accuracy": share / len(margins),
        "accuracy_ci95": list(wilson_interval(share, len(margins))),
    }

"""Two models on the same prompts: the mean difference, its interval, and whether it could be chance.

The prompt is the unit, since a model's answers to one prompt resemble each other: where there are several answers, a
prompt's value is their mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import torch

from prefcli.evaluation.statistics import bootstrap_interval

EXACT = 16  # up to so many prompts with a difference all sign flips are looked at: 65,536
DRAWS = 10_000  # of sign flips, where there are more
AT_A_TIME = 1_000
EVERY_TWO = 5  # up to so many models each is compared with each; of more, each with the first


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """{"mean": of a − b, "ci95": [low, high] by bootstrap over prompts, "p": of `sign_flip_p`}.

    `a[i]` and `b[i]` are of the same prompt. Raises ValueError: not as many, or none.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    if not differences:
        raise ValueError("there is no prompt")
    return {
        "mean": fmean(differences),
        "ci95": list(bootstrap_interval(differences, seed)),
        "p": sign_flip_p(differences, seed),
    }


def sign_flip_p(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p of a paired permutation test (Fisher 1935): how often the mean of differences whose signs are drawn
    is as far from 0 as it is.

    Exact where at most 16 differences are not 0 (a 0 has no sign to flip). Else from 10,000 draws and the observed
    signs, so that it is valid and never 0 (Phipson and Smyth, arXiv 1603.05766).
    """
    moved = torch.tensor([d for d in differences if d != 0], dtype=torch.float64)
    far = abs(float(moved.sum())) - 1e-9 * float(moved.abs().sum())  # equal sums differ by rounding
    if len(moved) <= EXACT:
        sums = torch.zeros(1, dtype=torch.float64)
        for value in moved:
            sums = torch.cat([sums + value, sums - value])
        return float((sums.abs() >= far).double().mean())
    generator = torch.Generator().manual_seed(seed)
    as_far = 1
    for _ in range(0, DRAWS, AT_A_TIME):
        flips = torch.randint(2, (AT_A_TIME, len(moved)), generator=generator, dtype=torch.int8)
        as_far += int(((2 * (flips.double() @ moved) - moved.sum()).abs() >= far).sum())
    return as_far / (DRAWS + 1)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given: at a level of 0.05 one false finding in the
    whole family has a probability of at most 0.05, however the tests depend on each other."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def differences(values: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """[{"a", "b", "reward", "mean", "ci95", "p", "p_holm"}, …] of every two models.

    `values`: model → reward source → one value a prompt, the same prompts in the same order. Of more
    than five models each is compared with the first alone. Holm's family are the comparisons by one source.
    """
    models = list(values)
    compared = list(combinations(models, 2)) if len(models) <= EVERY_TWO else [(models[0], m) for m in models[1:]]
    found = []
    for reward in values[models[0]] if compared else ():
        part = [
            {"a": a, "b": b, "reward": reward} | paired_difference(values[a][reward], values[b][reward])
            for b, a in compared
        ]
        found += [entry | {"p_holm": p} for entry, p in zip(part, holm([entry["p"] for entry in part]))]
    return found

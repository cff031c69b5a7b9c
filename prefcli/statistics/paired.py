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
from torch import Tensor

from prefcli.statistics.bootstrap import mean_intervals

EXACT = 16  # up to so many prompts with a difference all sign flips are looked at: 65,536
DRAWS = 10_000  # of sign flips, where there are more
AT_A_TIME = 1_000
EVERY_TWO = 5  # up to so many models each is compared with each; of more, each with the first


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """{"mean": of a − b, "ci95": [low, high] by bootstrap-t over prompts, "p": by sign flips}.

    `a[i]` and `b[i]` are of the same prompt. Raises ValueError: not as many, or none.
    """
    return paired_differences([[x - y for x, y in zip(a, b, strict=True)]], seed)[0]


def paired_differences(columns: Sequence[Sequence[float]], seed: int = 0) -> list[dict[str, Any]]:
    """Of each column of differences, one a prompt, what `paired_difference` gives; the draws are made once for all.

    Raises ValueError: not as many in each column, or none.
    """
    values = torch.tensor([list(column) for column in columns], dtype=torch.float64)
    if not values.numel():
        raise ValueError("there is no prompt")
    return [
        {"mean": fmean(column), "ci95": list(interval), "p": p}
        for column, interval, p in zip(columns, mean_intervals(values, seed), _sign_flips(values, seed))
    ]


def _sign_flips(values: Tensor, seed: int) -> list[float]:
    """Of each row of `values` [rows, prompts] the two-sided p of a paired permutation test (Fisher 1935): how often the
    mean of differences whose signs are drawn is as far from 0 as it is.

    Exact where at most 16 differences are not 0 (a 0 has no sign to flip). Else from 10,000 draws and the observed
    signs, so that it is valid and never 0 (Phipson and Smyth, arXiv 1603.05766).
    """
    observed = values.sum(1)
    far = observed.abs() - 1e-9 * values.abs().sum(1)  # equal sums differ by rounding
    found = torch.ones(len(values), dtype=torch.float64)
    drawn = (values != 0).sum(1) > EXACT
    for row in (~drawn).nonzero().flatten().tolist():
        sums = torch.zeros(1, dtype=torch.float64)
        for value in values[row][values[row] != 0]:
            sums = torch.cat([sums + value, sums - value])
        found[row] = (sums.abs() >= far[row]).double().mean()
    if drawn.any():
        columns, total, limit = values[drawn].T.contiguous(), observed[drawn], far[drawn]
        generator = torch.Generator().manual_seed(seed)
        bits = torch.arange(8, dtype=torch.uint8)
        as_far = torch.ones(columns.shape[1], dtype=torch.float64)
        for _ in range(0, DRAWS, AT_A_TIME):
            size = (AT_A_TIME, -(-len(columns) // 8), 1)
            bytes_ = torch.randint(256, size, generator=generator, dtype=torch.uint8)
            kept = ((bytes_ >> bits) & 1).flatten(1)[:, : len(columns)].double()  # 1: a sign that stays, 0: flipped
            as_far += ((2 * (kept @ columns) - total).abs() >= limit).sum(0)
        found[drawn] = as_far / (DRAWS + 1)
    return [float(p) for p in found]


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
    if not compared or not values[models[0]]:
        return []
    named = [{"a": a, "b": b, "reward": reward} for reward in values[models[0]] for b, a in compared]
    columns = [
        [x - y for x, y in zip(values[d["a"]][d["reward"]], values[d["b"]][d["reward"]], strict=True)] for d in named
    ]
    found = [name | measured for name, measured in zip(named, paired_differences(columns))]
    for start in range(0, len(found), len(compared)):
        family = found[start : start + len(compared)]
        for entry, p in zip(family, holm([entry["p"] for entry in family])):
            entry["p_holm"] = p
    return found

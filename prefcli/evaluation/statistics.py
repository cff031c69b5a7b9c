"""Intervals for the figures that prefcli reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prefcli.figures.shares import Z95 as Z95
from prefcli.figures.shares import wilson_interval as wilson_interval

RESAMPLES = 2000


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean (Efron 1979), from 2,000 resamples."""
    if not values:
        return (math.nan, math.nan)
    sample = torch.tensor(values, dtype=torch.float64)
    return percentile_interval(sample[_draws(len(values), seed)].mean(1))


def resample_counts(n: int, seed: int = 0) -> Tensor:
    """[2,000, n] how often each of n units stands in each resample: those of `bootstrap_interval` with that seed."""
    draws = _draws(n, seed)
    counts = torch.zeros(draws.shape, dtype=torch.float64)
    return counts.scatter_add_(1, draws, torch.ones_like(counts))


def percentile_interval(found: Tensor) -> tuple[float, float]:
    """95 % interval from what the resamples gave, [resamples]; infinite ones may be among them."""
    ordered = found.sort().values
    last = len(ordered) - 1
    return (float(ordered[round(0.025 * last)]), float(ordered[round(0.975 * last)]))


def _draws(n: int, seed: int) -> Tensor:
    return torch.randint(n, (RESAMPLES, n), generator=torch.Generator().manual_seed(seed))

"""Intervals for the figures that prefcli reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from prefcli.data.shares import Z95 as Z95
from prefcli.data.shares import wilson_interval as wilson_interval

RESAMPLES = 2000


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of the mean (Efron 1979), from 2,000 resamples."""
    if not values:
        return (math.nan, math.nan)
    sample = torch.tensor(values, dtype=torch.float64)
    draws = torch.randint(len(values), (RESAMPLES, len(values)), generator=torch.Generator().manual_seed(seed))
    means = sample[draws].mean(1).sort().values
    return (float(means[round(0.025 * (RESAMPLES - 1))]), float(means[round(0.975 * (RESAMPLES - 1))]))

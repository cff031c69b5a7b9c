"""Reward sources on held-out pairs: how often the chosen answer scores higher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefcli.data.formats import Row
from prefcli.evaluation.statistics import wilson_interval
from prefcli.rewards.sources import Answer, RewardSource


def pair_accuracy(source: RewardSource, rows: Sequence[Row]) -> dict[str, Any]:
    """Accuracy (ties as halves) with its 95 % interval, and the mean margin."""
    sides = {
        side: source.score([Answer(row.prompt, getattr(row, side), columns=row.columns) for row in rows])
        for side in ("chosen", "rejected")
    }
    margins = sides["chosen"] - sides["rejected"]
    right = float((margins > 0).sum()) + 0.5 * float((margins == 0).sum())
    return {
        "accuracy": right / len(rows),
        "accuracy_ci95": list(wilson_interval(right, len(rows))),
        "margin": float(margins.mean()),
        "pairs": len(rows),
    }

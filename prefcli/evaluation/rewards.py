"""Reward sources on held-out pairs: how often the chosen answer scores higher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from prefcli.data.row import Row
from prefcli.rewards.preflight import refuse_not_finite
from prefcli.rewards.sources import Answer, RewardSource
from prefcli.statistics.pairs import accuracy


def pair_scores(source: RewardSource, rows: Sequence[Row]) -> torch.Tensor:
    """[pairs, 2] scores: chosen, rejected. Raises ArtifactError: one that is not a finite number."""
    sides = []
    for side in ("chosen", "rejected"):
        answers = [Answer(row.prompt, getattr(row, side), columns=row.columns) for row in rows]
        found = source.score(answers)
        refuse_not_finite(source.name, found.tolist(), answers)
        sides.append(found)
    return torch.stack(sides, dim=1)


def accuracy_of(scores: torch.Tensor) -> dict[str, Any]:
    """Accuracy (ties as halves) with its 95 % interval, and the mean margin, of what `pair_scores` gives."""
    return accuracy((scores[:, 0] - scores[:, 1]).tolist())

"""Reward sources on held-out pairs: how often the chosen answer scores higher, and on which pairs it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from prefcli.data.formats.rewardbench import answers_of
from prefcli.data.row import Row
from prefcli.evaluation.rewardbench import Labelled, Sides, by_subset
from prefcli.rewards.preflight import refuse_not_finite
from prefcli.rewards.sources import Answer, RewardSource
from prefcli.statistics.calibration import by, calibration, longer
from prefcli.statistics.pairs import accuracy


def pair_scores(source: RewardSource, rows: Sequence[Row]) -> list[Sides]:
    """Of each row the scores of its chosen answers and of its rejected ones: one each but in RewardBench 2.

    Raises ArtifactError: one that is not a finite number.
    """
    sides = [answers_of(row) or ([row.chosen or ""], [row.rejected or ""]) for row in rows]
    answers = [
        Answer(row.prompt, text, columns=row.columns)
        for row, both in zip(rows, sides)
        for texts in both
        for text in texts
    ]
    found = source.score(answers).tolist()
    refuse_not_finite(source.name, found, answers)
    left: Iterator[float] = iter(found)
    return [[[next(left) for _ in texts] for texts in both] for both in sides]


def about(row: Row) -> list[Any]:
    """What `summary` needs to know of a pair, as JSON: its subset, id and whether it has several answers (None of one
    without a subset), and by how many characters the chosen answer is longer."""
    subset = row.columns.get("subset")
    labelled = [str(subset), str(row.columns.get("id")), answers_of(row) is not None] if subset else None
    return [labelled, len(row.chosen or "") - len(row.rejected or "")]


def firsts(scores: Sequence[Sides]) -> torch.Tensor:
    """[pairs, 2]: the score of each row's first chosen answer, and of its first rejected one."""
    return torch.tensor([[chosen[0], rejected[0]] for chosen, rejected in scores], dtype=torch.float64)


def summary(rows: Sequence[list[Any]], scores: Sequence[Sides]) -> dict[str, Any]:
    """What `eval --json` says of a source on pairs: shapes in docs/eval.md. `rows` are what `about` gives."""
    pairs = firsts(scores)
    margins = (pairs[:, 0] - pairs[:, 1]).tolist()
    differences = [float(difference) for _, difference in rows]
    labelled = [None if found is None else Labelled(*found) for found, _ in rows]
    return {
        **accuracy(margins),
        "calibration": calibration(margins),
        "by_margin": by([abs(margin) for margin in margins], margins),
        "by_length": by(differences, margins),
        "longer": longer(differences, margins),
        **by_subset(labelled, scores),
    }

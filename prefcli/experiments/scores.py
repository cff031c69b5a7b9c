"""The score of a point of a sweep: a reward on held-out prompts, or a metric in its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefcli.artifacts.store import Artifact
from prefcli.config.stages import Better, Stage
from prefcli.errors import ArtifactError


@dataclass(frozen=True)
class Score:
    """Which figure, where it comes from in words, and which way is better."""

    name: str
    source: str
    better: Better = "higher"


@dataclass(frozen=True)
class Figure:
    """A point's score with the interval that eval or the manifest gives it, and the KL to its reference in nats."""

    value: float
    ci95: list[float] | None = None
    kl: float | None = None


def recorded_score(stage: Stage, config: Any) -> Score:
    """The figure of the manifest that stands for a point where nothing else is asked for."""
    of = stage.recorded
    if of.where:
        return Score(of.training, f"the manifest: {of.where}", of.better)
    measured = getattr(config, "eval_data", None) is not None
    return Score(
        of.held_out if measured else of.training,
        f"the manifest: {'on --eval-data' if measured else 'on the last training step, which is noisy'}",
        of.better,
    )


def recorded_figure(artifact: Artifact, score: Score) -> Figure:
    """Raises ArtifactError where the manifest has no such figure."""
    metrics = artifact.manifest.metrics
    value = metrics.get(score.name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        hint = "hold rows out (--eval-share, --eval-data), or give --pairs"
        raise ArtifactError(f"{artifact.ref} recorded no {score.name}", hint)
    interval = metrics.get(f"{score.name}_ci95")
    return Figure(float(value), interval if isinstance(interval, list) else None)

"""The loop over a sweep's points: existing ones are reused, the others trained, and each is scored."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass

from prefcli.artifacts.store import Artifact
from prefcli.errors import MemoryShortError, PrefcliError, SurroundingsError, from_foreign
from prefcli.experiments.points import Point, made_before, reward_inputs
from prefcli.experiments.retrained import on_reward_model, reward_model
from prefcli.experiments.scores import Figure
from prefcli.progress import Reporter
from prefcli.stages.inputs import prepare
from prefcli.stages.run import made

Measure = Callable[[Artifact], Figure]


@dataclass(frozen=True)
class Outcome:
    """A point's artifact and score, or the reason why there is none."""

    point: Point
    artifact: Artifact | None = None
    figure: Figure | None = None
    reason: str | None = None


def run(
    points: list[Point], measure: Measure, reporter: Reporter, outcomes: list[Outcome] | None = None
) -> list[Outcome]:
    """One outcome a point, in order. They are added to `outcomes` as they come, for who is to know them after Ctrl-C.

    A point that goes wrong (a loss that is not a number, too little memory) is told and counted as failed. What would
    stop all that follow too (a full disk, Ctrl-C, a defect) is raised; the points before it stay in the store.
    """
    outcomes = [] if outcomes is None else outcomes
    for number, point in enumerate(points, 1):
        artifact = None
        try:
            artifact = _trained(point, reporter)
            figure = measure(artifact)
            finite = math.isfinite(figure.value)
            outcome = Outcome(point, artifact, *((figure, None) if finite else (None, "its score is not a number")))
        except Exception as error:
            known = error if isinstance(error, PrefcliError) else from_foreign(error)
            if known is None or isinstance(known, SurroundingsError):
                raise
            reason = "out of memory" if isinstance(known, MemoryShortError) else known.message
            outcome = Outcome(point, artifact, reason=reason)
        reporter.end()
        outcomes.append(outcome)
        reporter.notice(f"point {number} of {len(points)}: {point.shown}: {_told(outcome)}")
        gc.collect()  # trainers refer to themselves: the model of this point would be in memory beside the next one's
    return outcomes


def _trained(point: Point, reporter: Reporter) -> Artifact:
    config = point.config
    if point.retrains:
        inputs = reward_inputs(point)
        config = on_reward_model(config, made_before(inputs, reward_model(config)) or made(inputs, reporter))
    inputs = prepare(config)
    return inputs.taken() or made(inputs, reporter)


def _told(outcome: Outcome) -> str:
    if outcome.figure is None or outcome.artifact is None:
        return f"failed: {outcome.reason}"
    return f"{outcome.artifact.ref}, score {outcome.figure.value:.4g}"

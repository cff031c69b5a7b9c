"""One stage from its options to its artifact: `train`, and its two halves for who has something to say in between."""

from __future__ import annotations

import importlib
import os
from typing import Any

from prefcli.artifacts.store import CURVES, Artifact
from prefcli.config.checked import checked
from prefcli.errors import AlarmError, UsageError
from prefcli.models.quiet import quiet
from prefcli.progress import SILENT, Reporter
from prefcli.stages.inputs import Inputs, prepare
from prefcli.stages.plan import summary


def train(config: Any, progress: Reporter = SILENT) -> Artifact:
    """Train the stage whose options these are: SFTConfig, RewardConfig, DPOConfig, ORPOConfig, KTOConfig or PPOConfig.

    Returns the artifact; the one that is there, where the same run was made before and the config does not say
    `force`. An interrupted run resumes. `progress` is told of the plan, the steps and what should be known.
    Raises UsageError in several processes, which the command is for; else the errors of prefcli.errors, as the command
    does, and KeyboardInterrupt once the state is saved.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("prefcli.train runs in a single process", "accelerate launch -m prefcli … for several")
    with quiet():
        inputs = prepare(checked(config))
        if inputs.reusable is not None:
            return reused(inputs.reusable)
        progress.plan(summary(inputs))
        return made(inputs, progress)


def run(inputs: Inputs, reporter: Reporter) -> Artifact | None:
    """Train what was prepared, and draw its curves. None in a process that leaves the writing to the first."""
    try:
        artifact: Artifact | None = importlib.import_module(inputs.stage.module).train(inputs, reporter)
    except AlarmError as error:
        if error.kept is not None:
            _draw(error.kept, reporter)
        raise
    if artifact is not None:
        _draw(artifact, reporter)
    return artifact


def made(inputs: Inputs, reporter: Reporter) -> Artifact:
    """The artifact of a run in a single process."""
    artifact = run(inputs, reporter)
    assert artifact is not None
    return artifact


def reused(artifact: Artifact) -> Artifact:
    """A finished run, its curves drawn where it was stopped before it had drawn them."""
    if artifact.manifest.resources.get("steps", 0) > 1 and not (artifact.path / CURVES).is_file():
        _draw(artifact, SILENT)
    return artifact


def _draw(artifact: Artifact, reporter: Reporter) -> None:
    try:
        path = importlib.import_module("prefcli.stages.curves").draw(artifact.path, artifact.ref)
    except KeyboardInterrupt as error:  # the same command draws them
        error.args = (f"interrupted as it ended: {artifact.ref} is finished",)
        raise
    if path is not None:
        reporter.notice(f"its curves: {path}")

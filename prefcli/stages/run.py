"""One stage from its options to its artifact: `train`, and its two halves for who has something to say in between."""

from __future__ import annotations

import importlib
from typing import Any

from prefcli.artifacts.store import CURVES, Artifact
from prefcli.errors import AlarmError
from prefcli.models.quiet import quieten
from prefcli.progress import SILENT, Reporter
from prefcli.stages.inputs import Inputs, prepare
from prefcli.stages.plan import summary


def train(config: Any, reporter: Reporter = SILENT) -> Artifact | None:
    """Train the stage whose options these are (SFTConfig, RewardConfig, DPOConfig, KTOConfig, PPOConfig).

    Returns the artifact; the one that is there, where the same run was made before and the config does not say
    `force`. An interrupted run resumes. Of several processes the first returns it, the others None.
    Raises the errors of prefcli.errors, as the command has them; KeyboardInterrupt once the state is saved.
    """
    quieten(config.debug)
    inputs = prepare(config)
    if inputs.existing is not None:
        return reused(inputs.existing)
    reporter.plan(summary(inputs))
    return run(inputs, reporter)


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
    path = importlib.import_module("prefcli.stages.curves").draw(artifact.path, artifact.ref)
    if path is not None:
        reporter.notice(f"its curves: {path}")

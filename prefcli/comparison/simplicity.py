"""Simplicity: how many stages a route has after its start, how many models it holds at once, how many artifacts."""

from __future__ import annotations

from prefcli.artifacts.commands import REWARD
from prefcli.artifacts.manifest import Manifest
from prefcli.comparison.figures import Criterion, counted
from prefcli.comparison.routes import Routes
from prefcli.comparison.scores import PYTHON, Scores
from prefcli.config.stages import STAGES
from prefcli.urls import is_url


def simplicity(routes: Routes, scores: Scores | None) -> Criterion:
    stages, models, artifacts = {}, {}, {}
    for route in routes:
        kinds = [artifact.manifest.stage for artifact in route.artifacts]
        most = max(route.artifacts, key=lambda artifact: models_of(artifact.manifest))
        stages[route.ref] = (float(len(set(kinds))), "after " + routes.start.shown + ": " + ", ".join(kinds))
        models[route.ref] = (float(models_of(most.manifest)), f"while {most.ref} was trained")
        artifacts[route.ref] = (float(len(route.artifacts)), ", ".join(a.ref for a in route.artifacts))
    return Criterion(
        "simplicity",
        "DPO",
        (
            counted("stages", "stages", stages, "lower"),
            counted("models at once", "models", models, "lower"),
            counted("artifacts", "artifacts", artifacts, "lower"),
        ),
    )


def models_of(manifest: Manifest) -> int:
    """Roles that a model plays while the stage runs; several reward models are several, a function or a URL none."""
    stage = STAGES[manifest.stage]
    roles = [role.name for role in stage.roles]
    if manifest.config.get("advantage") in ("rloo", "grpo"):
        roles.remove("value")
    if manifest.config.get("reference_free"):
        roles.remove("reference")
    refs = [parent["ref"] for role, parent in manifest.parents.items() if role.startswith(REWARD)]
    rewards = sum(not (ref.startswith(PYTHON) or is_url(ref)) for ref in refs)
    return len(roles) + (rewards - 1 if stage.samples else 0)

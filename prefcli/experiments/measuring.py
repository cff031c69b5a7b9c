"""A point's score by `prefcli eval` itself, so that the values are the same."""

from __future__ import annotations

import math

from prefcli.artifacts.store import Artifact
from prefcli.config.evaluate import EvalConfig
from prefcli.evaluation.run import evaluate
from prefcli.experiments.scores import Figure
from prefcli.progress import Reporter


def on_prompts(config: EvalConfig, artifact: Artifact, reporter: Reporter) -> Figure:
    """The mean of the config's one reward over answers to its prompts, with its interval over prompts, and the KL."""
    (entry,) = evaluate(_with(config, model=[artifact.ref]), reporter)["models"]
    (reward,) = entry["reward"].values()
    kl = entry["kl"]
    return Figure(reward["mean"], reward["ci95"], kl if kl is not None and math.isfinite(kl) else None)


def on_pairs(config: EvalConfig, artifact: Artifact, reporter: Reporter) -> Figure:
    """A reward model's accuracy on the config's pairs, with Wilson's interval."""
    (entry,) = evaluate(_with(config, reward=[artifact.ref]), reporter)["reward_models"]
    return Figure(entry["accuracy"], entry["accuracy_ci95"])


def _with(config: EvalConfig, **changed: list[str]) -> EvalConfig:
    return EvalConfig(**{**vars(config), **changed})

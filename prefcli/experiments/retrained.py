"""`sweep ppo --rows`: the reward model of --reward, trained again on N of its own pairs with its own options."""

from __future__ import annotations

import dataclasses
from typing import Any

from prefcli.artifacts.commands import named
from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Artifact, Store
from prefcli.config.reward import RewardConfig
from prefcli.errors import UsageError
from prefcli.rewards.grammar import RewardSpec, parse_rewards, split_name

SUFFIX = "-rows"  # of its name: under the old one it would become the highest version of what --reward names


def reward_model(config: Any) -> Artifact:
    """The one reward model among a ppo config's rewards. Raises UsageError: none, or several."""
    return _found(config)[1]


def rows_at_hand(model: Artifact) -> int:
    """Pairs that it was trained on, those held back of them included."""
    paths = model.manifest.config.get("data") or [""]
    return sum(int(source["rows"]) for source in model.manifest.data[: len(paths)])


def retrained(model: Artifact, rows: int | None, seed: int, config: Any) -> RewardConfig:
    """The options of its run, with `rows` and `seed` instead of its own, in the store of `config` (a ppo run's).

    Raises UsageError: its manifest does not say what it was made from.
    """
    known = {field.name for field in dataclasses.fields(RewardConfig)}
    recorded = {name: value for name, value in model.manifest.config.items() if name in known}
    parent = model.manifest.parents.get("model")
    if parent is None or not recorded.get("data"):
        raise UsageError(f"--rows: {model.ref} does not say what it was made from", "train it again")
    return RewardConfig(
        **recorded
        | {
            "model": named(parent), "max_rows": rows, "seed": seed, "name": model.manifest.name + SUFFIX,
            "runs": config.runs, "config": None, "dry_run": False, "force": False, "json": False,
            "quiet": config.quiet, "debug": config.debug, "report_to": config.report_to,
        }
    )  # fmt: skip


def on_reward_model(config: Any, model: Artifact) -> Any:
    """The ppo config with `model` where its reward model stood, under the name that it had there."""
    spec, before = _found(config)
    named = f"{spec.name}={model.ref}"
    named = named if split_name(named)[0] else model.ref  # an artifact's name need not fit NAME=
    rewards = [
        named if found.name == spec.name else text
        for text, found in zip(config.reward, parse_rewards(config.reward, Store(config.runs)))
    ]
    value = config.value_init
    if value and resolve(value, Store(config.runs)).digest == before.digest:
        value = model.ref
    return dataclasses.replace(config, reward=rewards, value_init=value)


def _found(config: Any) -> tuple[RewardSpec, Artifact]:
    found = [
        (spec, spec.reference.artifact)
        for spec in parse_rewards(config.reward, Store(config.runs))
        if spec.reference is not None and spec.reference.artifact is not None
    ]
    if len(found) != 1:
        raise UsageError(
            f"--rows needs one reward model to train again, and --reward names {len(found)}",
            "give one artifact of prefcli train-rm: --reward rm",
        )
    return found[0]

"""The command line that made an artifact, from its manifest."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from prefcli.artifacts.manifest import Manifest
from prefcli.config.base import option
from prefcli.config.stages import STAGES
from prefcli.config.training import OutputConfig

REWARD = "reward/"  # begins the role of a parent that scored
# How a run is shown and where it lies is the reader's own affair.
NOT_REPEATED = {field.name for field in dataclasses.fields(OutputConfig)} - {"name"}


def command(manifest: Manifest) -> str:
    """The command line that made an artifact: its options that are not the defaults, its start by its exact version."""
    stage = STAGES[manifest.stage]
    words = ["prefcli", stage.command]
    given = dict(manifest.config) | {"model": manifest.parents.get("model", {}).get("ref")}
    scored = {role[len(REWARD) :]: p["ref"] for role, p in manifest.parents.items() if role.startswith(REWARD)}
    rewards = [f"{name}={ref}" for name, ref in scored.items()]
    given |= {"reward": rewards} if rewards else {}
    for field in dataclasses.fields(stage.config):
        value = given.get(field.name)
        default = [] if field.default is dataclasses.MISSING else field.default
        if field.name in NOT_REPEATED or value is None or value == default:
            continue
        if isinstance(value, bool):
            words.append(option(field.name if value else f"no_{field.name}"))
        else:
            words += [word for item in (value if isinstance(value, list) else [value])
                      for word in (option(field.name), str(item))]  # fmt: skip
    return shlex.join(words)


def altered(manifest: Manifest, changes: dict[str, list[str]]) -> list[str]:
    """The options of `command` as words, those in `changes` (by field; they take a value) with these values instead."""
    named = {option(name) for name in changes}
    kept, words = [], iter(shlex.split(command(manifest))[2:])
    for word in words:
        if word in named:
            next(words)
        else:
            kept.append(word)
    return kept + [word for name, values in changes.items() for value in values for word in (option(name), value)]


def options(manifest: Manifest) -> dict[str, Any]:
    """The options that made an artifact, the defaults among them, without those of how a run is shown."""
    return {
        name: value
        for name, value in manifest.config.items()
        if name not in NOT_REPEATED and value is not None and value != [] and value is not False
    }

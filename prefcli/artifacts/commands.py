"""The command line that made an artifact, from its manifest."""

from __future__ import annotations

import dataclasses
import os
import shlex
from typing import Any

from prefcli.artifacts.manifest import NAME, Manifest
from prefcli.artifacts.places import AT_VERSION
from prefcli.config.base import option, rollback_step
from prefcli.config.stages import STAGES
from prefcli.config.training import OutputConfig

REWARD = "reward/"  # begins the role of a parent that scored
# How a run is shown and where it lies is the reader's own affair.
NOT_REPEATED = {field.name for field in dataclasses.fields(OutputConfig)} - {"name"}


def named(parent: dict[str, Any]) -> str:
    """How a parent is named so that it is found again: by its exact version, or where it is of another store by its
    absolute place."""
    ref, places = str(parent["ref"]), parent.get("places")
    match = AT_VERSION.fullmatch(ref)
    if places and match is not None and not match["step"]:
        place, part = os.path.split(places[-1])
        if part == "model" and NAME.fullmatch(match["name"]):  # else a plain directory that is called like a version
            return place  # of model/, which is a directory of another digest
    return ref


def rewards_of(manifest: Manifest) -> dict[str, str]:
    """Name → REF of what scored a run, with the label that was asked for."""
    scored = {role[len(REWARD) :]: named(p) for role, p in manifest.parents.items() if role.startswith(REWARD)}
    typed = [str(text).partition("#label=") for text in manifest.config.get("reward") or []]
    labels = ["".join(parts[1:]) for parts in typed] + [""] * len(scored)  # in the same order
    return {
        name: ref if ref.endswith(label) else ref + label  # a URL has it
        for (name, ref), label in zip(scored.items(), labels)
    }


def command(manifest: Manifest) -> str:
    """The command line that made an artifact: its options that are not the defaults, its parents as `named`."""
    stage = STAGES[manifest.stage]
    words = ["prefcli", stage.command]
    parents, given = manifest.parents, dict(manifest.config)
    given |= {role: named(parents[role]) for role in ("reference", "value_init") if given.get(role) and role in parents}
    given |= {"model": named(parents["model"]) if "model" in parents else None}
    rewards = [f"{name}={ref}" for name, ref in rewards_of(manifest).items()]
    given |= {"reward": rewards} if rewards else {}
    left_out = _not_repeated(given)
    for field in dataclasses.fields(stage.config):
        value = given.get(field.name)
        default = [] if field.default is dataclasses.MISSING else field.default
        if field.name in left_out or value is None or value == default:
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
    left_out = _not_repeated(manifest.config)
    return {name: value for name, value in told(manifest).items() if name not in left_out}


def told(manifest: Manifest) -> dict[str, Any]:
    """All of its options, without those that were not given and the switches that were left off."""
    on = {name for name, value in vars(STAGES[manifest.stage].config()).items() if value not in (None, False)}
    return {
        name: value
        for name, value in manifest.config.items()
        if value is not None and value != [] and (value is not False or name in on)
    }


def _not_repeated(config: dict[str, Any]) -> set[str]:
    return NOT_REPEATED - rollback_step(config).keys()

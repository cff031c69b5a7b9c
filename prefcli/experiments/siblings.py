"""Runs that belong together: the same but for the seed, the number of rows, or one hyperparameter.

Two runs are the same where the causes of their results are: stage, data, the options that are in an artifact's key, and
parents by digest and hub commit. Where a run was scored by a reward model, another one that is a sibling of that one
will do: a repetition of the whole RLHF route trains its own reward model.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args, get_type_hints

from prefcli.artifacts.commands import REWARD
from prefcli.artifacts.manifest import NAME, Manifest
from prefcli.artifacts.store import Artifact, Store
from prefcli.config.base import INCIDENTAL, WHETHER, default_of, rollback_step
from prefcli.config.stages import STAGES
from prefcli.errors import ArtifactError
from prefcli.files import digest_json

SEED, ROWS = "seed", "max_rows"
FREE = {"seed": frozenset({SEED}), "rows": frozenset({SEED, ROWS})}


def siblings(artifact: Artifact, store: Store, over: Literal["seed", "rows"]) -> list[Artifact]:
    """It and all complete artifacts of the store that differ from it in the seed alone; of one that was stopped it
    alone.

    With `over="rows"` also in how many rows they were trained on: `rows_of` says how many each was. A ppo artifact is
    a sibling whose reward model is the same or a sibling. Of two artifacts of the very same run (under two names, made
    again by --force, or on a reward model of the same seed that rounding tells apart) one is listed, itself first. In
    the order of seed and rows.
    """
    found = [other for other in _others(artifact, store) if _same(artifact, other, store, FREE[over])]
    distinct = {repetition(item, store): item for item in reversed([artifact, *found])}
    return sorted(distinct.values(), key=lambda item: (rows_of(item, store) or 0, seed_of(item), item.ref))


def repetition(artifact: Artifact, store: Store) -> tuple[Any, ...]:
    """What tells siblings apart: the rows, the seed, and those of the reward models."""
    rewards = tuple(seed_of(reward) for reward in reward_models(artifact.manifest, store))
    return rows_of(artifact, store), seed_of(artifact), rewards


def setting(artifact: Artifact, store: Store) -> str:
    """A digest that siblings over the seed have in common: of all causes of the result but the seed."""
    manifest = artifact.manifest
    options = {name: value for name, value in causal_options(manifest).items() if name != SEED}
    parents = {}
    for role, parent in manifest.parents.items():
        held = _repeated(manifest, role, store)
        parents[role] = _identity(parent) if held is None else [setting(held, store), parent.get("commit")]
    return digest_json([manifest.stage, options, parents, _data(manifest)])


def varied(artifact: Artifact, store: Store) -> dict[str, list[Artifact]]:
    """Complete artifacts that differ from it in exactly one hyperparameter, by its name, each in the order of values;
    none of one that was stopped.

    The seed is none: they may have any. Data, rows and parents are the same, as for `siblings` over the seed.
    """
    found: dict[str, dict[str, Artifact]] = {}
    for other in _others(artifact, store):
        mine, theirs = causal_options(artifact.manifest), causal_options(other.manifest)
        changed = [name for name in mine if name != SEED and mine[name] != theirs[name]]
        if len(changed) == 1 and changed[0] != ROWS and _same(artifact, other, store, FREE["seed"] | {changed[0]}):
            found.setdefault(changed[0], {}).setdefault(_causes(other.manifest), other)
    return {
        name: sorted(others.values(), key=lambda item: (_order(item.manifest.config.get(name)), seed_of(item)))
        for name, others in sorted(found.items())
    }


def causal_options(manifest: Manifest) -> dict[str, Any]:
    """The options of a run as they are in its key; one that is younger than the manifest has its default."""
    config = STAGES[manifest.stage].config
    hints = get_type_hints(config, include_extras=True)
    found = {}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        marks = get_args(hints[field.name])
        if INCIDENTAL not in marks:
            value = manifest.config.get(field.name, default_of(field))
            found[field.name] = value is not None if WHETHER in marks else value
    if "on_alarm" in found:
        found["save_every"] = rollback_step(manifest.config).get("save_every")
    return found


def seed_of(artifact: Artifact) -> int:
    return int(artifact.manifest.config.get(SEED) or 0)


def rows_of(artifact: Artifact, store: Store) -> int | None:
    """Number of rows it was trained on; for ppo, of its first reward model's pairs (None where there is none)."""
    manifest = artifact.manifest
    if STAGES[manifest.stage].samples:
        return next((rows_of(reward, store) for reward in reward_models(manifest, store)), None)
    paths = manifest.config.get("data")
    trained_on = len(paths) if isinstance(paths, list) and paths else 1  # held-out files follow
    return sum(int(source["rows"]) for source in manifest.data[:trained_on])


def parent_of(manifest: Manifest, role: str, store: Store) -> Artifact | None:
    """The artifact in that role, where it is still in the store as it was."""
    parent = manifest.parents.get(role, {})
    name, _, version = str(parent.get("ref", "")).partition("@v")
    if not NAME.fullmatch(name) or not version.isdecimal():
        return None
    try:
        artifact = store.open(name, int(version))
    except ArtifactError:
        return None
    return artifact if artifact.digest == parent.get("digest") else None


def reward_models(manifest: Manifest, store: Store) -> list[Artifact]:
    """Those that a run was scored by, where they are still in the store as they were."""
    found = [parent_of(manifest, role, store) for role in sorted(manifest.parents) if role.startswith(REWARD)]
    return [reward for reward in found if reward is not None]


def of_stage(stage: str, store: Store) -> list[Artifact]:
    """All versions of the store that the stage made; one whose manifest is damaged is none."""
    found = []
    for name in store.names():
        for version in store.versions(name):
            try:
                artifact = store.open(name, version)
            except ArtifactError:
                continue
            if artifact.manifest.stage == stage:
                found.append(artifact)
    return found


def _others(artifact: Artifact, store: Store) -> list[Artifact]:
    """Complete artifacts of the same stage. One that was stopped is like none of them, whatever made it."""
    if artifact.manifest.stopped:
        return []
    own = artifact.path.resolve()
    found = of_stage(artifact.manifest.stage, store)
    return [other for other in found if not other.manifest.stopped and other.path.resolve() != own]


def _same(one: Artifact, other: Artifact, store: Store, free: frozenset[str]) -> bool:
    """Whether all causes of two results are the same but for the options in `free`."""
    a, b = one.manifest, other.manifest
    if a.stage != b.stage or _data(a) != _data(b) or set(a.parents) != set(b.parents):
        return False
    mine, theirs = causal_options(a), causal_options(b)
    if any(mine[name] != theirs[name] for name in mine if name not in free):
        return False
    return all(_same_parent(a, b, role, store, free & FREE["rows"]) for role in a.parents)


def _same_parent(a: Manifest, b: Manifest, role: str, store: Store, free: frozenset[str]) -> bool:
    if _identity(a.parents[role]) == _identity(b.parents[role]):
        return True
    if a.parents[role].get("commit") != b.parents[role].get("commit"):
        return False
    one, other = _repeated(a, role, store), _repeated(b, role, store)
    return one is not None and other is not None and _same(one, other, store, free)


def _repeated(manifest: Manifest, role: str, store: Store) -> Artifact | None:
    """The parent in that role, where a repetition may have trained its own: it was not stopped."""
    held = parent_of(manifest, role, store) if role.startswith(REWARD) or role == "value_init" else None
    return None if held is None or held.manifest.stopped else held


def _identity(parent: dict[str, Any]) -> Any:
    """By digest and the hub's commit; what has neither (a service) by its name."""
    return [part for part in (parent["digest"], parent.get("commit")) if part] or ("name", parent["ref"])


def _data(manifest: Manifest) -> list[Any]:
    return [source["digest"] for source in manifest.data]


def _causes(manifest: Manifest) -> str:
    parents = {role: _identity(parent) for role, parent in manifest.parents.items()}
    return digest_json([manifest.stage, causal_options(manifest), parents, _data(manifest)])


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, all else behind them by name."""
    number = isinstance(value, (int, float))
    return (not number, float(value) if number else 0.0, str(value))

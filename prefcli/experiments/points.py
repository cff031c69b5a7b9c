"""The points of a sweep: the product of option values, numbers of rows and seeds, each a stage's whole config."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from typing import Any

from prefcli.artifacts.references import default_model, resolve
from prefcli.artifacts.store import Artifact, Store
from prefcli.config.base import option
from prefcli.config.stages import Stage
from prefcli.errors import PrefcliError, UsageError
from prefcli.experiments.retrained import on_reward_model, retrained, reward_model, rows_at_hand
from prefcli.stages.inputs import Inputs, prepare

MOST_SEED = 2**32 - 1
_REWARD = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_-]*=)?(?P<ref>[^:@/\\#]+)(?P<label>#label=.*)?")


@dataclass(frozen=True)
class Point:
    """One run. `options` are the swept ones by field; `rows` is the number asked for with --rows, if any was."""

    stage: Stage
    options: dict[str, Any]
    rows: int | None
    seed: int
    config: Any

    @property
    def shown(self) -> str:
        parts = [f"{name.replace('_', '-')} {shown(value)}" for name, value in self.options.items()]
        return ", ".join([*parts, *([f"{self.rows:,} rows"] if self.rows else []), f"seed {self.seed}"])

    @property
    def retrains(self) -> bool:
        """Whether a reward model of its own is trained before it."""
        return self.rows is not None and self.stage.samples


@dataclass(frozen=True)
class Planned:
    """A point as it is in the store now. `existing` is its artifact; `reward_model` the one it will run against."""

    point: Point
    existing: Artifact | None
    reward_model: Artifact | None = None


def shown(value: Any) -> str:
    """An option's value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def points_of(stage: Stage, base: Any, grid: dict[str, list[Any]], seeds: int, rows: list[int]) -> list[Point]:
    """All points, seeds innermost. Models that are named without a version are held to the one there is now.

    Raises UsageError: a name that is the points' own, --force; ArtifactError: no such model.
    """
    if base.force:
        raise UsageError("--force would train every point again after an interruption", "leave it out of a sweep")
    if base.seed + seeds - 1 > MOST_SEED:
        raise UsageError(f"--seed {base.seed} with --seeds {seeds} goes beyond {MOST_SEED}", "use a lower --seed")
    found = []
    limits: list[int | None] = [*rows] or [None]
    for values in itertools.product(*grid.values()):
        options = dict(zip(grid, values))
        for number in limits:
            for seed in range(base.seed, base.seed + seeds):
                limit = {"max_rows": number} if number and not stage.samples else {}
                config = dataclasses.replace(base, **options, **limit, seed=seed)
                found.append(Point(stage, options, number, seed, _pinned(config, stage)))
    return found


def plan(point: Point) -> Planned:
    """Check all options and inputs of a point, and find what exists of it already. Raises PrefcliError, naming it."""
    try:
        if not point.retrains:
            inputs = prepare(point.config)
            _refuse_too_many(point, sum(s.get("rows_in_file", s["rows"]) for s in inputs.data.sources), "rows")
            return Planned(point, inputs.existing)
        prepare(point.config)  # its own options, before a reward model is trained for it
        parent = reward_model(point.config)
        _refuse_too_many(point, rows_at_hand(parent), f"pairs behind {parent.ref}")
        scored_by = reward_inputs(point)
        rm = made_before(scored_by, parent)
        if rm is None:
            return Planned(point, None)
        return Planned(point, prepare(on_reward_model(point.config, rm)).existing, rm)
    except PrefcliError as error:
        error.message = f"point {point.shown}: {error.message}"
        raise


def reward_inputs(point: Point) -> Inputs:
    """Of the reward model that a ppo point with --rows runs against. Raises PrefcliError."""
    parent = reward_model(point.config)
    config = retrained(parent, point.rows, point.seed, point.config)
    inputs = prepare(config)
    now, before = inputs.references["model"], parent.manifest.parents["model"]
    if now.digest != before["digest"] or now.commit != before.get("commit", now.commit):
        raise UsageError(
            f"--rows: {config.model} is not what {parent.ref} was trained from",
            "restore it, or train a reward model from it as it is now",
        )
    digests = [source["digest"] for source in inputs.data.sources]
    if digests != [source["digest"] for source in parent.manifest.data[: len(digests)]]:
        raise UsageError(
            f"--rows: the pairs of {parent.ref} have changed ({', '.join(config.data)})",
            "restore the file, or train a reward model on it as it is now",
        )
    return inputs


def made_before(inputs: Inputs, parent: Artifact) -> Artifact | None:
    """The finished reward model of this very run: under its own name, or the one that --reward names itself."""
    return inputs.existing or (parent if parent.manifest.key == inputs.key else None)


def _refuse_too_many(point: Point, there: int, what: str) -> None:
    if point.rows is not None and point.rows > there:
        raise UsageError(f"--rows {point.rows:,}: there are {there:,} {what}", f"use at most {there}")


def _pinned(config: Any, stage: Stage) -> Any:
    """The config with each artifact's version said, so that no point changes what the next one starts from."""
    store, own = Store(config.runs), config.name or stage.name
    changed: dict[str, Any] = {}
    if config.model is None:
        text, _ = default_model(store)
        if own == "sft":
            raise UsageError("--model is missing: the runs are named sft, so each would start from the one before",
                             f"name it: --model {text}")  # fmt: skip
        changed["model"] = text
    for field in ("model", "reference", "value_init"):
        if named := getattr(config, field, None):
            changed[field] = _versioned(named, store, own, field)
    if rewards := getattr(config, "reward", None):
        changed["reward"] = [pinned_reward(text, store, own) for text in rewards]
    return dataclasses.replace(config, **changed)


def pinned_reward(text: str, store: Store, own: str = "") -> str:
    """`[NAME=]REF` with the version of an artifact said. `own` is what the points are called."""
    found = _REWARD.fullmatch(text)
    if found is None:
        return text
    return (found["name"] or "") + _versioned(found["ref"], store, own, "reward") + (found["label"] or "")


def _versioned(text: str, store: Store, own: str, field: str) -> str:
    if "@" in text or not store.versions(text):
        return text
    if text == own:
        newest = store.newest(text)
        raise UsageError(
            f"{option(field)} {text}: the sweep's runs are also named {own}, so {text} would soon mean one of them",
            f"give its version, for example {newest.ref if newest else text + '@v1'}, or name the runs with --name",
        )
    return resolve(text, store).shown

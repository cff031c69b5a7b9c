"""The inputs of a stage, found and checked before anything heavy is imported: no torch here.

References are resolved, data files read and checked, and the key worked out, so that a run that was already made is
handed back at once and a mistake costs a second and not a model load.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from prefcli.artifacts.commands import REWARD
from prefcli.artifacts.hub import at_hand
from prefcli.artifacts.places import own_store, places_of
from prefcli.artifacts.references import Reference, default_model, resolve
from prefcli.artifacts.store import Artifact, Store, check_name
from prefcli.config.base import as_dict, key_fields, option, rollback_step
from prefcli.config.dpo import DPOConfig
from prefcli.config.kto import KTOConfig
from prefcli.config.orpo import ORPOConfig
from prefcli.config.ppo import PPOConfig
from prefcli.config.preference import WeightConfig
from prefcli.config.reward import RewardConfig
from prefcli.config.sft import SFTConfig
from prefcli.config.shared import read_as
from prefcli.config.stages import Stage, stage_of
from prefcli.config.training import ADAPTER_RATE, SMALL_MODEL_PARAMETERS, DataConfig, asks_to_split, not_split
from prefcli.data.dataset import Dataset, read_dataset
from prefcli.data.rows import Rows
from prefcli.data.weighting import first, mix, set_apart, weigh
from prefcli.errors import DataError, UsageError
from prefcli.files import digest_json
from prefcli.memory.architecture import Architecture
from prefcli.memory.references import architecture_of
from prefcli.models import bitsandbytes
from prefcli.rewards.grammar import (
    RewardSpec,
    parse_rewards,
    refuse_language_model,
    refuse_reward_model,
    reward_scales,
)
from prefcli.rewards.python import try_functions
from prefcli.stages.trackers import require

# The options of any stage, for the type checker alone: the table in config/stages.py has the stages.
StageConfig = SFTConfig | RewardConfig | DPOConfig | ORPOConfig | KTOConfig | PPOConfig


@dataclass
class Inputs:
    """All inputs of a stage, resolved. `existing` is the finished artifact of this very run, if there is one (with
    --force none is looked for); its files are checked, but for one that a service scored. `separate`: --layout separate
    was given, which resolved options do not tell."""

    stage: Stage
    config: StageConfig
    store: Store
    name: str
    data: Dataset
    eval_data: Dataset | None
    references: dict[str, Reference]
    architecture: Architecture | None
    key: str
    rewards: list[RewardSpec] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    existing: Artifact | None = None
    separate: bool = False

    @property
    def model(self) -> Reference:
        return self.references["model"]

    @property
    def asks_a_service(self) -> bool:
        """Whether its rewards may be others by now."""
        return any(spec.url for spec in self.rewards)

    @property
    def reusable(self) -> Artifact | None:
        """`existing`, where the same command hands it back: not if a service scored it."""
        return None if self.asks_a_service else self.existing

    def taken(self) -> Artifact | None:
        """`existing`, as a command of several runs continues with it, which an interruption cuts off between two.

        Raises ArtifactError naming a file of it that is missing or was changed.
        """
        return None if self.existing is None else self.store.find(self.name, self.key)

    @property
    def held_out_rows(self) -> Rows:
        """Of --eval-data; empty without it."""
        return self.data.rows[:0] if self.eval_data is None else self.eval_data.rows

    def check_rows(self) -> None:
        """Raise DataError where a file whose rows are read as they are needed is not what it was at the start."""
        for data in (self.data, self.eval_data):
            if data is not None:
                data.check()


def prepare(config: StageConfig) -> Inputs:
    """Resolve and check everything that the options of a stage name. Raises UsageError, DataError, ArtifactError."""
    stage = stage_of(config)
    require(config.report_to)
    separate = isinstance(config, PPOConfig) and config.layout == "separate"
    config = config.resolved() if hasattr(config, "resolved") else config
    if isinstance(config, DataConfig):
        config.micro_batches()  # one that cannot be split is told before anything is loaded
    _refuse_odd_adapter(config)
    config = _split(config)
    name = check_name(stage.name if config.name is None else config.name)
    store = Store(config.runs)
    files = "prompts" if stage.samples else "data"
    if not getattr(config, files):
        raise UsageError(f"{option(files)} is missing", f"name a file: {option(files)} FILE")
    notes: list[str] = []
    references = _references(config, stage, store, notes)
    rewards = _rewards(config, store, wanted=stage.samples)
    read: Any = partial(read_dataset, purpose=stage.purpose, skip_bad=config.skip_bad, lazily=True, **read_as(config))
    data = read(getattr(config, files))
    eval_data = None
    if isinstance(config, DataConfig):
        most = config.max_rows
        if most is not None and most >= len(data.rows):
            config = replace(config, max_rows=None)  # all of them: the very run that is made without it
        data = first(data, most)
        weigh(data, config.weight_column if isinstance(config, WeightConfig) else None)
        # Held-out rows are rendered as those that are trained on.
        eval_data = read([config.eval_data], held_out=True, as_chat=data.as_chat) if config.eval_data else None
        if eval_data is not None and eval_data.as_chat and isinstance(data.rows[0].prompt, str):
            notes.append(
                "prompts of --eval-data are dialogues and become messages, and those of --data are plain strings; "
                "--as-chat makes messages of both"
            )
    if isinstance(config, RewardConfig) and (column := set_apart(data, config.margin_column)):
        notes.append(f"each pair's margin is in the column {column!r}")
        if eval_data is not None:
            set_apart(eval_data, config.margin_column)
    if isinstance(config, DataConfig):
        data = mix(data, config.data_weight, config.seed)
        if config.eval_every and eval_data is None and not (isinstance(config, RewardConfig) and config.eval_share):
            notes.append("--eval-every has no effect: no rows are held out (name some with --eval-data FILE)")
    architecture = architecture_of(references["model"])
    if config.lr is None:
        small = architecture is not None and architecture.parameters < SMALL_MODEL_PARAMETERS
        rate = stage.rates[1] if small else stage.rates[0] * (ADAPTER_RATE if config.lora_rank else 1)
        config = replace(config, lr=float(f"{rate:g}"))  # 1e-6 · 10 without the last digit's error
    inputs = Inputs(stage, config, store, name, data, eval_data, references, architecture, "", rewards)
    inputs.separate = separate
    inputs.notes = notes + [r.note for r in references.values() if r.note] + data.notes
    inputs.key = _key(inputs)
    if not config.force:
        find = store.finished if inputs.asks_a_service else store.find  # a lost file of it is in nobody's way
        inputs.existing = find(name, inputs.key)
    if inputs.reusable is None:
        try_functions(rewards, data.rows[0])
    return inputs


def _refuse_odd_adapter(config: StageConfig) -> None:
    asks = {
        "adapter": config.adapter != "lora",
        "load_in_4bit": config.load_in_4bit,
        "lora_alpha": config.lora_alpha is not None,
        "lora_target": config.lora_target,
        "lora_dropout": config.lora_dropout,
    }
    for name, asked in asks.items():
        if asked and config.lora_rank == 0:
            what = f"{option(name)} is about adapters, and --lora-rank is 0"
            raise UsageError(what, f"give --lora-rank 16, or leave {option(name)} out")
    asks = {"--load-in-4bit": config.load_in_4bit, "--optim adamw-8bit": config.optim == "adamw-8bit"}
    for asked in (name for name, wanted in asks.items() if wanted):
        if not bitsandbytes.installed():
            raise UsageError(f"{asked} needs bitsandbytes", "pip install 'prefcli[qlora]'")


def _split(config: StageConfig) -> StageConfig:
    """With --shard where accelerate's file asks for FSDP. Raises UsageError for what cannot be split."""
    if not asks_to_split(config):
        return config
    refused = not_split(config.optim, config.dtype)
    if refused is None and isinstance(config, PPOConfig) and config.generate:
        refused = "--generate", "leave one of the two out: servers are proven against weights that one process holds"
    if refused is not None:
        raise UsageError(f"{refused[0]} does not run with --shard (FSDP)", refused[1])
    return replace(config, shard=True)


def _references(config: StageConfig, stage: Stage, store: Store, notes: list[str]) -> dict[str, Reference]:
    text = config.model
    if text is None:
        text, note = default_model(store)
        notes.append(note)
    found = {"model": resolve(text, store)}
    for role in ("reference", "value_init"):
        if named := getattr(config, role, None):
            found[role] = resolve(named, store)
    if stage.reference and not (isinstance(config, DPOConfig) and config.reference_free):
        found.setdefault("reference", found["model"])
    found = {role: at_hand(reference) for role, reference in found.items()}
    for role, reference in found.items():
        if role in ("model", "reference") and not stage.scores:
            refuse_reward_model(reference)
    return found


def _rewards(config: StageConfig, store: Store, wanted: bool) -> list[RewardSpec]:
    if not isinstance(config, DPOConfig | PPOConfig) or not config.reward:
        if not wanted:
            return []
        raise UsageError(
            "--reward is missing", "name a reward model (train one: prefcli train-rm) or python:FILE:FUNCTION"
        )
    specs = parse_rewards(config.reward, store, label=config.label if isinstance(config, PPOConfig) else None)
    for spec in specs:
        refuse_language_model(spec)
    specs = [replace(spec, reference=at_hand(spec.reference)) if spec.reference else spec for spec in specs]
    # A mistake in them costs nothing yet.
    scales = reward_scales(specs, config.reward_weight, config.standardise_rewards)
    total = sum(scale.weight for scale in scales.values())
    if not wanted and not (total < 1 and all(scale.weight >= 0 for scale in scales.values())):
        raise UsageError(
            f"the reward weights add up to {total:g}, so no weight is left for the pair labels (weights must be 0 or "
            "more and add up to less than 1)",
            f"for example: --reward-weight {specs[0].name}=0.5",
        )
    return specs


def _key(inputs: Inputs) -> str:
    """Digest of all causes of the result: the same run has the same key."""
    parents = {role: reference.pinned for role, reference in inputs.references.items()}
    parents |= {f"{REWARD}{spec.name}": spec.pinned for spec in inputs.rewards}
    config = key_fields(inputs.config) | rollback_step(as_dict(inputs.config))
    causes: dict[str, Any] = {
        "stage": inputs.stage.name,
        "config": config,
        "parents": parents,
        "functions": [spec.function or spec.label for spec in inputs.rewards],
        "data": inputs.data.digests,
        "eval_data": inputs.eval_data.digests if inputs.eval_data else None,
    }
    if isinstance(inputs.config, DPOConfig | PPOConfig) and inputs.config.standardise_rewards:
        # They are recorded by a reward model's manifest, and its digest is of the weights alone.
        scales = reward_scales(inputs.rewards, inputs.config.reward_weight, True)
        causes["scales"] = [[scale.mean, scale.std] for scale in scales.values()]
    return digest_json(causes)


def parents_of(inputs: Inputs) -> dict[str, dict[str, Any]]:
    """The manifest's `parents`."""
    found = {role: _parent(reference, inputs) for role, reference in inputs.references.items()}
    for spec in inputs.rewards:
        if spec.reference is not None:
            found[f"{REWARD}{spec.name}"] = _parent(spec.reference, inputs) | {"digest": spec.digest}
        else:
            found[f"{REWARD}{spec.name}"] = {"ref": spec.text, "digest": spec.digest}
    return found


def _parent(reference: Reference, inputs: Inputs) -> dict[str, Any]:
    """With its places where it is not of the artifact's own store, in which a name would find it."""
    parent: dict[str, Any] = {"ref": reference.shown, "digest": reference.digest}
    if reference.commit:
        parent["commit"] = reference.commit
    store = reference.artifact and own_store(reference.artifact, inputs.store)
    if reference.kind in ("directory", "gguf") or (store and store.root.resolve() != inputs.store.root.resolve()):
        assert reference.path is not None
        parent["places"] = places_of(reference.path, inputs.store.root / inputs.name / "v1")
    return parent


def refuse_nothing_left(rows: int, dropped: int, max_length: int) -> None:
    """Raise DataError where cutting to the longest length left no row to train on."""
    if rows == 0:
        raise DataError(f"none of the {dropped} rows fits: {nothing_left(max_length)}", "raise --max-length")


def nothing_left(max_length: int) -> str:
    """Why rows are left out as they are cut (data/tokenising.py)."""
    return f"their prompts alone fill --max-length {max_length}, or what tells a pair's answers apart lies beyond it"

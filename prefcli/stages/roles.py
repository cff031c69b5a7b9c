"""PPO's roles, opened as --layout says: four models, or adapters that share what is equal between them.

A frozen role starts where a trained one does: the reference is the policy's start, and often the reward model is the
value model's. With adapters the two differ in little. So `shared` makes the reference of the policy's base, a reward
model that is an adapter on that base a further adapter on it, and the value model a copy of that one. A reward model
with weights of its own lends them to the value model. What cannot share is loaded for itself, with a notice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedTokenizerBase

from prefcli.artifacts.references import Reference, value_beside
from prefcli.config.ppo import PPOConfig
from prefcli.models import shared
from prefcli.models.labels import how_many
from prefcli.models.loading import configuration, is_scorer, loaded_scorer
from prefcli.models.shared import SharedRole
from prefcli.models.tokenizers import check_tokenizer, load_tokenizer, tokenizer_digest
from prefcli.rewards.grammar import RewardSpec
from prefcli.rewards.sources import ModelReward, RewardSource, load_reward
from prefcli.stages.policy import Opened, adapted
from prefcli.stages.reference import hold_as_autocast, load_reference
from prefcli.stages.session import Session

VALUE, REFERENCE, REWARD = "ppo_value", "ppo_reference", "ppo_reward"  # names of adapters


@dataclass
class OpenedRoles:
    """`value` is None without GAE. `value_from` says what it started from; `value_saves_merged` that its adapter sits
    on weights that are on no disk."""

    policy: Any
    value: Any
    reference: Any
    rewards: list[RewardSource]
    value_from: str | None
    value_saves_merged: bool = False

    def prepare(self, run: Session) -> bool:
        """Packed rows and gradient checkpointing as the options say; whether rollout and update run packed."""
        named = [(self.policy, "policy"), (self.value, "value model"), (self.reference, "reference")]
        packed = all([run.packs(model, role) for model, role in named if model is not None])
        if run.inputs.config.lora_rank == 0 and run.mesh is None:
            hold_as_autocast(self.reference, run.dtype)
        for source in self.rewards:
            if isinstance(source, ModelReward) and run.packs(source.model, f"reward model {source.name}"):
                source.tokens_per_row = run.tokens_per_row
        if run.inputs.config.gradient_checkpointing:
            for base in dict.fromkeys(_base(model) for model in (self.policy, self.value) if model is not None):
                base.gradient_checkpointing_enable({"use_reentrant": False})
                if isinstance(base, PeftModel):
                    shared.recompute_as_run(base)
        return packed


def open_roles(run: Session, opened: Opened) -> OpenedRoles:
    """Policy, value model, reference and reward sources. Raises as `load_policy`, `load_scorer`, `load_reward` do."""
    return (_shared if _config(run).layout == "shared" else _separate)(run, opened)


def _config(run: Session) -> PPOConfig:
    assert isinstance(run.inputs.config, PPOConfig)
    return run.inputs.config


def _separate(run: Session, opened: Opened) -> OpenedRoles:
    run.split(opened.model)  # one after the other: the first process has one of them whole at a time
    rewards = [_reward(run, opened, spec) for spec in run.inputs.rewards]
    value, value_from, merges = None, None, False
    if _config(run).advantage == "gae":
        start = _value_start(run, opened.tokenizer)
        value_from = start.shown
        value, _, merges = _value(run, opened, start)
    reference = load_reference(run, opened.tokenizer, merge=not opened.continued)
    return OpenedRoles(opened.model, value, reference, rewards, value_from, merges)


def _shared(run: Session, opened: Opened) -> OpenedRoles:
    policy, reference = opened.model, _shared_reference(run, opened)
    start = _value_start(run, opened.tokenizer) if _config(run).advantage == "gae" else None
    value, merges = None, False
    rewards: list[RewardSource] = []
    for number, spec in enumerate(run.inputs.rewards):
        model = None
        if spec.reference is not None and spec.reference.is_adapter and _on_base(spec.reference, opened):
            model = _from_file(policy, f"{REWARD}_{number}", spec.reference)
        elif spec.reference is not None and spec.reference == start and value is None:
            value, continued, merges = _value(run, opened, start)
            model = shared.start_of(value, continued, REWARD)
        elif start is not None and value is None and _stands_on(start, spec.reference):
            value, continued, merges = _value(run, opened, start)
            if continued:  # else its adapter is merged into what was the reward model
                model = SharedRole(value, None, value.get_base_model().score.original_module)
        if model is None and spec.reference is not None:
            run.reporter.notice(f"reward {spec.name} is loaded beside the policy: {_why_apart(spec.reference, opened)}")
        rewards.append(_reward(run, opened, spec, None if model is None else model.requires_grad_(False)))
    if start is not None and value is None:
        value, merges = _shared_value(run, opened, start)
    shared.train_only(policy, [shared.TRAINED, VALUE])
    if isinstance(value, PeftModel):
        shared.train_only(value, [shared.TRAINED])
    elif value is not None:
        _split_among_processes(policy, value)
    return OpenedRoles(policy, value, reference, rewards, start.shown if start else None, merges)


def _shared_reference(run: Session, opened: Opened) -> Any:
    inputs, policy = run.inputs, opened.model
    reference = inputs.references["reference"]
    if reference == inputs.model:
        return shared.start_of(policy, opened.continued, REFERENCE)
    check_tokenizer("--reference", reference, opened.tokenizer, run.reporter)
    if _on_base(reference, opened):
        return _from_file(policy, REFERENCE, reference) if reference.is_adapter else SharedRole(policy, None)
    why = _why_apart(reference, opened)
    run.reporter.notice(f"the reference {reference.shown} is loaded beside the policy: {why}")
    return load_reference(run, opened.tokenizer, merge=not opened.continued)


def _shared_value(run: Session, opened: Opened, start: Reference) -> tuple[Any, bool]:
    policy = opened.model
    if start == run.inputs.model:
        shared.add_copy(policy, VALUE)
        return SharedRole(policy, VALUE, shared.fresh_head(policy, run.inputs.config.seed)), False
    if start.is_adapter and is_scorer(start) and _on_base(start, opened):
        return _from_file(policy, VALUE, start), False
    why = _why_apart(start, opened)
    run.reporter.notice(f"the value model, of {start.shown}, is loaded beside the policy: {why}")
    value, _, merges = _value(run, opened, start)
    return value, merges


def _from_file(policy: PeftModel, name: str, reference: Reference) -> SharedRole:
    assert reference.path is not None
    return SharedRole(policy, name, shared.add_from_file(policy, name, reference.path))


def _on_base(reference: Reference, opened: Opened) -> bool:
    """Whether it is the policy's base, or an adapter on it that changes no weight of it."""
    return opened.base is not None and opened.base == reference.place and reference.leaves_base


def _why_apart(reference: Reference, opened: Opened) -> str:
    if not reference.leaves_base:
        return "its adapter is not LoRA, or changes the weights below it, as PiSSA does"
    return "it has no head for scores" if _on_base(reference, opened) else "its base has other weights"


def _stands_on(value: Reference, reward: Reference | None) -> bool:
    """Whether a trained value model is an adapter on a reward model's weights."""
    return reward is not None and not reward.is_adapter and value.is_adapter_on(reward)


def _split_among_processes(policy: PeftModel, value: SharedRole) -> None:
    """Each of the two is wrapped by DDP, which waits for the gradient of all that is trained in what it wraps."""
    for model, others in ((policy, VALUE), (value, shared.TRAINED)):
        names = [name for name, _ in model.named_parameters() if others in name.split(".")]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)


def _reward(run: Session, opened: Opened, spec: RewardSpec, model: Any = None) -> RewardSource:
    source = load_reward(
        spec, opened.tokenizer, dtype=run.dtype, device=run.opens_on, reporter=run.reporter, model=model
    )
    if isinstance(source, ModelReward) and model is None:
        run.split(source.model)
    return source


def _value(run: Session, opened: Opened, start: Reference) -> tuple[Any, bool, bool]:
    """The value model, whether it is trained on in the adapter of `start`, and whether it is to be saved merged."""
    config = run.inputs.config
    label = _label(run, start)
    loaded = loaded_scorer(
        start,
        opened.tokenizer,
        dtype=run.opens_in(start, opened.tokenizer) if is_scorer(start) else run.trained_dtype,  # a new head is drawn
        device=run.opens_on,
        new_head=not is_scorer(start),
        trainable=config.lora_rank > 0,
        seed=config.seed,
        in_4bit=config.load_in_4bit,
        label=label,
    )
    if start.is_adapter and not is_scorer(start):
        run.reporter.notice(f"the value model starts from {start.shown} with its adapter merged")
    trained, merges = adapted(config, start, loaded, run.reporter, scorer=True, label=label)
    if config.lora_rank == 0:
        run.split(trained.requires_grad_(True))
    return trained, trained is loaded.model, merges


def _label(run: Session, start: Reference) -> str | None:
    """Which label the value model starts from: the reward's, or --label for another model with several."""
    for spec in run.inputs.rewards:
        if spec.reference == start:
            return spec.label
    several = is_scorer(start) and how_many(start, configuration(start)) > 1
    return _config(run).label if several else None


def _value_start(run: Session, tokenizer: PreTrainedTokenizerBase) -> Reference:
    """--value-init, else the one that was trained with the policy, else a reward model that reads the policy's ids
    (arXiv 2403.17031 starts from it), else the policy with a fresh head."""
    named = run.inputs.references.get("value_init")
    if named is not None:
        check_tokenizer("--value-init", named, tokenizer, run.reporter)
        return _value_beside(named, run) or named
    trained = _value_beside(run.inputs.model, run)
    if trained is not None:
        return trained
    for spec in run.inputs.rewards:
        if spec.reference is not None and is_scorer(spec.reference):
            if tokenizer_digest(load_tokenizer(spec.reference, run.reporter)) == tokenizer_digest(tokenizer):
                return spec.reference
    return run.inputs.model


def _value_beside(reference: Reference, run: Session) -> Reference | None:
    """The value model of a ppo artifact, or of a kept step of one."""
    value = value_beside(reference, run.inputs.store)
    return value if value is not None and is_scorer(value) else None


def _base(model: Any) -> Any:
    """The model that gradient checkpointing is set on: itself, or the one that it shares."""
    return model.base if isinstance(model, SharedRole) else model

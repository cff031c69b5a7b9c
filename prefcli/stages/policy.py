"""The model a stage trains, opened: weights or adapter, tokenizer, and what to remember of both."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefcli.artifacts.references import Reference
from prefcli.config.ppo import PPOConfig
from prefcli.config.training import ModelConfig, PolicyConfig
from prefcli.errors import UsageError
from prefcli.models.adapter_files import name_base
from prefcli.models.adapters import with_adapter
from prefcli.models.classes import balances_routers
from prefcli.models.generation import Sampler
from prefcli.models.loading import (
    Loaded,
    configuration,
    loaded_policy,
    pad_with,
    refuse_unsaved,
)
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter, under_deepspeed
from prefcli.stages.session import Session


@dataclass
class Opened:
    """`saves_merged`: the base that the adapter sits on is on no disk, so what is saved is the two merged.

    `base` is where an adapter's base is, None where there is none on a disk; `continued` says that the adapter that is
    trained is the parent's.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    saves_merged: bool
    about: dict[str, Any]
    base: str | None = None
    continued: bool = False


def open_tokenizer(session: Session) -> PreTrainedTokenizerBase:
    """The tokenizer of --model: rows are tokenised, and refused, before any weights are loaded."""
    return load_tokenizer(session.inputs.model, session.reporter)


def open_policy(session: Session, tokenizer: PreTrainedTokenizerBase) -> Opened:
    """The policy that --model names, ready to be trained as --lora-rank says."""
    inputs, config = session.inputs, session.inputs.config
    _refuse_no_routers(session)
    session.reporter.begin(f"loading {inputs.model.shown}", None)
    loaded = loaded_policy(
        inputs.model,
        dtype=session.opens_in(inputs.model, tokenizer),
        device=session.opens_on,
        trainable=config.lora_rank > 0,
        tokenizer_size=len(tokenizer),
        in_4bit=config.load_in_4bit,
    )
    pad_with(loaded.model, tokenizer)
    trained, saves_merged = adapted(config, inputs.model, loaded, session.reporter, scorer=False)
    if config.lora_rank == 0 or saves_merged:
        refuse_unsaved(inputs.model, loaded.model)
    continued = inputs.model.is_adapter and trained is loaded.model
    session.reporter.end()
    about = {"parameters": count(trained), "trained": count(trained, True)}
    base = inputs.model.place if config.lora_rank > 0 and not saves_merged else None
    return Opened(trained, tokenizer, saves_merged, about, base, continued)


def open_servers(session: Session, opened: Opened) -> Sampler | None:
    """What answers in the policy's place with --generate. Its folder goes before the version is finished."""
    config = session.inputs.config
    if not isinstance(config, PPOConfig) or config.generate is None:
        return None
    engine: Any = importlib.import_module("prefcli.models.engine")  # httpx, which only this needs
    folder = session.draft.path / "weights"
    sampler: Sampler = engine.Engine(opened.model, opened.tokenizer, config.generate, folder, session.reporter)
    return sampler


def _refuse_no_routers(session: Session) -> None:
    """Raise UsageError for --router-loss of a model without such a loss, or where TRL's trainers make the steps."""
    config = session.inputs.config
    asked = config.router_loss if isinstance(config, PolicyConfig) else 0.0
    if asked and under_deepspeed():
        raise UsageError("--router-loss does not run under DeepSpeed", "leave it out there, or use --shard")
    if asked and not balances_routers(configuration(session.inputs.model)):
        raise UsageError(
            f"--router-loss {asked:g}: transformers computes no balancing loss of routers for "
            f"{session.inputs.model.shown}",
            "leave it out",
        )


def adapted(
    config: ModelConfig, start: Reference, loaded: Loaded, reporter: Reporter, *, scorer: bool, label: str | None = None
) -> tuple[Any, bool]:
    """The model that is trained, as --lora-rank says, and whether an adapter must be saved merged into what it sits on.

    That is on no disk, and the adapter could not be opened on it again: a GGUF file, a token or another head (`label`)
    given to what was loaded, an adapter that was merged into it. Raises UsageError where that is held in 4 bits, or is
    to be split over processes.
    """
    trained = with_adapter(loaded.model, config, scorer=scorer, reporter=reporter)
    name_base(trained, start.base)
    merged_first = start.is_adapter and trained is not loaded.model
    changed = start.kind == "gguf" or loaded.has_grown or label is not None
    saves_merged = config.lora_rank > 0 and (merged_first or changed)
    if saves_merged and (config.load_in_4bit or config.shard):
        option = "--load-in-4bit" if config.load_in_4bit else "--shard with an adapter"
        raise UsageError(
            f"{option} needs {start.shown} on a disk as it is trained, and this changes it first",
            "write a plain model and start from that: prefcli export",
        )
    return trained, saves_merged


def count(model: Any, trained_only: bool = False) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained_only)

"""What a run will do, worked out before it does: rows, steps, learning rate, memory. No torch here."""

from __future__ import annotations

import math
import os
from typing import Any

from prefcli.config.training import TOKENS_PER_ROW
from prefcli.memory.estimate import estimate
from prefcli.memory.run import Run
from prefcli.memory.sizes import format_bytes
from prefcli.stages.inputs import Inputs

ADAPTERS = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA"}
MEMORY_STAGE: dict[str, Any] = {"sft": "sft", "rm": "train-rm", "dpo": "dpo", "kto": "kto", "ppo": "ppo"}


def rollouts(config: Any, prompts: int) -> int:
    """How many rollouts a ppo run makes."""
    answers = prompts * (config.num_generations or 1)
    return config.max_steps or max(1, math.ceil(config.epochs * answers / config.batch_size))


def steps(inputs: Inputs) -> int:
    """Optimizer steps (rollouts, for ppo), before rows that do not fit are left out."""
    config, rows = inputs.config, len(inputs.data.rows)
    if inputs.stage == "ppo":
        return rollouts(config, rows)
    if inputs.stage == "rm" and inputs.eval_data is None and config.eval_share and rows > 1:
        rows -= max(1, round(config.eval_share * rows))
    return config.max_steps or math.ceil(config.epochs * math.ceil(rows / config.batch_size))


def summary(inputs: Inputs) -> dict[str, str]:
    """The plan as shown: one short text for each line."""
    config = inputs.config
    lines = {"stage": inputs.stage}
    for role, reference in inputs.references.items():
        lines[role.replace("_", " ")] = reference.shown
    if inputs.architecture:
        lines["model"] += f" ({inputs.architecture.parameters / 1e6:,.2f}M parameters)"
    for spec in inputs.rewards:
        lines[f"reward {spec.name}"] = spec.reference.shown if spec.reference else spec.text
    for source in inputs.data.sources:
        lines[f"data {source['path']}"] = f"{source['rows']:,} rows ({source['format']})"
    if hasattr(config, "in_words"):
        lines["loss"] = config.in_words
    trained = ADAPTERS[config.adapter] + f" rank {config.lora_rank}" if config.lora_rank else "all weights"
    trained += " on a base in 4 bits" if config.load_in_4bit else ""
    unit = "rollouts" if inputs.stage == "ppo" else "steps"
    lines["training"] = (
        f"{steps(inputs):,} {unit} of {config.batch_size}, {trained}, {config.optim} at {config.lr:g} "
        f"({config.lr_scheduler}), seed {config.seed}"
    )
    lines["memory"] = memory_line(inputs)
    lines["artifact"] = str(inputs.store.root / inputs.name)
    return lines


def memory_line(inputs: Inputs) -> str:
    """The estimated peak against what the machine has; on a CPU, since no GPU can be asked for without torch."""
    predicted = predicted_bytes(inputs)
    if predicted is None:
        return "not estimated: the model's dimensions are not known before it is loaded"
    have = _physical_memory()
    against = f" of {format_bytes(have)} in this machine" if have else ""
    return f"about {format_bytes(predicted)}{against} for the models and their training, estimated"


def predicted_bytes(inputs: Inputs) -> int | None:
    """The estimate of this run's peak, or None where the architecture is not known."""
    if inputs.architecture is None:
        return None
    config = inputs.config
    longest = config.max_prompt_length + config.max_new_tokens if inputs.stage == "ppo" else config.max_length
    positions = inputs.architecture.positions or longest
    rows = config.batch_size // (config.grad_accum * (config.minibatches if inputs.stage == "ppo" else 1))
    dtype: Any = "float32" if config.dtype == "auto" else config.dtype
    return estimate(
        Run(
            stage=MEMORY_STAGE[inputs.stage],
            architecture=inputs.architecture,
            lora_rank=config.lora_rank,
            shared_base=_shares_all(inputs),
            in_4bit=config.load_in_4bit,
            dtype=dtype,
            optimizer=config.optim,
            batch_size=max(1, rows),
            max_length=min(longest, positions),
            tokens_per_row=(config.tokens_per_row or TOKENS_PER_ROW["cpu"]) if config.packed else None,
            checkpointing=config.gradient_checkpointing,
            logit_chunk=None,
        )
    ).bytes


def _shares_all(inputs: Inputs) -> bool:
    """Whether ppo's roles stand on one base: a reward model with weights of its own is a second."""
    if getattr(inputs.config, "layout", None) != "shared":
        return False
    paths = [spec.reference.path for spec in inputs.rewards if spec.reference is not None]
    return all(path is not None and (path / "adapter_config.json").is_file() for path in paths)


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None

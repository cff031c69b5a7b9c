"""The device at hand, and how each stage fits into its memory: by the memory model, with the options that it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from prefcli.config.stages import BY_COMMAND
from prefcli.config.training import TOKENS_PER_ROW
from prefcli.memory.architecture import Architecture
from prefcli.memory.devices import Device
from prefcli.memory.estimate import estimate
from prefcli.memory.run import Kind, Run
from prefcli.memory.sizes import format_bytes

STAGES = ("sft", "train-rm", "train-rm-lora", "dpo", "kto", "ppo", "rloo")
RANK = 16  # of the adapters in the commands, as in docs/scaling.md
# What is tried in turn, where the option before was not enough.
SAVINGS: tuple[tuple[str, ...], ...] = (
    (),
    ("--gradient-checkpointing",),
    ("--gradient-checkpointing", "--tokens-per-row", "2048"),
)


@dataclass(frozen=True)
class Fit:
    """How a stage fits: the bytes on one device, the processes that share one model (1: none do), and the options."""

    bytes: int
    lora: bool = False
    processes: int = 1
    options: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        weights = f"LoRA rank {RANK}" if self.lora else "all weights"
        return f"{weights}, {format_bytes(self.bytes)}{f' on each of {self.processes}' if self.processes > 1 else ''}"


def fits(architecture: Architecture, where: Device, reward_elsewhere: bool = False) -> dict[str, Fit | None]:
    """Stage → how it fits, None where it does not.

    All weights in one process come first, then all weights split over the GPUs (FSDP; not ppo, docs/scaling.md), then
    an adapter. `reward_elsewhere`: the reward model has weights of its own, and cannot share ppo's base.
    """
    return {stage: _fit(stage, architecture, where, reward_elsewhere) for stage in STAGES}


def _fit(stage: str, architecture: Architecture, where: Device, reward_elsewhere: bool) -> Fit | None:
    for lora in (True,) if stage.endswith("-lora") else (False, True):
        options = ("--lora-rank", str(RANK)) if lora else ()
        for saving in SAVINGS:
            run = _run(stage, architecture, where, lora, saving)
            beside = _weights(run) if reward_elsewhere and lora and run.about.samples else 0
            needed = estimate(run).bytes + beside
            if needed <= where.usable:
                return Fit(needed, lora, 1, options + saving)
        if not lora and where.count > 1 and not run.about.samples and (split := _split(run, where)) is not None:
            return split
    return None


def _run(stage: str, architecture: Architecture, where: Device, lora: bool, saving: tuple[str, ...]) -> Run:
    """The stage with the defaults of its command."""
    command = {"rloo": "ppo", "train-rm-lora": "train-rm"}.get(stage, stage)
    about = BY_COMMAND[command]
    options = about.config(lora_rank=RANK if lora else 0, gradient_checkpointing=bool(saving))
    kind: Kind = "cuda" if where.count else "cpu"
    most = TOKENS_PER_ROW[kind]
    return Run.of(
        about,
        options,
        architecture,
        kind,
        options.max_prompt_length + options.max_new_tokens if about.samples else options.max_length,
        shared_base=lora and about.reference,  # dpo: the reference lacks the adapter
        dtype="bfloat16" if where.bf16 else "float32",
        value_model=stage != "rloo",
        tokens_per_row=min(int(saving[-1]), most) if "--tokens-per-row" in saving else most,
    )


def _weights(run: Run) -> int:
    return run.architecture.scorer_parameters * run.dtype_bytes


def _split(run: Run, where: Device) -> Fit | None:
    """All weights over all GPUs, one row at a time on each; a GPU must hold the whole model in float32 once."""
    rows = run.about.config().batch_size
    parts = math.ceil(rows / where.count)
    one = estimate(replace(run, batch_size=1, tokens_per_row=None, checkpointing=True))
    states = one.state_bytes
    passing = max(one.bytes - states, 0)
    needed = max(states // where.count + passing, 4 * run.architecture.parameters)
    if needed > where.usable:
        return None
    options: tuple[str, ...] = ("--gradient-checkpointing", "--grad-accum", str(parts))
    if rows % where.count:
        options += ("--batch-size", str(parts * where.count))
    return Fit(needed, False, where.count, options)

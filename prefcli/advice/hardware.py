"""The device at hand, and how each stage fits into its memory: by the memory model, with the options that it takes."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import Any

from prefcli.config.ppo import PPOConfig
from prefcli.config.sft import SFTConfig
from prefcli.config.training import TOKENS_PER_ROW
from prefcli.errors import UsageError
from prefcli.memory.architecture import Architecture
from prefcli.memory.estimate import STATES, Estimate, estimate
from prefcli.memory.gpus import MIB, USABLE_SHARE, find_gpu
from prefcli.memory.run import Run
from prefcli.memory.sizes import format_bytes

STAGES = ("sft", "train-rm", "train-rm-lora", "dpo", "kto", "ppo", "rloo")
RANK = 16  # of the adapters in the commands, as in docs/scaling.md
NO_BF16 = ("T4", "V100")  # compute capability below 8: `--dtype auto` is float32 there
# What is tried in turn, where the option before was not enough.
SAVINGS: tuple[tuple[str, ...], ...] = (
    (),
    ("--gradient-checkpointing",),
    ("--gradient-checkpointing", "--tokens-per-row", "2048"),
)


@dataclass(frozen=True)
class Device:
    """`bytes` are one device's. `count` is 0 for a CPU."""

    name: str
    bytes: int
    count: int
    bf16: bool

    @property
    def usable(self) -> float:
        return self.bytes * USABLE_SHARE

    @property
    def shown(self) -> str:
        return f"{self.count} × {self.name}" if self.count else f"CPU, {format_bytes(self.bytes)} of memory"


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


def device(kind: str | None, count: int | None) -> Device:
    """The one that the options name, or that is here.

    Raises UsageError: an unknown kind, --gpus with a CPU.
    """
    if kind is None and (here := _found()) is not None:
        return replace(here, count=count or here.count)
    if kind is None and count is not None:
        raise UsageError(f"--gpus {count}: no GPU is found here", "name the kind too: --gpu H100")
    if kind is None or kind.strip().lower() in ("cpu", "none"):
        if count is not None:
            raise UsageError(f"--gpus {count}: --gpu is cpu", "leave one of them out")
        return Device("CPU", _physical_memory(), 0, bf16=False)
    gpu = find_gpu(kind)
    return Device(gpu.name, gpu.bytes, count or 1, bf16=not gpu.name.startswith(NO_BF16))


def _found() -> Device | None:
    """What nvidia-smi lists: the smallest of the GPUs that CUDA_VISIBLE_DEVICES leaves."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        rows = [[cell.strip() for cell in line.rsplit(",", 2)] for line in out.splitlines() if line.strip()]
        found = sorted((int(memory) * MIB, name, float(capability) >= 8) for name, memory, capability in rows)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(found) if visible is None else min(len(found), len([v for v in visible.split(",") if v.strip()]))
    return Device(found[0][1], found[0][0], count, found[0][2]) if count else None


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 16 * 10**9  # not known: a laptop's


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
            beside = _weights(run) if reward_elsewhere and lora and run.stage == "ppo" else 0
            needed = _bytes(stage, estimate(run)) + beside
            if needed <= where.usable:
                return Fit(needed, lora, 1, options + saving)
        if not lora and where.count > 1 and run.stage != "ppo" and (split := _split(run, where)) is not None:
            return split
    return None


def _run(stage: str, architecture: Architecture, where: Device, lora: bool, saving: tuple[str, ...]) -> Run:
    """The stage with the defaults of its command."""
    config: Any = PPOConfig() if stage in ("ppo", "rloo") else SFTConfig()
    ppo = isinstance(config, PPOConfig)
    longest = config.max_prompt_length + config.max_new_tokens if ppo else config.max_length
    tokens = int(saving[-1]) if "--tokens-per-row" in saving else TOKENS_PER_ROW["cuda" if where.count else "cpu"]
    return Run(
        stage={"rloo": "ppo", "train-rm-lora": "train-rm"}.get(stage, stage),  # type: ignore[arg-type]
        architecture=architecture,
        lora_rank=RANK if lora else 0,
        shared_base=lora and stage not in ("sft", "train-rm", "train-rm-lora"),  # dpo: the reference lacks the adapter
        dtype="bfloat16" if where.bf16 else "float32",
        batch_size=config.batch_size,
        max_length=min(longest, architecture.positions or longest),
        tokens_per_row=min(tokens, TOKENS_PER_ROW["cuda" if where.count else "cpu"]),
        checkpointing=bool(saving),
        logit_chunk=None,
    )


def _bytes(stage: str, found: Estimate) -> int:
    """RLOO is ppo without the value model, whose update is never the largest phase (it has no logits)."""
    return found.bytes - (found.roles["value"].bytes if stage == "rloo" else 0)


def _weights(run: Run) -> int:
    return run.architecture.scorer_parameters * run.dtype_bytes


def _split(run: Run, where: Device) -> Fit | None:
    """All weights over all GPUs, one row at a time on each; a GPU must hold the whole model in float32 once."""
    rows = SFTConfig().batch_size
    parts = math.ceil(rows / where.count)
    one = estimate(replace(run, batch_size=1, tokens_per_row=None, checkpointing=True))
    states = sum(one.parts[part] for part in STATES)
    passing = one.bytes - states
    needed = max(states // where.count + passing, 4 * run.architecture.parameters)
    if needed > where.usable:
        return None
    options: tuple[str, ...] = ("--gradient-checkpointing", "--grad-accum", str(parts))
    if rows % where.count:
        options += ("--batch-size", str(parts * where.count))
    return Fit(needed, False, where.count, options)

"""The device, and how each stage fits into its memory: by the memory model, with the options that it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefcli.config.stages import BY_COMMAND
from prefcli.memory.architecture import Architecture
from prefcli.memory.devices import cpu_dtype
from prefcli.memory.estimate import estimate
from prefcli.memory.fit import RANK, at_pace, changes, split
from prefcli.memory.gpus import Device
from prefcli.memory.run import DTYPE_BYTES, Run, of_command
from prefcli.memory.sizes import format_bytes

ANSWERS = "sample"  # no stage: what answers and is not trained, for sample, eval, and label by a reward model
STAGES = ("sft", "train-rm", "train-rm-lora", "dpo", "dpo-rounds", "kto", "ppo", "rloo", ANSWERS)
# What is tried in turn, the nearest to all weights first: (rank of the adapter, base in 4 bits).
TRIED = ((0, False), (RANK, False), (RANK, True))


@dataclass(frozen=True)
class Fit:
    """A stage's fit: the bytes on one device, the processes that share one model (1: none do), and the options."""

    bytes: int
    lora: bool = False
    in_4bit: bool = False
    processes: int = 1
    options: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        weights = f"LoRA rank {RANK}{' on 4 bits' if self.in_4bit else ''}" if self.lora else "all weights"
        return f"{weights}, {format_bytes(self.bytes)}{f' on each of {self.processes}' if self.processes > 1 else ''}"


def fits(
    architecture: Architecture, where: Device, trained: int = 1, given: int = 0, apart: int | None = None
) -> dict[str, Fit | None]:
    """Stage → how it fits, None where it does not: with the defaults of its command, and as few options as it takes.

    All weights in one process come first, then all weights split over the GPUs (--shard, docs/scaling.md), then an
    adapter, then one on a base in 4 bits, then one on a base that is split. ppo holds the reward models that are
    `trained` first, which share its base where they are adapters, or those that are there, of `given` parameters:
    beside adapters only those count that are not on its base, of `apart` parameters (None: all).
    """
    apart = given if apart is None else apart
    found = {stage: _fit(stage, architecture, where, trained, given, apart) for stage in STAGES if stage != ANSWERS}
    return found | {ANSWERS: _answers(architecture, where)}


def _answers(architecture: Architecture, where: Device) -> Fit | None:
    """By the weights alone, in one process or split over all GPUs."""
    auto = "bfloat16" if where.bf16 else "float32" if where.count else cpu_dtype(architecture.parameters)
    size = architecture.parameters * DTYPE_BYTES[auto]
    if size <= where.usable_bytes:
        return Fit(size)
    part = size // max(1, where.count)
    return Fit(part, processes=where.count, options=("--shard",)) if part <= where.usable_bytes else None


def _fit(stage: str, architecture: Architecture, where: Device, trained: int, given: int, apart: int) -> Fit | None:
    for rank, in_4bit in TRIED:
        if (stage.endswith("-lora") and not rank) or (in_4bit and not where.count):
            continue
        run = _run(stage, architecture, where, rank, in_4bit, trained, apart if rank else given, bool(given))
        needed = changes(run, where.usable_bytes, same=True)
        if needed is not None:
            size = needed[-1].bytes if needed else estimate(run).bytes
            own = ("--lora-rank", str(rank)) if rank else ()
            options = (*own, *(("--load-in-4bit",) if in_4bit else ()), *(w for c in needed for w in c.option.split()))
            return Fit(size, bool(rank), in_4bit, 1, options)
        if not rank and where.count > 1 and (over_all := _split(run, where)) is not None:
            return over_all
    if where.count < 2:
        return None
    return _split(_run(stage, architecture, where, RANK, False, trained, apart, bool(given)), where)


def _run(
    stage: str,
    architecture: Architecture,
    where: Device,
    rank: int,
    in_4bit: bool,
    trained: int,
    given: int,
    is_given: bool,
) -> Run:
    command = {"rloo": "ppo", "train-rm-lora": "train-rm", "dpo-rounds": "dpo"}.get(stage, stage)
    options = {"lora_rank": rank, "load_in_4bit": in_4bit} | ({"advantage": "rloo"} if stage == "rloo" else {})
    more: dict[str, Any] = {}
    if stage == "dpo-rounds":  # the last round's policy is trained, against the first one's reference
        more = {"shared_base": False}
    elif command == "ppo":
        own = trained * architecture.scorer_parameters if trained > 1 and not rank else 0
        more = {"reward_model": bool(trained or is_given), "reward_parameters": given or own or None}
    return of_command(BY_COMMAND[command], options, architecture, where, **more)


def _split(run: Run, where: Device) -> Fit | None:
    """The run over all GPUs."""
    part = split(run, where.count)
    needed = changes(part, where.usable_bytes, same=True)
    if needed is None:
        return None
    own = ("--lora-rank", str(run.lora_rank)) if run.lora_rank else ()
    options: tuple[str, ...] = (*own, "--shard", *(word for change in needed for word in change.option.split()))
    if part.batch_size * where.count != run.batch_size:
        options += ("--batch-size", str(part.batch_size * where.count))
    size = needed[-1].bytes if needed else estimate(at_pace(part, where.usable_bytes)).bytes
    return Fit(size, bool(run.lora_rank), processes=where.count, options=options)

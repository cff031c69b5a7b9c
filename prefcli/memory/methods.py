"""The ways to teach a model preferences, each as the run that its command makes: side by side, and PPO against DPO."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from prefcli.config.base import option
from prefcli.config.training import TOKENS_PER_ROW
from prefcli.memory.activations import logit_rows
from prefcli.memory.architecture import Architecture
from prefcli.memory.devices import cpu_dtype
from prefcli.memory.estimate import Estimate, estimate
from prefcli.memory.fit import RANK, SEVERAL, Change, at_pace, changes, gpus_needed, largest, split
from prefcli.memory.gpus import USABLE_SHARE, Device
from prefcli.memory.run import Kind, Run

TORCHRUN = "torchrun --nproc-per-node {} -m prefcli"  # of one machine; docs/scaling.md has several
# Files in the commands that are shown, by what a stage reads.
ROWS = {
    "demos": "--data demos.jsonl",
    "pairs": "--data pairs.jsonl",
    "labelled": "--data labelled.jsonl",
    "prompts": "--prompts prompts.jsonl --reward rm",
}


@dataclass(frozen=True)
class Method:
    """A run by the name that it has among others, and what it takes of a device. `options` are those of its command
    that differ from its defaults."""

    name: str
    run: Run
    gpu: Device
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def estimate(self) -> Estimate:
        return estimate(at_pace(self.run, self.gpu.usable_bytes))

    @cached_property
    def gpus(self) -> int | None:
        """The number of GPUs that hold it, with --shard where one does not; None where no number does, or not the
        number that was asked for."""
        if self.run.sharded:
            return self.run.shards if self.gpu.count and self.changes is not None else None
        return gpus_needed(self.run, self.gpu.usable_bytes) if self.gpu.count else None

    @cached_property
    def split(self) -> Method | None:
        """The same over as many GPUs as hold it; None where one does, or no number."""
        if self.gpus is None or self.gpus == self.run.shards:
            return None
        part = split(self.run, self.gpus)
        rows = part.batch_size * self.gpus
        more = {"batch_size": rows} if rows != self.run.batch_size else {}
        return replace(self, run=part, options={**self.options, **more})

    @property
    def fits(self) -> bool:
        return self.estimate.bytes <= self.gpu.usable_bytes

    @property
    def verdict(self) -> str:
        if self.fits or self.gpus is None or self.run.sharded:
            return "fits" if self.fits else "does not fit"
        return f"{self.gpus:,} GPUs"

    @property
    def models(self) -> int:
        return len(self.run.roles)

    @property
    def parameters(self) -> int:
        """In base models: as many times the base as there are models."""
        return self.models * self.run.architecture.parameters

    @cached_property
    def largest_batch(self) -> int | None:
        """--batch-size, which is shared by all GPUs."""
        most = largest(self.run, self.gpu.usable_bytes, "batch_size")
        return most and most * self.run.shards

    @cached_property
    def largest_length(self) -> int | None:
        return largest(self.run, self.gpu.usable_bytes, "max_length")

    @property
    def command(self) -> str | None:
        """The command to run, with the options that make it fit; None where none do."""
        if self.changes is None:
            return None
        start = TORCHRUN.format(self.run.shards) if self.run.sharded else "prefcli"
        words = [start, self.run.stage, "--model", shlex.quote(self.model or "MODEL"), ROWS[self.run.about.purpose]]
        changed = {change.option.split()[0] for change in self.changes}
        if "--advantage" in changed and self.run.answers == 1:
            changed.add("--num-generations")  # which compares several
        words += words_of({name: value for name, value in self.options.items() if option(name) not in changed})
        words += ["--shard"] if self.run.sharded else []
        words += ["--force-memory"] if self.run.cached_reference else []  # the plan counts the reference
        return " ".join([*words, *(change.option for change in self.changes)])

    @property
    def to_run(self) -> Method:
        """What is run: this, or the same over several GPUs where no options make it fit one."""
        return self.split if self.command is None and self.split is not None else self

    @property
    def fitted_bytes(self) -> int:
        """The peak of `command`: with the options that make it fit."""
        return self.changes[-1].bytes if self.changes else self.estimate.bytes

    @cached_property
    def changes(self) -> list[Change] | None:
        return changes(self.run, self.gpu.usable_bytes, same=self.run.sharded)


def words_of(options: Mapping[str, Any]) -> list[str]:
    """A stage's options as they are typed, without mem-estimate's number of GPUs."""
    return [
        word
        for name, value in options.items()
        if name != "shard"
        for word in (
            option(name if value is not False else f"no_{name}"),
            *([] if isinstance(value, bool) else [str(value)]),
        )
    ]


class Routes(NamedTuple):
    """PPO with four models of its own against DPO with two."""

    ppo: Method
    dpo: Method
    adapter: Method  # DPO with one, which fits where all weights do not

    @property
    def both(self) -> tuple[Method, Method]:
        return self.ppo, self.dpo

    @property
    def saving(self) -> float:
        """The fraction of PPO's parameters that DPO does without."""
        return 1 - self.dpo.parameters / self.ppo.parameters

    @property
    def saving_bytes(self) -> float:
        """The same share of PPO's bytes, activations and logits included."""
        return 1 - self.dpo.estimate.bytes / self.ppo.estimate.bytes


def two_routes(
    architecture: Architecture, gpu: Device, batch_size: int, length: int, checkpointing: bool, adapter: Method
) -> Routes:
    """Both with all weights trained, in bfloat16 where the device has it, at one batch and length."""
    kind: Kind = "cuda" if gpu.count else "cpu"
    dtype: Any = "bfloat16" if gpu.bf16 else "float32" if gpu.count else cpu_dtype(architecture.parameters)
    length = min(length, architecture.positions or length)

    def method(stage: str) -> Method:
        return Method(
            stage.upper(),
            Run(
                stage,
                architecture,
                autocast=True,
                dtype=dtype,
                batch_size=batch_size,
                max_length=length,
                tokens_per_row=TOKENS_PER_ROW[kind],
                checkpointing=checkpointing,
                device=kind,
            ),
            gpu,
        )

    return Routes(method("ppo"), method("dpo"), adapter)


def side_by_side(lora_rank: int, answers: int | None) -> list[tuple[str, str, dict[str, Any]]]:
    """(name, command, options): PPO in both layouts, RLOO, DPO with its reference and with that one's values on disk,
    KTO, SFT."""
    rank = lora_rank or RANK
    shared = {"lora_rank": rank, "layout": "shared"}
    return [
        ("PPO separate", "ppo", {"layout": "separate"} if lora_rank else {}),
        (f"PPO shared, LoRA {rank}", "ppo", shared),
        ("RLOO", "ppo", {"advantage": "rloo", "num_generations": answers if (answers or 0) > 1 else SEVERAL}),
        ("DPO", "dpo", {}),
        ("DPO, cached reference", "dpo", {"cached_reference": True}),
        ("KTO", "kto", {}),
        ("SFT", "sft", {}),
    ]


def as_dict(found: Routes | list[Method]) -> dict[str, Any]:
    """The object that --json prints. Bytes and parameters are whole numbers, `saving` a fraction."""
    if isinstance(found, Routes):
        methods = {method.run.stage: _of_route(method) for method in found.both}
        return {"methods": methods, "saving": found.saving, "assumptions": _assumptions(found)}
    gpu = found[0].gpu
    about = {"name": gpu.name, "bytes": gpu.bytes, "usable_bytes": gpu.usable_bytes}
    return {"gpu": about, "methods": {method.name: _of_method(method) for method in found}}


def _of_route(method: Method) -> dict[str, Any]:
    return {
        "models": method.models,
        "params_equivalent": method.parameters,
        "bytes": method.estimate.bytes,
        "roles": _roles(method.estimate),
        "gpus": method.gpus,
    }


def _of_method(method: Method) -> dict[str, Any]:
    found = method.estimate
    return {
        "bytes": found.bytes,
        "phase": found.phase,
        "phases": found.phases,
        "parts": found.parts,
        "roles": _roles(found),
        "state_bytes": found.state_bytes,
        "gpus": method.gpus,
        "command": method.to_run.command,
        "fits": method.fits,
        "largest_batch_size": method.largest_batch,
        "largest_max_length": method.largest_length,
        "changes": None if method.changes is None else [asdict(change) for change in method.changes],
    }


def _roles(found: Estimate) -> dict[str, Any]:
    return {
        name: {"trained": role.trained, "params": role.parameters, "bytes": role.bytes, "parts": dict(role.parts)}
        for name, role in found.roles.items()
    }


def _assumptions(routes: Routes) -> dict[str, Any]:
    """Everything that decides the values, by name."""
    run, gpu = routes.ppo.run, routes.ppo.gpu
    a = run.architecture
    return {
        "params": a.parameters,
        "architecture": {"name": a.name, "typical_of_the_size": a.stated_parameters is not None}
        | {name: getattr(a, name) for name in ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")},
        "batch_size": run.batch_size,
        "max_length": run.max_length,
        "answers_per_row": {method.run.stage: method.run.about.answers for method in routes.both},
        "dtype": run.dtype,
        "master_weights": run.copies_weights,
        "optimizer": run.optimizer,
        "trained_weights": "all",
        "gradient_checkpointing": run.checkpointing,
        "logit_chunk": logit_rows(run, 2**62),
        "gpu": {"name": gpu.name, "bytes": gpu.bytes, "usable_share": USABLE_SHARE, "source": gpu.source},
    }

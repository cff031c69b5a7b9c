"""The ways to teach a model preferences side by side, each as the run that its command makes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from prefcli.memory.estimate import Estimate, estimate
from prefcli.memory.fit import Change, changes, largest
from prefcli.memory.gpus import Gpu, gpus_needed
from prefcli.memory.run import Run

RANK = 16  # of the adapters where --lora-rank says nothing of its own


@dataclass(frozen=True)
class Method:
    name: str
    estimate: Estimate
    gpus: int
    fits: bool
    largest_batch: int | None
    largest_length: int | None
    changes: list[Change] | None

    @property
    def models(self) -> float:
        """Base models' worth of weights that are held."""
        run = self.estimate.run
        return self.estimate.parts["weights"] / (run.architecture.parameters * run.dtype_bytes)


def side_by_side(base: Run, gpu: Gpu) -> list[Method]:
    """PPO in both layouts, RLOO, DPO with its reference and with that one's figures on disk, KTO, SFT."""
    rank = base.lora_rank or RANK
    shared: dict[str, Any] = {"lora_rank": rank, "shared_base": True}
    on_base = bool(base.lora_rank)  # with adapters the reference is the base without them
    return [
        answer(name, replace(base, **about), gpu)
        for name, about in (
            ("PPO separate", {"stage": "ppo", "shared_base": False}),
            (f"PPO shared, LoRA {rank}", {"stage": "ppo", **shared}),
            ("RLOO", {"stage": "ppo", "value_model": False, "answers": 4, "shared_base": on_base}),
            ("DPO", {"stage": "dpo", "shared_base": on_base}),
            ("DPO, cached reference", {"stage": "dpo", "shared_base": on_base, "cached_reference": True}),
            ("KTO", {"stage": "kto", "shared_base": on_base}),
            ("SFT", {"stage": "sft", "shared_base": False}),
        )
    ]


def answer(name: str, run: Run, gpu: Gpu) -> Method:
    found = estimate(run)
    usable = gpu.usable_bytes
    return Method(
        name,
        found,
        gpus_needed(found.bytes, gpu),
        found.bytes <= usable,
        largest(run, usable, "batch_size"),
        largest(run, usable, "max_length"),
        changes(run, usable),
    )


def as_dict(method: Method) -> dict[str, Any]:
    """The object that --json prints for a method."""
    found = method.estimate
    return {
        "bytes": found.bytes,
        "phase": found.phase,
        "phases": found.phases,
        "parts": found.parts,
        "roles": {
            name: {"trained": role.trained, "params": role.parameters, "bytes": role.bytes, "parts": dict(role.parts)}
            for name, role in found.roles.items()
        },
        "state_bytes": found.state_bytes,
        "gpus": method.gpus,
        "fits": method.fits,
        "largest_batch_size": method.largest_batch,
        "largest_max_length": method.largest_length,
        "changes": None
        if method.changes is None
        else [{"option": one.option, "costs": one.costs, "bytes": one.bytes} for one in method.changes],
    }

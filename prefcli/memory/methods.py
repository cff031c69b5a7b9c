"""The ways to teach a model preferences, each as the run that its command makes: side by side, and PPO against DPO."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from prefcli.config.stages import BY_COMMAND
from prefcli.memory.activations import logit_rows
from prefcli.memory.estimate import Estimate, estimate
from prefcli.memory.fit import Change, changes, largest
from prefcli.memory.gpus import USABLE_SHARE, Gpu, gpus_needed
from prefcli.memory.run import Run

RANK = 16  # of the adapters where --lora-rank says nothing of its own


@dataclass(frozen=True)
class Method:
    """A run by the name that it has among others, and what it takes of a kind of GPU."""

    name: str
    run: Run
    gpu: Gpu

    @cached_property
    def estimate(self) -> Estimate:
        return estimate(self.run)

    @property
    def gpus(self) -> int:
        return gpus_needed(self.estimate.bytes, self.gpu)

    @property
    def fits(self) -> bool:
        return self.estimate.bytes <= self.gpu.usable_bytes

    @property
    def models(self) -> int:
        return len(self.run.roles)

    @property
    def parameters(self) -> int:
        """In base models: as many times the base as there are models."""
        return self.models * self.run.architecture.parameters

    @cached_property
    def largest_batch(self) -> int | None:
        return largest(self.run, self.gpu.usable_bytes, "batch_size")

    @cached_property
    def largest_length(self) -> int | None:
        return largest(self.run, self.gpu.usable_bytes, "max_length")

    @cached_property
    def changes(self) -> list[Change] | None:
        return changes(self.run, self.gpu.usable_bytes)


class Routes(NamedTuple):
    """PPO with four models of its own against DPO with two."""

    ppo: Method
    dpo: Method

    @property
    def saving(self) -> float:
        """The share of PPO's parameters that DPO does without."""
        return 1 - self.dpo.parameters / self.ppo.parameters

    @property
    def saving_bytes(self) -> float:
        """The same share of PPO's bytes, activations and logits included."""
        return 1 - self.dpo.estimate.bytes / self.ppo.estimate.bytes


def two_routes(base: Run, gpu: Gpu) -> Routes:
    """Both with the same settings, of which the stage is none."""
    return Routes(*(Method(stage.upper(), replace(base, stage=stage, answers=0), gpu) for stage in Routes._fields))


def side_by_side(base: Run, gpu: Gpu) -> list[Method]:
    """PPO in both layouts, RLOO, DPO with its reference and with that one's figures on disk, KTO, SFT."""
    rank = base.lora_rank or RANK
    shared: dict[str, Any] = {"lora_rank": rank, "shared_base": True}
    # With adapters the reference is the base without them. The answers to a prompt are ppo's alone.
    alone: dict[str, Any] = {"shared_base": False, "answers": 0}
    beside = alone | {"shared_base": bool(base.lora_rank)}
    return [
        Method(name, replace(base, **about), gpu)
        for name, about in (
            ("PPO separate", {"stage": "ppo", "shared_base": False}),
            (f"PPO shared, LoRA {rank}", {"stage": "ppo", **shared}),
            ("RLOO", {"stage": "ppo", **beside, "value_model": False, "answers": 4}),
            ("DPO", {"stage": "dpo", **beside}),
            ("DPO, cached reference", {"stage": "dpo", **beside, "cached_reference": True}),
            ("KTO", {"stage": "kto", **beside}),
            ("SFT", {"stage": "sft", **alone}),
        )
    ]


def as_dict(found: Routes | list[Method]) -> dict[str, Any]:
    """The object that --json prints. Bytes and parameters are whole numbers, `saving` a fraction."""
    if isinstance(found, Routes):
        methods = {method.run.stage: _of_route(method) for method in found}
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
    """Everything that decides the figures, by name."""
    run, gpu = routes.ppo.run, routes.ppo.gpu
    a = run.architecture
    return {
        "params": a.parameters,
        "architecture": {"name": a.name, "typical_of_the_size": a.stated_parameters is not None}
        | {name: getattr(a, name) for name in ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab")},
        "batch_size": run.batch_size,
        "max_length": run.max_length,
        "answers_per_row": {stage: BY_COMMAND[stage].answers for stage in Routes._fields},
        "dtype": run.dtype,
        "master_weights": run.master_weights,
        "optimizer": run.optimizer,
        "trained_weights": "all",
        "gradient_checkpointing": run.checkpointing,
        "logit_chunk": logit_rows(run, 2**62),
        "gpu": {"name": gpu.name, "bytes": gpu.bytes, "usable_share": USABLE_SHARE, "source": gpu.source},
    }

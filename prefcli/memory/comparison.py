"""PPO against DPO for one base model: in models, in bytes and in GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefcli.config.stages import BY_COMMAND
from prefcli.config.training import TOKENS_PER_ROW
from prefcli.memory.activations import logit_rows
from prefcli.memory.architecture import Architecture
from prefcli.memory.estimate import Estimate, estimate
from prefcli.memory.gpus import USABLE_SHARE, Gpu, gpus_needed
from prefcli.memory.run import Run

METHODS = ("ppo", "dpo")


@dataclass(frozen=True)
class Method:
    """One route. `parameters` counts in base models: as many times the base as there are models."""

    estimate: Estimate
    gpus: int

    @property
    def models(self) -> int:
        return len(self.estimate.roles)

    @property
    def parameters(self) -> int:
        return self.models * self.estimate.run.architecture.parameters


@dataclass(frozen=True)
class Comparison:
    architecture: Architecture
    gpu: Gpu
    methods: dict[str, Method]

    @property
    def saving(self) -> float:
        """The share of PPO's parameters that DPO does without."""
        return 1 - self.methods["dpo"].parameters / self.methods["ppo"].parameters

    @property
    def saving_bytes(self) -> float:
        """The same share of PPO's bytes, activations and logits included."""
        return 1 - self.methods["dpo"].estimate.bytes / self.methods["ppo"].estimate.bytes


def compare(
    architecture: Architecture, gpu: Gpu, *, batch_size: int = 1, max_length: int = 2048, checkpointing: bool = True
) -> Comparison:
    """Both routes with the same settings, all weights trained; see Run for the defaults that are not asked for."""
    methods = {}
    for stage in METHODS:
        run = Run(
            stage=stage,  # type: ignore[arg-type]
            architecture=architecture,
            batch_size=batch_size,
            max_length=max_length,
            checkpointing=checkpointing,
            autocast=True,
            tokens_per_row=TOKENS_PER_ROW["cuda"],
        )
        result = estimate(run)
        methods[stage] = Method(result, gpus_needed(result.bytes, gpu))
    return Comparison(architecture, gpu, methods)


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """The object that --json prints. Bytes and parameters are whole numbers, `saving` a fraction."""
    return {
        "methods": {name: _method(method) for name, method in comparison.methods.items()},
        "saving": comparison.saving,
        "assumptions": assumptions(comparison),
    }


def _method(method: Method) -> dict[str, Any]:
    return {
        "models": method.models,
        "params_equivalent": method.parameters,
        "bytes": method.estimate.bytes,
        "roles": {
            name: {"trained": role.trained, "params": role.parameters, "bytes": role.bytes, "parts": dict(role.parts)}
            for name, role in method.estimate.roles.items()
        },
        "gpus": method.gpus,
    }


def assumptions(comparison: Comparison) -> dict[str, Any]:
    """Everything that decides the figures, by name."""
    a, gpu, run = comparison.architecture, comparison.gpu, comparison.methods["ppo"].estimate.run
    return {
        "params": a.parameters,
        "architecture": {
            "name": a.name,
            "typical_of_the_size": a.stated_parameters is not None,
            "layers": a.layers,
            "hidden": a.hidden,
            "heads": a.heads,
            "kv_heads": a.kv_heads,
            "ffn": a.ffn,
            "vocab": a.vocab,
        },
        "batch_size": run.batch_size,
        "max_length": run.max_length,
        "answers_per_row": {stage: BY_COMMAND[stage].answers for stage in METHODS},
        "dtype": run.dtype,
        "master_weights": run.master_weights,
        "optimizer": run.optimizer,
        "trained_weights": "all",
        "gradient_checkpointing": run.checkpointing,
        "logit_chunk": logit_rows(run, 2**62),
        "gpu": {"name": gpu.name, "bytes": gpu.bytes, "usable_share": USABLE_SHARE, "source": gpu.source},
    }

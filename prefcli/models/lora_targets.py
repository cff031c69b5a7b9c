"""The weights of a model that LoRA adapts: every linear layer that peft can adapt and that its model calls as a layer.

Left out are the heads, routers (a small change of theirs sends tokens to other experts), layers of state-space mixers
whose weights a fused kernel reads past the layer, weights that several layers share, and what reads images or sound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from torch import nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from prefcli.errors import UsageError
from prefcli.models.classes import backbone_of

ALL = "all-linear"  # as peft calls it; QLoRA (arXiv 2305.14314, section 4): adapters on all of them match full training
ROUTERS = {"gate", "router", "wg", "shared_expert_gate"}  # parts of the names of modules that choose experts
TEXT = ("language_model", "text_model")  # how models that read more than text name the part that does


@dataclass
class Targets:
    """For peft's configuration: names of layers, by their last part, and whole names of what is left out of these."""

    modules: list[str]
    exclude: list[str]
    parameters: list[str] = field(default_factory=list)  # stacked weights of experts


def targets_of(model: Any, asked: list[str]) -> Targets:
    """The layers of `--lora-target`, or all that can be adapted. Raises UsageError: a name that no layer has."""
    can = dict(_adaptable(model))
    names = sorted({_short(name) for name in can})
    stacked = sorted({name.rpartition(".")[2] for name, _ in _stacked(model)})
    experts: list[str] = []
    if not asked or ALL in asked:
        wanted, experts = names, _renamed_experts(model)
    else:
        unknown = sorted(set(asked) - set(names) - set(stacked))
        if unknown:
            more = f"; stacked weights of experts: {', '.join(stacked)}" if stacked else ""
            raise UsageError(
                f"--lora-target {unknown[0]}: no layer that can be adapted has that name",
                f"there are {', '.join(names)}{more}; or {ALL}",
            )
        wanted = [name for name in names if name in asked]
    exclude = [name for name, _ in model.named_modules() if name not in can and _short(name) in wanted]
    parameters = [name for name in stacked if name in asked]
    return Targets(sorted({*wanted, *experts}), exclude, parameters)


def _adaptable(model: Any) -> Iterator[tuple[str, nn.Module]]:
    inside = {id(module) for module in backbone_of(model).modules()}  # and not in a head, which may have layers too
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    parents = dict(model.named_modules())
    text = _text_part(parents)
    experts = _has_experts(model)
    for name, module in parents.items():
        parts = name.split(".")
        mixer = parents.get(name.rpartition(".")[0])
        if not _is_linear(module) or id(module) not in inside or not name.startswith(text):
            continue
        if experts and ROUTERS & set(parts):
            continue
        if hasattr(mixer, "ssm_state_size") and parts[-1] != "in_proj":
            continue
        if uses[id(module.weight)] == 1:
            yield name, module


def _stacked(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights of experts that are stacked into one: what has three dimensions and is no filter's kernel, and
    DBRX's, which has two."""
    for name, module in model.named_modules():
        flat = "experts" in name.split(".") and not _is_linear(module)
        for own, weights in module.named_parameters(recurse=False):
            stacked = weights.ndim == 3 and weights.shape[0] > 1 and not isinstance(module, nn.Conv1d)
            if stacked or (flat and weights.ndim == 2 and not own.endswith("bias")):
                yield f"{name}.{own}", weights


def _short(name: str) -> str:
    """The last part of a module's name; all of it where that is a number, which other lists have too."""
    last = name.rpartition(".")[2]
    return name if last.isdecimal() else last


def _is_linear(module: nn.Module) -> bool:
    """A layer that is called as one and gives one tensor: Falcon's own, and not Llama 4's router, a subclass too, nor
    DeepSeek V4's, which multiplies each group of heads by a part of its weights."""
    kind = type(module).__name__
    return isinstance(module, Conv1D) or (isinstance(module, nn.Linear) and "Linear" in kind and "Grouped" not in kind)


def _text_part(modules: dict[str, nn.Module]) -> str:
    """The prefix of the part that reads text; nothing where all of the model does."""
    return next((f"{name}." for name in modules if name.rpartition(".")[2] in TEXT), "")


def _has_experts(model: Any) -> bool:
    own = vars(model.config.get_text_config())
    parts = [own, *(vars(part) for part in own.values() if isinstance(part, PretrainedConfig))]  # DBRX: ffn_config
    return any(
        "expert" in name and isinstance(value, int) and value > 1 for part in parts for name, value in part.items()
    )


def _renamed_experts(model: Any) -> list[str]:
    """peft's names of the experts of families that transformers 5 has stacked; of their names it needs all or none."""
    kind = model.config.get_text_config().model_type
    names = _MOE_TARGET_MODULE_MAPPING.get(_MODEL_TO_CONVERSION_PATTERN.get(kind, ""), {})
    return sorted(names.keys() - ROUTERS)


def in_words(model: Any) -> str:
    """Description for the plan: the layers that an adapter adapts, their fraction, and whether experts stay frozen."""
    layers: dict[str, None] = {}
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            parameter = getattr(module, "parameter_name", None)
            last = next(part for part in reversed(name.split(".")) if not part.isdecimal())
            layers[f"experts' {parameter}" if parameter else last] = None
    layers.pop("base_layer", None)
    adapted = {id(p) for m in model.modules() if isinstance(m, BaseTunerLayer) for p in m.get_base_layer().parameters()}
    total = sum(p.numel() for name, p in model.named_parameters() if ".lora_" not in name)
    reached = sum(p.numel() for p in model.parameters() if id(p) in adapted)
    frozen = any(id(weights) not in adapted for _, weights in _stacked(model))
    text = f"on {', '.join(layers)}: {reached / total:.0%} of the weights"
    return text + ("; the experts stay frozen" if frozen else "")

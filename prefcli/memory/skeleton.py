"""Dimensions of a model whose family has no formula in families.py: transformers builds it without weights (on the meta
device), and its parameters are counted. Imports torch, so it is loaded only for such a family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)

from prefcli.errors import ArtifactError
from prefcli.memory.architecture import Architecture, Counted

ROUTERS = ("gate", "router", "shared_expert_gate")  # last names of what no adapter is put on
SSM = ("dt_proj", "out_proj", "x_proj")  # what a state-space mixer's fused kernel reads past the layer
BESIDE = ("vision", "visual", "image", "audio")  # in the names of what a checkpoint has beside its language model
MLP = ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size")


def read_skeleton(config_file: Path) -> Architecture:
    """The architecture of a config.json, a mixture's MLP as wide as the experts that one token goes through.

    Raises ArtifactError: transformers does not know the family, or cannot build it.
    """
    try:
        config = AutoConfig.from_pretrained(str(config_file), trust_remote_code=False)
        return _described(config_file.parent.name, config.get_text_config(), _built(config))
    except Exception as error:  # whatever the family's code raises for values that do not go together
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ArtifactError(
            f"{config_file}: its parameters cannot be counted: {lines[0]}", "give the size instead, as in --params 7B"
        ) from error


def _described(name: str, text: PretrainedConfig, model: PreTrainedModel) -> Architecture:
    hidden, heads = text.hidden_size, getattr(text, "num_attention_heads", None) or 0
    latent, rotary = (getattr(text, name, None) or 0 for name in ("kv_lora_rank", "qk_rope_head_dim"))
    of_keys = (getattr(text, "qk_nope_head_dim", None) or 0) + rotary if latent else getattr(text, "head_dim", None)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    return Architecture(
        name=name,
        family=str(text.model_type),
        layers=text.num_hidden_layers,
        hidden=hidden,
        heads=max(1, heads),
        kv_heads=(getattr(text, "num_key_value_heads", None) or heads) if heads else 0,  # a state in place of a cache
        head_dim=of_keys or hidden // max(1, heads),
        ffn=_width(text),
        vocab=text.vocab_size,
        tied=head is not None and head.weight is embeddings.weight,
        latent=latent + rotary if any(hasattr(module, "expand_kv") for module in model.modules()) else 0,
        counted=_counted(model, head),
    )


def _built(config: PretrainedConfig) -> PreTrainedModel:
    language = type(config) in AutoModelForCausalLM._model_mapping
    with torch.device("meta"):
        kind: Any = AutoModelForCausalLM if language else AutoModelForImageTextToText
        model: PreTrainedModel = kind.from_config(config)
    return model


def _counted(model: PreTrainedModel, head: Any) -> Counted:
    mixer = any(hasattr(module, "ssm_state_size") for module in model.modules())
    left_out = (*ROUTERS, *(SSM if mixer else ()))
    linear = [
        layer.weight.shape
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
        and layer is not head
        and name.rpartition(".")[2] not in left_out
        and not any(word in name for word in BESIDE)
    ]
    adapted = sum(sum(shape) for shape in linear) + _expert_widths(model)
    total, own_head = sum(p.numel() for p in model.parameters()), 0
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        own_head = sum(p.numel() for p in head.parameters())
    return Counted(
        causal=total,
        scorer=total - own_head + model.config.get_text_config().hidden_size,
        adapted=adapted,
        linear=sum(shape.numel() for shape in linear),
        largest=max(p.numel() for p in model.parameters()),
    )


def _expert_widths(model: PreTrainedModel) -> int:
    """Inputs and outputs of the stacked experts that PEFT adapts: each expert has ranks of its own, and twice as many
    where gate and up are one tensor."""
    pattern = _MODEL_TO_CONVERSION_PATTERN.get(model.config.get_text_config().model_type, "")
    if not _MOE_TARGET_MODULE_MAPPING.get(pattern):
        return 0
    stacked = [(name, p.shape) for name, p in model.named_parameters() if p.ndim == 3 and "experts" in name]
    return sum(shape[0] * (shape[1] + shape[2]) * (2 if "gate_up" in name else 1) for name, shape in stacked)


def _width(text: PretrainedConfig) -> int:
    """Of the MLP that a token goes through: in a mixture its experts' together, the shared ones too."""
    dense = next((int(width) for name in MLP if (width := getattr(text, name, None))), 4 * text.hidden_size)
    used = getattr(text, "num_experts_per_tok", None) or getattr(text, "moe_topk", None) or 0
    if isinstance(used, list) or not used:
        return dense
    expert = getattr(text, "moe_intermediate_size", None) or dense
    expert = max(expert) if isinstance(expert, list) else int(expert)
    shared = getattr(text, "shared_expert_intermediate_size", None) or (
        (getattr(text, "n_shared_experts", None) or 0) * expert
    )
    return int(used) * expert + int(shared)

"""LoRA adapters: a new one, or the parent's, trained further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PeftType, TaskType, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prefcli.artifacts.bases import changes_base
from prefcli.artifacts.hub import unasked
from prefcli.artifacts.references import Reference
from prefcli.config.training import ModelConfig
from prefcli.errors import ArtifactError, UsageError
from prefcli.models.adapter_files import ADAPTER, hold_head_whole, merge, renamed, without_config
from prefcli.models.classes import new_scorer
from prefcli.models.loading import class_of, configuration
from prefcli.models.lora_targets import in_words, targets_of
from prefcli.models.shared import SharedRole
from prefcli.progress import Reporter


def with_adapter(model: Any, config: ModelConfig, *, scorer: bool, reporter: Reporter) -> Any:
    """The model to train: as it is (rank 0), with a new adapter, or with the parent's when rank and kind are the same.

    A parent's adapter of another rank, kind or --lora-alpha, one that trains heads, norms or biases too or began as a
    part of the weights (PiSSA), or any where --lora-target is given, is merged into the weights first, with a notice.
    A reward model's head is trained and saved whole, beside its adapter, in float32.
    LoRA: arXiv 2106.09685; rsLoRA, alpha/√rank: arXiv 2312.03732; DoRA: arXiv 2402.09353.
    Raises UsageError: a parent's adapter to merge into 4 bits, dropout or DoRA on stacked experts. ArtifactError:
    weights that DoRA cannot divide.
    """
    rank = config.lora_rank
    if isinstance(model, PeftModel):
        parent = next(iter(model.peft_config.values()))
        had = getattr(parent, "lora_alpha", "?")
        alike = rank == getattr(parent, "r", None) and config.adapter == kind_of(parent)
        if alike and config.lora_alpha in (None, had) and not config.lora_target and not _trains_more(model, parent):
            _drop(model, config.lora_dropout)
            return model
        described = f"the parent's adapter ({kind_of(parent)}, rank {getattr(parent, 'r', '?')}, alpha {had})"
        if config.load_in_4bit:
            raise UsageError(
                f"{described} cannot be merged into weights of 4 bits",
                "give the same --lora-rank, --lora-alpha and --adapter, or start from what `prefcli export` writes",
            )
        model = merged(model).requires_grad_(True)  # peft froze them below the adapter
        reporter.notice(f"{described} is merged into the weights first")
    if rank == 0:
        return model
    adapted = _adapted(model, config, scorer)
    if config.adapter == "dora":
        _refuse_empty_rows(adapted)
    reporter.notice(f"the adapter is {in_words(adapted)}")
    return adapted


def planned(reference: Reference, config: ModelConfig, *, scorer: bool) -> str:
    """Description of what a new adapter on the model at a reference would adapt; no weights are loaded.

    Raises UsageError: --lora-target names no layer. ArtifactError: the model is not one to train.
    """
    described, kind = configuration(reference), class_of(reference, scorer=scorer)
    with torch.device("meta"):
        model = new_scorer(described, torch.float32) if scorer else kind.from_config(described)
        return in_words(_adapted(model, config, scorer))


def _adapted(model: Any, config: ModelConfig, scorer: bool) -> Any:
    targets = targets_of(model, config.lora_target)
    rank = config.lora_rank
    adapter = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if config.lora_alpha is None else config.lora_alpha,  # type: ignore[arg-type]
        target_modules=targets.modules,
        exclude_modules=targets.exclude or None,
        target_parameters=targets.parameters or None,
        task_type=TaskType.SEQ_CLS if scorer else TaskType.CAUSAL_LM,
        modules_to_save=["score"] if scorer else None,
        lora_dropout=config.lora_dropout,
        use_rslora=config.adapter == "rslora",
        use_dora=config.adapter == "dora",
    )
    try:
        adapted = get_peft_model(model, adapter)
        if lost := renamed(adapted):
            adapter.exclude_modules = [*targets.exclude, *lost]
            adapted = get_peft_model(without_config(adapted.unload()), adapter)
        hold_head_whole(adapted)
        return adapted
    except ValueError as error:
        if "ParamWrapper" not in str(error):
            raise
        raise _only_plain_on_experts() from error


def _trains_more(model: PeftModel, config: Any) -> bool:
    """Whether an adapter is more than LoRA below the head on its base as it is, of which the reference could be a
    frozen copy."""
    whole = {*(config.modules_to_save or ())} - {"score", "classifier"}  # which peft names for any scorer
    head = isinstance(model.get_base_model().get_output_embeddings(), BaseTunerLayer)
    changes = changes_base(getattr(config, "init_lora_weights", True))
    return bool(whole or head or config.bias != "none" or config.trainable_token_indices or changes)


def _only_plain_on_experts() -> UsageError:
    return UsageError(
        "peft adapts the stacked weights of experts by plain LoRA without dropout",
        "leave --lora-dropout and --adapter out, or name other layers with --lora-target",
    )


def _drop(model: PeftModel, p: float) -> None:
    """--lora-dropout for a parent's adapter that is trained on."""
    if p and any(getattr(config, "target_parameters", None) for config in model.peft_config.values()):
        raise _only_plain_on_experts()  # else what is saved would not open again
    for module in model.modules():
        dropouts: Any = getattr(module, "lora_dropout", {})
        for name in dropouts:
            dropouts[name] = nn.Dropout(p) if p else nn.Identity()
    for config in model.peft_config.values():
        config.lora_dropout = p  # type: ignore[attr-defined]


def kind_of(adapter: Any) -> str:
    """`--adapter` of PEFT's config of an adapter; the name of its kind where it is none of these."""
    if adapter.peft_type != PeftType.LORA:
        return str(adapter.peft_type.value).lower()
    if getattr(adapter, "use_dora", False):
        return "dora"
    return "rslora" if getattr(adapter, "use_rslora", False) else "lora"


def _refuse_empty_rows(adapted: Any) -> None:
    """DoRA divides each row of an adapted weight by its length: one of zeros makes every output NaN."""
    for name, layer in adapted.get_base_model().named_modules():
        base: Any = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else None
        if base is None or base.weight.is_meta:
            continue
        inputs = 0 if isinstance(base, Conv1D) else 1  # GPT-2's layers are stored [in, out]
        if (dequantize_module_weight(base) == 0).all(inputs).any():
            raise ArtifactError(
                f"--adapter dora divides by the length of each row of weights, and {name} has rows of zeros",
                "use --adapter lora or rslora",
            )


def save_model(model: Any, path: Path, weights: dict[str, Any] | None = None) -> None:
    """safetensors, in a form that plain transformers or peft opens; of a model with adapters the one that is trained.

    `weights` are the model's where it does not hold them whole itself.
    """
    options: dict[str, Any] = {} if weights is None else {"state_dict": weights}
    if isinstance(model, PeftModel):
        options["selected_adapters"] = [ADAPTER]
    with unasked():
        model.save_pretrained(path, **options)


def merged(model: PeftModel | SharedRole | PreTrainedModel) -> PreTrainedModel:
    """The plain model that an adapter and its base make."""
    if isinstance(model, SharedRole):
        return model.merged()
    if not isinstance(model, PeftModel):
        return model
    return merge(model)  # type: ignore[no-any-return]


def config_of(model: Any) -> Any:
    """PEFT's config of the adapter that is saved of a model; None where it is none."""
    if isinstance(model, SharedRole):
        return model.base.peft_config[model.adapter] if model.adapter else None
    return model.peft_config["default"] if isinstance(model, PeftModel) else None

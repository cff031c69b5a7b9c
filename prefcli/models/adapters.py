"""LoRA adapters: a new one, or the parent's, trained on."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel

from prefcli.models.shared import SharedRole
from prefcli.progress import Reporter


def with_adapter(model: Any, rank: int, alpha: float | None, *, scorer: bool, reporter: Reporter) -> Any:
    """The model to train: as it is (rank 0), with a new adapter, or with the parent's when the rank is the same.

    A parent's adapter of another rank is merged into the weights first, and that is said. A reward model's head
    is trained and saved whole, beside its adapter.
    """
    if isinstance(model, PeftModel):
        parent = next(iter(model.peft_config.values()))
        if rank == getattr(parent, "r", None):
            return model
        model = merged(model)
        reporter.notice(f"the parent's adapter (rank {getattr(parent, 'r', '?')}) is merged into the weights first")
    if rank == 0:
        return model
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        target_modules="all-linear",  # QLoRA paper, section 4: adapters on all linear layers match full training
        task_type=TaskType.SEQ_CLS if scorer else TaskType.CAUSAL_LM,
        modules_to_save=["score"] if scorer else None,
        lora_dropout=0.0,
    )
    return get_peft_model(model, config)


def merged(model: PeftModel | SharedRole | PreTrainedModel) -> PreTrainedModel:
    """The plain model that an adapter and its base make."""
    if isinstance(model, SharedRole):
        return model.merged()
    return model.merge_and_unload() if isinstance(model, PeftModel) else model

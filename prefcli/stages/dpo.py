"""The short route: direct preference optimization on pairs (TRL's DPOTrainer; arXiv 2305.18290, equation 7)."""

from __future__ import annotations

from typing import Any

from trl import DPOConfig as TRLConfig
from trl import DPOTrainer

from prefcli.artifacts.store import Artifact
from prefcli.data.tokenising import Encoder, encode_pairs
from prefcli.models.loading import load_policy
from prefcli.models.tokenizers import check_tokenizer
from prefcli.progress import Reporter
from prefcli.stages import trl_trainer
from prefcli.stages.inputs import Inputs, refuse_nothing_left
from prefcli.stages.policy import open_policy
from prefcli.stages.session import Session, session

FINAL = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)


class PairTrainer(DPOTrainer):
    """TRL's trainer on pairs that are token ids already: its own tokenising is left out."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def train(inputs: Inputs, reporter: Reporter) -> Artifact:
    """Train on pairs and return the finished artifact."""
    config = inputs.config
    with session(inputs, reporter) as run:
        opened = open_policy(run)
        encoder = Encoder(opened.tokenizer)
        rows, cut, dropped = encode_pairs(inputs.data.rows, encoder, config.max_length)
        refuse_nothing_left(len(rows), dropped, config.max_length)
        trl_trainer.say_cut(run, cut, dropped, len(rows))
        held_out = None
        if inputs.eval_data:
            held_out, _, _ = encode_pairs(inputs.eval_data.rows, encoder, config.max_length)
        trainer = PairTrainer(
            model=opened.model,
            ref_model=_reference(run, opened.model, opened.tokenizer),
            args=TRLConfig(**trl_trainer.arguments(run, beta=config.beta, loss_type=["sigmoid"])),
            train_dataset=trl_trainer.dataset(rows),
            eval_dataset=trl_trainer.dataset(held_out) if held_out else None,
            processing_class=opened.tokenizer,
        )
        steps, tokens = trl_trainer.run(run, trainer, "dpo")
        wanted = (*FINAL, *(f"eval_{name}" for name in FINAL))
        metrics = {name: run.log.last[name] for name in wanted if name in run.log.last}
        return run.finish(
            trainer.model,
            opened.tokenizer,
            metrics=metrics,
            steps=steps,
            tokens=tokens,
            about=opened.about,
            saves_merged=opened.saves_merged,
        )


def _reference(run: Session, policy: Any, tokenizer: Any) -> Any:
    """The frozen reference.

    None, TRL's word for the starting model itself, would make it read the weights once more from disk, where a
    GGUF file or a model with a token added does not stand as it is in memory; so it is loaded here. With an adapter
    None is right: the base below it, or a frozen copy of the parent's adapter, is the starting model.
    """
    reference = run.inputs.references["reference"]
    if reference == run.inputs.model:
        if hasattr(policy, "peft_config"):
            return None
    else:
        check_tokenizer("--reference", reference, tokenizer, run.reporter)
    model = load_policy(reference, dtype=run.dtype, device=run.device, trainable=False, tokenizer_size=len(tokenizer))
    return model.eval().requires_grad_(False)

"""The short route: direct preference optimization on pairs (arXiv 2305.18290, equation 7)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from trl import DPOConfig as TRLConfig
from trl import DPOTrainer
from trl.trainer.utils import use_adapter

from prefcli.artifacts.store import Artifact
from prefcli.data.tokenising import Encoder, encode_pairs
from prefcli.models.generation import evaluation_mode
from prefcli.models.loading import load_policy
from prefcli.models.tokenizers import check_tokenizer
from prefcli.progress import Reporter
from prefcli.stages import trl_trainer
from prefcli.stages.inputs import Inputs, refuse_nothing_left
from prefcli.stages.packed_trainer import PackedDPO
from prefcli.stages.policy import Opened, open_policy
from prefcli.stages.reference import ReferenceLogps, cache_file
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


def train(inputs: Inputs, reporter: Reporter) -> Artifact | None:
    """Train on pairs and return the finished artifact; None in all processes but the first."""
    config = inputs.config
    with session(inputs, reporter) as run:
        opened = open_policy(run)
        encoder = Encoder(opened.tokenizer)
        rows, cut, dropped = encode_pairs(inputs.data.rows, encoder, config.max_length)
        refuse_nothing_left(len(rows), dropped, config.max_length)
        trl_trainer.say_cut(run, cut, dropped, len(rows))
        trl_trainer.say_longer(run, rows)
        held_out = None
        if inputs.eval_data:
            held_out, _, _ = encode_pairs(inputs.eval_data.rows, encoder, config.max_length)
        trainer = _trainer(run, opened, rows, held_out or [])
        steps, tokens = trl_trainer.run(run, trainer, "dpo")
        for logps in getattr(trainer, "references", []):
            logps.save()
        wanted = (*FINAL, *(f"eval_{name}" for name in FINAL))
        metrics = {name: run.log.last[name] for name in wanted if name in run.log.last}
        return run.finish(
            trainer.model,
            opened.tokenizer,
            metrics=metrics,
            steps=steps,
            tokens=tokens,
            about=opened.about,
            weights=trl_trainer.whole_weights(trainer),
            saves_merged=opened.saves_merged,
        )


def _trainer(run: Session, opened: Opened, rows: list[Any], held_out: list[Any]) -> DPOTrainer:
    """On packed rows where policy and reference take them, else TRL's own."""
    config = run.inputs.config
    options = {"beta": config.beta, "loss_type": ["sigmoid"]}
    packed = run.packs(opened.model, "policy")
    if packed:
        references = [_logps(run, part) for part in (rows, held_out)]
        if all(logps.known == len(logps.logps) for logps in references):
            return _packed(run, opened, None, references, rows, held_out, options)
    reference = _reference(run, opened.model, opened.tokenizer)
    if packed and (reference is None or run.packs(reference, "reference")):
        return _packed(run, opened, reference, references, rows, held_out, options)
    return PairTrainer(
        model=opened.model,
        ref_model=reference,
        args=TRLConfig(**trl_trainer.arguments(run, **options)),
        train_dataset=trl_trainer.dataset(rows),
        eval_dataset=trl_trainer.dataset(held_out) if held_out else None,
        processing_class=opened.tokenizer,
    )


def _packed(
    run: Session,
    opened: Opened,
    reference: Any,
    references: list[ReferenceLogps],
    rows: list[Any],
    held_out: list[Any],
    options: dict[str, Any],
) -> PackedDPO:
    """`reference` is None where it is the policy without its adapter, or where every figure of it is there already."""
    number = [{**row, "row": i} for part in (rows, held_out) for i, row in enumerate(part)]
    trainer = PackedDPO(
        model=opened.model,
        ref_model=reference,
        # In TRL's words: it shall load no reference of its own.
        args=TRLConfig(**trl_trainer.arguments(run, precompute_ref_log_probs=reference is None, **options)),
        train_dataset=trl_trainer.dataset(number[: len(rows)]),
        eval_dataset=trl_trainer.dataset(number[len(rows) :]) if held_out else None,
        processing_class=opened.tokenizer,
        tokens_per_row=run.tokens_per_row,
        references=references,
    )
    adapter = "ref" if reference is None and "ref" in getattr(opened.model, "peft_config", {}) else None
    for logps in references:
        logps.model = opened.model if reference is None else reference
        logps.run = partial(reference_at_work, logps.model, trainer.accelerator, adapter)
    return trainer


@contextmanager
def reference_at_work(model: Any, accelerator: Any, adapter: str | None) -> Iterator[None]:
    """The model as the frozen reference: in evaluation mode, a policy with `adapter`, or without its own."""
    with ExitStack() as stack:
        if hasattr(model, "peft_config"):
            stack.enter_context(use_adapter(model, adapter))
        stack.enter_context(evaluation_mode(model))
        stack.enter_context(accelerator.autocast())
        yield


def _logps(run: Session, rows: list[Any]) -> ReferenceLogps:
    digest = run.inputs.references["reference"].digest
    return ReferenceLogps(len(rows), cache_file(run.inputs.store.root, digest, run.dtype, rows))


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

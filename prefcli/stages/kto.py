"""KTO: learning from answers that are labelled desirable or not, one by one (losses/binary.py)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from trl import KTOConfig as TRLConfig

from prefcli.artifacts.store import Artifact
from prefcli.config.kto import KTOConfig
from prefcli.data.lazy import Example, looked_at
from prefcli.data.tokenising import Encoder, encode_labelled
from prefcli.errors import DataError, UsageError
from prefcli.progress import Reporter
from prefcli.stages import trl_trainer
from prefcli.stages.inputs import Inputs, refuse_nothing_left
from prefcli.stages.long_rows import refuse_long_rows
from prefcli.stages.packed_preferences import PackedKTO
from prefcli.stages.policy import open_policy, open_tokenizer
from prefcli.stages.preview import say_rendered
from prefcli.stages.reference import open_reference, reference_at_work
from prefcli.stages.session import Session, session, sharded

FINAL = ("loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")
# Where λ_D·(desirable answers) lies outside this many times λ_U·(undesirable ones) (arXiv 2402.01306, equation 9).
BALANCE = (1.0, 4 / 3)


def train(inputs: Inputs, reporter: Reporter) -> Artifact | None:
    """Train on labelled answers and return the finished artifact; None in all processes but the first."""
    config: KTOConfig = inputs.config
    if wrapper := sharded():
        raise UsageError(f"kto does not run under {wrapper}", "run it in processes that hold the whole model")
    with session(inputs, reporter) as run:
        tokenizer = open_tokenizer(run)
        encoder = Encoder(tokenizer)
        say_rendered(inputs, encoder, reporter)
        rows, cut, dropped = encode_labelled(inputs.data.rows, encoder, config.max_length)
        refuse_nothing_left(len(looked_at(rows)), dropped, config.max_length)
        trl_trainer.say_cut(run, cut, dropped, rows)
        _check_labels(run, rows)
        held_out, _, _ = encode_labelled(inputs.eval_data.rows if inputs.eval_data else [], encoder, config.max_length)
        if isinstance(held_out, list):
            for row, before in zip(held_out, held_out[-1:] + held_out[:-1]):
                row["other_ids"] = before["completion_ids"]
        refuse_long_rows(inputs, rows, held_out)
        opened = open_policy(run, tokenizer)
        packed = run.packs(opened.model, "policy")
        reference = open_reference(run, opened.model, opened.tokenizer)
        if packed and reference is not None:
            run.packs(reference, "reference")
        arguments = trl_trainer.arguments(
            run,
            beta=config.beta,
            precompute_ref_log_probs=reference is None,
            train_sampling_strategy="sequential",
            router_aux_loss_coef=0.0,
        )
        if arguments["per_device_train_batch_size"] < 2:  # TRL's trainer refuses it
            raise UsageError(
                "kto takes its KL from the other answers of a step, and takes no parts of one answer",
                "raise --batch-size, or lower --grad-accum",
            )
        with trl_trainer.unchanged(opened.model):
            trainer = PackedKTO(
                model=opened.model,
                ref_model=reference,
                args=TRLConfig(**arguments),
                train_dataset=trl_trainer.dataset(rows),
                eval_dataset=trl_trainer.dataset(held_out) if held_out else None,
                processing_class=opened.tokenizer,
                tokens_per_row=run.tokens_per_row,
                config=config,
            )
        trainer.reference = opened.model if reference is None else reference
        trainer.at_work = partial(reference_at_work, trainer.reference, trainer.accelerator, reference is None)
        steps, tokens = trl_trainer.run(run, trainer, "kto", opened.saves_merged)
        wanted = (*FINAL, *(f"eval_{name}" for name in FINAL))
        return run.finish(
            trainer.model,
            opened.tokenizer,
            metrics={name: run.log.last[name] for name in wanted if name in run.log.last},
            steps=steps,
            tokens=tokens,
            about=opened.about,
            saves_merged=opened.saves_merged,
        )


def _check_labels(run: Session, rows: Sequence[Example]) -> None:
    """Say where the two kinds weigh very differently. Raises DataError where there is one kind alone."""
    config: KTOConfig = run.inputs.config
    labels = [row["label"] for row in looked_at(rows)]
    good, bad = sum(labels), len(labels) - sum(labels)
    among = f" among the first {len(labels)} rows" if len(labels) < len(rows) else ""
    if among and not (good and bad):
        run.reporter.notice(f"{good} desirable answers, {bad} undesirable ones{among}: kto learns from both kinds")
        return
    if not good or not bad:
        raise DataError(
            f"every row is labelled {'true' if good else 'false'}: kto learns from both kinds",
            "add answers of the other kind, or use sft for good ones alone",
        )
    run.reporter.notice(f"{good} desirable answers, {bad} undesirable ones{among}")
    ratio = config.desirable_weight * good / max(config.undesirable_weight * bad, 1e-9)
    low, high = BALANCE
    if not low * 0.99 <= ratio <= high * 1.01:
        side, weight = ("undesirable", ratio / high) if ratio > high else ("desirable", low / ratio)
        run.reporter.notice(
            f"desirable answers weigh {ratio:.2g} times the others; KTO's paper advises {low:.2g} to {high:.2g} times "
            f"(--{side}-weight {weight:.2g})"
        )

"""The short route: direct preference optimization on pairs, with DPO's loss or one of its family (losses/pairs.py)."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any

from trl import DPOConfig as TRLConfig
from trl import DPOTrainer

from prefcli.artifacts.store import Artifact
from prefcli.config.dpo import DPOConfig
from prefcli.data.formats import Row
from prefcli.data.lazy import LazyExamples, looked_at, set_margins
from prefcli.data.tokenising import Encoder, encode_pairs
from prefcli.errors import UsageError
from prefcli.progress import Reporter
from prefcli.rewards.grammar import reward_scales
from prefcli.rewards.sources import Answer, load_reward
from prefcli.stages import trl_trainer
from prefcli.stages.inputs import Inputs, refuse_nothing_left
from prefcli.stages.long_rows import refuse_long_rows
from prefcli.stages.packed_preferences import PackedDPO
from prefcli.stages.policy import Opened, open_policy, open_tokenizer
from prefcli.stages.preview import say_rendered
from prefcli.stages.reference import ReferenceLogps, cache_file, open_reference, reference_at_work
from prefcli.stages.resuming import Resuming
from prefcli.stages.session import Session, session, sharded

FINAL = (
    "loss",
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
AT_A_TIME = 32  # pairs between two steps of the progress bar

# Our --loss, and whether it is --length-normalise → TRL's.
IN_TRL = {
    ("sigmoid", False): "sigmoid",
    ("sigmoid", True): "sigmoid_norm",
    ("ipo", True): "ipo",
    ("hinge", False): "hinge",
    ("robust", False): "robust",
    ("apo-zero", False): "apo_zero",
    ("apo-down", False): "apo_down",
}


class PairTrainer(Resuming, DPOTrainer):
    """TRL's trainer on pairs that are token ids already, for weights that are sharded."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def train(inputs: Inputs, reporter: Reporter) -> Artifact | None:
    """Train on pairs and return the finished artifact; None in all processes but the first."""
    config = inputs.config
    with session(inputs, reporter) as run:
        held_out_rows = inputs.eval_data.rows if inputs.eval_data else []
        tokenizer = open_tokenizer(run)
        encoder = Encoder(tokenizer)
        share = add_margins(run, [inputs.data.rows, held_out_rows], tokenizer)
        say_rendered(inputs, encoder, reporter)
        rows, cut, dropped = encode_pairs(inputs.data.rows, encoder, config.max_length)
        refuse_nothing_left(len(looked_at(rows)), dropped, config.max_length)
        trl_trainer.say_cut(run, cut, dropped, rows)
        trl_trainer.say_longer(run, rows)
        held_out, _, _ = encode_pairs(held_out_rows, encoder, config.max_length)
        refuse_long_rows(inputs, rows, held_out)
        opened = open_policy(run, tokenizer)
        with trl_trainer.unchanged(opened.model):
            trainer = _trainer(run, opened, rows, held_out, share)
        steps, tokens = trl_trainer.run(run, trainer, "dpo", opened.saves_merged)
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


def add_margins(run: Session, parts: Sequence[Sequence[Row]], tokenizer: Any) -> float:
    """Give each pair, of the training and of the held-out rows, what the rewards of --reward say of it.

    That is Σ w·(score of chosen − score of rejected).
    Returns the weight that the pairs' own labels have: 1 less those of the rewards (MODPO, arXiv 2310.03708).
    """
    config, inputs = run.inputs.config, run.inputs
    scales = reward_scales(inputs.rewards, config.reward_weight, config.standardise_rewards)
    margins = [array("d", bytes(8 * len(rows))) for rows in parts]
    for spec in inputs.rewards:  # one after the other: no two are in memory together
        source = load_reward(spec, tokenizer, dtype=run.dtype, device=run.device, reporter=run.reporter)
        run.reporter.begin(f"scoring pairs with {spec.name}", sum(map(len, parts)))
        done = 0
        for rows, found in zip(parts, margins):
            for start in range(0, len(rows), AT_A_TIME):
                pairs = [rows[i] for i in range(start, min(start + AT_A_TIME, len(rows)))]
                answers = [Answer(row.prompt, text or "", columns=row.columns)
                           for row in pairs for text in (row.chosen, row.rejected)]  # fmt: skip
                scores = scales[spec.name].apply(source.score(answers)).tolist()
                for place, (chosen, rejected) in enumerate(zip(scores[0::2], scores[1::2]), start):
                    found[place] += chosen - rejected
                done += len(pairs)
                run.reporter.advance(done, {})
        run.reporter.end()
    if inputs.rewards:
        for rows, found in zip(parts, margins):
            set_margins(rows, found)
    return 1.0 - sum(scale.weight for scale in scales.values())


def trl_options(config: DPOConfig) -> dict[str, Any] | None:
    """What TRL's own trainer is told where it has this loss; None where it has not."""
    loss = IN_TRL.get((config.loss, config.length_normalise))
    more = config.sft_weight or config.reference_free or config.reward or config.weight_column
    if loss is None or more or (config.label_smoothing and config.loss != "robust"):
        return None
    return {
        "beta": config.beta,
        "loss_type": [loss],
        "label_smoothing": config.label_smoothing,
        "router_aux_loss_coef": 0.0,
    }


def _trainer(run: Session, opened: Opened, rows: Sequence[Any], held_out: Sequence[Any], share: float) -> DPOTrainer:
    """Ours; where weights are sharded TRL's own."""
    config: DPOConfig = run.inputs.config
    packed = run.packs(opened.model, "policy")
    theirs = None if trl_trainer.own_steps() else trl_options(config)
    if theirs is None and (wrapper := sharded()):
        raise UsageError(f"this loss does not run under {wrapper}", "use --loss sigmoid without further terms there")
    references = [] if config.reference_free or theirs else _logps(run, [rows, held_out], packed)
    reference = None
    if not config.reference_free and not (references and all(logps.known == len(logps.logps) for logps in references)):
        reference = open_reference(run, opened.model, opened.tokenizer)
        if packed and reference is not None:
            run.packs(reference, "reference")
    if theirs:
        return PairTrainer(
            model=opened.model,
            ref_model=reference,
            args=TRLConfig(**trl_trainer.arguments(run, **theirs, **trl_trainer.columns_of(rows, False))),
            train_dataset=trl_trainer.dataset(rows),
            eval_dataset=trl_trainer.dataset(held_out) if held_out else None,
            processing_class=opened.tokenizer,
        )
    numbered = [part if isinstance(part, LazyExamples) else [{**row, "row": i} for i, row in enumerate(part)]
                for part in (rows, held_out)]  # fmt: skip
    trainer = PackedDPO(
        model=opened.model,
        ref_model=reference,
        # In TRL's words: it shall load no reference of its own.
        args=TRLConfig(
            **trl_trainer.arguments(
                run, precompute_ref_log_probs=reference is None, beta=config.beta, router_aux_loss_coef=0.0
            )
        ),
        train_dataset=trl_trainer.dataset(numbered[0]),
        eval_dataset=trl_trainer.dataset(numbered[1]) if held_out else None,
        processing_class=opened.tokenizer,
        tokens_per_row=run.tokens_per_row,
        config=config,
        references=references,
        share=share,
    )
    for logps in references:
        logps.model = opened.model if reference is None else reference
        logps.run = partial(reference_at_work, logps.model, trainer.accelerator, reference is None)
    return trainer


def _logps(run: Session, parts: list[Sequence[Any]], packed: bool) -> list[ReferenceLogps]:
    digest = run.inputs.references["reference"].digest
    in_4bit = run.inputs.config.load_in_4bit
    saved: list[Any] = [None] * len(parts)
    if run.resumed is not None:
        saved = run.saved["each"][int(os.environ.get("RANK", "0"))]["references"]
    found = []
    for rows, before in zip(parts, saved, strict=True):
        file = None  # a file is known by the token ids of all rows
        if not isinstance(rows, LazyExamples):
            file = cache_file(run.inputs.store.root, digest, run.dtype, rows, in_4bit, packed)
        found.append(ReferenceLogps(len(rows), file, before))
    return found

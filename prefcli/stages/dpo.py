"""The short route: direct preference optimization on pairs, with DPO's loss or one of its family (losses.py)."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from trl import DPOConfig as TRLConfig
from trl import DPOTrainer

from prefcli.artifacts.store import Artifact
from prefcli.config.base import option
from prefcli.config.dpo import LOSSES, DPOConfig
from prefcli.data.encoder import Encoder
from prefcli.data.rows import Examples, Rows
from prefcli.data.tokenising import encode_pair
from prefcli.errors import UsageError
from prefcli.losses import PAIR_LOSSES, Terms
from prefcli.models.sharding import most
from prefcli.progress import Reporter, processes, under_deepspeed
from prefcli.rewards.grammar import reward_scales
from prefcli.rewards.preflight import refuse_not_finite
from prefcli.rewards.sources import Answer, ModelReward, load_reward
from prefcli.stages import trl_trainer
from prefcli.stages.inputs import Inputs
from prefcli.stages.policy import Opened, open_policy, open_tokenizer
from prefcli.stages.preview import say_rendered
from prefcli.stages.reference import (
    ReferenceLogps,
    below,
    cache_file,
    is_merged,
    open_reference,
    reference_at_work,
    shares_policy,
)
from prefcli.stages.resuming import Resuming
from prefcli.stages.session import Session, session
from prefcli.stages.steps import PAIR_METRICS, Example, Found, PairSteps, pair_metrics, pair_rows

FINAL = ("loss", *PAIR_METRICS)
ROUNDING = 1e-6  # of a log-probability: what float32 makes of sums in another order is a few times less
AT_A_TIME = 32  # pairs between two steps of the progress bar


class PairTrainer(Resuming, DPOTrainer):
    """TRL's trainer on pairs that are token ids already, for weights that DeepSpeed has split."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class DPOSteps(PairSteps, DPOTrainer):
    """The loss that the options say, averaged over pairs. Without `references` log-ratios are log-probabilities.

    An example's "margin" is what other rewards say of the pair, and `share` the weight of its own label beside them.
    """

    def __init__(
        self, *args: Any, config: DPOConfig, references: list[ReferenceLogps], share: float = 1.0, **kwargs: Any
    ) -> None:
        self.references = references  # of the training rows, and of the held-out ones
        self._config, self._share = config, share
        super().__init__(*args, router_loss=config.router_loss, **kwargs)

    def summed_loss(self, model: Any, examples: list[Example]) -> tuple[Tensor, Found]:
        config, rows = self._config, pair_rows(examples, self.accelerator.device)
        ratios = torch.zeros(len(rows.lengths), device=self.accelerator.device)
        if self.references:
            which = self.references[0 if model.training else 1]
            ratios = ratios - which.of([example["row"] for example in examples], rows)
        found, more = self.logps(model, rows)
        logps, lengths = found.logps.sum(1), rows.completion_lengths
        ratios = ratios + logps
        # Before the first update policy and reference are one model: what is left of a margin has rounding's sign.
        rounding = self.beta * ROUNDING * logps.detach().abs()
        if config.length_normalise:
            ratios, rounding = ratios / lengths, rounding / lengths
        margin = ratios.new_tensor([example.get("margin", 0.0) for example in examples])
        terms = Terms(ratios[0::2], ratios[1::2], self.beta, margin, self._share)
        losses = PAIR_LOSSES[config.loss](terms, **config.parameters)
        if config.sft_weight:
            losses = losses - config.sft_weight * (logps / lengths)[0::2]
        losses = losses * ratios.new_tensor([example.get("weight", 1.0) for example in examples])
        chosen, rejected = self.beta * terms.chosen, self.beta * terms.rejected
        metrics = pair_metrics(found, rows, chosen, rejected, rounding[0::2] + rounding[1::2])
        return losses.sum(), metrics | more

    def own_state(self) -> dict[str, Any]:
        return super().own_state() | {"references": [reference.logps for reference in self.references]}

    def mark(self) -> None:
        for reference in self.references:
            reference.newest.clear()

    def drop_step(self) -> None:
        for reference in self.references:
            reference.drop_newest()


def train(inputs: Inputs, reporter: Reporter) -> Artifact | None:
    """Train on pairs and return the finished artifact; None in all processes but the first."""
    config = inputs.config
    assert isinstance(config, DPOConfig)
    with session(inputs, reporter) as run:
        tokenizer = open_tokenizer(run)
        encoder = Encoder(tokenizer)
        say_rendered(inputs, encoder, reporter)
        share = add_margins(run, [inputs.data.rows, inputs.held_out_rows], tokenizer)
        encode = partial(encode_pair, encoder=encoder, max_length=config.max_length)
        rows, held_out = trl_trainer.encoded(run, encode, inputs.data.rows, inputs.held_out_rows)
        trl_trainer.say_longer(run, rows)
        opened = open_policy(run, tokenizer)
        trainer = _trainer(run, opened, rows, held_out, share)
        done = trl_trainer.run(run, trainer, "dpo", opened.saves_merged)
        for logps in getattr(trainer, "references", []):
            logps.save(reporter)
        return trl_trainer.finish(run, trainer, opened, FINAL, done)


def add_margins(run: Session, parts: Sequence[Rows], tokenizer: Any) -> float:
    """Give each pair, of the training and of the held-out rows, what the rewards of --reward say of it.

    That is Σ w·(score of chosen − score of rejected).
    Returns the weight that the pairs' own labels have: 1 less those of the rewards (MODPO, arXiv 2310.03708).
    Raises ArtifactError: a score that is not a finite number.
    """
    config, inputs = run.inputs.config, run.inputs
    assert isinstance(config, DPOConfig)
    scales = reward_scales(inputs.rewards, config.reward_weight, config.standardise_rewards)
    margins = [array("d", bytes(8 * len(rows))) for rows in parts]
    for spec in inputs.rewards:  # one after the other: no two are in memory together
        source = load_reward(spec, tokenizer, dtype=run.dtype, device=run.opens_on, reporter=run.reporter)
        if isinstance(source, ModelReward):
            run.split(source.model)
        run.reporter.begin(f"scoring pairs with {spec.name}", sum(map(len, parts)))
        done = 0
        for rows, found in zip(parts, margins):
            for start in range(0, len(rows), AT_A_TIME):
                pairs = [rows[i] for i in range(start, min(start + AT_A_TIME, len(rows)))]
                answers = [Answer(row.prompt, text or "", columns=row.columns)
                           for row in pairs for text in (row.chosen, row.rejected)]  # fmt: skip
                with run.as_gathered():
                    raw = source.score(answers)
                refuse_not_finite(spec.name, raw.tolist(), answers)
                scores = scales[spec.name].apply(raw).tolist()
                for place, (chosen, rejected) in enumerate(zip(scores[0::2], scores[1::2]), start):
                    found[place] += chosen - rejected
                done += len(pairs)
                run.reporter.advance(done, {})
        run.reporter.end()
    if inputs.rewards:
        for rows, found in zip(parts, margins):
            rows.set_margins(found)
    return 1.0 - sum(scale.weight for scale in scales.values())


def not_in_trl(config: DPOConfig) -> list[str]:
    """The options that make the loss one which TRL's own trainer does not have."""
    loss = LOSSES[config.loss]
    normalised = " --length-normalise" if config.length_normalise and not loss.length_normalised else ""
    terms = {
        "reward": config.reward,
        "sft_weight": config.sft_weight,
        "weight_column": config.weight_column,
        "reference_free": config.reference_free and not loss.reference_free,
        "label_smoothing": config.label_smoothing and config.loss != "robust",
    }
    found = [f"--loss {config.loss}{normalised}"] if loss.in_trl[config.length_normalise] is None else []
    return found + [option(name) for name, given in terms.items() if given]


def trl_options(config: DPOConfig) -> dict[str, Any] | None:
    """The arguments of TRL's own trainer where it has this loss; None where it has not."""
    loss = LOSSES[config.loss].in_trl[config.length_normalise]
    if loss is None or not_in_trl(config):
        return None
    return {
        "beta": config.beta,
        "loss_type": [loss],
        "label_smoothing": config.label_smoothing,
        "router_aux_loss_coef": 0.0,
    }


def _trainer(run: Session, opened: Opened, rows: Examples, held_out: Examples, share: float) -> Any:
    """Ours; under DeepSpeed TRL's own."""
    config = run.inputs.config
    assert isinstance(config, DPOConfig)
    theirs = trl_options(config) if under_deepspeed() else None
    if theirs is None and under_deepspeed():
        raise UsageError(f"not under DeepSpeed: {', '.join(not_in_trl(config))}", "leave it out, or use --shard")
    reference = None if config.reference_free or theirs else below(run, opened)
    packed = run.packs(opened.model, "policy")
    references = [] if config.reference_free or theirs else _logps(run, opened, [rows, held_out], packed)
    known = bool(references) and all(logps.known == len(logps.logps) for logps in references)
    known = known if run.mesh is None else not most(int(not known))  # all processes open it, or none
    if not (config.reference_free or known or shares_policy(run, opened)):
        reference = open_reference(run, opened.model, opened.tokenizer)
    if theirs:
        args = TRLConfig(**trl_trainer.arguments(run, **theirs))
        return trl_trainer.build(PairTrainer, opened.model, opened.tokenizer, args, rows, held_out, ref_model=reference)
    # In TRL's words: it shall load no reference of its own.
    arguments = trl_trainer.arguments(
        run, precompute_ref_log_probs=reference is None, beta=config.beta, router_aux_loss_coef=0.0
    )
    kind = partial(DPOSteps, tokens_per_row=run.tokens_per_row, config=config, references=references, share=share)
    trainer = trl_trainer.build(
        kind, opened.model, opened.tokenizer, TRLConfig(**arguments), rows, held_out, ref_model=reference
    )
    for logps in references if reference is not None else []:
        logps.model, logps.run = reference, partial(reference_at_work, reference, trainer.accelerator)
    return trainer


def _logps(run: Session, opened: Opened, parts: list[Examples], packed: bool) -> list[ReferenceLogps]:
    reference = run.inputs.references["reference"]
    digest = reference.digest and reference.pinned
    in_4bit = run.inputs.config.load_in_4bit
    saved: list[Any] = [None] * len(parts)
    if run.resumed is not None:
        saved = _resumed([own["references"] for own in run.saved["each"]])
    found = []
    for rows, before in zip(parts, saved, strict=True):
        file = None  # a file is known by the token ids of all rows
        if rows.whole:
            split, weights, merge = run.mesh is not None, run.trained_dtype, is_merged(run, opened)
            root = run.inputs.store.root
            file = cache_file(root, digest, run.device, run.dtype, rows, in_4bit, packed, split, weights, merge)
        found.append(ReferenceLogps(len(rows), file, before))
    return found


def _resumed(each: list[list[Tensor]]) -> list[Tensor]:
    """The values that this process goes on with, of those that each had: its own, or all where their number changed."""
    if len(each) == processes():
        return each[int(os.environ.get("RANK", "0"))]
    return [torch.stack(values).nanmean(0) for values in zip(*each)]

"""RLHF, stage 2: a reward model from pairs (TRL's RewardTrainer; Bradley–Terry, arXiv 2009.01325, section 3.4)."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from trl import RewardConfig as TRLConfig
from trl import RewardTrainer

from prefcli.artifacts.store import Artifact
from prefcli.config.reward import RewardConfig
from prefcli.data.encoder import Encoder
from prefcli.data.rows import Rows
from prefcli.data.tokenising import encode_pair
from prefcli.losses import bradley_terry
from prefcli.models.loading import is_scorer, loaded_scorer
from prefcli.models.logps import sequence_scores
from prefcli.models.rows import parts
from prefcli.models.templates import end_at_the_score
from prefcli.progress import Reporter, under_deepspeed
from prefcli.stages import trl_trainer
from prefcli.stages.inputs import Inputs
from prefcli.stages.policy import adapted, count, open_tokenizer
from prefcli.stages.preview import say_rendered
from prefcli.stages.resuming import Resuming, whole_weights
from prefcli.stages.session import session
from prefcli.stages.steps import Example, Found, PairSteps, pair_cost, pair_rows
from prefcli.statistics.pairs import accuracy, right


class PaddedReward(Resuming, RewardTrainer):
    """TRL's trainer on pairs that are token ids already, for weights that DeepSpeed has split."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


class RewardSteps(PairSteps, RewardTrainer):
    """Bradley–Terry's loss, averaged over pairs, with --center-rewards as `center`."""

    def __init__(self, *args: Any, center: float = 0.0, **kwargs: Any) -> None:
        self._center = center
        super().__init__(*args, **kwargs)

    def summed_loss(self, model: Any, examples: list[Example]) -> tuple[Tensor, Found]:
        scores = sequence_scores(model, pair_rows(examples, self.accelerator.device))
        chosen, rejected, pairs = scores[0::2], scores[1::2], len(examples)
        margins = chosen - rejected
        asked = margins.new_tensor([example.get("margin", 0.0) for example in examples])
        return bradley_terry(chosen, rejected, asked, self._center).sum(), {
            "accuracy": (right(margins).sum(), pairs),
            "margin": (margins.sum(), pairs),
            "mean_reward": (scores.sum(), 2 * pairs),
        }


def train(inputs: Inputs, reporter: Reporter) -> Artifact | None:
    """Train on pairs, measure on held-out ones, return the finished artifact; None in all processes but the first."""
    config = inputs.config
    assert isinstance(config, RewardConfig)
    with session(inputs, reporter) as run:
        tokenizer = open_tokenizer(run)
        if (why := end_at_the_score(tokenizer)) is not None:
            reporter.notice(f"transformers reads the score at another token than prefcli does: {why}")
        encoder = Encoder(tokenizer)
        say_rendered(inputs, encoder, reporter)
        training, held_out = split(inputs.data.rows, config.eval_share, config.seed, inputs.eval_data is not None)
        encode = partial(encode_pair, encoder=encoder, max_length=config.max_length)
        rows, measured = trl_trainer.encoded(run, encode, training, held_out or inputs.held_out_rows)
        trl_trainer.say_longer(run, rows)
        reporter.begin(f"loading {inputs.model.shown}", None)
        loaded = loaded_scorer(
            inputs.model,
            tokenizer,
            dtype=run.opens_in(inputs.model, tokenizer) if is_scorer(inputs.model) else run.trained_dtype,
            device=run.opens_on,
            new_head=not is_scorer(inputs.model),
            trainable=config.lora_rank > 0,
            seed=config.seed,
            in_4bit=config.load_in_4bit,
            label=config.label,
        )
        trained, saves_merged = adapted(config, inputs.model, loaded, reporter, scorer=True, label=config.label)
        reporter.end()
        run.packs(trained, "reward model")
        own = not under_deepspeed()
        packed = partial(RewardSteps, tokens_per_row=run.tokens_per_row, center=config.center_rewards)
        trainer_class: Any = packed if own else PaddedReward
        theirs = {} if own else {"center_rewards_coefficient": config.center_rewards or None}
        sides = None if own else whole
        arguments = trl_trainer.arguments(run, bool(measured), **theirs)
        in_training = measured if inputs.eval_data or config.eval_every else []
        trainer = trl_trainer.build(trainer_class, trained, tokenizer, TRLConfig(**arguments), rows, in_training, sides)
        steps, tokens = trl_trainer.run(run, trainer, "train-rm", saves_merged)
        metrics = {name: run.log.last[name] for name in ("loss",) if name in run.log.last}
        part = config.batch_size // config.micro_batches()
        with run.as_gathered(), trainer.accelerator.autocast():
            metrics |= held_out_metrics(trainer.model, measured, part, run.tokens_per_row)
        return run.finish(
            trainer.model,
            tokenizer,
            metrics=metrics,
            steps=steps,
            tokens=tokens,
            about={
                "parameters": count(trained),
                "trained": count(trained, True),
                "head": "score",
                "held_out_pairs": len(measured),
            },
            weights=whole_weights(trainer),
            saves_merged=saves_merged,
        )


def split(rows: Rows, share: float, seed: int, all_for_training: bool) -> tuple[Rows, Rows]:
    """(training, held out): a random fraction is held out, at least one pair where there are two.

    A row that is there several times (--data-weight) is on one side alone.
    """
    if all_for_training or share == 0:
        return rows, rows[:0]
    numbers = rows.positions
    first: dict[int, int] = {}
    for place, number in enumerate(numbers):
        first.setdefault(number, place)
    if len(first) < 2:
        return rows, rows[:0]
    distinct = array("Q", first.values())
    del first  # large where there are many rows
    order = array("Q", range(len(distinct)))
    random.Random(seed).shuffle(order)
    held_out = [distinct[i] for i in sorted(order[: max(1, round(share * len(distinct)))])]
    kept = {numbers[place] for place in held_out}
    training = array("Q", (place for place, number in enumerate(numbers) if number not in kept))
    return rows.take(training), rows.take(held_out)


def whole(pair: dict[str, Any]) -> dict[str, Any]:
    """A pair as TRL's RewardTrainer reads it: each side with its prompt, and the margin."""
    sides = {side: pair["prompt_ids"] + pair[side] for side in ("chosen_ids", "rejected_ids")}
    return {**sides, "margin": pair.get("margin", 0.0)}


@torch.no_grad()
def held_out_metrics(model: Any, rows: Sequence[Example], batch_size: int, tokens_per_row: int) -> dict[str, Any]:
    """Accuracy (`statistics.pairs`) with its 95 % interval, mean margin, mean and standard deviation of all scores.

    Of at most `batch_size` pairs and `tokens_per_row` tokens at a time, as in training: no more memory than that took.
    """
    if not rows:
        return {}
    model.eval()
    device = next(model.parameters()).device
    found: list[Tensor] = []
    for start in range(0, len(rows), batch_size):
        batch = list(rows[start : start + batch_size])
        for part in parts(list(map(pair_cost, batch)), tokens_per_row):
            found.append(sequence_scores(model, pair_rows([batch[i] for i in part], device)).cpu())
    both = torch.cat(found)
    right_of = accuracy((both[0::2] - both[1::2]).tolist())
    return {
        **{name: right_of[name] for name in ("accuracy", "accuracy_ci95", "margin")},
        "score_mean": float(both.mean()),
        "score_std": float(both.std(correction=0)),
    }

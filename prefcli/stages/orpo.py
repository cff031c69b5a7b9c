"""ORPO: fine-tuning on the chosen answers and preferring them, in one loss and without a reference (losses.py)."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from trl import DPOConfig as TRLConfig
from trl import DPOTrainer

from prefcli.artifacts.store import Artifact
from prefcli.config.orpo import ORPOConfig
from prefcli.data.encoder import Encoder
from prefcli.data.tokenising import encode_pair
from prefcli.errors import UsageError
from prefcli.losses import next_token, odds_ratio
from prefcli.progress import Reporter, under_deepspeed
from prefcli.stages import trl_trainer
from prefcli.stages.inputs import Inputs
from prefcli.stages.policy import open_policy, open_tokenizer
from prefcli.stages.preview import say_rendered
from prefcli.stages.session import session
from prefcli.stages.steps import PAIR_METRICS, Example, Found, PairSteps, pair_metrics, pair_rows

FINAL = ("loss", "sft_loss", "log_odds_ratio", *PAIR_METRICS)


class ORPOSteps(PairSteps, DPOTrainer):
    """Mean −log π a token of the chosen answer plus β times the odds-ratio loss, averaged over pairs.

    arXiv 2403.07691, equation 6. The SFT term is the mean over each answer's own tokens, so that every pair counts
    alike; TRL's reads the prompt's tokens too. "rewards" are β times the mean log-probability a token, as in TRL.
    """

    def __init__(self, *args: Any, config: ORPOConfig, **kwargs: Any) -> None:
        super().__init__(*args, router_loss=config.router_loss, **kwargs)

    def summed_loss(self, model: Any, examples: list[Example]) -> tuple[Tensor, Found]:
        rows = pair_rows(examples, self.accelerator.device)
        found, more = self.logps(model, rows)
        means = found.logps.sum(1) / rows.completion_lengths
        chosen, rejected = means[0::2], means[1::2]
        sft, odds = next_token(chosen), odds_ratio(chosen, rejected)
        weights = means.new_tensor([example.get("weight", 1.0) for example in examples])
        losses = (sft + self.beta * odds) * weights
        own = {"sft_loss": (sft.sum(), len(examples)), "log_odds_ratio": (-odds.sum(), len(examples))}
        return losses.sum(), own | pair_metrics(found, rows, self.beta * chosen, self.beta * rejected) | more


def train(inputs: Inputs, reporter: Reporter) -> Artifact | None:
    """Train on pairs and return the finished artifact; None in all processes but the first."""
    config = inputs.config
    assert isinstance(config, ORPOConfig)
    if under_deepspeed():
        raise UsageError("orpo does not run under DeepSpeed", "split the weights with --shard (docs/scaling.md)")
    with session(inputs, reporter) as run:
        tokenizer = open_tokenizer(run)
        encoder = Encoder(tokenizer)
        say_rendered(inputs, encoder, reporter)
        encode = partial(encode_pair, encoder=encoder, max_length=config.max_length)
        rows, held_out = trl_trainer.encoded(run, encode, inputs.data.rows, inputs.held_out_rows)
        trl_trainer.say_longer(run, rows)
        opened = open_policy(run, tokenizer)
        run.packs(opened.model, "policy")
        # In TRL's words: it shall load no reference of its own.
        arguments = trl_trainer.arguments(
            run, precompute_ref_log_probs=True, beta=config.beta, router_aux_loss_coef=0.0
        )
        kind = partial(ORPOSteps, tokens_per_row=run.tokens_per_row, config=config)
        trainer = trl_trainer.build(
            kind, opened.model, tokenizer, TRLConfig(**arguments), rows, held_out, ref_model=None
        )
        done = trl_trainer.run(run, trainer, "orpo", opened.saves_merged)
        return trl_trainer.finish(run, trainer, opened, FINAL, done)

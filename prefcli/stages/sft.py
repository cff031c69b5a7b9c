"""Stage 1 of both routes: supervised fine-tuning on demonstrations, the loss on the answers only."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from trl import SFTConfig as TRLConfig
from trl import SFTTrainer

from prefcli.artifacts.store import Artifact
from prefcli.config.sft import SFTConfig
from prefcli.data.encoder import Encoder
from prefcli.data.tokenising import encode_demo
from prefcli.losses import next_token
from prefcli.models.rows import Rows, pad_rows
from prefcli.progress import Reporter, under_deepspeed
from prefcli.stages import trl_trainer
from prefcli.stages.inputs import Inputs
from prefcli.stages.policy import open_policy, open_tokenizer
from prefcli.stages.preview import say_rendered
from prefcli.stages.resuming import Resuming, whole_weights
from prefcli.stages.session import session
from prefcli.stages.steps import Example, Found, Steps


class PaddedSFT(Resuming, SFTTrainer):
    """TRL's own steps, for weights that DeepSpeed has split."""


class SFTSteps(Steps, SFTTrainer):
    """−log π(token) averaged over the tokens that `completion_mask` marks, of a whole optimizer step."""

    def cost(self, example: Example) -> int:
        return len(example["input_ids"])

    def units(self, examples: list[Example]) -> int:
        return sum(sum(example["completion_mask"][1:]) for example in examples)

    def summed_loss(self, model: Any, examples: list[Example]) -> tuple[Tensor, Found]:
        found, more = self.logps(model, demo_rows(examples, self.accelerator.device))
        tokens = self.units(examples)
        return next_token(found.logps).sum(), {
            "entropy": (found.entropy.sum(), tokens),
            "mean_token_accuracy": (found.top.sum(), tokens),
            **more,
        }


def train(inputs: Inputs, reporter: Reporter) -> Artifact | None:
    """Fine-tune and return the finished artifact; None in all processes but the first."""
    config = inputs.config
    assert isinstance(config, SFTConfig)
    with session(inputs, reporter) as run:
        tokenizer = open_tokenizer(run)
        encoder = Encoder(tokenizer)
        say_rendered(inputs, encoder, reporter)
        encode = partial(
            encode_demo, encoder=encoder, max_length=config.max_length, train_on_prompt=config.train_on_prompt
        )
        rows, held_out = trl_trainer.encoded(run, encode, inputs.data.rows, inputs.held_out_rows)
        opened = open_policy(run, tokenizer)
        run.packs(opened.model, "policy")
        trainer_class: Any = PaddedSFT
        if own := not under_deepspeed():
            trainer_class = partial(SFTSteps, tokens_per_row=run.tokens_per_row, router_loss=config.router_loss)
        labels = None if own else labelled
        # TRL would make the labels of all rows before the first step.
        arguments = trl_trainer.arguments(
            run, completion_only_loss=True, router_aux_loss_coef=0.0, dataset_kwargs={"skip_prepare_dataset": True}
        )
        trainer = trl_trainer.build(
            trainer_class, opened.model, tokenizer, TRLConfig(**arguments), rows, held_out, labels
        )
        steps, tokens = trl_trainer.run(run, trainer, "sft", opened.saves_merged)
        last = run.log.last
        metrics: dict[str, float] = {
            name: last[name] for name in ("loss", "mean_token_accuracy", "eval_loss") if name in last
        }
        if "eval_loss" in metrics:
            metrics["eval_perplexity"] = math.exp(min(metrics["eval_loss"], 50))
        return run.finish(
            trainer.model,
            opened.tokenizer,
            metrics=metrics,
            steps=steps,
            tokens=tokens,
            about=opened.about,
            weights=whole_weights(trainer),
            saves_merged=opened.saves_merged,
        )


def labelled(demo: dict[str, Any]) -> dict[str, Any]:
    """A demonstration with TRL's labels: −100 where the loss does not read."""
    ids, mask = demo["input_ids"], demo["completion_mask"]
    return {"input_ids": ids, "labels": [token if read else -100 for token, read in zip(ids, mask)]}


def demo_rows(examples: list[Example], device: torch.device) -> Rows:
    """Demonstrations as rows: what stands before the first token that is read is the prompt."""
    prompts, completions, read = [], [], []
    for example in examples:
        ids, mask = example["input_ids"], example["completion_mask"]
        start = max(1, mask.index(1) if 1 in mask else len(mask))
        prompts.append(ids[:start])
        completions.append(ids[start:])
        read.append(mask[start:])
    width = max(map(len, read))
    marks = torch.tensor([mask + [0] * (width - len(mask)) for mask in read], dtype=torch.bool, device=device)
    rows = pad_rows(prompts, completions, device=device)
    return Rows(rows.input_ids, rows.prompt_lengths, rows.completion_lengths, marks)

"""KTO: learning from answers that are labelled desirable or not, one by one (losses.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import RandomSampler
from trl import KTOConfig as TRLConfig
from trl import KTOTrainer

from prefcli.artifacts.store import Artifact
from prefcli.config.kto import KTOConfig
from prefcli.data.encoder import Encoder
from prefcli.data.rows import Examples
from prefcli.data.tokenising import encode_labelled
from prefcli.errors import DataError, UsageError
from prefcli.losses import kto, reference_point
from prefcli.models.generation import evaluation_mode
from prefcli.models.logps import token_logps
from prefcli.models.rows import pad_rows
from prefcli.progress import Reporter, under_deepspeed
from prefcli.stages import trl_trainer
from prefcli.stages.inputs import Inputs
from prefcli.stages.policy import open_policy, open_tokenizer
from prefcli.stages.preview import say_rendered
from prefcli.stages.reference import below, open_reference, reference_at_work
from prefcli.stages.session import Session, session
from prefcli.stages.steps import Example, Found, Steps
from prefcli.statistics.sums import Sums

FINAL = ("loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected")
# Where λ_D·(desirable answers) lies outside this many times λ_U·(undesirable ones) (arXiv 2402.01306, equation 9).
BALANCE = (1.0, 4 / 3)
NEAR = 64  # rows that are looked through for one with another prompt


class KTOSteps(Steps, KTOTrainer):
    """KTO's loss, averaged over answers; z₀ is that of the whole optimizer step, over its parts and all processes, and
    of held-out rows that of all of them.

    A held-out prompt is mismatched with the answer of a row before (`answer_before`), however the rows come in batches,
    and so is that of a step of one row, which has no other.
    """

    def __init__(self, *args: Any, config: KTOConfig, **kwargs: Any) -> None:
        self._config = config
        # The frozen model, and the mode in which it is one; set once the trainer has prepared it.
        self.reference: Any = None
        self.at_work: Callable[[], AbstractContextManager[Any]] | None = None
        self._kl = torch.zeros(())
        super().__init__(*args, router_loss=config.router_loss, **kwargs)

    def cost(self, example: Example) -> int:
        return len(example["prompt_ids"]) + len(example["completion_ids"])

    def begin(self, model: Any, parts: list[list[Example]]) -> None:
        """z₀ of a step, over all its rows at once: max(0, ·) is biased upward, the more the fewer it is taken over."""
        examples = [example for part in parts for example in part]
        before = self._before([part[-1]["completion_ids"] for part in parts])
        if len(examples) == 1 and self.accelerator.num_processes == 1:
            before = [answer_before(self.train_dataset, examples[0])]
        others = [ids for part, last in zip(parts, before) for ids in (last, *_columns(part, "completion_ids")[0][:-1])]
        for example, other in zip(examples, others, strict=True):
            example["other_ids"] = other
        self._kl = self._point(self._mismatched(model, examples, examples))

    def _before(self, last: list[list[int]]) -> list[list[int]]:
        """The answer before each of this process's parts, whose last ones are given: as one process has the rows, where
        all processes' first parts come first, then the second ones."""
        every = gather_object([last])
        in_order = [lasts[part] for part in range(len(last)) for lasts in every]
        own = range(self.accelerator.process_index, len(in_order), len(every))
        return [in_order[place - 1] for place in own]

    def begin_held_out(self, model: Any, examples: list[Example], batch: list[Example]) -> None:
        """The reference's values of a batch; z₀ is known (`evaluation_loop`)."""
        assert self.at_work is not None
        for piece, counts in self.passes(self.reference, self._pieces(examples), batch):
            rows = pad_rows(*_columns(piece, "prompt_ids", "completion_ids"), device=self.accelerator.device)
            with self.at_work(), torch.no_grad():
                logps = token_logps(self.reference, rows).logps.sum(1)
            if counts or "reference_logps" not in piece[0]:
                _note(piece, logps)

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """z₀ of all held-out rows first, for their losses depend on it."""
        found, of_step = Sums(), self._kl  # where a resumed run owes them, the next step has its own already
        for batch in dataloader:
            for example in batch["examples"]:
                example["other_ids"] = answer_before(self.eval_dataset, example)
            found.add(self._mismatched(self.model, self.own_rows(batch["examples"]), batch["examples"]))
        self._kl = self._point({"ratio": (found.totals.get("ratio", 0.0), found.counts.get("ratio", 0.0))})
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        self._kl = of_step
        return output

    @torch.no_grad()
    def _mismatched(self, model: Any, examples: list[Example], batch: list[Example]) -> Found:
        """Σ r of each prompt with another's answer, and of how many; the examples get the reference's values of their
        own answers on the way, which share their prompt's pass."""
        assert self.at_work is not None
        device, ratios = self.accelerator.device, [torch.zeros(0, device=self.accelerator.device)]
        pieces = self._pieces(examples, lambda example: self.cost(example) + len(example["other_ids"]))
        for piece, counts in self.passes(model, pieces, batch):
            both = pad_rows(
                [example["prompt_ids"] for example in piece for _ in range(2)],
                [example[name] for example in piece for name in ("completion_ids", "other_ids")],
                device=device,
            )
            with self.at_work():
                reference = token_logps(self.reference, both).logps.sum(1)
            with evaluation_mode(model), self.accelerator.autocast():
                mismatched = both.select(torch.arange(1, 2 * len(piece), 2, device=device))
                ratio = token_logps(model, mismatched).logps.sum(1) - reference[1::2]
            if counts:
                ratios.append(ratio)
                _note(piece, reference[0::2])
        found = torch.cat(ratios)
        return {"ratio": (found.sum(), len(found))}

    def _point(self, found: Found) -> Tensor:
        """z₀ of the rows of all processes."""
        total, count = found["ratio"]
        sums = torch.tensor([float(total), float(count)], device=self.accelerator.device)
        total, count = self.accelerator.reduce(sums, reduction="sum")
        return reference_point(total / count.clamp(min=1))

    def summed_loss(self, model: Any, examples: list[Example]) -> tuple[Tensor, Found]:
        config, device = self._config, self.accelerator.device
        rows = pad_rows(*_columns(examples, "prompt_ids", "completion_ids"), device=device)
        found, more = self.logps(model, rows)
        logps = found.logps.sum(1)
        ratios = logps - logps.new_tensor([example["reference_logps"] for example in examples])
        labels = torch.tensor([example["label"] for example in examples], device=device)
        losses = kto(
            ratios, labels, self._kl, beta=config.beta,
            desirable=config.desirable_weight, undesirable=config.undesirable_weight,
        )  # fmt: skip
        losses = losses * ratios.new_tensor([example.get("weight", 1.0) for example in examples])
        rewards, good, tokens = config.beta * ratios.detach(), int(labels.sum()), rows.mask.sum().item()
        bad = len(examples) - good
        return losses.sum(), {
            "kl": (self._kl * len(examples), len(examples)),
            "entropy": (found.entropy.sum(), tokens),
            "rewards/chosen": (rewards[labels].sum(), good),
            "rewards/rejected": (rewards[~labels].sum(), bad),
            "logps/chosen": (logps[labels].sum(), good),
            "logps/rejected": (logps[~labels].sum(), bad),
            **more,
        }

    def of_rows(self, means: dict[str, float]) -> dict[str, float]:
        if "rewards/chosen" in means and "rewards/rejected" in means:  # a batch may have one kind alone
            return means | {"rewards/margins": means["rewards/chosen"] - means["rewards/rejected"]}
        return means

    def _get_train_sampler(self, train_dataset: Any = None) -> RandomSampler:
        return RandomSampler(self.train_dataset)  # TRL needs a fixed order for z₀, which is worked out here


def answer_before(rows: Sequence[Example], example: Example) -> list[int]:
    """The answer of the nearest row before, in a circle, that has another prompt: halves of a pair follow each other.

    Of the row before where none of the `NEAR` before has one.
    """
    before = (rows[(example["row"] - step) % len(rows)] for step in range(1, min(NEAR, len(rows) - 1) + 1))
    other = next((row for row in before if row["prompt_ids"] != example["prompt_ids"]), rows[example["row"] - 1])
    answer: list[int] = other["completion_ids"]
    return answer


def _columns(examples: list[Example], *names: str) -> list[list[Any]]:
    return [[example[name] for example in examples] for name in names]


def _note(examples: list[Example], logps: Tensor) -> None:
    """Note the reference's log-probability of each example's own answer."""
    for example, value in zip(examples, logps.tolist()):
        example["reference_logps"] = value


def train(inputs: Inputs, reporter: Reporter) -> Artifact | None:
    """Train on labelled answers and return the finished artifact; None in all processes but the first."""
    config = inputs.config
    assert isinstance(config, KTOConfig)
    if under_deepspeed():
        raise UsageError("kto does not run under DeepSpeed", "split the weights with --shard (docs/scaling.md)")
    with session(inputs, reporter) as run:
        tokenizer = open_tokenizer(run)
        encoder = Encoder(tokenizer)
        say_rendered(inputs, encoder, reporter)
        encode = partial(encode_labelled, encoder=encoder, max_length=config.max_length)
        rows, held_out = trl_trainer.encoded(run, encode, inputs.data.rows, inputs.held_out_rows)
        _check_labels(run, rows)
        opened = open_policy(run, tokenizer)
        reference = below(run, opened)
        run.packs(opened.model, "policy")
        if reference is None:
            reference = open_reference(run, opened.model, opened.tokenizer)
        arguments = trl_trainer.arguments(
            run,
            beta=config.beta,
            train_sampling_strategy="sequential",
            router_aux_loss_coef=0.0,
        )
        if arguments["per_device_train_batch_size"] < 2:  # TRL's trainer refuses it
            raise UsageError(
                "kto estimates the KL from the other answers of the batch, so each part needs at least two answers",
                "raise --batch-size, or lower --grad-accum",
            )
        kind = partial(KTOSteps, tokens_per_row=run.tokens_per_row, config=config)
        trainer = trl_trainer.build(
            kind, opened.model, tokenizer, TRLConfig(**arguments), rows, held_out, ref_model=reference
        )
        trainer.reference = reference
        trainer.at_work = partial(reference_at_work, reference, trainer.accelerator)
        done = trl_trainer.run(run, trainer, "kto", opened.saves_merged)
        return trl_trainer.finish(run, trainer, opened, FINAL, done)


def _check_labels(run: Session, rows: Examples) -> None:
    """Say where the two kinds weigh very differently. Raises DataError where there is one kind alone."""
    config = run.inputs.config
    assert isinstance(config, KTOConfig)
    labels = [row["label"] for row in rows.first]
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

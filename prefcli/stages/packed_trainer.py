"""A TRL trainer's steps on packed rows: the same losses and metrics, several times faster (docs/packed.md).

TRL keeps the loop, the optimizer, the schedule and the logs. What happens in a step is ours: a batch is cut into rows
of at most `tokens_per_row` tokens, each with its own forward and backward pass, so that little is in memory at a time.
A model that was not packed makes the same steps on padded rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from trl import RewardTrainer, SFTTrainer

from prefcli.models.dropout import train_without_dropout
from prefcli.models.logps import TokenLogps, sequence_scores, token_logps
from prefcli.models.rows import Rows, pad_rows, parts
from prefcli.stages.resuming import Resuming

Example = dict[str, Any]
Sums = dict[str, tuple[Tensor, float]]  # metric → (sum, of how many)


def examples_of(rows: list[Example]) -> dict[str, Any]:
    """A collator that leaves rows as they are."""
    return {"examples": rows}


class PackedSteps(Resuming):
    """Mixed in before a TRL trainer. A subclass says what an example costs, and what its loss and metrics are."""

    # TRL's and transformers'
    train_dataset: Any
    current_gradient_accumulation_steps: int
    _metrics: Any

    def __init__(self, *args: Any, tokens_per_row: int, router_loss: float = 0.0, **kwargs: Any) -> None:
        self._tokens_per_row, self._router_loss = tokens_per_row, router_loss
        super().__init__(*args, data_collator=examples_of, **kwargs)  # type: ignore[call-arg]

    def cost(self, example: Example) -> int:
        """Tokens that an example takes in a packed row."""
        raise NotImplementedError

    def summed_loss(self, model: Any, examples: list[Example]) -> tuple[Tensor, Sums]:
        """The loss summed over its units (pairs, tokens), and metrics.

        Among these "router_loss", which training adds to what it minimises and not to the loss.
        """
        raise NotImplementedError

    def logps(self, model: Any, rows: Rows) -> tuple[TokenLogps, Sums]:
        """Of the policy's rows, and with --router-loss its routers' balancing loss as a metric."""
        found = token_logps(model, rows, balance=self._router_loss > 0)
        if found.balance is None or not self._router_loss:
            return found, {}
        count = len(rows.lengths)
        return found, {"router_loss": (found.balance * count, count)}

    def units(self, examples: list[Example]) -> int:
        """What the loss is averaged over."""
        return len(examples)

    def begin(self, model: Any, examples: list[Example]) -> None:
        """Called with this process's examples of a whole optimizer step, or a held-out batch, before any is run."""

    def padded_tokens(self, example: Example) -> int:
        """Tokens that TRL counts: the prompt with each answer."""
        return self.cost(example)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The parts of an optimizer step (--grad-accum), and their units over all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        if not batches:
            return batches, None
        examples = [example for batch in batches for example in batch["examples"]]
        self.begin(self.model, examples)
        units = torch.tensor(float(self.units(examples)), device=device)
        return batches, self.accelerator.reduce(units, reduction="sum").clamp(min=1)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Loss and gradients of one part; the gradients of several processes meet at its last row.

        `num_items_in_batch`: units of the whole step, over parts and processes (`get_batch_samples`).
        """
        train_without_dropout(model)
        examples = inputs["examples"]
        # Over all processes and accumulated batches; gradients are averaged over processes, so the sum is scaled back.
        scale = self.accelerator.num_processes / num_items_in_batch
        pieces = self._pieces(examples)
        total, sums = torch.zeros((), device=self.accelerator.device), Totals()
        for number, piece in enumerate(pieces, 1):
            with self.accelerator.no_sync(model) if number < len(pieces) else nullcontext():
                with self.accelerator.autocast():
                    loss, found = self.summed_loss(model, piece)
                minimised = loss * scale
                if "router_loss" in found:
                    balance, count = found["router_loss"]
                    part = len(piece) / (len(examples) * self.current_gradient_accumulation_steps)
                    minimised = minimised + self._router_loss * part * balance / count
                self.accelerator.backward(minimised)
            total += loss.detach() * scale
            sums.add(found)
        tokens = torch.tensor(float(sum(map(self.padded_tokens, examples))), device=total.device)
        self._total_train_tokens += int(self.accelerator.reduce(tokens, reduction="sum"))
        self._log("train", sums)
        return total

    @torch.no_grad()
    def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[Tensor, None, None]:
        """The loss of one held-out batch."""
        examples = inputs["examples"]
        self.begin(model, examples)
        total, sums = torch.zeros((), device=self.accelerator.device), Totals()
        for piece in self._pieces(examples):
            with self.accelerator.autocast():
                loss, found = self.summed_loss(model, piece)
            total += loss
            sums.add(found)
        self._log("eval", sums)
        return total / self.units(examples), None, None

    def _pieces(self, examples: list[Example], cost: Callable[[Example], int] | None = None) -> list[list[Example]]:
        rows = parts([(cost or self.cost)(example) for example in examples], self._tokens_per_row)
        return [[examples[i] for i in row] for row in rows]

    def _log(self, mode: str, sums: Totals) -> None:
        stacked = torch.stack([*(total for total in sums.totals.values()), *map(torch.tensor, sums.counts.values())])
        totals, counts = self.accelerator.reduce(stacked.to(self.accelerator.device), reduction="sum").chunk(2)
        for name, value, count in zip(sums.totals, (totals / counts).tolist(), counts.tolist()):
            if count:
                self._metrics[mode][name].append(value)
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # token ids already

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(self.train_dataset.column_names)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # transformers' guess goes by padded tensors


class Totals:
    """Sums of metrics over the rows of a batch."""

    def __init__(self) -> None:
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, float] = defaultdict(float)

    def add(self, sums: Sums) -> None:
        for name, (total, count) in sums.items():
            self.totals[name] = self.totals.get(name, 0.0) + total.detach().float().cpu()
            self.counts[name] += count


class PackedSFT(PackedSteps, SFTTrainer):
    """−log π(token) averaged over the tokens that `completion_mask` marks, of a whole optimizer step."""

    def cost(self, example: Example) -> int:
        return len(example["input_ids"])

    def units(self, examples: list[Example]) -> int:
        return sum(sum(example["completion_mask"][1:]) for example in examples)

    def summed_loss(self, model: Any, examples: list[Example]) -> tuple[Tensor, Sums]:
        found, more = self.logps(model, demo_rows(examples, self.accelerator.device))
        tokens = self.units(examples)
        return -found.logps.sum(), {
            "entropy": (found.entropy.sum(), tokens),
            "mean_token_accuracy": (found.top.sum(), tokens),
            **more,
        }


class PackedReward(PackedSteps, RewardTrainer):
    """−log σ(c − r − m) + k·(c + r)², averaged over pairs; c and r are the scores of the chosen and rejected answer.

    Bradley–Terry with the pair's margin m (Llama 2, arXiv 2307.09288, equation 2) and `center` k, which draws the
    scores to mean 0 (arXiv 2312.09244, equation 2), both as in TRL.
    """

    def __init__(self, *args: Any, center: float = 0.0, **kwargs: Any) -> None:
        self._center = center
        super().__init__(*args, **kwargs)

    def cost(self, example: Example) -> int:
        return pair_cost(example)

    def padded_tokens(self, example: Example) -> int:
        return pair_cost(example) + len(example["prompt_ids"])

    def summed_loss(self, model: Any, examples: list[Example]) -> tuple[Tensor, Sums]:
        scores = sequence_scores(model, pair_rows(examples, self.accelerator.device))
        margins, sums = scores[0::2] - scores[1::2], scores[0::2] + scores[1::2]
        asked = margins.new_tensor([example.get("margin", 0.0) for example in examples])
        pairs = len(examples)
        return -logsigmoid(margins - asked).sum() + self._center * sums.square().sum(), {
            "accuracy": ((margins > 0).sum(), pairs),
            "margin": (margins.sum(), pairs),
            "mean_reward": (scores.sum(), 2 * pairs),
        }


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


def pair_rows(examples: list[Example], device: torch.device) -> Rows:
    """Pairs as rows: chosen, rejected, chosen, rejected, …, so that the two share their prompt."""
    prompts = [example["prompt_ids"] for example in examples for _ in range(2)]
    completions = [example[side] for example in examples for side in ("chosen_ids", "rejected_ids")]
    return pad_rows(prompts, completions, device=device)


def pair_cost(example: Example) -> int:
    return len(example["prompt_ids"]) + len(example["chosen_ids"]) + len(example["rejected_ids"])

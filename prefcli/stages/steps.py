"""Optimizer steps on packed rows: TRL's losses and metrics, several times faster (docs/packed.md).

TRL keeps the loop, the optimizer, the schedule and the logs. What happens in a step is ours: a batch is cut into rows
of at most `tokens_per_row` tokens, each with its own forward and backward pass, so that little is in memory at a time.
A model that was not packed makes the same steps on padded rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from prefcli.models.dropout import train_without_dropout
from prefcli.models.logps import TokenLogps, token_logps
from prefcli.models.rows import Rows, pad_rows, parts
from prefcli.models.sharding import in_step, spent
from prefcli.stages.resuming import Resuming
from prefcli.statistics.pairs import right
from prefcli.statistics.sums import Sums

# What a policy trained on pairs has in its manifest, of `pair_metrics`.
PAIR_METRICS = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
    "logps/rejected",
)
Example = dict[str, Any]
Found = dict[str, tuple[Any, float]]  # metric → (sum, a tensor of one number, and of how many)


def examples_of(rows: list[Example]) -> dict[str, Any]:
    """A collator that leaves rows as they are."""
    return {"examples": rows}


class Steps(Resuming):
    """Mixed in before a TRL trainer. A subclass says what an example costs, and what its loss and metrics are."""

    # TRL's and transformers'
    current_gradient_accumulation_steps: int
    args: Any
    _metrics: Any

    def __init__(self, *args: Any, tokens_per_row: int, router_loss: float = 0.0, **kwargs: Any) -> None:
        self._tokens_per_row, self._router_loss = tokens_per_row, router_loss
        self._sums = Sums()  # of the optimizer step that runs, over its parts
        super().__init__(*args, data_collator=examples_of, **kwargs)  # type: ignore[call-arg]

    def cost(self, example: Example) -> int:
        """Tokens that an example takes in a packed row."""
        raise NotImplementedError

    def summed_loss(self, model: Any, examples: list[Example]) -> tuple[Tensor, Found]:
        """The loss summed over its units (pairs, tokens), and metrics.

        Among these "router_loss", which training adds to what it minimises and not to the loss.
        """
        raise NotImplementedError

    def logps(self, model: Any, rows: Rows) -> tuple[TokenLogps, Found]:
        """Of the policy's rows, and with --router-loss its routers' balancing loss as a metric."""
        found = token_logps(model, rows, balance=self._router_loss > 0)
        if found.balance is None or not self._router_loss:
            return found, {}
        count = len(rows.lengths)
        return found, {"router_loss": (found.balance * count, count)}

    def units(self, examples: list[Example]) -> int:
        """The units that the loss is averaged over."""
        return len(examples)

    def begin(self, model: Any, parts: list[list[Example]]) -> None:
        """Called with this process's examples of a whole optimizer step, part by part, before any is run."""

    def begin_held_out(self, model: Any, examples: list[Example], batch: list[Example]) -> None:
        """Called with the own rows of each held-out batch, of which there may be none, before they are run."""

    def padded_tokens(self, example: Example) -> int:
        """Tokens that TRL counts: the prompt with each answer."""
        return self.cost(example)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Any]:
        """The parts of an optimizer step (--grad-accum), and their units over all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        if not batches:
            return batches, None
        parts = [batch["examples"] for batch in batches]
        self._sums = Sums()
        started, gathered = time.perf_counter(), spent["gathering"]
        self.begin(self.model, parts)
        self.prepared = (time.perf_counter() - started, spent["gathering"] - gathered)
        units = torch.tensor(float(sum(map(self.units, parts))), device=device)
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
        total = torch.zeros((), device=self.accelerator.device)
        for number, (piece, counts) in enumerate(self.passes(model, pieces, examples), 1):
            with self.accelerator.no_sync(model) if number < len(pieces) else nullcontext():
                with self.accelerator.autocast():
                    loss, found = self.summed_loss(model, piece)
                if not counts:
                    self.accelerator.backward(loss * 0)
                    continue
                minimised = loss * scale
                if "router_loss" in found:
                    balance, count = found["router_loss"]
                    part = len(piece) / (len(examples) * self.current_gradient_accumulation_steps)
                    minimised = minimised + self._router_loss * part * balance / count
                self.accelerator.backward(minimised)
            total += loss.detach() * scale
            self._sums.add(found)
        tokens = torch.tensor(float(sum(map(self.padded_tokens, examples))), device=total.device)
        self._total_train_tokens += int(self.accelerator.reduce(tokens, reduction="sum"))
        if self.accelerator.sync_gradients:
            self._log(self._sums)
        return total

    @torch.no_grad()
    def prediction_step(self, model: Any, inputs: dict[str, Any], *_: Any, **__: Any) -> tuple[None, None, None]:
        """Add one held-out batch to the sums."""
        examples = self.own_rows(inputs["examples"])
        self.begin_held_out(model, examples, inputs["examples"])
        for piece, counts in self.passes(model, self._pieces(examples), inputs["examples"]):
            with self.accelerator.autocast():
                loss, found = self.summed_loss(model, piece)
            if counts:
                self._held_out.add(found | {"loss": (loss, self.units(piece))})
        return None, None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """transformers' loop, its metrics being sums over all held-out rows by their number."""
        self._held_out = Sums()
        output = super().evaluation_loop(  # type: ignore[misc]
            *args, metric_key_prefix=metric_key_prefix, **kwargs
        )
        found = self.of_rows(self._over_processes(self._held_out).means())
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        self._metrics["eval"]["num_tokens"] = [self._total_train_tokens]
        return output

    def own_rows(self, examples: list[Example]) -> list[Example]:
        """Those of a batch that no other batch has: the last ones of several processes are filled up with the first
        rows (accelerate's `even_batches`), which would be counted twice."""
        loader = self.accelerator.gradient_state
        if not loader.end_of_dataloader or loader.remainder <= 0:
            return examples
        before = self.accelerator.process_index * self.args.per_device_eval_batch_size
        return examples[: max(0, loader.remainder - before)]

    def of_rows(self, means: dict[str, float]) -> dict[str, float]:
        """The metrics from the means over rows."""
        return means

    def passes(
        self, model: Any, pieces: list[list[Example]], examples: list[Example]
    ) -> Iterator[tuple[list[Example], bool]]:
        """`pieces`, each with whether it counts: where weights are split all processes make as many passes, the last
        ones of some with the cheapest of `examples`."""
        return in_step(model, pieces, [min(examples, key=self.cost)])

    def _pieces(self, examples: list[Example], cost: Callable[[Example], int] | None = None) -> list[list[Example]]:
        rows = parts([(cost or self.cost)(example) for example in examples], self._tokens_per_row)
        return [[examples[i] for i in row] for row in rows]

    def _over_processes(self, sums: Sums) -> Sums:
        """Added up. A process without rows of its own knows no metric's name."""
        if self.accelerator.num_processes == 1:
            return sums
        together = Sums()
        for totals, counts in gather_object([(sums.totals, sums.counts)]):
            together.add({name: (total, counts[name]) for name, total in totals.items()})
        return together

    def _log(self, sums: Sums) -> None:
        for name, value in self.of_rows(self._over_processes(sums).means()).items():
            self._metrics["train"][name].append(value)
        self._metrics["train"]["num_tokens"] = [self._total_train_tokens]

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # token ids already

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # a stage with a reference has its values when it asks for them

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # transformers' guess goes by padded tensors


def pair_cost(example: Example) -> int:
    """Tokens that a pair takes in a packed row."""
    return len(example["prompt_ids"]) + len(example["chosen_ids"]) + len(example["rejected_ids"])


class PairSteps(Steps):
    """On pairs: an example has "prompt_ids", "chosen_ids" and "rejected_ids"."""

    def cost(self, example: Example) -> int:
        return pair_cost(example)

    def padded_tokens(self, example: Example) -> int:
        return self.cost(example) + len(example["prompt_ids"])


def pair_metrics(
    found: TokenLogps, rows: Rows, chosen: Tensor, rejected: Tensor, rounding: Tensor | float = 0.0
) -> Found:
    """Of a policy on `pair_rows`; `chosen` and `rejected` [n] are the rewards that its loss implies, and margins of at
    most `rounding` are ties."""
    logps, pairs = found.logps.sum(1), len(chosen)
    return {
        "entropy": (found.entropy.sum(), rows.mask.sum().item()),
        "mean_token_accuracy": (found.top[0::2].sum(), rows.mask[0::2].sum().item()),
        "rewards/chosen": (chosen.sum(), pairs),
        "rewards/rejected": (rejected.sum(), pairs),
        "rewards/margins": ((chosen - rejected).sum(), pairs),
        "rewards/accuracies": (right(chosen - rejected, rounding).sum(), pairs),
        "logps/chosen": (logps[0::2].sum(), pairs),
        "logps/rejected": (logps[1::2].sum(), pairs),
    }


def pair_rows(examples: list[Example], device: torch.device) -> Rows:
    """Pairs as rows: chosen, rejected, chosen, rejected, …, so that the two share their prompt."""
    prompts = [example["prompt_ids"] for example in examples for _ in range(2)]
    completions = [example[side] for example in examples for side in ("chosen_ids", "rejected_ids")]
    return pad_rows(prompts, completions, device=device)

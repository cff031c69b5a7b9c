"""Steps of DPO and KTO: the losses of prefcli/losses, on packed rows or, where a model takes no others, padded ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import RandomSampler
from trl import DPOTrainer, KTOTrainer

from prefcli.config.dpo import DPOConfig
from prefcli.config.kto import KTOConfig
from prefcli.figures.pairs import right
from prefcli.figures.sums import Sums
from prefcli.losses.binary import kto, reference_point, shifted
from prefcli.losses.pairs import PAIR_LOSSES, Terms
from prefcli.models.generation import evaluation_mode
from prefcli.models.logps import token_logps
from prefcli.models.rows import pad_rows
from prefcli.stages.packed_trainer import Example, Found, PackedSteps, pair_cost, pair_rows
from prefcli.stages.reference import ReferenceLogps

ROUNDING = 1e-6  # of a log-probability: what float32 makes of sums in another order is a few times less


class PackedDPO(PackedSteps, DPOTrainer):
    """The loss that the options say, averaged over pairs. Without `references` log-ratios are log-probabilities.

    An example's "margin" is what other rewards say of the pair, and `share` the weight of its own label beside them.
    """

    def __init__(
        self, *args: Any, config: DPOConfig, references: list[ReferenceLogps], share: float = 1.0, **kwargs: Any
    ) -> None:
        self.references = references  # of the training rows, and of the held-out ones
        self._config, self._share = config, share
        super().__init__(*args, router_loss=config.router_loss, **kwargs)

    def cost(self, example: Example) -> int:
        return pair_cost(example)

    def padded_tokens(self, example: Example) -> int:
        return pair_cost(example) + len(example["prompt_ids"])

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
        margin = config.simpo_gamma or ratios.new_tensor([example.get("margin", 0.0) for example in examples])
        terms = Terms(ratios[0::2], ratios[1::2], self.beta, config.label_smoothing or 0.0, margin, self._share)
        losses = PAIR_LOSSES[config.loss](terms)
        if config.sft_weight:
            losses = losses - config.sft_weight * (logps / lengths)[0::2]
        losses = losses * ratios.new_tensor([example.get("weight", 1.0) for example in examples])
        chosen, rejected = self.beta * terms.chosen, self.beta * terms.rejected
        pairs, tokens = len(examples), rows.mask.sum().item()
        return losses.sum(), {
            "entropy": (found.entropy.sum(), tokens),
            "mean_token_accuracy": (found.top[0::2].sum(), rows.mask[0::2].sum().item()),
            "rewards/chosen": (chosen.sum(), pairs),
            "rewards/rejected": (rejected.sum(), pairs),
            "rewards/margins": ((chosen - rejected).sum(), pairs),
            "rewards/accuracies": (right(chosen - rejected, rounding[0::2] + rounding[1::2]).sum(), pairs),
            "logps/chosen": (logps[0::2].sum(), pairs),
            "logps/rejected": (logps[1::2].sum(), pairs),
            **more,
        }

    def own_state(self) -> dict[str, Any]:
        return super().own_state() | {"references": [reference.logps for reference in self.references]}

    def mark(self) -> None:
        for reference in self.references:
            reference.newest.clear()

    def drop_step(self) -> None:
        for reference in self.references:
            reference.drop_newest()

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # `references` has them, as they are asked for


class PackedKTO(PackedSteps, KTOTrainer):
    """KTO's loss, averaged over answers; z₀ is that of the whole optimizer step, over its parts and all processes, and
    of held-out rows that of all of them.

    A held-out example may bring the answer that its prompt is mismatched with ("other_ids"), so that this is the same
    however the rows come in batches.
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
        others = [ids for part, last in zip(parts, before) for ids in (last, *_columns(part, "completion_ids")[0][:-1])]
        for example, other in zip(examples, others, strict=True):
            example["other_ids"] = other
        self._kl = self._point(self._mismatched(model, examples))

    def _before(self, last: list[list[int]]) -> list[list[int]]:
        """The answer before each of this process's parts, whose last ones are given: as one process has the rows, where
        all processes' first parts come first, then the second ones."""
        every = gather_object([last]) if self.accelerator.num_processes > 1 else [last]
        in_order = [lasts[part] for part in range(len(last)) for lasts in every]
        own = range(self.accelerator.process_index, len(in_order), len(every))
        return [in_order[place - 1] for place in own]

    def begin_held_out(self, model: Any, examples: list[Example]) -> None:
        """The reference's figures of a batch; z₀ is known (`evaluation_loop`)."""
        assert self.at_work is not None
        for piece in self._pieces(examples):
            rows = pad_rows(*_columns(piece, "prompt_ids", "completion_ids"), device=self.accelerator.device)
            with self.at_work(), torch.no_grad():
                _note(piece, token_logps(self.reference, rows).logps.sum(1))

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """z₀ of all held-out rows first, for their losses depend on it."""
        found = Sums()
        for batch in dataloader:
            if examples := self.own_rows(batch["examples"]):
                others = shifted([example["completion_ids"] for example in examples])
                for example, other in zip(examples, others):
                    example.setdefault("other_ids", other)
                found.add(self._mismatched(self.model, examples))
        self._kl = self._point({"ratio": (found.totals.get("ratio", 0.0), found.counts.get("ratio", 0.0))})
        return super().evaluation_loop(dataloader, *args, **kwargs)  # the next step takes its own

    @torch.no_grad()
    def _mismatched(self, model: Any, examples: list[Example]) -> Found:
        """Σ r of each prompt with another's answer, and of how many; the examples get the reference's figures of their
        own answers on the way, which share their prompt's pass."""
        assert self.at_work is not None
        device, ratios = self.accelerator.device, []
        for piece in self._pieces(examples, lambda example: self.cost(example) + len(example["other_ids"])):
            both = pad_rows(
                [example["prompt_ids"] for example in piece for _ in range(2)],
                [example[name] for example in piece for name in ("completion_ids", "other_ids")],
                device=device,
            )
            with self.at_work():
                reference = token_logps(self.reference, both).logps.sum(1)
            with evaluation_mode(model), self.accelerator.autocast():
                mismatched = both.select(torch.arange(1, 2 * len(piece), 2, device=device))
                ratios.append(token_logps(model, mismatched).logps.sum(1) - reference[1::2])
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

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = [*self.train_dataset.column_names, "other_ids"]

    def _get_train_sampler(self, train_dataset: Any = None) -> RandomSampler:
        return RandomSampler(self.train_dataset)  # TRL needs a fixed order for z₀, which is worked out here

    def _precompute_ref_logps(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def _columns(examples: list[Example], *names: str) -> list[list[Any]]:
    return [[example[name] for example in examples] for name in names]


def _note(examples: list[Example], logps: Tensor) -> None:
    """What the reference gives each example's own answer."""
    for example, value in zip(examples, logps.tolist()):
        example["reference_logps"] = value

"""Checkpointing for the TRL trainers in the store's own format (safetensors and JSON).

transformers keeps the loop: where in which epoch to resume, and skipping the rows before. A checkpoint is whole or
not there (store.Draft.save), holds no pickle, and has what transformers leaves out: the watchers, the tokens,
every process's random state.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers.trainer_callback import TrainerState

from prefcli import stopping
from prefcli.models import sharding, zero3
from prefcli.models.sharding import at_rest, over_all, parts_of_state, put
from prefcli.progress import is_main_process, under_deepspeed
from prefcli.stages.saving import save_step
from prefcli.stages.session import Session
from prefcli.stages.state import random_state, set_random_state, write_state
from prefcli.stopping import Phase
from prefcli.watch.watchers import Watchers

POSITION = "trainer_state.json"  # the name under which transformers looks for it


@dataclass(frozen=True)
class Ended:
    """The values that a step changes before its optimizer step, as the step before has left them."""

    step: int
    tokens: int
    random: dict[str, Any]
    owes: bool  # its held-out rows are not measured yet
    saved: bool


class Resuming:
    """Mixed in before a TRL trainer. These three are set before it trains; without a run nothing is saved."""

    run: Session = None  # type: ignore[assignment]
    watchers: Watchers
    saves_merged: bool  # as in policy.Opened
    # Of transformers and TRL
    model: Any
    processing_class: Any
    optimizer: Any
    deepspeed: Any  # its engine, once there is one
    lr_scheduler: Any
    accelerator: Any
    state: TrainerState
    _total_train_tokens: int

    prepared = (0.0, 0.0)  # seconds that a step took before it began, and of these to gather weights
    _ended: Ended | None = None
    _due = _stops = False  # of the step that ends: whether its state is saved for its own sake, and to leave

    def own_state(self) -> dict[str, Any]:
        """The state of each process."""
        return {"random": random_state()}

    def mark(self) -> None:
        """Called when a step has ended: `drop_step` goes back to here."""

    def drop_step(self) -> None:
        """Forget what `own_state` has of the step that is dropped. Its random state is in `Ended`."""

    @property
    def alone(self) -> bool:
        """Whether a step may be dropped. DeepSpeed's changes weights within the backward pass."""
        return bool(self.accelerator.num_processes == 1) and not under_deepspeed()

    def decide(self, last: bool) -> bool:
        """At a step's end: whether to save its state. All processes say the same.

        The first one's clock counts, and a signal to any.
        """
        said = gather_object([(self.run.save_is_due(self.state.global_step), stopping.asked)])
        asked = next((signal for _, signal in said if signal is not None), None)
        stopping.asked = stopping.asked or asked  # one that came since then is for the next step
        self._due = self.run.inputs.config.keep_state if last else said[0][0]
        self._stops = asked is not None
        return self._due or self._stops

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        """A step's end, and a pass's. Raises KeyboardInterrupt where a signal was waiting for it."""
        super()._maybe_log_save_evaluate(*args, **kwargs)  # type: ignore[misc]
        if (
            self.run is None
            or self.run.alarm is not None
            or (self._ended is not None and self._ended.step == self.state.global_step)
        ):
            return
        self._step_ended()
        if self._stops or (self.alone and stopping.asked is not None):
            raise stopping.leave()

    def _step_ended(self, owes: bool = False) -> None:
        """From here on a step may be dropped; in several processes at the price of what came since the last state."""
        self.mark()
        saved = stopping.kept == self.state.global_step
        self._ended = Ended(self.state.global_step, self._total_train_tokens, random_state(), owes, saved)
        self.run.ended = self.state.global_step
        self.run.enter(Phase.WHOLE if self.alone else Phase.HALF)

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """In passing. It may be broken off, and is made up for: its step has ended. What it draws (a DataLoader's seed)
        changes no later step."""
        self._step_ended(owes=True)
        assert self._ended is not None
        before = self._ended.random
        found = super()._evaluate(*args, **kwargs)  # type: ignore[misc]
        set_random_state(before)
        self.run.enter(Phase.BUSY)
        self._ended = None
        return found

    def keep_ended(self) -> None:
        """After a signal: write the state of the last step that ended, where that is not done and can be."""
        ended = self._ended
        if ended is None or ended.saved or self.run.alarm is not None or stopping.phase is not Phase.WHOLE:
            return
        with stopping.busy():
            self.drop_step()
            self._due = False
            self._write([self.own_state() | {"random": ended.random}], ended.tokens, ended.owes)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        return over_all(super()._get_grad_norm(*args, **kwargs))  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.run.alarm is not None:  # the run ends here, and is not resumed
            return
        self._write(gather_object([self.own_state()]), self._total_train_tokens, False)

    def _write(self, each: list[dict[str, Any]], tokens: int, owes: bool) -> None:
        """All processes gather where weights are split; the first one writes."""
        scaler = getattr(self.accelerator, "scaler", None)
        weights: dict[str, Any] = trained(at_rest(self.model))
        split = self.deepspeed is not None
        state = {
            "weights": {name: zero3.Held(p) for name, p in weights.items()} if split else weights,
            "optimizer": zero3.state_of(self.optimizer.optimizer, weights) if split else self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "tokens": tokens,
            "watchers": json.dumps(self.watchers.state_dict()),
            "train_seconds": self.run.seconds,
            "each": each,
            "owes": owes,
        }
        keeps = self.run.inputs.config.keep_state and self._due
        model_weights = whole_weights(self) if keeps else None
        if not is_main_process():
            write_state(None, state)
            return
        with self.run.saving(self.state.global_step, due=self._due) as folder:
            write_state(folder, state)
            if keeps:
                save_step(self.model, folder / "model", self.saves_merged, self.processing_class, model_weights)
            self.state.log_history = []  # it is in metrics.jsonl, and would grow with every state
            self.state.save_to_json(str(folder / POSITION))

    def _prepare_for_training(self, max_steps: int, loader: Any, folder: str | None) -> Any:
        """DeepSpeed would be asked for a checkpoint of its own: it splits the weights of ours, and has the rest set."""
        if not under_deepspeed() or folder is None:
            return super()._prepare_for_training(max_steps, loader, folder)  # type: ignore[misc]
        self._load_from_checkpoint(folder)
        prepared = super()._prepare_for_training(max_steps, loader, None)  # type: ignore[misc]
        self._load_optimizer_and_scheduler(folder)
        return prepared

    @torch.no_grad()
    def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
        saved = self.run.saved
        for name, parameter in trained(at_rest(self.model)).items():
            put(parameter, saved["weights"][name])
        self._total_train_tokens = saved["tokens"]
        self.watchers.load_state_dict(json.loads(saved["watchers"]))
        self.run.train_seconds = saved["train_seconds"]

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        if folder is not None:
            saved = self.run.saved
            if self.deepspeed is not None:
                zero3.set_state(self.optimizer.optimizer, trained(self.model), saved["weights"], saved["optimizer"])
            else:
                parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
                self.optimizer.load_state_dict(parts_of_state(saved["optimizer"], parameters))
            self.lr_scheduler.load_state_dict(self.run.saved["scheduler"])

    def _load_scaler(self, folder: str | None) -> None:
        if folder is not None and self.run.saved["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(self.run.saved["scaler"])

    def _load_rng_state(self, folder: str | None) -> None:
        """The part of a checkpoint that is read last."""
        if folder is not None:
            each = self.run.saved["each"]
            set_random_state(each[self.accelerator.process_index % len(each)]["random"])
            owes = self.run.saved.get("owes", False)
            del self.run.saved
            if owes:
                self._evaluate(None, None)
                self._step_ended()


def trained(model: Any) -> dict[str, torch.Tensor]:
    """The weights that an optimizer moves, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def whole_weights(trainer: Any) -> dict[str, Any] | None:
    """The trained model's weights, gathered from all processes where these have split them.

    All processes must call it. None where each has them whole.
    """
    if trainer.deepspeed is None:
        return sharding.whole_weights(trainer.model)
    gathered: dict[str, Any] | None = trainer.accelerator.get_state_dict(trainer.deepspeed)
    weights = gathered or {}  # under ZeRO-3 the first process alone has them
    tied = getattr(trainer.model, "all_tied_weights_keys", None) or {}  # gathered apart, they would be saved twice
    return {name: weight for name, weight in weights.items() if name not in tied}


def position(folder: Path) -> TrainerState:
    """The position of a saved run."""
    return TrainerState.load_from_json(str(folder / POSITION))

"""TRL's trainers on the store's states: what transformers saves and reads again, saved and read our way.

transformers keeps the loop: where in which epoch to go on, and the rows until there passed over. What is saved is whole
or not there (store.Draft.save), holds no pickle, and has what it leaves out: the watchers, the tokens, every process's
random state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers.trainer_callback import TrainerState

from prefcli.progress import is_main_process
from prefcli.stages.session import Session, save_step, sharded
from prefcli.stages.state import random_state, set_random_state, write_state
from prefcli.watch.watchers import Watchers

POSITION = "trainer_state.json"  # the name under which transformers looks for it


class Resuming:
    """Mixed in before a TRL trainer. These three are set before it trains."""

    run: Session
    watchers: Watchers
    saves_merged: bool  # as in policy.Opened
    # Of transformers and TRL
    model: Any
    processing_class: Any
    optimizer: Any
    lr_scheduler: Any
    accelerator: Any
    state: TrainerState
    _total_train_tokens: int

    def own_state(self) -> dict[str, Any]:
        """What each process has for itself."""
        return {"random": random_state()}

    def save_is_due(self) -> bool:
        """The first process's opinion: the clocks of several differ. Never where the weights are split over them."""
        if sharded():
            return False
        said = [self.run.save_is_due(self.state.global_step)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(said)
        return said[0]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.run.alarm is not None:  # the run ends here, and is not gone on with
            return
        each = gather_object([self.own_state()]) if self.accelerator.num_processes > 1 else [self.own_state()]
        if not is_main_process():
            return
        scaler = getattr(self.accelerator, "scaler", None)
        with self.run.saving(self.state.global_step) as folder:
            write_state(
                folder,
                {
                    "weights": trained(self.model),
                    "optimizer": self.optimizer.state_dict(),
                    "scheduler": self.lr_scheduler.state_dict(),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                    "tokens": self._total_train_tokens,
                    "watchers": json.dumps(self.watchers.state_dict()),
                    "train_seconds": self.run.seconds,
                    "each": each,
                },
            )
            if self.run.inputs.config.keep_state:
                save_step(self.model, folder / "model", self.saves_merged, self.processing_class)
            self.state.log_history = []  # it is in metrics.jsonl, and would grow with every state
            self.state.save_to_json(str(folder / POSITION))

    @torch.no_grad()
    def _load_from_checkpoint(self, folder: str, model: Any = None) -> None:
        saved = self.run.saved
        for name, parameter in trained(self.model).items():
            parameter.copy_(saved["weights"][name])
        self._total_train_tokens = saved["tokens"]
        self.watchers.load_state_dict(json.loads(saved["watchers"]))
        self.run.train_seconds = saved["train_seconds"]

    def _load_optimizer_and_scheduler(self, folder: str | None) -> None:
        if folder is not None:
            self.optimizer.load_state_dict(self.run.saved["optimizer"])
            self.lr_scheduler.load_state_dict(self.run.saved["scheduler"])

    def _load_scaler(self, folder: str | None) -> None:
        if folder is not None and self.run.saved["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(self.run.saved["scaler"])

    def _load_rng_state(self, folder: str | None) -> None:
        """The last that is read of a state."""
        if folder is not None:
            set_random_state(self.run.saved["each"][self.accelerator.process_index]["random"])
            del self.run.saved


def trained(model: Any) -> dict[str, torch.Tensor]:
    """The weights that an optimizer moves, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def position(folder: Path) -> TrainerState:
    """Where a saved run is."""
    return TrainerState.load_from_json(str(folder / POSITION))

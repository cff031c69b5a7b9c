"""Where a command that answers and scores holds its models: whole on a device, or split over the processes."""

from __future__ import annotations

import functools
import gc
import weakref
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import PreTrainedTokenizerBase

from prefcli.artifacts.parts import Work
from prefcli.artifacts.references import Reference
from prefcli.config.shared import Machine
from prefcli.config.training import asks_to_split
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.models.loading import load_policy
from prefcli.models.sharding import lockstep, shard, source_device
from prefcli.progress import Reporter
from prefcli.rewards.grammar import RewardSpec
from prefcli.rewards.sources import ModelReward, RewardSource, load_reward


class Placement:
    """A device, the number format of the models on it, and the processes that split them, if any do."""

    def __init__(self, device: torch.device, dtype: torch.dtype, world: int = 1) -> None:
        self.device, self.dtype, self._world = device, dtype, world
        self._held = 0
        self._models: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()

    def policy(self, reference: Reference, tokenizer_size: int) -> Any:
        """A language model. Raises as `load_policy`."""
        model = load_policy(
            reference, dtype=self.dtype, device=self._opens_on, trainable=False, tokenizer_size=tokenizer_size
        )
        self._split(model)
        return model

    def reward(self, spec: RewardSpec, tokenizer: PreTrainedTokenizerBase | None, reporter: Reporter) -> RewardSource:
        """Raises as `load_reward`."""
        source = load_reward(spec, tokenizer, dtype=self.dtype, device=self._opens_on, reporter=reporter)
        if isinstance(source, ModelReward):
            self._split(source.model)
        return source

    @functools.cached_property
    def _mesh(self) -> DeviceMesh | None:
        """Not before all processes have the plan: they wait for each other here."""
        if self._world == 1:
            return None
        PartialState(cpu=self.device.type == "cpu")
        return init_device_mesh(self.device.type, (self._world,))

    @property
    def _opens_on(self) -> torch.device:
        if self._mesh is None:
            return self.device
        gc.collect()  # a model that was split refers to itself: it would be in memory beside the next one
        return source_device()

    def _split(self, model: nn.Module) -> None:
        if self._mesh is not None:
            shard(model.requires_grad_(False), self._mesh, self.dtype, self.dtype, gathers=False)
            self._held += 1  # its number, the same in all processes
            self._models[self._held] = model


def placement_of(config: Machine, work: Work, reporter: Reporter, parameters: int = 0) -> Placement:
    """As --device, --dtype and --shard say; `parameters` of the model decide on --dtype auto.

    With --shard the processes make their parts in lockstep, since the layers of a model are gathered from all.
    """
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device, parameters)
    if not asks_to_split(config):
        return Placement(device, dtype)
    if work.share.world == 1:
        reporter.notice("--shard splits nothing in one process: torchrun --nproc-per-node N starts several")
        return Placement(device, dtype)
    place = Placement(device, dtype, work.share.world)
    work.pace = lambda: lockstep(place._models)
    work.hears = device.type == "cpu"
    return place

"""What DeepSpeed's ZeRO-3 has split, for a checkpoint: trained weights in float32, and the optimizer's moments.

Each process holds a piece of every parameter, flat and padded to the same size, and the same piece of its moments. A
gather needs all processes, in the same order. `zero` is DeepSpeed's optimizer, which has torch's inside.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Held:
    """A parameter's weights in float32, or one of its moments, to be gathered when they are written."""

    parameter: Tensor
    moment: str | None = None

    def full(self) -> Tensor:
        """All processes must call it: in each the whole tensor, on the device."""
        names = () if self.moment is None else (self.moment,)
        getter = "safe_get_full_optimizer_state" if names else "safe_get_full_fp32_param"
        found: Tensor = _deepspeed(getter)(self.parameter, *names)
        return found

    def set(self, tensor: Tensor) -> None:
        """This process's piece of a whole tensor. DeepSpeed's setters of whole ones read behind the end of a tensor
        that cannot be divided by the number of processes."""
        names = () if self.moment is None else (self.moment,)
        setter = "safe_set_local_optimizer_state" if names else "safe_set_local_fp32_param"
        size = _deepspeed("safe_get_local_fp32_param")(self.parameter).numel()
        _deepspeed(setter)(self.parameter, piece_of(tensor, size, dist.get_rank()), *names)


def _deepspeed(name: str) -> Any:
    return getattr(importlib.import_module("deepspeed.utils"), name)


def piece_of(tensor: Tensor, size: int, place: int) -> Tensor:
    """The `place`-th piece of `size` numbers, with zeros where the tensor has ended."""
    own = tensor.flatten()[place * size : (place + 1) * size]
    return torch.nn.functional.pad(own, (0, size - own.numel()))


def state_of(zero: Any, parameters: dict[str, Tensor]) -> dict[str, Any]:
    """The optimizer's state. What is not a moment, such as the number of steps, is the same for all parameters."""
    common = zero.optimizer.state.get(zero.fp32_partitioned_groups_flat[0], {})
    moments = [name for name, value in common.items() if isinstance(value, Tensor) and value.dim() == 1]
    return {
        "state": {name: {moment: Held(p, moment) for moment in moments} for name, p in parameters.items()},
        "common": {name: value for name, value in common.items() if name not in moments},
        "param_groups": [
            {name: value for name, value in group.items() if name != "params"} for group in zero.optimizer.param_groups
        ],
    }


def set_state(zero: Any, parameters: dict[str, Tensor], weights: dict[str, Tensor], saved: dict[str, Any]) -> None:
    """Set the weights in float32, and what `state_of` had."""
    for group, before in zip(zero.optimizer.param_groups, saved["param_groups"]):
        group.update(before)
    on_device = any(group.get("fused") or group.get("capturable") for group in zero.optimizer.param_groups)
    moments: set[str] = set().union(*saved["state"].values())
    for flat in zero.fp32_partitioned_groups_flat:
        device = flat.device if on_device else torch.device("cpu")
        common = {
            name: value.to(device, copy=True) if isinstance(value, Tensor) else value
            for name, value in saved["common"].items()
        }
        if moments or common:  # else no step was taken
            zero.optimizer.state[flat] = common | {moment: torch.zeros_like(flat) for moment in moments}
    for name, parameter in parameters.items():
        Held(parameter).set(weights[name])
        for moment, value in saved["state"][name].items():
            Held(parameter, moment).set(value)

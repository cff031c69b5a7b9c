"""The optimizer of policy and value model together, and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module

import torch
from torch import nn
from transformers import Adafactor, get_scheduler

from prefcli.config.ppo import PPOConfig
from prefcli.models import bitsandbytes
from prefcli.models.sharding import over_all

# "The N+ Implementation Details of RLHF with PPO" (arXiv 2403.17031): with PyTorch's default of 1e-8 the first
# updates, where gradients are small, are far larger.
ADAM_EPSILON = 1e-5


def trained_parameters(models: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Parameters with gradients, each once, though models may share some."""
    return list(dict.fromkeys(p for model in models for p in model.parameters() if p.requires_grad))


def make_optimizer(parameters: list[nn.Parameter], lr: float, config: PPOConfig) -> torch.optim.Optimizer:
    """One optimizer over all `parameters`; weight decay spares biases and norms (vectors), as elsewhere."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optim == "adafactor":
        return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False)
    if config.optim == "adamw-8bit":
        bitsandbytes.show()
        found: torch.optim.Optimizer = import_module(bitsandbytes.NAME).optim.AdamW8bit(groups, lr=lr, eps=ADAM_EPSILON)
        return found
    if config.optim == "sgd":
        return torch.optim.SGD(groups, lr=lr)
    # Fused where there is a kernel: PyTorch's default on a GPU makes a copy of all second moments at each step.
    fused = all(p.device.type == "cuda" for p in parameters) or None
    return torch.optim.AdamW(groups, lr=lr, eps=ADAM_EPSILON, fused=fused)


def clip_each(groups: Mapping[str, Sequence[nn.Parameter]], limit: float) -> dict[str, float]:
    """Scale the gradients of each group to the norm `limit` at most (0: not at all); the norms before, by group.

    A group of its own for each model: under one norm a large value loss would shrink the policy's step.
    """
    most = limit or math.inf
    norms = {name: nn.utils.clip_grad_norm_(list(parameters), most) for name, parameters in groups.items()}
    return {name: float(over_all(norm)) for name, norm in norms.items()}


def make_scheduler(
    optimizer: torch.optim.Optimizer, total_steps: int, config: PPOConfig
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up over the share `warmup` of the optimizer steps, then `lr_scheduler`'s shape down to the last one."""
    name = "constant_with_warmup" if config.lr_scheduler == "constant" else config.lr_scheduler
    warmup = math.ceil(config.warmup * total_steps)
    return get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)

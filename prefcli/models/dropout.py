"""Training without dropout: with it no two forward passes give the same values, and a first loss is not exact."""

from __future__ import annotations

import re

from torch import nn

from prefcli.models.logps import unwrap

NOISE = re.compile("drop|jitter")  # the names of what models hold their rates by


def train_without_dropout(model: nn.Module) -> None:
    """Training mode in which only an adapter's own dropout (--lora-dropout) is at work.

    All modules are in evaluation mode, but the model itself, which tells trainers, and those that compute their
    activations again: transformers looks whether they are training. The rates of dropout of these are set to 0, also
    those that a forward hands to a function.
    """
    model.eval()
    model.training = unwrap(model).training = True
    for name, module in model.named_modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True
            for rate, value in vars(module).items():
                if NOISE.search(rate) and isinstance(value, float):
                    setattr(module, rate, 0.0)
        if ".lora_dropout." in name or hasattr(module, "lora_dropout"):  # DoRA asks the layer
            module.training = True

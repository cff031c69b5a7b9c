"""Options of `prefcli sft`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prefcli.config.base import Opt
from prefcli.config.training import DataConfig, OptimizerConfig, OutputConfig, PolicyConfig

# 2e-5: what TRL's SFTConfig takes. Small models: measured on tiny, see docs/tiny.md.
LR, SMALL_LR = 2e-5, 1e-3


@dataclass(frozen=True)
class SFTConfig(OutputConfig, OptimizerConfig, PolicyConfig, DataConfig):
    """Supervised fine-tuning on demonstrations."""

    train_on_prompt: Annotated[bool, Opt("Compute the loss on the prompt's tokens too.")] = False

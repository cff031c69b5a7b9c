"""Options of `prefcli train-rm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from prefcli.config.training import DATA, DataConfig, Label, ModelConfig, OptimizerConfig, OutputConfig

# 1e-5: the rate of TRL's reward examples lies between 1e-5 and 1e-4. Small models: measured on tiny.
LR, SMALL_LR = 1e-5, 5e-4


@dataclass(frozen=True)
class RewardConfig(OutputConfig, OptimizerConfig, ModelConfig, DataConfig):
    """A reward model learnt from pairs (Bradley–Terry)."""

    label: Label = None
    eval_share: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.5,
            help="Share of the pairs held out for the accuracy, without --eval-data.",
            rich_help_panel=DATA,
        ),
    ] = 0.05

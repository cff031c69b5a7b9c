"""Options of `prefcli train-rm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from prefcli.config.training import DATA, TRAINING, DataConfig, Label, ModelConfig, OptimizerConfig, OutputConfig

# 1e-5: the rate of TRL's reward examples lies between 1e-5 and 1e-4. Small models: measured on tiny.
LR, SMALL_LR = 1e-5, 5e-4


@dataclass(frozen=True)
class RewardConfig(OutputConfig, OptimizerConfig, ModelConfig, DataConfig):
    """A reward model learnt from pairs (Bradley–Terry)."""

    label: Label = None
    margin_column: Annotated[
        str | None,
        typer.Option(
            help="Column with a pair's margin m: the loss is −log σ(score of chosen − score of rejected − m). "
            "Default: margin, where the rows have it.",
            metavar="NAME",
            rich_help_panel=DATA,
        ),
    ] = None
    center_rewards: Annotated[
        float,
        typer.Option(
            min=0,
            help="Add this times (score of chosen + score of rejected)², which keeps scores near 0; 0.01 is usual.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.0
    eval_share: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.5,
            help="Share of the pairs held out for the accuracy, without --eval-data.",
            rich_help_panel=DATA,
        ),
    ] = 0.05

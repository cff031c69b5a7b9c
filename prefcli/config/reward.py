"""Options of `prefcli train-rm`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prefcli.config.base import Opt
from prefcli.config.shared import Label, Ranking
from prefcli.config.training import DataConfig, ModelConfig, OptimizerConfig, OutputConfig

# 1e-5: the rate of TRL's reward examples lies between 1e-5 and 1e-4. Small models: measured on tiny.
LR, SMALL_LR = 1e-5, 5e-4


@dataclass(frozen=True)
class RewardConfig(Ranking, OutputConfig, OptimizerConfig, ModelConfig, DataConfig):
    """A reward model learnt from pairs (Bradley–Terry)."""

    label: Label = None
    margin_column: Annotated[
        str | None,
        Opt(
            "Column with the margin m of each pair: the loss is −log σ(score of chosen − score of rejected − m). "
            "Default: margin, if the rows have it.",
            metavar="NAME",
        ),
    ] = None
    center_rewards: Annotated[
        float,
        Opt("Weight of (score of chosen + score of rejected)² in the loss: keeps scores near 0; 0.01 is usual.", min=0),
    ] = 0.0
    eval_share: Annotated[
        float,
        Opt("Fraction of the pairs held out to measure accuracy, without --eval-data.", min=0.0, max=0.5),
    ] = 0.05

"""Options that the commands on preferences without a reward model share (dpo, kto)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from prefcli.config.base import INCIDENTAL
from prefcli.config.training import DATA, MODEL, DataConfig, OptimizerConfig, OutputConfig, PolicyConfig

LOSS = "Loss"


@dataclass(frozen=True)
class WeightConfig:
    """Rows that count more or less than others."""

    weight_column: Annotated[
        str | None,
        typer.Option(
            help="Column with a weight of each row's loss, taken over the mean of the column: a row of 2 counts twice "
            "one of 1, one of 0 not at all, and doubling all changes nothing.",
            metavar="NAME",
            rich_help_panel=DATA,
        ),
    ] = None


@dataclass(frozen=True)
class PreferenceConfig(WeightConfig, OutputConfig, OptimizerConfig, PolicyConfig, DataConfig):
    """A policy trained against its frozen reference."""

    reference: Annotated[
        str | None,
        typer.Option(help="Frozen reference model. Default: the starting model.", rich_help_panel=MODEL),
        INCIDENTAL,  # its digest is in the key
    ] = None

"""Options that the commands on preferences without a reward model share (dpo, orpo, kto)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prefcli.config.base import INCIDENTAL, Opt
from prefcli.config.training import DataConfig, OptimizerConfig, OutputConfig, PolicyConfig


@dataclass(frozen=True)
class WeightConfig:
    """Rows that count more or less than others."""

    weight_column: Annotated[
        str | None,
        Opt(
            "Column with the weight of each row's loss, relative to the column's mean: a row of 2 counts twice as much "
            "as a row of 1, a row of 0 not at all; doubling all weights changes nothing.",
            metavar="NAME",
        ),
    ] = None


@dataclass(frozen=True)
class PreferenceConfig(WeightConfig, OutputConfig, OptimizerConfig, PolicyConfig, DataConfig):
    """A policy trained against its frozen reference."""

    reference: Annotated[
        str | None,
        Opt("Frozen reference model. Default: the starting model.", metavar="REF"),
        INCIDENTAL,  # its digest is in the key
    ] = None

"""Options of `prefcli dpo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from prefcli.config.base import INCIDENTAL
from prefcli.config.training import DataConfig, ModelConfig, OptimizerConfig, OutputConfig

# 1e-6: TRL's DPOConfig, the DPO paper's order of magnitude. Small models: measured on tiny.
LR, SMALL_LR = 1e-6, 1e-4


@dataclass(frozen=True)
class DPOConfig(OutputConfig, OptimizerConfig, ModelConfig, DataConfig):
    """Direct preference optimization on pairs."""

    beta: Annotated[
        float,
        typer.Option(
            min=1e-6, help="Strength of the tie to the reference: larger stays closer.", rich_help_panel="DPO"
        ),
    ] = 0.1
    reference: Annotated[
        str | None,
        typer.Option(help="Frozen reference model. Default: the starting model.", rich_help_panel="DPO"),
        INCIDENTAL,  # its digest is in the key
    ] = None

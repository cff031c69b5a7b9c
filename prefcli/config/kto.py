"""Options of `prefcli kto`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from prefcli.config.preference import LOSS, PreferenceConfig

# 1e-6: TRL's KTOConfig; the paper's own runs took 5e-7 to 5e-6 (its section 4.3). Small models: measured on tiny.
LR, SMALL_LR = 1e-6, 1e-4


@dataclass(frozen=True)
class KTOConfig(PreferenceConfig):
    """Learning from answers labelled good or bad (KTO)."""

    beta: Annotated[
        float,
        typer.Option(min=1e-6, help="Strength of the tie to the reference: larger stays closer.", rich_help_panel=LOSS),
    ] = 0.1
    desirable_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the loss of desirable answers.", rich_help_panel=LOSS)
    ] = 1.0
    undesirable_weight: Annotated[
        float, typer.Option(min=0, help="Weight of the loss of undesirable answers.", rich_help_panel=LOSS)
    ] = 1.0

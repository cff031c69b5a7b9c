"""Options of `prefcli kto`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prefcli.config.base import Opt
from prefcli.config.preference import PreferenceConfig

# 1e-6: TRL's KTOConfig; the paper's own runs took 5e-7 to 5e-6 (its section 4.3). Small models: measured on tiny.
LR, SMALL_LR = 1e-6, 1e-4


@dataclass(frozen=True)
class KTOConfig(PreferenceConfig):
    """Learning from answers labelled good or bad (KTO)."""

    beta: Annotated[
        float,
        Opt("Strength of the implicit KL constraint: larger keeps the policy closer to the reference.", min=1e-6),
    ] = 0.1
    desirable_weight: Annotated[float, Opt("Weight of the loss on good answers.", min=0)] = 1.0
    undesirable_weight: Annotated[float, Opt("Weight of the loss on bad answers.", min=0)] = 1.0

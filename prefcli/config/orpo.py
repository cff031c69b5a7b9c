"""Options of `prefcli orpo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prefcli.config.base import Opt
from prefcli.config.preference import WeightConfig
from prefcli.config.shared import Ranking
from prefcli.config.training import DataConfig, OptimizerConfig, OutputConfig, PolicyConfig

# 8e-6: TRL's example script of ORPO. Small models: measured on tiny (docs/dpo.md).
LR, SMALL_LR = 8e-6, 3e-4


@dataclass(frozen=True)
class ORPOConfig(Ranking, WeightConfig, OutputConfig, OptimizerConfig, PolicyConfig, DataConfig):
    """Fine-tuning on the chosen answers and a preference for them in one loss, without a reference (ORPO)."""

    beta: Annotated[
        float,
        Opt("Weight of the odds-ratio loss added to the SFT loss (λ in the paper); 0 is SFT on the chosen answers.",
            min=0),
    ] = 0.1  # fmt: skip

    @property
    def in_words(self) -> str:
        """The loss in force, for the plan."""
        return f"SFT on the chosen answers plus {self.beta:g} times the odds-ratio loss (ORPO), no reference"

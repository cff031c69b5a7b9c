"""`prefcli train-rm`."""

from __future__ import annotations

from prefcli.cli.train import run_stage
from prefcli.config.reward import RewardConfig
from prefcli.stages.table import STAGES


def run(config: RewardConfig) -> None:
    stage = STAGES["rm"]
    run_stage(stage.name, stage.module, config, purpose=stage.purpose, rates=stage.rates)

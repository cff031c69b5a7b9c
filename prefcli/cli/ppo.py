"""`prefcli ppo`."""

from __future__ import annotations

from prefcli.cli.train import run_stage
from prefcli.config.ppo import PPOConfig
from prefcli.stages.table import STAGES


def run(config: PPOConfig) -> None:
    stage = STAGES["ppo"]
    run_stage(stage.name, stage.module, config, purpose=stage.purpose, rates=stage.rates)

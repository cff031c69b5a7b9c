"""`prefcli dpo`."""

from __future__ import annotations

from prefcli.cli.train import run_stage
from prefcli.config.dpo import DPOConfig
from prefcli.stages.table import STAGES


def run(config: DPOConfig) -> None:
    stage = STAGES["dpo"]
    run_stage(stage.name, stage.module, config, purpose=stage.purpose, rates=stage.rates)

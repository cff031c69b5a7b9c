"""`prefcli kto`."""

from __future__ import annotations

from prefcli.cli.train import run_stage
from prefcli.config.kto import KTOConfig
from prefcli.stages.table import STAGES


def run(config: KTOConfig) -> None:
    stage = STAGES["kto"]
    run_stage(stage.name, stage.module, config, purpose=stage.purpose, rates=stage.rates)

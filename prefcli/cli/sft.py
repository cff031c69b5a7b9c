"""`prefcli sft`."""

from __future__ import annotations

from prefcli.cli.train import run_stage
from prefcli.config.sft import SFTConfig
from prefcli.stages.table import STAGES


def run(config: SFTConfig) -> None:
    stage = STAGES["sft"]
    run_stage(stage.name, stage.module, config, purpose=stage.purpose, rates=stage.rates)

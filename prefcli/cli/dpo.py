"""`prefcli dpo`."""

from __future__ import annotations

from prefcli.cli.train import run_stage
from prefcli.config.dpo import LR, SMALL_LR, DPOConfig


def run(config: DPOConfig) -> None:
    run_stage("dpo", "prefcli.stages.dpo", config, purpose="pairs", rates=(LR, SMALL_LR))

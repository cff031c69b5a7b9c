"""`prefcli train-rm`."""

from __future__ import annotations

from prefcli.cli.train import run_stage
from prefcli.config.reward import LR, SMALL_LR, RewardConfig


def run(config: RewardConfig) -> None:
    run_stage("rm", "prefcli.stages.reward", config, purpose="pairs", rates=(LR, SMALL_LR))

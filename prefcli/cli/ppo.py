"""`prefcli ppo`."""

from __future__ import annotations

from prefcli.cli.train import run_stage
from prefcli.config.ppo import LR, SMALL_LR, PPOConfig


def run(config: PPOConfig) -> None:
    run_stage("ppo", "prefcli.stages.ppo", config, purpose="prompts", rates=(LR, SMALL_LR))

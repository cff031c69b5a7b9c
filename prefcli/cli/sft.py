"""`prefcli sft`."""

from __future__ import annotations

from prefcli.cli.train import run_stage
from prefcli.config.sft import LR, SMALL_LR, SFTConfig


def run(config: SFTConfig) -> None:
    run_stage("sft", "prefcli.stages.sft", config, purpose="demos", rates=(LR, SMALL_LR))

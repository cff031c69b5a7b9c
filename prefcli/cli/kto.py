"""`prefcli kto`."""

from __future__ import annotations

from prefcli.cli.train import run_stage
from prefcli.config.kto import LR, SMALL_LR, KTOConfig


def run(config: KTOConfig) -> None:
    run_stage("kto", "prefcli.stages.kto", config, purpose="labelled", rates=(LR, SMALL_LR))

"""The training stages in one table: command, options, module and what each reads. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prefcli.artifacts.commands import COMMANDS
from prefcli.config import dpo, kto, ppo, reward, sft
from prefcli.data.formats import Purpose


@dataclass(frozen=True)
class Stage:
    """One training stage. `rates`: the learning rates of a model of ordinary size and of a small one, without --lr."""

    name: str  # in manifests, and the default name of its artifacts
    command: str
    module: str  # has `train(inputs, reporter)`
    config: Any
    purpose: Purpose
    rates: tuple[float, float]


def _stage(name: str, module: str, purpose: Purpose, rates: tuple[float, float]) -> Stage:
    command, config = COMMANDS[name]
    return Stage(name, command, f"prefcli.stages.{module}", config, purpose, rates)


STAGES = {
    stage.name: stage
    for stage in (
        _stage("sft", "sft", "demos", (sft.LR, sft.SMALL_LR)),
        _stage("rm", "reward", "pairs", (reward.LR, reward.SMALL_LR)),
        _stage("ppo", "ppo", "prompts", (ppo.LR, ppo.SMALL_LR)),
        _stage("dpo", "dpo", "pairs", (dpo.LR, dpo.SMALL_LR)),
        _stage("kto", "kto", "labelled", (kto.LR, kto.SMALL_LR)),
    )
}
BY_COMMAND = {stage.command: stage for stage in STAGES.values()}

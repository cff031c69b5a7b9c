"""The training stages in one table: command, options, module and what each reads. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


STAGES = {
    stage.name: stage
    for stage in (
        Stage("sft", "sft", "prefcli.stages.sft", sft.SFTConfig, "demos", (sft.LR, sft.SMALL_LR)),
        Stage("rm", "train-rm", "prefcli.stages.reward", reward.RewardConfig, "pairs", (reward.LR, reward.SMALL_LR)),
        Stage("ppo", "ppo", "prefcli.stages.ppo", ppo.PPOConfig, "prompts", (ppo.LR, ppo.SMALL_LR)),
        Stage("dpo", "dpo", "prefcli.stages.dpo", dpo.DPOConfig, "pairs", (dpo.LR, dpo.SMALL_LR)),
        Stage("kto", "kto", "prefcli.stages.kto", kto.KTOConfig, "labelled", (kto.LR, kto.SMALL_LR)),
    )
}
BY_COMMAND = {stage.command: stage for stage in STAGES.values()}

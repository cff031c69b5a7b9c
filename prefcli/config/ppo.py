"""Options of `prefcli ppo`, under the names and with the defaults of TRL's last PPOConfig where those exist."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import typer

from prefcli.config.base import INCIDENTAL
from prefcli.config.training import (
    DATA,
    MODEL,
    TRAINING,
    Label,
    Map,
    OptimizerConfig,
    OutputConfig,
    PolicyConfig,
    SkipBad,
    Split,
)
from prefcli.errors import UsageError

PPO = "PPO"
Advantage = Literal["gae", "rloo", "grpo"]
# 3e-6: "The N+ Implementation Details of RLHF with PPO" (arXiv 2403.17031). Small models: measured on tiny.
LR, SMALL_LR = 3e-6, 1e-4


@dataclass(frozen=True)
class PPOConfig(OutputConfig, OptimizerConfig, PolicyConfig):
    """Reinforcement learning against a reward source (PPO)."""

    prompts: Annotated[
        list[str],
        typer.Option(
            help="Rows with a prompt; answers and labels in them are not used. Repeat to mix files.",
            metavar="FILE",
            rich_help_panel=DATA,
        ),
        INCIDENTAL,  # the digest is in the key
    ] = field(default_factory=list)
    reward: Annotated[
        list[str],
        typer.Option(
            help="Where the score comes from: a reward-model artifact, a sequence-classification model, "
            "python:FILE:FUNCTION or a service's http://… URL; NAME=… names it. Several are added up.",
            metavar="[NAME=]REF",
            rich_help_panel=MODEL,
        ),
        INCIDENTAL,  # the digest is in the key
    ] = field(default_factory=list)
    label: Label = None
    reward_weight: Annotated[
        list[str],
        typer.Option(
            help="What a reward source counts in the sum; repeat for more. Default: 1 each.",
            metavar="NAME=NUMBER",
            rich_help_panel=MODEL,
        ),
    ] = field(default_factory=list)
    standardise_rewards: Annotated[
        bool,
        typer.Option(
            "--standardise-rewards",
            help="First bring each reward model's scores to mean 0 and deviation 1 on its held-out pairs.",
            rich_help_panel=MODEL,
        ),
    ] = False
    reference: Annotated[
        str | None,
        typer.Option(help="Frozen reference of the KL penalty. Default: the starting model.", rich_help_panel=MODEL),
        INCIDENTAL,  # its digest is in the key
    ] = None
    value_init: Annotated[
        str | None,
        typer.Option(
            help="What the value model starts from. Default: the one that --model was trained with, else the first "
            "reward model that shares the policy's tokenizer, else the policy with a new head.",
            rich_help_panel=MODEL,
        ),
        INCIDENTAL,  # its digest is in the key
    ] = None
    carry_optimizer: Annotated[
        bool,
        typer.Option(
            "--carry-optimizer",
            help="Start with the optimizer's state of the run that made --model (with --keep-state), not a fresh one.",
            rich_help_panel=MODEL,
        ),
    ] = False
    layout: Annotated[
        Literal["separate", "shared"] | None,
        typer.Option(
            help="separate: a model for each role; shared: roles are adapters on as few models as can be. "
            "Default: shared with --lora-rank.",
            rich_help_panel=MODEL,
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(min=2, help="Answers in one rollout, over all processes.", rich_help_panel=TRAINING)
    ] = 64
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Rollouts, whatever --epochs says.", rich_help_panel=TRAINING),
    ] = None
    split: Annotated[Split, INCIDENTAL] = None  # the digest is of the split's own rows
    map: Map = field(default_factory=list)
    skip_bad: SkipBad = False
    max_prompt_length: Annotated[
        int,
        typer.Option(
            min=1, help="Prompts longer than this many tokens are left out, and counted.", rich_help_panel=DATA
        ),
    ] = 512
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.", rich_help_panel=PPO)] = 53
    temperature: Annotated[
        float,
        typer.Option(
            min=1e-3, help="Sampling temperature; the log-probabilities are taken at it too.", rich_help_panel=PPO
        ),
    ] = 0.7
    kl_coef: Annotated[
        float,
        typer.Option(min=0, help="Price of a nat of KL to the reference, taken off the reward.", rich_help_panel=PPO),
    ] = 0.05
    clip_range: Annotated[
        float, typer.Option(min=0, help="How far the probability ratio may move in one rollout.", rich_help_panel=PPO)
    ] = 0.2
    clip_range_value: Annotated[
        float,
        typer.Option(min=0, help="How far a value may move in one rollout; 0 does not clip.", rich_help_panel=PPO),
    ] = 0.2
    vf_coef: Annotated[float, typer.Option(min=0, help="Weight of the value loss.", rich_help_panel=PPO)] = 0.1
    entropy_coef: Annotated[float, typer.Option(min=0, help="Weight of the entropy bonus.", rich_help_panel=PPO)] = 0.0
    gamma: Annotated[float, typer.Option(min=0, max=1, help="Discount per token.", rich_help_panel=PPO)] = 1.0
    lam: Annotated[
        float, typer.Option(min=0, max=1, help="GAE λ: 1 low bias, 0 low variance.", rich_help_panel=PPO)
    ] = 0.95
    ppo_epochs: Annotated[int, typer.Option(min=1, help="Passes over each rollout.", rich_help_panel=PPO)] = 4
    minibatches: Annotated[
        int, typer.Option(min=1, help="Optimizer steps in one pass over a rollout.", rich_help_panel=PPO)
    ] = 1
    missing_eos_penalty: Annotated[
        float,
        typer.Option(min=0, help="Taken off the score of an answer that did not end by itself.", rich_help_panel=PPO),
    ] = 1.0
    whiten_rewards: Annotated[
        bool,
        typer.Option(
            "--whiten-rewards",
            help="Divide the per-token rewards by their deviation; their mean is scaled, not moved.",
            rich_help_panel=PPO,
        ),
    ] = False
    advantage: Annotated[
        Advantage,
        typer.Option(
            help="gae: with a value model; rloo: against the other answers to the same prompt; grpo: the same, "
            "divided by their deviation. The last two hold no value model.",
            rich_help_panel=PPO,
        ),
    ] = "gae"
    num_generations: Annotated[
        int | None,
        typer.Option(
            min=1, help="Answers to each prompt. Default: 1 with gae, 4 with rloo and grpo.", rich_help_panel=PPO
        ),
    ] = None
    kl_in: Annotated[
        Literal["reward", "loss"] | None,
        typer.Option(
            help="Where the KL penalty stands; each has an optimum of its own (docs/ppo.md). Default: in the reward; "
            "with grpo in the loss.",
            rich_help_panel=PPO,
        ),
    ] = None
    kl_estimator: Annotated[
        Literal["k1", "k3"] | None,
        typer.Option(
            help="Of the penalty: k1 in the reward, k3 in the loss, which are the defaults; other pairs are refused.",
            rich_help_panel=PPO,
        ),
    ] = None
    kl_target: Annotated[
        float | None,
        typer.Option(
            min=1e-6, help="Move --kl-coef so that the KL stays near so many nats an answer.", rich_help_panel=PPO
        ),
    ] = None
    length_penalty: Annotated[
        float, typer.Option(min=0, help="Taken off the score for each token of an answer.", rich_help_panel=PPO)
    ] = 0.0
    reward_clip: Annotated[
        float, typer.Option(min=0, help="Clip an answer's score to ± this; 0 does not clip.", rich_help_panel=PPO)
    ] = 0.0
    value_warmup: Annotated[
        int, typer.Option(min=0, help="Rollouts in which the value model learns alone.", rich_help_panel=PPO)
    ] = 0

    on_alarm: Annotated[
        Literal["warn", "stop", "rollback"],
        typer.Option(
            help="On a serious alarm of a watcher: go on, stop (exit 6; what was trained stays), or go back to the "
            "last saved state with half the rate and twice the KL coefficient, three times at most.",
            rich_help_panel=PPO,
        ),
    ] = "warn"  # type: ignore[assignment]  # one value more than the other stages have
    kl_budget: Annotated[
        float,
        typer.Option(min=0, help="KL in nats an answer that is an alarm; 0: none.", rich_help_panel=PPO),
    ] = 10.0

    def resolved(self) -> PPOConfig:
        """With the defaults that depend on other options filled in. Raises UsageError for what does not go together."""
        group = self.advantage != "gae"
        kl_in = self.kl_in or ("loss" if self.advantage == "grpo" else "reward")
        answers = self.num_generations or (4 if group else 1)
        if group and answers < 2:
            raise UsageError(
                f"--advantage {self.advantage} compares answers to the same prompt",
                "give --num-generations 2 or more, or --advantage gae",
            )
        if self.batch_size % answers:
            raise UsageError(
                f"--batch-size {self.batch_size} answers are not a multiple of --num-generations {answers}",
                f"use a multiple of {answers}",
            )
        if kl_in == "loss" and self.kl_estimator == "k1":
            raise UsageError(
                "--kl-estimator k1 in the loss does nothing: its gradient is zero on average",
                "use k3, or --kl-in reward",
            )
        if kl_in == "reward" and self.kl_estimator == "k3":
            raise UsageError(
                "--kl-estimator k3 in the reward drives the policy away from the reference: as a reward it has another "
                "gradient than the KL, since its own derivative is left out (docs/ppo.md)",
                "use k1, or --kl-in loss",
            )
        if group and self.whiten_rewards:
            raise UsageError(
                f"--whiten-rewards scales per-token rewards, and --advantage {self.advantage} has none",
                "leave it out, or use --advantage gae",
            )
        if group and (self.value_warmup or self.value_init):
            raise UsageError(
                f"--advantage {self.advantage} has no value model",
                "leave --value-warmup and --value-init out, or use --advantage gae",
            )
        if self.layout == "shared" and self.lora_rank == 0:
            raise UsageError(
                "--layout shared trains adapters, and --lora-rank is 0", "give --lora-rank 16, or --layout separate"
            )
        if self.lora_dropout:
            raise UsageError(
                "--lora-dropout: ppo compares probabilities before and after a step, which dropout would change",
                "leave it out",
            )
        layout: Literal["separate", "shared"] = self.layout or ("shared" if self.lora_rank else "separate")
        estimator = self.kl_estimator or ("k3" if kl_in == "loss" else "k1")
        return replace(self, kl_in=kl_in, kl_estimator=estimator, num_generations=answers, layout=layout)

    @property
    def in_words(self) -> str:
        """The objective in force, for the plan: what is optimal under it depends on where the KL stands."""
        where = f"{self.advantage} advantages, KL {self.kl_coef:g} in the {self.kl_in or 'reward'}"
        if self.kl_in != "loss":
            return f"{where}: the optimum is π_ref·exp(score/β), β being --kl-coef"
        unit = {"rloo": "", "gae": " in deviations of the rollout's", "grpo": " in deviations of the prompt's"}
        return (
            f"{where} (k3): it settles where π = π_ref·β/(β − A) token by token, A being the advantage"
            f"{unit[self.advantage]}, and not at π_ref·exp(score/β)"
        )

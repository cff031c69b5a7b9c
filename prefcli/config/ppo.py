"""Options of `prefcli ppo`, under the names and with the defaults of TRL's last PPOConfig where those exist."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from prefcli.config.base import INCIDENTAL, Opt
from prefcli.config.shared import Generate, Label, addresses
from prefcli.config.training import OptimizerConfig, OutputConfig, PolicyConfig, TrainingRows
from prefcli.errors import UsageError

Advantage = Literal["gae", "rloo", "grpo"]
# 3e-6: "The N+ Implementation Details of RLHF with PPO" (arXiv 2403.17031). Small models: measured on tiny.
LR, SMALL_LR = 3e-6, 1e-4


@dataclass(frozen=True)
class RewardsConfig:
    """The reward that is maximised."""

    GROUP = "Rewards"

    reward: Annotated[
        list[str],
        Opt(
            "What scores an answer: a reward-model artifact, a sequence-classification model, python:FILE:FUNCTION "
            "or the http://… URL of a service. Several are added; NAME= names one.",
            metavar="[NAME=]REF",
        ),
        INCIDENTAL,  # the digest is in the key
    ] = field(default_factory=list)
    label: Label = None
    reward_weight: Annotated[
        list[str], Opt("Weight of a reward in the sum. Default: 1 each. Repeatable.", metavar="NAME=NUMBER")
    ] = field(default_factory=list)
    standardise_rewards: Annotated[
        bool, Opt("Scale each reward model's scores to mean 0 and standard deviation 1 on its held-out pairs.")
    ] = False
    missing_eos_penalty: Annotated[
        float, Opt("Subtract this from the score of an answer that reached --max-new-tokens.", min=0)
    ] = 1.0
    length_penalty: Annotated[float, Opt("Subtract this from the score per token.", min=0)] = 0.0
    reward_clip: Annotated[float, Opt("Clip an answer's score to ± this; 0 turns it off.", min=0)] = 0.0
    whiten_rewards: Annotated[
        bool, Opt("Divide the per-token rewards by their standard deviation; the mean is not subtracted.")
    ] = False


@dataclass(frozen=True)
class RolesConfig:
    """The models beside the policy."""

    GROUP = "The other models"

    reference: Annotated[
        str | None,
        Opt("Frozen reference of the KL penalty. Default: the starting model.", metavar="REF"),
        INCIDENTAL,  # its digest is in the key
    ] = None
    value_init: Annotated[
        str | None,
        Opt(
            "Model that the value model starts from. Default: the value model trained with --model, else the first "
            "reward model with the policy's tokenizer, else the policy with a new head.",
            metavar="REF",
        ),
        INCIDENTAL,  # its digest is in the key
    ] = None
    carry_optimizer: Annotated[
        bool, Opt("Start with the optimizer state of the run that made --model (made with --keep-state).")
    ] = False
    layout: Annotated[
        Literal["separate", "shared"] | None,
        Opt(
            "separate: one model per role; shared: the roles are adapters on as few models as possible. "
            "Default: shared with --lora-rank, else separate."
        ),
    ] = None


@dataclass(frozen=True)
class PPOConfig(RolesConfig, RewardsConfig, OutputConfig, OptimizerConfig, PolicyConfig, TrainingRows):
    """Reinforcement learning against a reward source (PPO)."""

    prompts: Annotated[
        list[str],
        Opt("Rows with a prompt; answers and labels in them are not used. Repeat to mix several.", metavar="FILE"),
        INCIDENTAL,  # the digest is in the key
    ] = field(default_factory=list)
    batch_size: Annotated[int, Opt("Answers per rollout, over all processes.", min=2)] = 64
    generation_batch: Annotated[
        int | None,
        Opt("Answers that each process samples at a time: less memory, slower. Default: the whole rollout.", min=1),
        INCIDENTAL,  # the draws decide each answer, whatever is beside it
    ] = None
    generate: Generate = None
    importance_weights: Annotated[
        Literal["off", "token", "sequence"] | None,
        Opt(
            "With --generate: importance weights min(π / π of the server, 2) of the policy's loss: per token, per "
            "answer (sequence), or none (off). Default: token."
        ),
    ] = None
    max_steps: Annotated[int | None, Opt("Stop after N rollouts; overrides --epochs.", min=1)] = None
    max_prompt_length: Annotated[
        int, Opt("Skip prompts longer than N tokens; the number skipped is printed.", min=1)
    ] = 512
    max_new_tokens: Annotated[int, Opt("Maximum length of an answer, in tokens.", min=1)] = 53
    temperature: Annotated[float, Opt("Temperature of sampling and of log-probabilities.", min=1e-3)] = 0.7
    advantage: Annotated[
        Advantage,
        Opt(
            "gae: with a value model. Without one, rloo: the reward minus the mean of the prompt's other answers; "
            "grpo: the reward minus the mean of all of them, divided by their standard deviation."
        ),
    ] = "gae"
    num_generations: Annotated[
        int | None, Opt("Answers per prompt. Default: 1 with gae, 4 with rloo and grpo.", min=1)
    ] = None
    kl_coef: Annotated[float, Opt("KL penalty coefficient: reward − kl_coef × KL(policy ‖ reference).", min=0)] = 0.05
    kl_in: Annotated[
        Literal["reward", "loss"] | None,
        Opt(
            "Where the KL penalty is applied; the two have different optima (docs/ppo.md). Default: reward; loss with "
            "grpo."
        ),
    ] = None
    kl_estimator: Annotated[
        Literal["k1", "k3"] | None, Opt("Estimator of the KL: k1 in the reward, k3 in the loss; no other combination.")
    ] = None
    kl_target: Annotated[
        float | None, Opt("Adapt --kl-coef so that the KL stays near this, in nats per answer.", min=1e-6)
    ] = None
    kl_budget: Annotated[float, Opt("Raise an alarm at this KL, in nats per answer; 0: never.", min=0)] = 10.0
    clip_range: Annotated[float, Opt("Clip range of the probability ratio.", min=0)] = 0.2
    clip_range_value: Annotated[float, Opt("Clip range of the value; 0 turns it off.", min=0)] = 0.2
    vf_coef: Annotated[float, Opt("Weight of the value loss.", min=0)] = 0.1
    entropy_coef: Annotated[float, Opt("Weight of the entropy bonus.", min=0)] = 0.0
    gamma: Annotated[float, Opt("Discount per token.", min=0, max=1)] = 1.0
    lam: Annotated[float, Opt("GAE λ: 1 low bias, 0 low variance.", min=0, max=1)] = 0.95
    ppo_epochs: Annotated[int, Opt("Passes over each rollout.", min=1)] = 4
    minibatches: Annotated[int, Opt("Optimizer steps in a pass over a rollout.", min=1)] = 1
    value_warmup: Annotated[int, Opt("Train only the value model for N rollouts.", min=0)] = 0
    on_alarm: Annotated[
        Literal["warn", "stop", "rollback"],
        Opt(
            "On a serious alarm: warn, stop (exit 6; the result so far stays), or go back to the last checkpoint with "
            "half the learning rate and twice the KL coefficient, at most three times."
        ),
    ] = "warn"  # type: ignore[assignment]  # one value more than the other stages have

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
        if self.kl_target is not None and self.kl_coef == 0:
            raise UsageError(
                "--kl-target adapts --kl-coef by multiplying it, so 0 would stay 0",
                "give --kl-coef above 0 to start from, or leave --kl-target out",
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
        if self.generate:
            addresses(self.generate)
        if self.importance_weights and not self.generate:
            raise UsageError(
                "--importance-weights is for answers of servers: those of this process are the policy's own",
                "leave it out, or give --generate http://host:port",
            )
        if self.generate and self.generation_batch:
            raise UsageError(
                "--generation-batch does nothing with --generate: a server packs its answers by itself", "leave it out"
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
        weights = self.importance_weights or ("token" if self.generate else None)
        return replace(
            self,
            kl_in=kl_in,
            kl_estimator=estimator,
            num_generations=answers,
            layout=layout,
            importance_weights=weights,
        )

    @property
    def in_words(self) -> str:
        """The objective in force, for the plan: what is optimal under it depends on where the KL is applied."""
        where = f"{self.advantage} advantages, KL {self.kl_coef:g} in the {self.kl_in or 'reward'}"
        if self.kl_in != "loss":
            return f"{where}: the optimum is π_ref·exp(score/β), β being --kl-coef"
        unit = {
            "rloo": "",
            "gae": " in standard deviations of the rollout's",
            "grpo": " in standard deviations of the prompt's",
        }
        return (
            f"{where} (k3): it settles where π = π_ref·β/(β − A) token by token, A being the advantage"
            f"{unit[self.advantage]}, and not at π_ref·exp(score/β)"
        )

"""The training stages in one table: everything that other modules need to know of a stage. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from prefcli.config import dpo, kto, orpo, ppo, reward, sft

Purpose = Literal["demos", "pairs", "labelled", "prompts"]  # what rows are read for
Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Role:
    """A part that a model plays in a stage, and whether it scores (one number) or speaks (a vocabulary)."""

    name: str
    trained: bool
    scores: bool = False


@dataclass(frozen=True)
class Recorded:
    """The metric of a manifest by which a run is judged where nothing else is asked for, `where` it was measured.

    `training` stands for `held_out` in a run that held no rows out.
    """

    held_out: str
    training: str
    better: Better
    where: str = ""


@dataclass(frozen=True)
class Stage:
    """One training stage. Its first trained role is what becomes the artifact's model."""

    name: str  # in manifests, and the default name of its artifacts
    command: str
    help: str
    title: str  # what the result is, in model cards and reports
    short: str  # the same in a box of a drawing
    module: str  # in prefcli.stages; has `train(inputs, reporter)`
    config: Any  # the class of its options
    purpose: Purpose
    rates: tuple[float, float]  # without --lr: of a model of ordinary size, and of a small one
    roles: tuple[Role, ...]
    answers: int  # sequences of a row: of a pair, two
    recorded: Recorded
    tuned: tuple[str, ...]  # the options that the field tunes; what every stage has (seed, batch size) is left out
    route: str | None = None  # what the common claims speak of; none of a model that scores
    tie: str | None = None  # the option that ties the policy to its reference
    grid: str | None = None  # values of `tie` to sweep, as --grid takes them
    examples: tuple[str, ...] = ()  # command lines for --help, the simplest first

    @property
    def scores(self) -> bool:
        """Whether what it trains is a reward model."""
        return self.route is None

    @property
    def samples(self) -> bool:
        """Whether it learns from answers that its own policy samples, in rollouts, with a reward."""
        return self.purpose == "prompts"

    @property
    def reference(self) -> bool:
        """Whether a frozen reference is beside the policy."""
        return any(role.name == "reference" for role in self.roles)


_POLICY, _REFERENCE = Role("policy", trained=True), Role("reference", trained=False)
_VALUE, _REWARD = Role("value", trained=True, scores=True), Role("reward", trained=False, scores=True)

STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            "sft",
            "sft",
            "Fine-tune on demonstrations: stage 1 of both routes.",
            "fine-tuned on demonstrations",
            "fine-tuned",
            "prefcli.stages.sft",
            sft.SFTConfig,
            "demos",
            (sft.LR, sft.SMALL_LR),
            (_POLICY,),
            1,
            Recorded("eval_loss", "loss", "lower"),
            ("lr", "epochs"),
            route="SFT",
            examples=(
                "prefcli sft --data demos.jsonl --model tiny",
                "prefcli sft --data demos.jsonl --model ./llama --lora-rank 16 --epochs 3",
            ),
        ),
        Stage(
            "rm",
            "train-rm",
            "Train a reward model on pairs: RLHF, stage 2.",
            "reward model",
            "reward model",
            "prefcli.stages.reward",
            reward.RewardConfig,
            "pairs",
            (reward.LR, reward.SMALL_LR),
            (Role("reward", trained=True, scores=True),),
            2,
            Recorded("accuracy", "accuracy", "higher", "on the pairs that train-rm held out"),
            ("lr", "epochs"),
            examples=(
                "prefcli train-rm --data pairs.jsonl --model sft",
                "prefcli train-rm --data pairs.jsonl --eval-data held_out.jsonl --epochs 2",
            ),
        ),
        Stage(
            "ppo",
            "ppo",
            "Train against a reward with PPO: RLHF, stage 3.",
            "trained with PPO",
            "PPO",
            "prefcli.stages.ppo",
            ppo.PPOConfig,
            "prompts",
            (ppo.LR, ppo.SMALL_LR),
            (_POLICY, _VALUE, _REWARD, _REFERENCE),
            1,
            Recorded("objective/scores", "objective/scores", "higher", "the reward it is trained on"),
            ("lr", "max_steps", "kl_coef", "clip_range", "clip_range_value", "vf_coef", "entropy_coef", "gamma", "lam",
             "ppo_epochs", "minibatches", "temperature", "max_new_tokens"),
            route="RLHF",
            tie="kl_coef",
            grid="kl_coef=0.02,0.06,0.2",
            examples=(
                "prefcli ppo --model sft --reward rm --prompts prompts.jsonl",
                "prefcli ppo --reward python:reward.py:score --prompts p.jsonl --advantage grpo",
            ),
        ),
        Stage(
            "dpo",
            "dpo",
            "Train on pairs directly with DPO: the short route.",
            "trained with DPO",
            "DPO",
            "prefcli.stages.dpo",
            dpo.DPOConfig,
            "pairs",
            (dpo.LR, dpo.SMALL_LR),
            (_POLICY, _REFERENCE),
            2,
            Recorded("eval_rewards/accuracies", "rewards/accuracies", "higher"),
            ("lr", "epochs", "beta"),
            route="DPO",
            tie="beta",
            grid="beta=0.03,0.1,0.3",
            examples=(
                "prefcli dpo --data pairs.jsonl --model sft --beta 0.1",
                "prefcli dpo --data pairs.jsonl --loss ipo --lora-rank 16 --dry-run",
            ),
        ),
        Stage(
            "orpo",
            "orpo",
            "Fine-tune on pairs and prefer the chosen answers in one loss, with ORPO.",
            "trained with ORPO",
            "ORPO",
            "prefcli.stages.orpo",
            orpo.ORPOConfig,
            "pairs",
            (orpo.LR, orpo.SMALL_LR),
            (_POLICY,),
            2,
            Recorded("eval_rewards/accuracies", "rewards/accuracies", "higher"),
            ("lr", "epochs", "beta"),
            route="DPO",
            examples=(
                "prefcli orpo --data pairs.jsonl --model tiny",
                "prefcli orpo --data pairs.jsonl --model ./llama --beta 0.2 --lora-rank 16",
            ),
        ),
        Stage(
            "kto",
            "kto",
            "Train on answers labelled good or bad, with KTO.",
            "trained with KTO",
            "KTO",
            "prefcli.stages.kto",
            kto.KTOConfig,
            "labelled",
            (kto.LR, kto.SMALL_LR),
            (_POLICY, _REFERENCE),
            1,
            Recorded("eval_loss", "loss", "lower"),
            ("lr", "epochs", "beta", "desirable_weight", "undesirable_weight"),
            route="DPO",
            tie="beta",
            grid="beta=0.03,0.1,0.3",
            examples=(
                "prefcli kto --data labelled.jsonl --model sft",
                "prefcli kto --data labelled.jsonl --undesirable-weight 0.5 --name kto-half",
            ),
        ),
    )
}  # fmt: skip
BY_COMMAND = {stage.command: stage for stage in STAGES.values()}


def stage_of(config: Any) -> Stage:
    """The stage whose options these are. Raises TypeError: no stage's."""
    for stage in STAGES.values():
        if isinstance(config, stage.config):
            return stage
    known = ", ".join(stage.config.__name__ for stage in STAGES.values())
    raise TypeError(f"{type(config).__name__} is not one of {known}")

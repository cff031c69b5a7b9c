"""Options of `prefcli ppo`, under the names and with the defaults of TRL's last PPOConfig where those exist."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.base import INCIDENTAL
from prefcli.config.training import DATA, MODEL, TRAINING, ModelConfig, OptimizerConfig, OutputConfig

PPO = "PPO"
# 3e-6: "The N+ Implementation Details of RLHF with PPO" (arXiv 2403.17031). Small models: measured on tiny.
LR, SMALL_LR = 3e-6, 1e-4


@dataclass(frozen=True)
class PPOConfig(OutputConfig, OptimizerConfig, ModelConfig):
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
            "or python:FILE:FUNCTION; NAME=… names it.",
            metavar="[NAME=]REF",
            rich_help_panel=MODEL,
        ),
        INCIDENTAL,  # the digest is in the key
    ] = field(default_factory=list)
    reference: Annotated[
        str | None,
        typer.Option(help="Frozen reference of the KL penalty. Default: the starting model.", rich_help_panel=MODEL),
        INCIDENTAL,  # its digest is in the key
    ] = None
    value_init: Annotated[
        str | None,
        typer.Option(
            help="What the value model starts from. Default: the first reward model that shares the "
            "policy's tokenizer, else the policy with a new head.",
            rich_help_panel=MODEL,
        ),
        INCIDENTAL,  # its digest is in the key
    ] = None
    batch_size: Annotated[
        int, typer.Option(min=2, help="Answers in one rollout, over all processes.", rich_help_panel=TRAINING)
    ] = 64
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Rollouts, whatever --epochs says.", rich_help_panel=TRAINING),
    ] = None
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out rows that do not fit, and say how many.", rich_help_panel=DATA),
    ] = False
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
        typer.Option("--whiten-rewards", help="Scale the per-token rewards to unit variance.", rich_help_panel=PPO),
    ] = False

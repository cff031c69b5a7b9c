"""Options of `prefcli dpo`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import typer

from prefcli.config.base import INCIDENTAL
from prefcli.config.preference import LOSS, PreferenceConfig
from prefcli.errors import UsageError

# 1e-6: TRL's DPOConfig, the DPO paper's order of magnitude. Small models: measured on tiny.
LR, SMALL_LR = 1e-6, 1e-4
Loss = Literal["sigmoid", "ipo", "hinge", "robust", "simpo", "apo-zero", "apo-down"]
# 0.1: the DPO paper's, and TRL's for the others. SimPO's is of another kind, since it has no reference: 2 (its paper).
BETA, SIMPO_BETA = 0.1, 2.0
SIMPO_GAMMA = 1.0  # its paper advises γ/β = 0.5 to begin with
ROBUST_SMOOTHING = 0.1  # the noise that its paper's experiments are about
SMOOTHED = ("sigmoid", "robust")
WITH_MARGIN = ("sigmoid", "hinge", "robust")  # functions of z (losses/pairs.py), which a reward's margin moves


@dataclass(frozen=True)
class DPOConfig(PreferenceConfig):
    """Direct preference optimization on pairs, and its family of losses."""

    loss: Annotated[
        Loss, typer.Option(help="The loss on a pair: docs/dpo.md says when which.", rich_help_panel=LOSS)
    ] = "sigmoid"
    beta: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            help="Strength of the tie to the reference: larger stays closer. Default: 0.1; simpo 2.",
            rich_help_panel=LOSS,
        ),
    ] = None
    length_normalise: Annotated[
        bool,
        typer.Option(
            "--length-normalise",
            help="Mean log-ratio of an answer's tokens in place of their sum; simpo always.",
            rich_help_panel=LOSS,
        ),
    ] = False
    reference_free: Annotated[
        bool,
        typer.Option(
            "--reference-free",
            help="Log-probabilities in place of ratios to a reference; simpo always.",
            rich_help_panel=LOSS,
        ),
    ] = False
    label_smoothing: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.49,
            help="Share of labels taken to be wrong, for sigmoid and robust. Default: 0; robust 0.1.",
            rich_help_panel=LOSS,
        ),
    ] = None
    simpo_gamma: Annotated[
        float | None,
        typer.Option(min=0, help="Margin that simpo asks of a pair. Default: 1.", rich_help_panel=LOSS),
    ] = None
    sft_weight: Annotated[
        float,
        typer.Option(
            min=0,
            help="Add this times the chosen answer's mean −log π a token: keeps it likely.",
            rich_help_panel=LOSS,
        ),
    ] = 0.0
    reward: Annotated[
        list[str],
        typer.Option(
            help="Another objective beside the pairs' own (MODPO): a reward model, python:FILE:FUNCTION or URL.",
            metavar="[NAME=]REF",
            rich_help_panel=LOSS,
        ),
        INCIDENTAL,  # its digest is in the key
    ] = field(default_factory=list)
    reward_weight: Annotated[
        list[str],
        typer.Option(
            help="What that objective weighs, of 1 altogether: the pairs' own has the rest.",
            metavar="NAME=NUMBER",
            rich_help_panel=LOSS,
        ),
    ] = field(default_factory=list)
    standardise_rewards: Annotated[
        bool,
        typer.Option(
            "--standardise-rewards",
            help="First bring each reward model's scores to deviation 1 on its held-out pairs.",
            rich_help_panel=LOSS,
        ),
    ] = False

    def resolved(self) -> DPOConfig:
        """With the defaults of the loss. Raises UsageError for options that do not go together."""
        simpo = self.loss == "simpo"
        if self.label_smoothing and self.loss not in SMOOTHED:
            raise UsageError(f"--label-smoothing has no meaning for --loss {self.loss}", "use sigmoid or robust")
        if self.simpo_gamma is not None and not simpo:
            raise UsageError("--simpo-gamma is of --loss simpo", "add --loss simpo, or leave it out")
        if self.reward and self.loss not in WITH_MARGIN:
            raise UsageError(f"--reward does not go with --loss {self.loss}", f"use one of: {', '.join(WITH_MARGIN)}")
        if self.reward_weight and not self.reward:
            raise UsageError("--reward-weight without --reward", "name the reward: --reward NAME=REF")
        free = self.reference_free or simpo
        if free and self.reference is not None:
            raise UsageError(
                "--reference has no meaning without a reference",
                "leave it out: simpo and --reference-free have none",
            )
        return replace(
            self,
            beta=self.beta or (SIMPO_BETA if simpo else BETA),
            length_normalise=self.length_normalise or simpo,
            reference_free=free,
            label_smoothing=ROBUST_SMOOTHING
            if self.label_smoothing is None and self.loss == "robust"
            else self.label_smoothing or 0.0,
            simpo_gamma=SIMPO_GAMMA if simpo and self.simpo_gamma is None else self.simpo_gamma,
        )

    @property
    def in_words(self) -> str:
        """The loss in force, for the plan."""
        over = "mean a token" if self.length_normalise else "sum over tokens"
        what = "log-probabilities" if self.reference_free else "log-ratios to the reference"
        parts = [f"{self.loss}, beta {self.beta:g}, on {what} ({over})"]
        if self.loss == "ipo":
            parts.append(f"a difference of 1/(2·beta) = {1 / (2 * (self.beta or BETA)):g} is aimed at")
        if self.loss == "simpo":
            parts.append(f"gamma {self.simpo_gamma:g}")
        if self.label_smoothing:
            parts.append(f"label smoothing {self.label_smoothing:g}")
        if self.sft_weight:
            parts.append(f"plus {self.sft_weight:g} times the SFT loss of the chosen answers")
        return "; ".join(parts)

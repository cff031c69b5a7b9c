"""Options of `prefcli dpo`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from prefcli.config.base import INCIDENTAL, Opt, option
from prefcli.config.preference import PreferenceConfig
from prefcli.config.shared import Ranking
from prefcli.errors import UsageError

# 1e-6: TRL's DPOConfig, the DPO paper's order of magnitude. Small models: measured on tiny.
LR, SMALL_LR = 1e-6, 1e-4
Loss = Literal["sigmoid", "ipo", "hinge", "robust", "simpo", "apo-zero", "apo-down"]


@dataclass(frozen=True)
class PairLoss:
    """The options of a loss on pairs; losses.PAIR_LOSSES has its function.

    `parameters` are options of its own with their defaults, which the function takes by these names. `with_margin`: it
    is a function of z, which a reward's margin moves. `in_trl`: TRL's name of it on sums, and with --length-normalise.
    """

    beta: float = 0.1  # the DPO paper's, and TRL's for the others
    parameters: Mapping[str, float] = field(default_factory=dict)
    with_margin: bool = False
    reference_free: bool = False
    length_normalised: bool = False
    in_trl: tuple[str | None, str | None] = (None, None)


LOSSES: dict[Loss, PairLoss] = {
    "sigmoid": PairLoss(parameters={"label_smoothing": 0.0}, with_margin=True, in_trl=("sigmoid", "sigmoid_norm")),
    "ipo": PairLoss(in_trl=(None, "ipo")),
    "hinge": PairLoss(with_margin=True, in_trl=("hinge", None)),
    # 0.1: the noise that its paper's experiments are about.
    "robust": PairLoss(parameters={"label_smoothing": 0.1}, with_margin=True, in_trl=("robust", None)),
    # β is of another kind, since it has no reference: 2 (its paper, which advises γ/β = 0.5 to begin with).
    "simpo": PairLoss(beta=2.0, parameters={"simpo_gamma": 1.0}, reference_free=True, length_normalised=True),
    "apo-zero": PairLoss(in_trl=("apo_zero", None)),
    "apo-down": PairLoss(in_trl=("apo_down", None)),
}
OWN = {name for loss in LOSSES.values() for name in loss.parameters}  # options that are parameters of some losses


@dataclass(frozen=True)
class DPOConfig(Ranking, PreferenceConfig):
    """Direct preference optimization on pairs, and its family of losses."""

    loss: Annotated[Loss, Opt("Loss on a pair; docs/dpo.md says when to use which.")] = "sigmoid"
    beta: Annotated[
        float | None,
        Opt(
            "Strength of the implicit KL constraint: larger keeps the policy closer to the reference. "
            "Default: 0.1; 2 for simpo.",
            min=1e-6,
        ),
    ] = None
    length_normalise: Annotated[
        bool, Opt("Average the log-ratio over the answer's tokens instead of summing; always on for simpo.")
    ] = False
    reference_free: Annotated[
        bool, Opt("Use log-probabilities instead of ratios to a reference; always on for simpo.")
    ] = False
    label_smoothing: Annotated[
        float | None,
        Opt("Fraction of labels assumed wrong, for sigmoid and robust. Default: 0; 0.1 for robust.", min=0, max=0.49),
    ] = None
    simpo_gamma: Annotated[float | None, Opt("Target margin of --loss simpo. Default: 1.", min=0)] = None
    sft_weight: Annotated[
        float, Opt("Weight of the SFT loss on the chosen answers (mean −log π per token): keeps them likely.", min=0)
    ] = 0.0
    reward: Annotated[
        list[str],
        Opt(
            "A second objective beside the pair labels (MODPO): a reward model, python:FILE:FUNCTION or URL. "
            "Repeatable.",
            metavar="[NAME=]REF",
        ),
        INCIDENTAL,  # its digest is in the key
    ] = field(default_factory=list)
    reward_weight: Annotated[
        list[str],
        Opt("Weight of this reward. The pair labels get 1 minus the sum of all reward weights.", metavar="NAME=NUMBER"),
    ] = field(default_factory=list)
    standardise_rewards: Annotated[
        bool, Opt("Scale each reward model's scores to standard deviation 1 on its held-out pairs.")
    ] = False

    def resolved(self) -> DPOConfig:
        """With the defaults of the loss. Raises UsageError for options that do not go together."""
        loss = LOSSES[self.loss]
        given = {name: value for name in OWN if (value := getattr(self, name)) is not None}
        for name in sorted(given.keys() - loss.parameters.keys()):
            takers = ", ".join(other for other, taken in LOSSES.items() if name in taken.parameters)
            if given[name]:
                raise UsageError(f"{option(name)} has no effect with --loss {self.loss}", f"it is for --loss {takers}")
        if self.reward and not loss.with_margin:
            takers = ", ".join(other for other, taken in LOSSES.items() if taken.with_margin)
            raise UsageError(f"--reward does not go with --loss {self.loss}", f"use one of: {takers}")
        if self.reward_weight and not self.reward:
            raise UsageError("--reward-weight without --reward", "name the reward: --reward NAME=REF")
        if self.standardise_rewards and not self.reward:
            raise UsageError("--standardise-rewards without --reward", "name the reward model: --reward REF")
        free = self.reference_free or loss.reference_free
        if free and self.reference is not None:
            raise UsageError(
                "--reference has no meaning without a reference",
                "leave it out: simpo and --reference-free have none",
            )
        return replace(
            self,
            beta=self.beta or loss.beta,
            length_normalise=self.length_normalise or loss.length_normalised,
            reference_free=free,
            **{"label_smoothing": 0.0} | dict(loss.parameters) | given,
        )

    @property
    def parameters(self) -> dict[str, float]:
        """The loss's own, as its function takes them."""
        return {name: getattr(self, name) for name in LOSSES[self.loss].parameters}

    @property
    def in_words(self) -> str:
        """The loss in force, for the plan."""
        over = "mean a token" if self.length_normalise else "sum over tokens"
        what = "log-probabilities" if self.reference_free else "log-ratios to the reference"
        parts = [f"{self.loss}, beta {self.beta:g}, on {what} ({over})"]
        if self.loss == "ipo":
            beta = self.beta or LOSSES[self.loss].beta
            parts.append(f"a difference of 1/(2·beta) = {1 / (2 * beta):g} is aimed at")
        parts += [f"{option(name)[2:]} {value:g}" for name, value in self.parameters.items() if value]
        if self.sft_weight:
            parts.append(f"plus {self.sft_weight:g} times the SFT loss of the chosen answers")
        return "; ".join(parts)

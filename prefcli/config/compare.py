"""Options of `prefcli compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from prefcli.config.base import Arg, Opt
from prefcli.config.shared import READING, FromFile, Machine, Quiet, Sampling, SkipBad, Stored


@dataclass(frozen=True)
class RoutesConfig:
    """Instead of finished policies: both routes are run first."""

    GROUP = "Running both routes first"

    data: Annotated[
        list[str], Opt("Instead of REFs: pairs on which train-rm, ppo and dpo are run.", metavar="FILE")
    ] = field(default_factory=list)
    model: Annotated[str | None, Opt("With --data: model that both routes start from.", metavar="REF")] = None
    train_prompts: Annotated[
        list[str],
        Opt("With --data: prompts that ppo trains on. Default: the prompts of the pairs.", metavar="FILE"),
    ] = field(default_factory=list)
    budget: Annotated[
        str | None,
        Opt(
            "With --data: what each route may use: pairs=500, seconds=120 or bytes=8GB. Default: all pairs.",
            metavar="KIND=AMOUNT",
        ),
    ] = None
    set: Annotated[list[str], Opt("With --data: an option of one stage. Repeatable.", metavar="STAGE.OPTION=VALUE")] = (
        field(default_factory=list)
    )


@dataclass(frozen=True)
class Lenient:
    """Rows that do not fit, left out."""

    GROUP = READING

    skip_bad: SkipBad = False


@dataclass(frozen=True)
class CompareConfig(Quiet, FromFile, Stored, Sampling, Machine, Lenient, RoutesConfig):
    """Two routes or more, on eight criteria, each measured."""

    refs: Annotated[list[str], Arg("Finished policies with a common ancestor.", metavar="[REF REF …]")] = field(
        default_factory=list
    )
    prompts: Annotated[list[str], Opt("Held-out prompts that all models answer. Repeatable.", metavar="FILE")] = field(
        default_factory=list
    )
    reward: Annotated[
        list[str],
        Opt(
            "What scores the answers; the first decides: a ground truth, a judge's scores or a reward model that no "
            "route was trained against. The routes' own reward models score them too. Repeatable.",
            metavar="[NAME=]REF",
        ),
    ] = field(default_factory=list)

"""Options of `prefcli sweep`; what follows STAGE and is none of these is an option of the stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from prefcli.config.base import Arg, Opt
from prefcli.config.shared import Quiet, Stored
from prefcli.config.stages import BY_COMMAND


@dataclass(frozen=True)
class PointsConfig:
    """The values to sweep."""

    GROUP = "Points"

    grid: Annotated[
        list[str],
        Opt(
            "Values of one option of the stage. Repeat for every combination of several options.",
            metavar="NAME=VALUE,VALUE,…",
        ),
    ] = field(default_factory=list)
    seeds: Annotated[int, Opt("Number of seeds per point, counting up from the stage's --seed.", min=1)] = 1
    rows: Annotated[
        str | None,
        Opt(
            "Sample efficiency: train on the first N rows, for each N; for ppo with a reward model of N pairs.",
            metavar="N,N,…",
        ),
    ] = None


@dataclass(frozen=True)
class ScoresConfig:
    """The score of a point."""

    GROUP = "Score"

    score: Annotated[
        str | None,
        Opt(
            "Score of a point: mean of this reward source on --prompts, measured as in prefcli eval.",
            metavar="[NAME=]REF",
        ),
    ] = None
    prompts: Annotated[
        list[str],
        Opt("Held-out prompts for --score. (The prompts that ppo trains on are --data here.)", metavar="FILE"),
    ] = field(default_factory=list)
    max_prompts: Annotated[int | None, Opt("Use only the first N held-out prompts.", min=1)] = None
    pairs: Annotated[list[str], Opt("Held-out pairs for the accuracy of train-rm's points.", metavar="FILE")] = field(
        default_factory=list
    )


@dataclass(frozen=True, kw_only=True)
class SweepConfig(Quiet, Stored, ScoresConfig, PointsConfig):
    """One stage at several points: options, seeds, numbers of rows."""

    stage: Annotated[str, Arg(f"The stage: {', '.join(BY_COMMAND)}.", metavar="STAGE")]
    options: Annotated[
        list[str], Arg("Options of the stage, the same at all points.", metavar="[OPTIONS OF STAGE]...")
    ] = field(default_factory=list)
    plot: Annotated[str | None, Opt("Plot the scores into this .png or .svg file.", metavar="FILE")] = None
    dry_run: Annotated[bool, Opt("List the points and train nothing.")] = False

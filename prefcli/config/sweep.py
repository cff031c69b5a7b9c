"""Options of `prefcli sweep`; what stands behind STAGE and is none of these is an option of the stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.shared import Debug, JsonObject
from prefcli.config.stages import BY_COMMAND

POINTS, SCORE, WHERE = "Points", "Score", "Output"


@dataclass(frozen=True)
class SweepConfig:
    """One stage at several points: options, seeds, numbers of rows."""

    stage: Annotated[str, typer.Argument(help=f"The stage: {', '.join(BY_COMMAND)}.", metavar="STAGE")]
    options: Annotated[
        list[str],
        typer.Argument(help="Options of the stage, the same at all points.", metavar="[OPTIONS OF STAGE]..."),
    ] = field(default_factory=list)
    grid: Annotated[
        list[str],
        typer.Option(
            help="Values of an option of the stage; repeat for the product of several.",
            metavar="NAME=VALUE,VALUE,…",
            rich_help_panel=POINTS,
        ),
    ] = field(default_factory=list)
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds at each point, from the stage's --seed on.", rich_help_panel=POINTS)
    ] = 1
    rows: Annotated[
        str | None,
        typer.Option(
            help="Sample efficiency: train on the first so many rows each; for ppo on a reward model of so many pairs.",
            metavar="N,N,…",
            rich_help_panel=POINTS,
        ),
    ] = None
    score: Annotated[
        str | None,
        typer.Option(
            help="What a point is worth: the mean of this reward source on --prompts, as prefcli eval measures it.",
            metavar="[NAME=]REF",
            rich_help_panel=SCORE,
        ),
    ] = None
    prompts: Annotated[
        list[str],
        typer.Option(help="Held-out prompts for --score. (ppo's own are --data here.)", metavar="FILE",
                     rich_help_panel=SCORE),
    ] = field(default_factory=list)  # fmt: skip
    max_prompts: Annotated[
        int | None, typer.Option(min=1, help="Use only the first so many held-out prompts.", rich_help_panel=SCORE)
    ] = None
    pairs: Annotated[
        list[str],
        typer.Option(help="Held-out pairs on which train-rm's points are scored.", metavar="FILE",
                     rich_help_panel=SCORE),
    ] = field(default_factory=list)  # fmt: skip
    plot: Annotated[
        str | None,
        typer.Option(help="Draw the scores into this .png or .svg.", metavar="FILE", rich_help_panel=WHERE),
    ] = None
    runs: Annotated[
        str | None,
        typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.", rich_help_panel=WHERE),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the points and train nothing.", rich_help_panel=WHERE)
    ] = False
    json: JsonObject = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No plan or progress.", rich_help_panel=WHERE)] = False
    debug: Debug = False

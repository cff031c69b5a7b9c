"""Options of `prefcli compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.shared import (
    ConfigFile,
    Debug,
    Device,
    JsonObject,
    MaxNewTokens,
    MaxPromptLength,
    MaxPrompts,
    Runs,
    Seed,
    SkipBad,
    Temperature,
    WeightsDtype,
)
from prefcli.config.training import DATA, MODEL, SAMPLING, WHERE

ROUTES = "Running both routes"


@dataclass(frozen=True)
class CompareConfig:
    """Two routes or more, on eight criteria, each measured."""

    refs: Annotated[
        list[str], typer.Argument(help="Finished policies with a common ancestor.", metavar="[REF REF …]")
    ] = field(default_factory=list)
    data: Annotated[
        list[str],
        typer.Option(
            help="In place of REFs: pairs, on which train-rm, ppo and dpo are run first.",
            metavar="FILE",
            rich_help_panel=ROUTES,
        ),
    ] = field(default_factory=list)
    model: Annotated[
        str | None, typer.Option(help="With --data: where both routes start.", metavar="REF", rich_help_panel=ROUTES)
    ] = None
    train_prompts: Annotated[
        list[str],
        typer.Option(
            help="With --data: what ppo answers. Default: the prompts of the pairs.",
            metavar="FILE",
            rich_help_panel=ROUTES,
        ),
    ] = field(default_factory=list)
    budget: Annotated[
        str | None,
        typer.Option(
            help="With --data: what each route may have, pairs=500, seconds=120 or bytes=8GB. Default: all pairs.",
            metavar="OF=AMOUNT",
            rich_help_panel=ROUTES,
        ),
    ] = None
    set: Annotated[
        list[str],
        typer.Option(
            help="With --data: an option of a stage; repeat for more.",
            metavar="STAGE.OPTION=VALUE",
            rich_help_panel=ROUTES,
        ),
    ] = field(default_factory=list)
    prompts: Annotated[
        list[str], typer.Option(help="Held-out prompts that all answer.", metavar="FILE", rich_help_panel=DATA)
    ] = field(default_factory=list)
    reward: Annotated[
        list[str],
        typer.Option(
            help="What scores the answers; the first decides: a ground truth, a judge's scores, a reward model that no "
            "route was trained against. The routes' own reward models are asked too.",
            metavar="[NAME=]REF",
            rich_help_panel=MODEL,
        ),
    ] = field(default_factory=list)
    skip_bad: SkipBad = False
    max_prompts: MaxPrompts = None
    max_prompt_length: MaxPromptLength = 512
    max_new_tokens: MaxNewTokens = 53
    temperature: Temperature = 0.7
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at once.", rich_help_panel=SAMPLING)] = 64
    seed: Seed = 0
    dtype: WeightsDtype = "auto"
    device: Device = "auto"
    runs: Runs = None
    config: ConfigFile = None
    json: JsonObject = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=WHERE)] = False
    debug: Debug = False

"""Options that several commands have alike, each written once. In a command: `max_prompts: MaxPrompts = None`."""

from __future__ import annotations

from typing import Annotated

import typer

from prefcli.config.base import INCIDENTAL
from prefcli.config.training import DATA, MODEL, SAMPLING, WHERE, Dtype
from prefcli.config.training import Map as Map
from prefcli.config.training import SkipBad as SkipBad
from prefcli.config.training import Split as Split

MaxPrompts = Annotated[
    int | None, typer.Option(min=1, help="Use only the first so many prompts.", rich_help_panel=DATA)
]
MaxPromptLength = Annotated[
    int,
    typer.Option(min=1, help="Prompts longer than this many tokens are left out, and counted.", rich_help_panel=DATA),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.", rich_help_panel=SAMPLING)]
Temperature = Annotated[float, typer.Option(min=1e-3, help="Sampling temperature.", rich_help_panel=SAMPLING)]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.", rich_help_panel=SAMPLING)]
WeightsDtype = Annotated[Dtype, typer.Option(help="Weights' type.", rich_help_panel=MODEL)]
Device = Annotated[str, typer.Option(help="cpu, cuda, mps or auto.", rich_help_panel=MODEL)]
Runs = Annotated[str | None, typer.Option(help="Where artifacts live.", rich_help_panel=WHERE), INCIDENTAL]
ConfigFile = Annotated[
    str | None, typer.Option(help="YAML file of options.", metavar="FILE", rich_help_panel=WHERE), INCIDENTAL
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=WHERE), INCIDENTAL
]
JsonObject = Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=WHERE), INCIDENTAL]

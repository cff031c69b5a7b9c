"""Options of `prefcli score`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.base import INCIDENTAL
from prefcli.config.shared import ConfigFile, Debug, Device, Map, Runs, SkipBad, Split, WeightsDtype
from prefcli.config.training import DATA, MODEL, WHERE, Label


@dataclass(frozen=True)
class ScoreConfig:
    """Answers and pairs, scored by any reward source."""

    data: Annotated[
        list[str],
        typer.Option(
            help="Rows with a prompt and an answer, or with chosen and rejected; repeat for more files.",
            metavar="FILE",
            rich_help_panel=DATA,
        ),
    ] = field(default_factory=list)
    split: Split = None
    map: Map = field(default_factory=list)
    skip_bad: SkipBad = False
    reward: Annotated[
        list[str],
        typer.Option(
            help="A score: reward-model artifact, model, python:FILE:FUNCTION or a service's URL; repeat for more.",
            metavar="[NAME=]REF",
            rich_help_panel=MODEL,
        ),
    ] = field(default_factory=list)
    label: Label = None
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Model whose chat template renders what a service is sent. Default: none, `role: text` paragraphs.",
            metavar="REF",
            rich_help_panel=MODEL,
        ),
    ] = None
    dtype: WeightsDtype = "auto"
    device: Device = "auto"
    out: Annotated[
        str | None,
        typer.Option(help="Write the scored rows here, not to stdout.", metavar="FILE.jsonl", rich_help_panel=WHERE),
        INCIDENTAL,
    ] = None
    runs: Runs = None
    config: ConfigFile = None
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the summary as one JSON object, not the rows.", rich_help_panel=WHERE),
        INCIDENTAL,
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress or summary.", rich_help_panel=WHERE), INCIDENTAL
    ] = False
    debug: Debug = False

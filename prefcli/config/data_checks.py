"""Options of `prefcli data check`, `data stats` and `data split`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import typer

from prefcli.config.shared import Debug, JsonObject, Map, Seed, SkipBad, Split
from prefcli.config.training import DATA, MODEL, WHERE

Files = Annotated[list[str], typer.Argument(help="Files of rows.", metavar="FILE...")]
RowKind = Annotated[
    Literal["pairs", "demos", "labelled", "prompts"] | None,
    typer.Option(
        help="What the rows are for: pairs (train-rm, dpo), demos (sft), labelled (kto), prompts (ppo). "
        "Default: what their columns say.",
        rich_help_panel=DATA,
    ),
]


@dataclass(frozen=True)
class CheckConfig:
    """Rows are checked one by one and all together; nothing is changed."""

    files: Files
    kind: RowKind = None
    against: Annotated[
        list[str],
        typer.Option(
            help="Held-out rows whose prompts must not be in the files; repeat for more.",
            metavar="FILE",
            rich_help_panel=DATA,
        ),
    ] = field(default_factory=list)
    split: Split = None
    map: Map = field(default_factory=list)
    model: Annotated[
        str | None,
        typer.Option(
            help="Also tokenise the rows as for this model: answers that are cut, the template, begin and end tokens.",
            rich_help_panel=MODEL,
        ),
    ] = None
    max_length: Annotated[
        int,
        typer.Option(min=8, help="With --model: longest prompt and answer together, in tokens.", rich_help_panel=MODEL),
    ] = 1024
    json: JsonObject = False
    debug: Debug = False


@dataclass(frozen=True)
class StatsConfig:
    """What the rows of files are like, in numbers."""

    files: Files
    kind: RowKind = None
    split: Split = None
    map: Map = field(default_factory=list)
    model: Annotated[
        str | None,
        typer.Option(help="Measure lengths in tokens of this model, not in characters.", rich_help_panel=MODEL),
    ] = None
    plot: Annotated[
        str | None,
        typer.Option(help="Write a picture of the lengths: .png or .svg.", metavar="FILE", rich_help_panel=WHERE),
    ] = None
    json: JsonObject = False
    debug: Debug = False


@dataclass(frozen=True)
class SplitConfig:
    """A file in two: rows to train on and rows held out, all rows of a prompt on one side."""

    file: Annotated[str, typer.Argument(help="File of rows.", metavar="FILE")]
    held_out: Annotated[
        float, typer.Option(min=0.0001, max=0.9999, help="Share of the rows to hold out.", rich_help_panel=DATA)
    ] = 0.1
    kind: RowKind = None
    split: Split = None
    map: Map = field(default_factory=list)
    skip_bad: SkipBad = False
    seed: Seed = 0
    out_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder for NAME.train and NAME.held_out. Default: the file's own, of a hub id the current one.",
            metavar="DIR",
            rich_help_panel=WHERE,
        ),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.", rich_help_panel=WHERE)] = (
        False
    )
    json: JsonObject = False
    debug: Debug = False

"""Options of the `prefcli data` commands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import typer

from prefcli.config.shared import Debug, JsonObject, Map, SkipBad, Split
from prefcli.config.training import WHERE

Target = Literal["auto", "pairs", "pairs-plain", "messages", "prompt-completion", "labelled", "prompts", "text"]


@dataclass(frozen=True)
class FormatsConfig:
    """The forms that rows may come in."""

    json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False
    debug: Debug = False


@dataclass(frozen=True)
class ConvertConfig:
    """A file of rows, written in one of our forms."""

    source: Annotated[str, typer.Argument(help="File, saved data set or hub id to read.", metavar="IN")]
    out: Annotated[str, typer.Argument(help="File to write: .jsonl, .jsonl.gz, .json, .csv, .parquet.", metavar="OUT")]
    to: Annotated[
        Target,
        typer.Option(
            help="Form to write: pairs as messages or as plain text; demonstrations as messages, as prompt and "
            "completion or as text; labelled answers; prompts alone. auto: the one that keeps most of what is read.",
            rich_help_panel=WHERE,
        ),
    ] = "auto"
    split: Split = None
    map: Map = field(default_factory=list)
    skip_bad: SkipBad = False
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.", rich_help_panel=WHERE)] = (
        False
    )
    json: JsonObject = False
    debug: Debug = False

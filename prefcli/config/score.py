"""Options of `prefcli score`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.training import DATA, MODEL, WHERE, Dtype


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
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out rows that do not fit, and say how many.", rich_help_panel=DATA),
    ] = False
    reward: Annotated[
        list[str],
        typer.Option(
            help="A score: reward-model artifact, model, python:FILE:FUNCTION or a service's URL; repeat for more.",
            metavar="[NAME=]REF",
            rich_help_panel=MODEL,
        ),
    ] = field(default_factory=list)
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Model whose chat template renders what a service is sent. Default: none, `role: text` paragraphs.",
            metavar="REF",
            rich_help_panel=MODEL,
        ),
    ] = None
    dtype: Annotated[Dtype, typer.Option(help="Weights' type.", rich_help_panel=MODEL)] = "auto"
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.", rich_help_panel=MODEL)] = "auto"
    out: Annotated[
        str | None,
        typer.Option(help="Write the scored rows here, not to stdout.", metavar="FILE.jsonl", rich_help_panel=WHERE),
    ] = None
    runs: Annotated[str | None, typer.Option(help="Where artifacts live.", rich_help_panel=WHERE)] = None
    config: Annotated[str | None, typer.Option(help="YAML file of options.", metavar="FILE", rich_help_panel=WHERE)] = (
        None
    )
    json: Annotated[
        bool, typer.Option("--json", help="Print the summary as one JSON object, not the rows.", rich_help_panel=WHERE)
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress or summary.", rich_help_panel=WHERE)] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=WHERE)] = (
        False
    )

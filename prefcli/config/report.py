"""Options of `prefcli report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.shared import MaxNewTokens, MaxPrompts, Seed, Temperature
from prefcli.config.training import DATA


@dataclass(frozen=True)
class ReportConfig:
    """One page about finished runs, for a person who was not there."""

    refs: Annotated[
        list[str], typer.Argument(help="Artifacts to tell of; with --prompts other models too.", metavar="REF...")
    ]
    output: Annotated[str, typer.Option("--output", "-o", help="The page.", metavar="FILE")] = "report.html"
    prompts: Annotated[
        list[str],
        typer.Option(help="Held-out prompts that the models answer for the report.", metavar="FILE",
                     rich_help_panel=DATA),
    ] = field(default_factory=list)  # fmt: skip
    reward: Annotated[
        list[str],
        typer.Option(
            help="A score of the answers, as in eval; repeat for more. The first one decides.",
            metavar="[NAME=]REF",
            rich_help_panel=DATA,
        ),
    ] = field(default_factory=list)
    against: Annotated[
        str | None,
        typer.Option(help="The baseline of the win rate. Default: what the first model was made from.",
                     metavar="REF", rich_help_panel=DATA),
    ] = None  # fmt: skip
    max_prompts: MaxPrompts = None
    max_new_tokens: MaxNewTokens = 53
    temperature: Temperature = 0.7
    seed: Seed = 0
    samples: Annotated[
        int,
        typer.Option(min=0, help="Prompts shown with answers: half where the first model does worst, half best.",
                     rich_help_panel="Sampling"),
    ] = 20  # fmt: skip
    comparison: Annotated[
        str | None,
        typer.Option(help="What prefcli compare --json printed, instead of comparing anew.", metavar="FILE"),
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Replace FILE even where it is no report.")] = False
    runs: Annotated[str | None, typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.")] = None
    config: Annotated[str | None, typer.Option(help="YAML file of options.", metavar="FILE")] = None
    json: Annotated[bool, typer.Option("--json", help="Print the facts as one JSON object, not the path.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress or notices.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

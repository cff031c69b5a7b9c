"""Options of `prefcli compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.training import DATA, MODEL, WHERE, Dtype

SAMPLING = "Sampling"


@dataclass(frozen=True)
class CompareConfig:
    """Two routes or more, on eight criteria, each measured."""

    refs: Annotated[list[str], typer.Argument(help="Finished policies with a common ancestor.", metavar="REF REF …")]
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
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out rows that do not fit, and say how many.", rich_help_panel=DATA),
    ] = False
    max_prompts: Annotated[
        int | None, typer.Option(min=1, help="Use only the first so many prompts.", rich_help_panel=DATA)
    ] = None
    max_prompt_length: Annotated[
        int,
        typer.Option(
            min=1, help="Prompts longer than this many tokens are left out, and counted.", rich_help_panel=DATA
        ),
    ] = 512
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.", rich_help_panel=SAMPLING)] = (
        53
    )
    temperature: Annotated[float, typer.Option(min=1e-3, help="Sampling temperature.", rich_help_panel=SAMPLING)] = 0.7
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at once.", rich_help_panel=SAMPLING)] = 64
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.", rich_help_panel=SAMPLING)] = 0
    dtype: Annotated[Dtype, typer.Option(help="Weights' type.", rich_help_panel=MODEL)] = "auto"
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.", rich_help_panel=MODEL)] = "auto"
    runs: Annotated[str | None, typer.Option(help="Where artifacts live.", rich_help_panel=WHERE)] = None
    config: Annotated[str | None, typer.Option(help="YAML file of options.", metavar="FILE", rich_help_panel=WHERE)] = (
        None
    )
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=WHERE)] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=WHERE)] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=WHERE)] = (
        False
    )

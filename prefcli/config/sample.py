"""Options of `prefcli sample`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.training import DATA, MODEL, WHERE, Dtype

SAMPLING = "Sampling"


@dataclass(frozen=True)
class SampleConfig:
    """A model's answers to prompts, as rows."""

    model: Annotated[str | None, typer.Option(help="The model that answers.", metavar="REF", rich_help_panel=MODEL)] = (
        None
    )
    prompts: Annotated[
        list[str], typer.Option(help="Prompts to answer; repeat for more files.", metavar="FILE", rich_help_panel=DATA)
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
    num_generations: Annotated[int, typer.Option(min=1, help="Answers to each prompt.", rich_help_panel=SAMPLING)] = 1
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.", rich_help_panel=SAMPLING)] = (
        53
    )
    temperature: Annotated[float, typer.Option(min=1e-3, help="Sampling temperature.", rich_help_panel=SAMPLING)] = 0.7
    batch_size: Annotated[
        int, typer.Option(min=1, help="Answers at once; it changes no answer.", rich_help_panel=SAMPLING)
    ] = 64
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.", rich_help_panel=SAMPLING)] = 0
    dtype: Annotated[Dtype, typer.Option(help="Weights' type.", rich_help_panel=MODEL)] = "auto"
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.", rich_help_panel=MODEL)] = "auto"
    out: Annotated[
        str | None,
        typer.Option(help="Write the rows here, not to stdout.", metavar="FILE.jsonl", rich_help_panel=WHERE),
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

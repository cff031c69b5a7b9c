"""Options of `prefcli sample`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.base import INCIDENTAL
from prefcli.config.shared import (
    ConfigFile,
    Debug,
    Device,
    Map,
    MaxNewTokens,
    MaxPromptLength,
    MaxPrompts,
    Runs,
    Seed,
    SkipBad,
    Split,
    Temperature,
    WeightsDtype,
)
from prefcli.config.training import DATA, MODEL, SAMPLING, WHERE


@dataclass(frozen=True)
class SampleConfig:
    """A model's answers to prompts, as rows."""

    model: Annotated[str | None, typer.Option(help="The model that answers.", metavar="REF", rich_help_panel=MODEL)] = (
        None
    )
    prompts: Annotated[
        list[str], typer.Option(help="Prompts to answer; repeat for more files.", metavar="FILE", rich_help_panel=DATA)
    ] = field(default_factory=list)
    split: Split = None
    map: Map = field(default_factory=list)
    skip_bad: SkipBad = False
    max_prompts: MaxPrompts = None
    max_prompt_length: MaxPromptLength = 512
    num_generations: Annotated[int, typer.Option(min=1, help="Answers to each prompt.", rich_help_panel=SAMPLING)] = 1
    max_new_tokens: MaxNewTokens = 53
    temperature: Temperature = 0.7
    batch_size: Annotated[
        int, typer.Option(min=1, help="Answers at once; it changes no answer.", rich_help_panel=SAMPLING)
    ] = 64
    seed: Seed = 0
    dtype: WeightsDtype = "auto"
    device: Device = "auto"
    out: Annotated[
        str | None,
        typer.Option(help="Write the rows here, not to stdout.", metavar="FILE.jsonl", rich_help_panel=WHERE),
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

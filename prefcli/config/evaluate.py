"""Options of `prefcli eval`."""

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
from prefcli.config.training import DATA, MODEL, Label


@dataclass(frozen=True)
class EvalConfig:
    """Models side by side on held-out prompts, reward models on held-out pairs."""

    model: Annotated[
        list[str],
        typer.Option(
            help="A model to measure; repeat for more. NAME@vN:steps are the kept steps of a run.",
            rich_help_panel=MODEL,
        ),
    ] = field(default_factory=list)
    against: Annotated[
        str | None, typer.Option(help="The baseline of the win rate; also measured.", rich_help_panel=MODEL)
    ] = None
    reward: Annotated[
        list[str],
        typer.Option(
            help="A score: reward-model artifact, model or python:FILE:FUNCTION; repeat for more. "
            "The first one decides the win rate and is the gold one of over-optimisation, the second its proxy.",
            metavar="[NAME=]REF",
            rich_help_panel=MODEL,
        ),
    ] = field(default_factory=list)
    label: Label = None
    judge: Annotated[
        str | None,
        typer.Option(
            help="A language model that judges each model against the baseline, asked in both orders. "
            "The key of an endpoint is read from OPENAI_API_KEY.",
            metavar="MODEL|URL#MODEL",
            rich_help_panel=MODEL,
        ),
    ] = None
    prompts: Annotated[list[str], typer.Option(help="Held-out prompts.", metavar="FILE", rich_help_panel=DATA)] = field(
        default_factory=list
    )
    pairs: Annotated[
        list[str],
        typer.Option(
            help="Held-out pairs, for the accuracy of each reward source.", metavar="FILE", rich_help_panel=DATA
        ),
    ] = field(default_factory=list)
    split: Split = None
    map: Map = field(default_factory=list)
    skip_bad: SkipBad = False
    max_prompts: MaxPrompts = None
    max_prompt_length: MaxPromptLength = 512
    max_length: Annotated[
        int, typer.Option(min=8, help="Longest prompt and answer a reward model reads.", rich_help_panel=DATA)
    ] = 1024
    max_new_tokens: MaxNewTokens = 53
    temperature: Temperature = 0.7
    best_of: Annotated[
        int,
        typer.Option(
            min=1,
            max=256,
            help="Answers to each prompt; above 1, what the best of 1, 2, … of them by the second --reward is worth.",
            rich_help_panel="Sampling",
        ),
    ] = 1
    batch_size: Annotated[int, typer.Option(min=1, help="Answers at once.", rich_help_panel="Sampling")] = 64
    seed: Seed = 0
    samples: Annotated[
        int,
        typer.Option(min=0, help="Show this many prompts with every model's answer.", rich_help_panel="Output"),
        INCIDENTAL,
    ] = 0
    plot: Annotated[
        str | None,
        typer.Option(
            help="Draw over-optimisation (--best-of, or steps of a run) into this .png or .svg.",
            metavar="FILE",
            rich_help_panel="Output",
        ),
        INCIDENTAL,
    ] = None
    dtype: WeightsDtype = "auto"
    device: Device = "auto"
    runs: Runs = None
    config: ConfigFile = None
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel="Output"), INCIDENTAL
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel="Output"), INCIDENTAL] = (
        False
    )
    debug: Debug = False

"""Options of `prefcli label`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import typer

from prefcli.config.base import INCIDENTAL
from prefcli.config.shared import ConfigFile, Debug, Device, Map, Runs, SkipBad, Split, WeightsDtype
from prefcli.config.training import DATA, MODEL, WHERE

HUMAN, JUDGE = "human", "judge:"
KEY_ENV = "OPENAI_API_KEY"


@dataclass(frozen=True)
class LabelConfig:
    """Sampled answers, made into preference data by whoever judges them."""

    data: Annotated[
        list[str],
        typer.Option(
            help="Rows with a prompt and an answer, several a prompt, or pairs; repeat for more files.",
            metavar="FILE",
            rich_help_panel=DATA,
        ),
    ] = field(default_factory=list)
    split: Split = None
    map: Map = field(default_factory=list)
    skip_bad: SkipBad = False
    by: Annotated[
        str | None,
        typer.Option(
            help="Who labels: a reward source (artifact, python:FILE:FUNCTION, URL), judge:MODEL, judge:URL#MODEL, "
            "or human.",
            metavar="SOURCE",
            rich_help_panel=MODEL,
        ),
    ] = None
    to: Annotated[
        Literal["pairs", "binary", "best"],
        typer.Option(
            help="What is made: the best answer against the worst; good and bad answers; the best answer.",
            rich_help_panel=WHERE,
        ),
    ] = "pairs"
    threshold: Annotated[
        float | None,
        typer.Option(
            help="binary: answers above it are good. Default: the prompt's mean. best: only answers above it.",
            rich_help_panel=WHERE,
        ),
    ] = None
    gold: Annotated[
        str | None,
        typer.Option(
            help="A reward source to compare the labels with. Default: labels that the rows carry.",
            metavar="SOURCE",
            rich_help_panel=MODEL,
        ),
    ] = None
    judge_prompt: Annotated[
        str | None,
        typer.Option(
            help="The question for a judge, with {prompt}, {a} and {b} in it. Default: a built-in one.",
            metavar="FILE",
            rich_help_panel=MODEL,
        ),
    ] = None
    judge_key_env: Annotated[
        str | None,
        typer.Option(
            help="Environment variable with the endpoint's key. Default: OPENAI_API_KEY, where it is set.",
            metavar="NAME",
            rich_help_panel=MODEL,
        ),
    ] = None
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
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=2**32 - 1, help="Order in which a person sees the answers; else unused.", rich_help_panel=DATA
        ),
    ] = 0
    out: Annotated[
        str | None,
        typer.Option(help="Write the rows here.", metavar="FILE.jsonl", rich_help_panel=WHERE),
        INCIDENTAL,
    ] = None
    runs: Runs = None
    config: ConfigFile = None
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the summary as one JSON object, not a path.", rich_help_panel=WHERE),
        INCIDENTAL,
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress or summary.", rich_help_panel=WHERE), INCIDENTAL
    ] = False
    debug: Debug = False

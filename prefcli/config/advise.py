"""Options of `prefcli advise`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.shared import ConfigFile, Debug, JsonObject, Runs
from prefcli.config.training import DATA, MODEL

AIM = "Aims"
# What somebody may be after, beside a better model: the name on the command line → in words.
AIMS = {
    "first-time": "new to preference learning",
    "stability": "training that goes as expected, with few knobs",
    "little-time": "a result soon",
    "research": "research that is not about RLHF itself",
    "iterate-on-reward": "what counts as good will be changed again and again",
    "several-objectives": "several objectives, weighed against each other",
    "online": "new prompts and new labels keep coming in",
    "team": "people and infrastructure for RLHF",
    "research-rlhf": "research on RLHF itself",
}


@dataclass(frozen=True)
class AdviseConfig:
    """Which method fits the data, the hardware and the aims, why, and the commands."""

    data: Annotated[
        list[str],
        typer.Option(
            help="Pairs, labelled answers or demonstrations, whichever it holds; repeat for more files.",
            metavar="FILE",
            rich_help_panel=DATA,
        ),
    ] = field(default_factory=list)
    prompts: Annotated[
        list[str],
        typer.Option(help="Prompts without answers; repeat for more files.", metavar="FILE", rich_help_panel=DATA),
    ] = field(default_factory=list)
    reward: Annotated[
        list[str],
        typer.Option(
            help="What scores answers, if you have it: artifact, python:FILE:FUNCTION, URL; repeat for more.",
            metavar="[NAME=]REF",
            rich_help_panel=MODEL,
        ),
    ] = field(default_factory=list)
    judge: Annotated[
        str | None,
        typer.Option(
            help="A language model that compares answers, if you have one: MODEL or URL#MODEL.",
            metavar="MODEL",
            rich_help_panel=MODEL,
        ),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            help="The model to be trained. Default: the highest version of sft, else tiny.",
            metavar="REF",
            rich_help_panel=MODEL,
        ),
    ] = None
    params: Annotated[
        str | None,
        typer.Option(help="Its size, where its files are not here: 125M, 7B.", metavar="COUNT", rich_help_panel=MODEL),
    ] = None
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Kind of GPU (H100, RTX4090, …), or cpu. Default: what this machine has.",
            metavar="KIND",
            rich_help_panel=MODEL,
        ),
    ] = None
    gpus: Annotated[int | None, typer.Option(min=1, help="How many of them. Default: 1.", rich_help_panel=MODEL)] = None
    aim: Annotated[
        list[str],
        typer.Option(help=f"What you are after; repeat: {', '.join(AIMS)}.", metavar="AIM", rich_help_panel=AIM),
    ] = field(default_factory=list)
    runs: Runs = None
    config: ConfigFile = None
    json: JsonObject = False
    debug: Debug = False

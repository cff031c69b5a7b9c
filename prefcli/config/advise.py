"""Options of `prefcli advise`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from prefcli.config.base import Opt
from prefcli.config.shared import FromFile, Map, Split, Stored

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
class AdviseConfig(FromFile, Stored):
    """Which method fits the data, the hardware and the aims, why, and the commands."""

    data: Annotated[
        list[str],
        Opt("Pairs, labelled answers or demonstrations; the format is recognised. Repeatable.", metavar="FILE"),
    ] = field(default_factory=list)
    prompts: Annotated[list[str], Opt("Prompts without answers. Repeatable.", metavar="FILE")] = field(
        default_factory=list
    )
    split: Split = None
    map: Map = field(default_factory=list)
    reward: Annotated[
        list[str],
        Opt(
            "What scores answers, if you have it: artifact, python:FILE:FUNCTION or URL. Repeatable.",
            metavar="[NAME=]REF",
        ),
    ] = field(default_factory=list)
    judge: Annotated[
        str | None,
        Opt("Language model that compares answers, if you have one: MODEL or URL#MODEL.", metavar="MODEL"),
    ] = None
    model: Annotated[
        str | None, Opt("The model to train. Default: the highest version of sft, else tiny.", metavar="REF")
    ] = None
    params: Annotated[str | None, Opt("Its size, if its files are not on this machine: 125M, 7B.", metavar="COUNT")] = (
        None
    )
    gpu: Annotated[
        str | None,
        Opt(
            "Type of GPU (H100, RTX4090, …), its memory (16GB), cpu or mps (mps-16GB). Default: this machine's.",
            metavar="TYPE",
        ),
    ] = None
    gpus: Annotated[int | None, Opt("Number of GPUs. Default: 1.", min=1)] = None
    aim: Annotated[list[str], Opt(f"What matters to you: {', '.join(AIMS)}. Repeatable.", metavar="AIM")] = field(
        default_factory=list
    )

"""Options of `prefcli score`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from prefcli.config.base import INCIDENTAL, Opt
from prefcli.config.shared import FromFile, Label, Machine, Quiet, Reading, Shard, Stored, Template


@dataclass(frozen=True)
class ScoreConfig(Quiet, FromFile, Stored, Machine, Reading):
    """Answers and pairs, scored by any reward source."""

    data: Annotated[
        list[str],
        Opt("Rows with a prompt and an answer, or with chosen and rejected. Repeatable.", metavar="FILE"),
    ] = field(default_factory=list)
    reward: Annotated[
        list[str],
        Opt(
            "What scores: reward-model artifact, model, python:FILE:FUNCTION or the URL of a service. Repeatable.",
            metavar="[NAME=]REF",
        ),
    ] = field(default_factory=list)
    label: Label = None
    tokenizer: Template = None
    shard: Shard = False
    out: Annotated[
        str | None,
        Opt("Write the rows to this file, not to stdout; a stopped command resumes.", metavar="FILE.jsonl"),
        INCIDENTAL,
    ] = None
    json: Annotated[bool, Opt("Print the summary as one JSON object, not the rows."), INCIDENTAL] = False

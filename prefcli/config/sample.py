"""Options of `prefcli sample`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from prefcli.config.base import INCIDENTAL, Opt
from prefcli.config.shared import FromFile, Generate, Machine, Quiet, Reading, Sampling, Shard, Stored


@dataclass(frozen=True)
class SampleConfig(Quiet, FromFile, Stored, Sampling, Machine, Reading):
    """A model's answers to prompts, as rows."""

    model: Annotated[str | None, Opt("The model that answers.", metavar="REF")] = None
    prompts: Annotated[list[str], Opt("Prompts to answer. Repeatable.", metavar="FILE")] = field(default_factory=list)
    num_generations: Annotated[int, Opt("Answers per prompt.", min=1)] = 1
    generate: Generate = None
    shard: Shard = False
    out: Annotated[
        str | None,
        Opt("Write the rows to this file, not to stdout; a stopped command resumes.", metavar="FILE.jsonl"),
        INCIDENTAL,
    ] = None
    json: Annotated[bool, Opt("Print the summary as one JSON object, not the rows."), INCIDENTAL] = False

"""Options of `prefcli report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from prefcli.config.base import Arg, Opt
from prefcli.config.shared import Answering, FromFile, Quiet, Stored


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Quiet, FromFile, Stored, Answering):
    """One page about finished runs, for a person who was not there."""

    refs: Annotated[list[str], Arg("Artifacts to report on; with --prompts also other models.", metavar="REF...")]
    output: Annotated[str, Opt("The page to write.", short="-o", metavar="FILE")] = "report.html"
    prompts: Annotated[
        list[str], Opt("Held-out prompts that the models answer for the report. Repeatable.", metavar="FILE")
    ] = field(default_factory=list)
    reward: Annotated[
        list[str],
        Opt("Scores the answers, as in eval; the first one decides. Repeatable.", metavar="[NAME=]REF"),
    ] = field(default_factory=list)
    against: Annotated[
        str | None,
        Opt("Baseline of the win rate. Default: the first model's training reference, else its start.", metavar="REF"),
    ] = None
    samples: Annotated[
        int, Opt("Number of prompts shown with answers: half where the first model does worst, half best.", min=0)
    ] = 20
    comparison: Annotated[
        str | None, Opt("Output of prefcli compare --json, to use instead of comparing again.", metavar="FILE")
    ] = None
    force: Annotated[bool, Opt("Replace FILE even if it is not a report.")] = False

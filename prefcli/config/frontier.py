"""Options of `prefcli frontier`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from prefcli.config.base import INCIDENTAL, Arg, Opt
from prefcli.config.compare import Lenient
from prefcli.config.shared import FromFile, Machine, Quiet, Sampling, Stored


@dataclass(frozen=True)
class FrontierConfig(Quiet, FromFile, Stored, Sampling, Machine, Lenient):
    """Reward against KL, of many runs and their kept steps."""

    refs: Annotated[
        list[str],
        Arg("Finished policies: NAME@vN, NAME@vN:steps with its kept steps, NAME@*:steps for all.", metavar="REF…"),
    ] = field(default_factory=list)
    against: Annotated[
        str | None, Opt("The model from which all of them started; KL is measured to it.", metavar="REF")
    ] = None
    prompts: Annotated[list[str], Opt("Held-out prompts that all models answer. Repeatable.", metavar="FILE")] = field(
        default_factory=list
    )
    reward: Annotated[
        list[str],
        Opt("What scores the answers; each has a frontier of its own. Repeatable.", metavar="[NAME=]REF"),
    ] = field(default_factory=list)
    plot: Annotated[str | None, Opt("Plot the frontiers into this .png or .svg file.", metavar="FILE"), INCIDENTAL] = (
        None
    )

"""Options of `prefcli serve-rm`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from prefcli.config.base import Arg, Opt
from prefcli.config.shared import Label, Machine, Quiet, Stored


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Quiet, Stored, Machine):
    """A reward model as an HTTP service."""

    ref: Annotated[str, Arg("Reward-model artifact, directory or hub id.", metavar="REF")]
    label: Label = None
    host: Annotated[str, Opt("Address to listen on; 0.0.0.0 accepts other machines.", metavar="ADDRESS")] = "127.0.0.1"
    port: Annotated[int, Opt("Port to listen on; 0 picks a free one.", min=0, max=65535)] = 8000
    allow_host: Annotated[
        list[str],
        Opt(
            "Another host name that requests may use for this machine, beside localhost and its own; * allows any. "
            "Repeatable.",
            metavar="NAME",
        ),
    ] = field(default_factory=list)

"""Options of `prefcli serve-rm`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import typer

from prefcli.config.training import Dtype, Label


@dataclass(frozen=True)
class ServeConfig:
    """A reward model as an HTTP service."""

    ref: Annotated[str, typer.Argument(help="Reward-model artifact, directory or hub id.", metavar="REF")]
    label: Label = None
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000
    allow_host: Annotated[
        list[str],
        typer.Option(help="A name that requests may call this machine by, beside localhost and its own; * is any."),
    ] = field(default_factory=list)
    dtype: Annotated[Dtype, typer.Option(help="Weights' type.")] = "auto"
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto"
    runs: Annotated[str | None, typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.")] = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, not the URL.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notices.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

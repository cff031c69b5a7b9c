"""Options of `prefcli chat`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from prefcli.config.training import Dtype


@dataclass(frozen=True)
class ChatConfig:
    """A dialogue with one model, or with two."""

    ref: Annotated[str, typer.Argument(help="Model to talk to: artifact, directory, hub id, tiny.", metavar="REF")]
    ref2: Annotated[
        str | None, typer.Argument(help="A second model, which answers beside the first.", metavar="[REF2]")
    ] = None
    out: Annotated[
        str | None,
        typer.Option(
            help="Where /save (one model) and /left, /right (two) append rows to train on.", metavar="FILE.jsonl"
        ),
    ] = None
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 256
    temperature: Annotated[float, typer.Option(min=1e-3, help="Sampling temperature.")] = 0.7
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed; every answer counts it up.")] = 0
    dtype: Annotated[Dtype, typer.Option(help="Weights' type.")] = "auto"
    device: Annotated[str, typer.Option(help="cpu, cuda, mps or auto.")] = "auto"
    runs: Annotated[str | None, typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.")] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notices.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

"""Options of `prefcli mem-estimate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True)
class MemoryConfig:
    """What PPO and DPO take in memory, before anything is run."""

    params: Annotated[str | None, typer.Option(help="Size of the base model: 125M, 7B, 1.5e9.", metavar="COUNT")] = None
    model: Annotated[
        str | None, typer.Option(help="In place of --params: a model directory or config.json on disk, or an artifact.")
    ] = None
    gpu: Annotated[str, typer.Option(help="The kind of GPU to count in.")] = "A100-80GB"
    batch_size: Annotated[int, typer.Option(min=1, help="Rows on one device at a time.")] = 1
    max_length: Annotated[int, typer.Option(min=1, help="Tokens of prompt and answer together.")] = 2048
    gradient_checkpointing: Annotated[bool, typer.Option(help="Recompute activations in the backward pass.")] = True
    plot: Annotated[str | None, typer.Option(help="Draw the two panels into this .png or .svg.", metavar="FILE")] = None
    runs: Annotated[str | None, typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.")] = None
    config: Annotated[str | None, typer.Option(help="YAML file of options.", metavar="FILE")] = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

"""Options of `prefcli export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from prefcli.config.training import Dtype, Label


@dataclass(frozen=True)
class ExportConfig:
    """A finished model as one plain directory."""

    ref: Annotated[str, typer.Argument(help="Artifact, kept step, directory, GGUF file or 'tiny'.", metavar="REF")]
    out: Annotated[str, typer.Argument(help="Directory to write; it must be new or empty.", metavar="OUT")]
    merge: Annotated[bool, typer.Option(help="Merge a LoRA adapter into its base; --no-merge keeps it an adapter.")] = (
        True
    )
    dtype: Annotated[Dtype, typer.Option(help="Weights' type; auto is as stored.")] = "auto"
    label: Label = None
    push_to_hub: Annotated[
        str | None, typer.Option(help="Upload the directory too; the token is $HF_TOKEN.", metavar="OWNER/NAME")
    ] = None
    private: Annotated[bool, typer.Option("--private", help="With --push-to-hub: to a private repository.")] = False
    force: Annotated[bool, typer.Option("--force", help="Replace OUT where it holds a model already.")] = False
    runs: Annotated[str | None, typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.")] = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, not the path.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress or notices.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

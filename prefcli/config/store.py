"""Options of the commands that look at the artifact store: `prefcli ls` and `prefcli show`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True)
class ListConfig:
    """What is in the store."""

    runs: Annotated[str | None, typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.")] = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False


@dataclass(frozen=True)
class ShowConfig:
    """One artifact: its manifest, and what it was made from as a tree."""

    ref: Annotated[str, typer.Argument(help="NAME, NAME@vN or an artifact's directory.", metavar="REF")]
    verify: Annotated[bool, typer.Option("--verify", help="Read every file again and check its digest.")] = False
    runs: Annotated[str | None, typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.")] = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

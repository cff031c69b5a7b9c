"""Options of the commands that look at the artifact store: `prefcli ls`, `show`, `rm` and `gc`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from prefcli.config.shared import Debug

# Without panels: these commands have few options.
Runs = Annotated[str | None, typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")]


@dataclass(frozen=True)
class ListConfig:
    """What is in the store."""

    runs: Runs = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False
    debug: Debug = False


@dataclass(frozen=True)
class ShowConfig:
    """One artifact: its manifest, and what it was made from as a tree."""

    ref: Annotated[str, typer.Argument(help="NAME, NAME@vN or an artifact's directory.", metavar="REF")]
    verify: Annotated[bool, typer.Option("--verify", help="Read every file again and check its digest.")] = False
    runs: Runs = None
    json: Json = False
    debug: Debug = False


@dataclass(frozen=True)
class RemoveConfig:
    """Versions to remove."""

    refs: Annotated[list[str], typer.Argument(help="NAME@vN, or a version's directory.", metavar="REF...")]
    dry_run: DryRun = False
    runs: Runs = None
    json: Json = False
    debug: Debug = False


@dataclass(frozen=True)
class CollectConfig:
    """What of a store nobody needs."""

    keep: Annotated[
        int | None,
        typer.Option(min=1, help="Of each name, remove complete versions too, but the N highest and what others need."),
    ] = None
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Remove unfinished runs too that could be gone on with.")
    ] = False
    older_than: Annotated[
        float, typer.Option(min=0, help="Leave what changed in the last so many days.", metavar="DAYS")
    ] = 0.0
    dry_run: DryRun = False
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needed without a terminal.")] = False
    runs: Runs = None
    json: Json = False
    debug: Debug = False

"""Options of the commands on the artifact store: `prefcli ls`, `show`, `rm` and `gc`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from prefcli.config.base import Arg, Opt
from prefcli.config.shared import Stored

DryRun = Annotated[bool, Opt("Print what would be deleted, and delete nothing.")]


@dataclass(frozen=True)
class ListConfig(Stored):
    """Listing the store."""

    sort: Annotated[Literal["time", "name"], Opt("time: the newest first; name: by name and version.")] = "time"


@dataclass(frozen=True, kw_only=True)
class ShowConfig(Stored):
    """One artifact: its manifest, and what it was made from as a tree."""

    ref: Annotated[str, Arg("NAME, NAME@vN or an artifact's directory.", metavar="REF")]
    verify: Annotated[bool, Opt("Read every file again and check its digest.")] = False


@dataclass(frozen=True, kw_only=True)
class RemoveConfig(Stored):
    """Versions to remove."""

    refs: Annotated[list[str], Arg("NAME@vN, or a version's directory.", metavar="REF...")]
    dry_run: DryRun = False


@dataclass(frozen=True)
class CollectConfig(Stored):
    """Deleting what nobody needs in a store."""

    keep: Annotated[
        int | None,
        Opt(
            "Also delete finished versions, except the N highest of each name and those that other artifacts need.",
            min=1,
        ),
    ] = None
    unfinished: Annotated[bool, Opt("Also delete interrupted runs that could still be resumed.")] = False
    older_than: Annotated[float, Opt("Keep what changed in the last DAYS days.", min=0, metavar="DAYS")] = 0.0
    dry_run: DryRun = False
    yes: Annotated[bool, Opt("Do not ask before deleting; required without a terminal.")] = False

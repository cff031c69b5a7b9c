"""Options of `prefcli config` and `prefcli info`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prefcli.config.base import Arg
from prefcli.config.shared import Debug, Stored


@dataclass(frozen=True)
class DefaultsConfig:
    """A file for --config with all options of a command at their defaults."""

    command: Annotated[str, Arg("A command that has --config: dpo, eval, …", metavar="COMMAND")]
    debug: Debug = False


@dataclass(frozen=True)
class InfoConfig(Stored):
    """Facts for a bug report: versions, platform, devices, the store."""

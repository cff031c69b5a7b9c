"""Options of `prefcli data formats` and `data convert`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from prefcli.config.base import Arg, Opt
from prefcli.config.shared import Printing, Ranking, Reading

Target = Literal["auto", "pairs", "pairs-plain", "messages", "prompt-completion", "labelled", "prompts", "text"]


@dataclass(frozen=True)
class FormatsConfig(Printing):
    """The formats that rows may have."""


@dataclass(frozen=True, kw_only=True)
class ConvertConfig(Printing, Ranking, Reading):
    """A file of rows, written in one of our formats."""

    source: Annotated[str, Arg("File, saved data set or hub id to read.", metavar="IN")]
    out: Annotated[str, Arg("File to write: .jsonl, .jsonl.gz, .json, .csv, .parquet.", metavar="OUT")]
    to: Annotated[
        Target,
        Opt(
            "Format to write: pairs as messages or as plain text; demonstrations as messages, as prompt and "
            "completion or as text; labelled answers; prompts only. auto: the one that keeps most of the input."
        ),
    ] = "auto"
    force: Annotated[bool, Opt("Overwrite an existing file.")] = False

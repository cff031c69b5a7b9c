"""Options of `prefcli data check`, `data stats` and `data split`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from prefcli.config.base import Arg, Opt
from prefcli.config.shared import AsChat, Map, Printing, Ranking, Seed, SkipBad, Split

RowKind = Annotated[
    Literal["pairs", "demos", "labelled", "prompts"] | None,
    Opt(
        "What the rows are for: pairs (train-rm, dpo, orpo), demos (sft), labelled (kto), prompts (ppo). "
        "Default: by their columns."
    ),
]


@dataclass(frozen=True, kw_only=True)
class FilesConfig(Printing, Ranking):
    """Files that are read whole: no row is left out."""

    files: Annotated[list[str], Arg("Files of rows.", metavar="FILE...")]
    kind: RowKind = None
    split: Split = None
    map: Map = field(default_factory=list)
    as_chat: AsChat = False


@dataclass(frozen=True, kw_only=True)
class CheckConfig(FilesConfig):
    """Rows are checked one by one and all together; nothing is changed."""

    against: Annotated[
        list[str],
        Opt("Held-out rows whose prompts must not occur in the files. Repeatable.", metavar="FILE"),
    ] = field(default_factory=list)
    model: Annotated[
        str | None,
        Opt(
            "Also tokenise the rows for this model and check them: answers that are cut, the chat template, begin and "
            "end tokens.",
            metavar="REF",
        ),
    ] = None
    max_length: Annotated[int, Opt("With --model: maximum tokens of prompt and answer together.", min=8)] = 1024


@dataclass(frozen=True, kw_only=True)
class StatsConfig(FilesConfig):
    """Statistics of the rows of files."""

    model: Annotated[str | None, Opt("Measure lengths in tokens of this model, not in characters.", metavar="REF")] = (
        None
    )
    plot: Annotated[str | None, Opt("Plot the lengths into this .png or .svg file.", metavar="FILE")] = None


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Printing):
    """A file in two: rows to train on and rows held out, all rows of a prompt on one side."""

    file: Annotated[str, Arg("File of rows.", metavar="FILE")]
    held_out: Annotated[float, Opt("Fraction of the rows to hold out.", min=0.0001, max=0.9999)] = 0.1
    kind: RowKind = None
    split: Split = None
    map: Map = field(default_factory=list)
    skip_bad: SkipBad = False
    seed: Seed = 0
    out_dir: Annotated[
        str | None,
        Opt(
            "Directory for NAME.train and NAME.held_out. Default: the file's own; for a hub id the current one.",
            metavar="DIR",
        ),
    ] = None
    force: Annotated[bool, Opt("Overwrite existing files.")] = False

"""Options of `prefcli chat`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from prefcli.config.base import Arg, Opt
from prefcli.config.shared import Debug, Dtype, Generate, MaxNewTokens, QuietFlag, Runs, Temperature


@dataclass(frozen=True)
class ChatConfig:
    """A dialogue with one model, or with two."""

    ref: Annotated[str, Arg("Model to talk to: artifact, directory, hub id or 'tiny'.", metavar="REF")]
    ref2: Annotated[str | None, Arg("A second model, which answers beside the first.", metavar="[REF2]")] = None
    out: Annotated[
        str | None,
        Opt("File to which /save (one model) and /left, /right (two) append rows to train on.", metavar="FILE.jsonl"),
    ] = None
    max_new_tokens: MaxNewTokens = 256
    temperature: Temperature = 0.7
    seed: Annotated[int, Opt("Random seed; it increases by 1 with every answer.", min=0, max=2**32 - 1)] = 0
    dtype: Annotated[Dtype, Opt("Data type of the weights.")] = "auto"
    device: Annotated[str, Opt("cpu, cuda, mps or auto.", metavar="NAME")] = "auto"
    generate: Generate = None
    runs: Runs = None
    quiet: QuietFlag = False
    debug: Debug = False

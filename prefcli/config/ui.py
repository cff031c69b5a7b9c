"""Options of `prefcli ui`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from prefcli.config.base import Opt
from prefcli.config.shared import FromFile, Machine, Quiet, Reading, Seed, Stored

Kind = Literal["pairs", "binary", "ranking"]


@dataclass(frozen=True)
class UIConfig(Quiet, FromFile, Stored, Machine, Reading):
    """A page in the browser: give preferences, watch runs, talk to models."""

    label: Annotated[list[str], Opt("Answers to label: several per prompt, or pairs. Repeatable.", metavar="FILE")] = (
        field(default_factory=list)
    )
    out: Annotated[
        str | None, Opt("File to which each decision is written; the same command resumes.", metavar="FILE.jsonl")
    ] = None
    to: Annotated[
        Kind,
        Opt("pairs: which of two answers is better. binary: is an answer good. ranking: all answers, best first."),
    ] = "pairs"
    reason: Annotated[
        list[str], Opt("A reason that annotators can tick, for example 'wrong fact'. Repeatable.", metavar="TEXT")
    ] = field(default_factory=list)
    objective: Annotated[
        list[str],
        Opt("pairs: also ask which answer is better at this, for example 'harmless'. Repeatable.", metavar="TEXT"),
    ] = field(default_factory=list)
    overlap: Annotated[
        float, Opt("Fraction of the questions that every annotator is asked, to measure agreement.", min=0, max=1)
    ] = 0.0
    order: Annotated[
        Literal["random", "uncertain"],
        Opt("Order of the questions; uncertain: first those on which --reward is least sure."),
    ] = "random"
    reward: Annotated[
        list[str],
        Opt(
            "For --order uncertain: a reward source, or a policy that dpo made, which is asked for its own margin. "
            "With several sources, questions on which they disagree come first. Repeatable.",
            metavar="SOURCE",
        ),
    ] = field(default_factory=list)
    seed: Seed = 0
    chat: Annotated[list[str], Opt("A model to talk to; twice: two, side by side and blind.", metavar="REF")] = field(
        default_factory=list
    )
    chat_out: Annotated[
        str | None, Opt("File to which the votes between two models are appended, as pairs.", metavar="FILE.jsonl")
    ] = None
    host: Annotated[str, Opt("Address to listen on; 0.0.0.0 accepts other machines.", metavar="ADDRESS")] = "127.0.0.1"
    port: Annotated[int, Opt("Port to listen on; 0 picks a free one.", min=0, max=65535)] = 8010
    browser: Annotated[bool, Opt("Open the page in a browser.")] = True

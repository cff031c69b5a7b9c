"""Options of `prefcli label`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from prefcli.config.base import INCIDENTAL, Opt
from prefcli.config.shared import FromFile, Machine, Quiet, Reading, Shard, Stored, Template

HUMAN, JUDGE = "human", "judge:"
KEY_ENV = "OPENAI_API_KEY"


@dataclass(frozen=True)
class LabelConfig(Quiet, FromFile, Stored, Machine, Reading):
    """Sampled answers, made into preference data by whoever judges them."""

    data: Annotated[
        list[str],
        Opt("Rows with a prompt and an answer, several per prompt, or pairs. Repeatable.", metavar="FILE"),
    ] = field(default_factory=list)
    by: Annotated[
        str | None,
        Opt(
            "Who labels: a reward source (artifact, python:FILE:FUNCTION, URL), judge:MODEL, judge:URL#MODEL or human.",
            metavar="SOURCE",
        ),
    ] = None
    to: Annotated[
        Literal["pairs", "binary", "best"],
        Opt("What to write: pairs of the best and the worst answer; good and bad answers; only the best answer."),
    ] = "pairs"
    threshold: Annotated[
        float | None,
        Opt(
            "binary: an answer that scores above it is good (default: the mean of the prompt's answers). "
            "best: only answers above it."
        ),
    ] = None
    gold: Annotated[
        str | None,
        Opt("Reward source to compare the labels with. Default: labels that the rows carry.", metavar="SOURCE"),
    ] = None
    judge_prompt: Annotated[
        str | None,
        Opt("File with the question for a judge; it contains {prompt}, {a} and {b}. Default: built in.",
            metavar="FILE"),
    ] = None  # fmt: skip
    judge_key_env: Annotated[
        str | None,
        Opt("Environment variable with the endpoint's key. Default: OPENAI_API_KEY, if set.", metavar="NAME"),
    ] = None
    tokenizer: Template = None
    shard: Shard = False
    seed: Annotated[
        int, Opt("Seed of the order in which a person sees the answers; unused otherwise.", min=0, max=2**32 - 1)
    ] = 0
    out: Annotated[
        str | None, Opt("Write the rows to this file; a stopped command resumes.", metavar="FILE.jsonl"), INCIDENTAL
    ] = None
    json: Annotated[bool, Opt("Print the summary as one JSON object, not a path."), INCIDENTAL] = False

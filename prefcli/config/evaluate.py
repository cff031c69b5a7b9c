"""Options of `prefcli eval`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from prefcli.config.base import INCIDENTAL, Opt
from prefcli.config.shared import FromFile, Generate, Label, Machine, Quiet, Reading, Sampling, Shard, Stored


@dataclass(frozen=True)
class EvalConfig(Quiet, FromFile, Stored, Sampling, Machine, Reading):
    """Models side by side on held-out prompts, reward models on held-out pairs."""

    model: Annotated[
        list[str],
        Opt("A model to evaluate; NAME@vN:steps means all kept steps of a run. Repeatable.", metavar="REF"),
    ] = field(default_factory=list)
    against: Annotated[str | None, Opt("Baseline of the win rate; it is evaluated too.", metavar="REF")] = None
    reward: Annotated[
        list[str],
        Opt(
            "Scores the answers: reward-model artifact, model or python:FILE:FUNCTION. The first one decides the win "
            "rate and is the gold reward of over-optimisation, the second its proxy. Repeatable.",
            metavar="[NAME=]REF",
        ),
    ] = field(default_factory=list)
    label: Label = None
    judge: Annotated[
        str | None,
        Opt(
            "Language model that compares each model's answers with the baseline's, in both orders. The key of an "
            "endpoint is read from OPENAI_API_KEY.",
            metavar="MODEL|URL#MODEL",
        ),
    ] = None
    prompts: Annotated[list[str], Opt("Held-out prompts. Repeatable.", metavar="FILE")] = field(default_factory=list)
    pairs: Annotated[
        list[str],
        Opt("Held-out pairs or RewardBench's, for each reward source's accuracy. Repeatable.", metavar="FILE"),
    ] = field(default_factory=list)
    best_of: Annotated[
        int,
        Opt(
            "Answers per prompt. Above 1: score of the best of 1, 2, … answers, chosen by the second --reward.",
            min=1,
            max=256,
        ),
    ] = 1
    lm_eval: Annotated[
        str | None,
        Opt(
            "Tasks of lm-evaluation-harness (pip install lm-eval) that each model and the baseline answer, to measure "
            "what fine-tuning lost; only the first --max-prompts questions of each task.",
            metavar="TASK,TASK",
        ),
    ] = None
    generate: Generate = None
    shard: Shard = False
    samples: Annotated[int, Opt("Show N prompts with every model's answer.", min=0), INCIDENTAL] = 0
    plot: Annotated[
        str | None,
        Opt(
            "Plot over-optimisation (--best-of, or steps of a run) and calibration (--pairs) into this .png or .svg "
            "file.",
            metavar="FILE",
        ),
        INCIDENTAL,
    ] = None

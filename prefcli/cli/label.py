"""`prefcli label`: preference data from sampled answers, its path on stdout, and a summary on stderr."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from typing import Any

from prefcli.cli.console import print_result, reporter
from prefcli.cli.out import out_file
from prefcli.cli.score import score_summary
from prefcli.config.base import option
from prefcli.config.label import HUMAN, JUDGE, LabelConfig
from prefcli.errors import DataError, UsageError
from prefcli.rewards.grammar import is_url

MADE = {
    "pairs": "the best answer against the worst",
    "binary": "good and bad answers",
    "best": "the best answer to each prompt",
}


def run(config: LabelConfig) -> None:
    """stdout carries the path of the file that was written; with --json the summary."""
    by = _checked(config)
    taken: dict[str, Sequence[str | None]] = {
        "one of the files of --data": config.data,
        "the file of --judge-prompt": [config.judge_prompt],
    }
    out = out_file("--out", config.out, taken)
    assert out is not None
    report = reporter(config.quiet)
    if by == HUMAN:
        result = importlib.import_module("prefcli.labelling.human").run(config, report)
        if config.json or result["rows"]:
            print_result(json.dumps(result, ensure_ascii=False) if config.json else str(out))
        return
    from prefcli.evaluation.together import share
    from prefcli.labelling.run import label

    result = label(config, report, share=share())
    if not result:
        return
    rows, source, gold, left_out = result["rows"], result["by"], result["gold"], result["left_out"]
    none = "; left out: " + ", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in left_out.items()) if left_out else ""
    if by.startswith(JUDGE):
        shown = {f"judge {source['ref']}": _judge(source)}
    else:
        shown = {f"reward {source['name']}": score_summary(source)}
    shown[config.to] = f"{rows:,} rows: {MADE[config.to]}, of {result['prompts']:,} prompts{none}"
    if gold:
        shown["gold"] = (
            f"agrees in {_share(gold['agreement'], gold['agreement_ci95'])} of {gold['pairs']:,} pairs, "
            f"prefers neither in {gold['no_preference']:,}"
        )
    report.plan(shown)
    if not rows:
        raise DataError(
            f"--by {by} gives nothing to write{none}",
            "sample more answers, at a higher --temperature, or use a source that tells them apart",
        )
    summary = result | {"out": config.out, "to": config.to}
    print_result(json.dumps(summary, ensure_ascii=False) if config.json else str(out))


def _checked(config: LabelConfig) -> str:
    """The labeller. Raises UsageError: an option is missing, or one is given that this labeller has no use for."""
    if not config.data:
        raise UsageError("--data is missing", "name a file of answers: --data FILE (prefcli sample makes one)")
    if not config.by:
        raise UsageError("--by is missing", "name who labels: a reward model, python:FILE:FUNCTION, judge:MODEL, human")
    if config.out is None:
        raise UsageError("--out is missing", "name the file to write: --out pairs.jsonl")
    if config.threshold is not None and config.to == "pairs":
        raise UsageError("--threshold is for --to binary and --to best", "leave it out")
    if config.by == JUDGE:
        raise UsageError(f"--by {JUDGE}: no model is named", "name it after the colon: --by judge:MODEL")
    if config.gold is not None and config.gold.startswith(JUDGE):
        raise UsageError(
            f"--gold {config.gold}: gold is a reward source", "give python:FILE:FUNCTION or a reward model"
        )
    unread = [] if config.by.startswith(JUDGE) else ["judge_prompt", "judge_key_env"]
    unread += ["gold", "tokenizer", "threshold"] if config.by == HUMAN else []
    for name in unread:
        if getattr(config, name) is not None:
            raise UsageError(f"{option(name)} has no effect with --by {config.by}", "leave it out")
    alone = config.by == HUMAN or (config.by.startswith(JUDGE) and is_url(config.by.removeprefix(JUDGE)))
    if alone and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            f"--by {config.by} labels in one process: more processes would not make it faster",
            "start it without torchrun or accelerate launch",
        )
    if config.by == HUMAN and config.to != "pairs":
        raise UsageError(f"--to {config.to}: people compare answers two by two", "take --to pairs")
    return config.by


def _judge(by: dict[str, Any]) -> str:
    text = (
        f"{by['comparisons']:,} comparisons, each in both orders; {by['ties']:,} ties; "
        f"the first place was preferred in {_share(by['first_place'], by['first_place_ci95'])}"
    )
    return text + (f"; {by['no_verdict']:,} questions without a verdict" if by["no_verdict"] else "")


def _share(share: float, interval: list[float]) -> str:
    return f"{share:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"

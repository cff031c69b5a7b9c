"""What fine-tuning cost: tasks of lm-evaluation-harness (`pip install lm-eval`) before and after, question by question.

It answers the tasks with each model as `export` writes it. The values of its questions are compared in pairs, so that
a loss of a few questions in a hundred shows where the tasks' own standard errors would hide it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from prefcli.artifacts.parts import Work
from prefcli.artifacts.references import Reference
from prefcli.errors import SurroundingsError, UsageError
from prefcli.evaluation.measured import Setting
from prefcli.models.export import export
from prefcli.progress import SILENT
from prefcli.statistics.paired import holm, paired_difference
from prefcli.text import first_line

MODULE = "lm_eval"
LEVEL = 0.05
Values = dict[str, float]  # question → value


def check(tasks: str, against: str | None, models: int, world: int) -> list[str]:
    """The tasks that --lm-eval names. Raises UsageError: none, nothing to compare with, the harness is missing."""
    found = [name.strip() for name in tasks.split(",") if name.strip()]
    if not found:
        raise UsageError("--lm-eval names no task", "for example: --lm-eval hellaswag,arc_easy")
    if against is None or models < 2:
        raise UsageError("--lm-eval compares models with a baseline", "name both: --model ppo --against sft")
    if world > 1:
        raise UsageError("--lm-eval runs in one process", "start this command without a launcher")
    if importlib.util.find_spec(MODULE) is None:
        raise UsageError("--lm-eval: lm-evaluation-harness is not installed", "pip install lm-eval")
    return found


def measure(references: Sequence[Reference], tasks: list[str], setting: Setting, work: Work) -> dict[str, Any]:
    """{"tasks", "limit", "against", "models": [{"ref", "results": [row, …]}, …]}, the baseline being the first.

    A row is of a task (or group) and one of its metrics: {"task", "metric", "questions", "before", "after",
    "difference", "ci95", "p", "p_holm", "verdict"}, "difference" after less before, the p's of a model corrected
    together. Raises SurroundingsError: the harness fails.
    """
    job = work.job("lm-eval", len(references), 1, "models")
    work.begin("answering lm-eval's tasks", job)
    found = [part.noted for part in job.run(lambda span: (b"", _answered(references[span.start], tasks, setting)))]
    before, *others = found
    for name in sorted(before["without"]):
        setting.reporter.notice(f"--lm-eval {name}: no metric with a value for each question, so it is not compared")
    return {
        "tasks": tasks,
        "limit": setting.config.max_prompts,
        "against": references[0].shown,
        "models": [
            {"ref": reference.shown, "results": compare(before["values"], after["values"], before["lower_is_better"])}
            for reference, after in zip(references[1:], others)
        ],
    }


def compare(
    before: dict[str, Values], after: dict[str, Values], lower_is_better: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The rows of `measure` from values by "task\\0metric"."""
    rows = []
    for name, values in before.items():
        asked = [question for question in values if question in after.get(name, {})]
        if asked:
            old, new = ([of[question] for question in asked] for of in (values, after[name]))
            task, metric = name.split("\0")
            found = paired_difference(new, old)
            rows.append(
                {"task": task, "metric": metric, "questions": len(asked), "before": fmean(old), "after": fmean(new),
                 "difference": found["mean"], "ci95": found["ci95"], "p": found["p"]}
            )  # fmt: skip
    for row, p in zip(rows, holm([row["p"] for row in rows])):
        worse = row["difference"] > 0 if f"{row['task']}\0{row['metric']}" in lower_is_better else row["difference"] < 0
        row |= {"p_holm": p, "verdict": "no difference shown" if p >= LEVEL else "lost" if worse else "gained"}
    return rows


def _answered(reference: Reference, tasks: list[str], setting: Setting) -> dict[str, Any]:
    """{"values": {"task\\0metric": {question: value}}, "lower_is_better", "without": tasks without such values}."""
    config = setting.config
    with tempfile.TemporaryDirectory(prefix="prefcli-") as folder:
        export(reference, Path(folder), dtype="auto", merge=True, reporter=SILENT)
        logging.getLogger(MODULE).setLevel(logging.ERROR)
        try:
            found = importlib.import_module(MODULE).simple_evaluate(
                model="hf",
                model_args={"pretrained": folder, "dtype": str(setting.place.dtype).removeprefix("torch.")},
                tasks=tasks,
                limit=config.max_prompts,
                batch_size=config.batch_size,
                device=str(setting.place.device),
                bootstrap_iters=0,
                log_samples=True,
            )
        except Exception as error:
            raise SurroundingsError(
                f"--lm-eval: lm-evaluation-harness failed on {reference.shown}: {first_line(error)}",
                "lm_eval ls tasks lists its tasks; most are downloaded from the hub",
            ) from error
    values: dict[str, Values] = {}
    lower: set[str] = set()
    covered: set[str] = set()
    for name in tasks:
        for leaf in _leaves(name, found):
            covered.add(leaf)
            _add(values, lower, name, leaf, found)
    for leaf in found["samples"].keys() - covered:  # of a tag, which stands for several tasks
        _add(values, lower, leaf, leaf, found)
    used = {name.split("\0")[0] for name in values}
    return {
        "values": values,
        "lower_is_better": sorted(lower),
        "without": sorted({name for name in (*tasks, *found["samples"]) if name in covered and name not in used}),
    }


def _leaves(name: str, found: dict[str, Any]) -> Iterator[str]:
    """The tasks with questions of their own below a group, or the task itself."""
    if name in found["samples"]:
        yield name
    for below in found.get("group_subtasks", {}).get(name, ()):
        if below != name:
            yield from _leaves(below, found)


def _add(values: dict[str, Values], lower: set[str], name: str, leaf: str, found: dict[str, Any]) -> None:
    """The questions of a task, each with its value by every metric that gives one number, to those of `name`."""
    better = found.get("higher_is_better", {}).get(leaf, {})
    for sample in found["samples"][leaf]:
        for metric in sample.get("metrics", ()):
            value = sample.get(metric)
            if isinstance(value, (int, float)) and math.isfinite(value):
                filtered = "" if sample.get("filter", "none") == "none" else f", {sample['filter']}"
                key = f"{name}\0{metric}{filtered}"
                values.setdefault(key, {})[f"{leaf} {sample['doc_id']}"] = float(value)
                if better.get(metric) is False:
                    lower.add(key)

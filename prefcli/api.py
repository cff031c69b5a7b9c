"""The commands as functions of their options: docs/python.md. Quiet, in a single process.

Each takes the options of its command, held to the same types and ranges, and tells `progress` what it is doing.
All raise the errors of prefcli.errors, as the command does.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from prefcli.comparison.run import compare as compare_routes
from prefcli.config.checked import checked
from prefcli.config.compare import CompareConfig, RoutesConfig
from prefcli.config.evaluate import EvalConfig
from prefcli.config.label import HUMAN, LabelConfig
from prefcli.config.memory import MemoryConfig
from prefcli.config.sample import SampleConfig
from prefcli.config.score import ScoreConfig
from prefcli.errors import UsageError
from prefcli.evaluation.run import evaluate as evaluate_models
from prefcli.evaluation.sample import sample as sample_answers
from prefcli.evaluation.score import score as score_rows
from prefcli.labelling.run import label as label_answers
from prefcli.memory.answer import answer
from prefcli.memory.methods import as_dict
from prefcli.models.quiet import quiet
from prefcli.progress import SILENT, Reporter

Row = dict[str, Any]


class Scored(NamedTuple):
    """`rows` with their scores, and a summary of each reward: docs/rewards.md has the shapes."""

    rows: list[Row]
    rewards: list[dict[str, Any]]


def sample(config: SampleConfig, progress: Reporter = SILENT) -> list[Row]:
    """Rows with sampled answers, those to one prompt next to each other; an empty answer is left out."""
    lines = _Lines()
    out = _out(config.out)
    with quiet():
        sample_answers(checked(config), progress, out=out, show=lines.add)
    return lines.rows(out)


def score(config: ScoreConfig, progress: Reporter = SILENT) -> Scored:
    """The rows of the files with their scores by every reward."""
    lines = _Lines()
    out = _out(config.out)
    with quiet():
        found = score_rows(checked(config), progress, out=out, show=lines.add)
    return Scored(lines.rows(out), found["rewards"])


def label(config: LabelConfig, progress: Reporter = SILENT) -> list[Row]:
    """Preference rows of sampled answers, which are written to `out` too."""
    config = checked(config)
    if config.by is None or config.out is None or config.by == HUMAN:
        raise UsageError("label takes by= (a reward or a judge) and out= (a file)", "a person labels in a terminal")
    with quiet():
        label_answers(config, progress)
    return _Lines().rows(Path(config.out))


def evaluate(config: EvalConfig, progress: Reporter = SILENT) -> dict[str, Any]:
    """Evaluate models and rewards; returns what `eval --json` prints: docs/eval.md."""
    with quiet():
        return evaluate_models(checked(config), progress)


def compare(config: CompareConfig, progress: Reporter = SILENT) -> dict[str, Any]:
    """Compare finished runs; returns what `compare REF REF --json` prints: docs/compare.md. Trains nothing.

    Raises UsageError also for the options that train both routes first, which the command alone does.
    """
    if given := [field.name for field in fields(RoutesConfig) if getattr(config, field.name)]:
        raise UsageError(
            f"{given[0]}= trains both routes first, which compare from Python does not",
            "train them, then compare(CompareConfig(refs=[…, …])); or run prefcli compare --data FILE --model REF",
        )
    with quiet():
        return compare_routes(checked(config), progress)


def mem_estimate(config: MemoryConfig, progress: Reporter = SILENT) -> Any:
    """Estimate memory; returns what `mem-estimate --json` prints: docs/memory.md. Runs nothing."""
    if config.probe:
        raise UsageError("probe=True runs a step in a process of its own", "prefcli mem-estimate --probe")
    return as_dict(answer(checked(config), progress))


def _out(path: Any) -> Path | None:
    return None if path is None else Path(path)


class _Lines:
    """JSON lines as they are shown, or as they were written."""

    def __init__(self) -> None:
        self._shown: list[bytes] = []

    def add(self, lines: bytes) -> None:
        self._shown.append(lines)

    def rows(self, out: Path | None) -> list[Row]:
        lines = b"".join(self._shown) if out is None else out.read_bytes()
        return [json.loads(line) for line in lines.splitlines()]

"""`prefcli score`: rows with their scores as JSON lines, and a summary on stderr."""

from __future__ import annotations

import json
from typing import Any

from prefcli.cli.console import print_result, reporter
from prefcli.cli.out import out_file, refuse_several, rows_shown
from prefcli.config.score import ScoreConfig


def run(config: ScoreConfig) -> None:
    """stdout carries the path of the file that was written; with --json the summary; else the rows."""
    out = out_file("--out", config.out, {"one of the files of --data": config.data})
    refuse_several(out)
    from prefcli.evaluation.score import score
    from prefcli.evaluation.together import share

    report = reporter(config.quiet)
    result = score(config, report, share=share(), out=out, show=rows_shown(out, config.json))
    if not result:
        return
    report.plan({f"reward {entry['name']}": score_summary(entry) for entry in result["rewards"]})
    if config.json:
        summary = {"rows": result["rows"], "out": config.out, "rewards": result["rewards"]}
        print_result(json.dumps(summary, ensure_ascii=False))
    elif out:
        print_result(str(out))


def score_summary(entry: dict[str, Any]) -> str:
    text = (
        f"mean {entry['mean']:.4g}, sd {entry['std']:.4g}, from {entry['min']:.4g} to {entry['max']:.4g} "
        f"over {entry['answers']:,} answers"
    )
    if "pairs" in entry:
        low, high = entry["accuracy_ci95"]
        text += f"; chosen preferred in {entry['accuracy']:.2f} [{low:.2f}, {high:.2f}] of {entry['pairs']:,} pairs"
    return text

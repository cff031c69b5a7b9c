"""`prefcli score`: rows with their scores as JSON lines, and a summary on stderr."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from prefcli.artifacts.digests import write_atomically
from prefcli.cli.console import print_result, reporter
from prefcli.cli.train import quieten
from prefcli.config.score import ScoreConfig
from prefcli.errors import SurroundingsError, UsageError


def run(config: ScoreConfig) -> None:
    """With --out, stdout carries the file's path; with --json the summary; else the rows."""
    out = _out(config)
    quieten(config.debug)
    from prefcli.evaluation.score import score

    report = reporter(config.quiet)
    result = score(config, report)
    lines = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in result["rows"])
    report.plan({f"reward {entry['name']}": _shown(entry) for entry in result["rewards"]})
    if out:
        try:
            write_atomically(out, lines)
        except OSError as error:
            raise SurroundingsError(f"--out {out}: {error.strerror or error}", "choose another place") from error
    if config.json:
        summary = {"rows": len(result["rows"]), "out": config.out, "rewards": result["rewards"]}
        print_result(json.dumps(summary, ensure_ascii=False))
    else:
        print_result(str(out) if out else lines.removesuffix("\n"))


def _out(config: ScoreConfig) -> Path | None:
    """--out, checked before any work is done."""
    if config.out is None:
        return None
    path = Path(config.out)
    if not config.out.endswith(".jsonl"):
        raise UsageError(f"--out {config.out}: the file must end in .jsonl")
    if not os.path.isdir(path.parent):
        raise UsageError(f"--out {config.out}: there is no directory {path.parent}", f"make it: mkdir -p {path.parent}")
    if os.path.isdir(path):
        raise UsageError(f"--out {config.out} is a directory")
    if any(os.path.exists(data) and os.path.exists(path) and os.path.samefile(data, path) for data in config.data):
        raise UsageError(f"--out {config.out} is one of the files of --data", "choose another")
    return path


def _shown(entry: dict[str, Any]) -> str:
    text = (
        f"mean {entry['mean']:.4g}, sd {entry['std']:.4g}, from {entry['min']:.4g} to {entry['max']:.4g} "
        f"over {entry['answers']:,} answers"
    )
    if "pairs" in entry:
        low, high = entry["accuracy_ci95"]
        text += f"; chosen preferred in {entry['accuracy']:.2f} [{low:.2f}, {high:.2f}] of {entry['pairs']:,} pairs"
    return text

"""`prefcli score`: rows with their scores as JSON lines, pairs from them, and a summary on stderr."""

from __future__ import annotations

import json
from typing import Any

from prefcli.cli.console import print_result, reporter
from prefcli.cli.out import as_lines, out_file, write_out
from prefcli.cli.train import quieten
from prefcli.config.score import ScoreConfig
from prefcli.errors import DataError


def run(config: ScoreConfig) -> None:
    """stdout carries the path of each file that was written; with --json the summary; else the rows."""
    data = {"one of the files of --data": config.data}
    out = out_file("--out", config.out, data)
    pairs_out = out_file("--pairs-out", config.pairs_out, data | {"the file of --out": [config.out]})
    quieten(config.debug)
    from prefcli.evaluation.score import score

    report = reporter(config.quiet)
    result = score(config, report)
    first, pairs = result["rewards"][0]["name"], result["pairs"]
    shown = {f"reward {entry['name']}": _shown(entry) for entry in result["rewards"]}
    report.plan(shown | ({"pairs": _pairs(pairs, first)} if pairs else {}))
    lines = as_lines(result["rows"])
    if out:
        write_out("--out", out, lines)
    if pairs_out and not pairs.rows:
        raise DataError(
            f"--pairs-out: no pair, as {first} scores all answers to a prompt alike ({pairs.tied} prompts)",
            "sample more answers, at a higher --temperature, or take a reward that tells them apart",
        )
    if pairs_out:
        write_out("--pairs-out", pairs_out, as_lines(pairs.rows))
    if config.json:
        counts = {"one_answer": pairs.one_answer, "tied": pairs.tied} if pairs else {}
        summary = {
            "rows": len(result["rows"]),
            "out": config.out,
            "rewards": result["rewards"],
            "pairs": {"rows": len(pairs.rows), "out": config.pairs_out, **counts} if pairs else None,
        }
        print_result(json.dumps(summary, ensure_ascii=False))
    else:
        print_result("\n".join(str(path) for path in (out, pairs_out) if path) or lines.removesuffix("\n"))


def _pairs(pairs: Any, reward: str) -> str:
    none = pairs.one_answer + pairs.tied
    text = f"{len(pairs.rows):,}, the best answer against the worst by {reward}; {none:,} prompts gave none"
    return f"{text} ({pairs.one_answer:,} with one answer, {pairs.tied:,} tied)" if none else text


def _shown(entry: dict[str, Any]) -> str:
    text = (
        f"mean {entry['mean']:.4g}, sd {entry['std']:.4g}, from {entry['min']:.4g} to {entry['max']:.4g} "
        f"over {entry['answers']:,} answers"
    )
    if "pairs" in entry:
        low, high = entry["accuracy_ci95"]
        text += f"; chosen preferred in {entry['accuracy']:.2f} [{low:.2f}, {high:.2f}] of {entry['pairs']:,} pairs"
    return text

"""What benchmarks/memory.py measured beside what mem-estimate says now: the tables of docs/memory.md. No torch.

python -m benchmarks.memory_table FILE.json …      merge measurements into results/memory.json, print the tables
python -m benchmarks.memory_table                  print the tables of results/memory.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.memory_cases import Case, run_of
from prefcli.memory.estimate import estimate

RESULTS = Path(__file__).parent / "results" / "memory.json"
SHARDED = RESULTS.with_name("memory_sharded.json")  # what benchmarks/memory_sharded.py wrote
KEPT = ("case", "held_out", "peak", "phase", "phases", "reserved", "step_seconds")


def errors(results: dict[str, Any], device: str | None = None, held_out: bool | None = None) -> list[float]:
    """(predicted − measured) ÷ measured of the cases that are asked for; predicted by the code as it is now."""
    return [
        predicted(row) / row["peak"] - 1
        for row in results["cases"]
        if device in (None, row["device"]) and held_out in (None, row["held_out"])
    ]


def predicted(row: dict[str, Any]) -> int:
    return estimate(run_of(Case(**row["case"]), row["device"])).bytes


def table(results: dict[str, Any], device: str) -> str:
    """Markdown: one line a case, signed errors; those held out are marked."""
    lines = [
        "| run | measured MB | predicted MB | error | held out |",
        "|---|---:|---:|---:|:---:|",
    ]
    for row in results["cases"]:
        if row["device"] != device:
            continue
        found = predicted(row)
        error = found / row["peak"] - 1
        held = "blind" if row["blind"] else "yes" if row["held_out"] else ""
        lines.append(
            f"| {Case(**row['case']).name} | {row['peak'] / 1e6:,.0f} | {found / 1e6:,.0f} | {error:+.1%} | {held} |"
        )
    return "\n".join(lines)


def summary(results: dict[str, Any]) -> str:
    """Markdown: mean of the absolute errors, the worst either way."""
    lines = ["| | runs | mean error | furthest under | furthest over |", "|---|---:|---:|---:|---:|"]
    for name, device in (("GPU", "cuda"), ("CPU", "cpu")):
        for said, held_out in (("held out", True), ("the others", False)):
            found = errors(results, device, held_out)
            lines.append(
                f"| {name}, {said} | {len(found)} | {fmean(map(abs, found)):.1%} | {min(0, *found):+.1%} | "
                f"{max(0, *found):+.1%} |"
            )
    return "\n".join(lines)


def sharded(results: dict[str, Any]) -> str:
    """Markdown: the runs of benchmarks/memory_sharded.py, signed errors."""
    lines = ["| run | measured MB | predicted MB | error |", "|---|---:|---:|---:|"]
    for row in results["cases"]:
        found = estimate(run_of(Case(**row["case"]), "cpu")).bytes
        name = Case(**row["case"]).name
        lines.append(f"| {name} | {row['peak'] / 1e6:,.1f} | {found / 1e6:,.1f} | {found / row['peak'] - 1:+.1%} |")
    return "\n".join(lines)


def merge(files: list[str]) -> dict[str, Any]:
    """The measurements of several runs; of a case that was measured twice the last counts."""
    machines: dict[str, Any] = {}
    cases: dict[str, Any] = {}
    for file in files:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        device = "cpu" if found["machine"]["device"] == "cpu" else "cuda"
        machines[device] = found["machine"]
        for row in found["cases"]:
            if "error" not in row:
                cases[f"{device} {row['case']}"] = (
                    {"device": device} | {name: row[name] for name in KEPT} | {"blind": row.get("blind", False)}
                )
    return {"machines": machines, "cases": sorted(cases.values(), key=lambda row: row["device"] == "cpu")}


def main() -> None:
    if sys.argv[1:]:
        RESULTS.write_text(json.dumps(merge(sys.argv[1:]), indent=1) + "\n", encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    print(summary(results), table(results, "cuda"), table(results, "cpu"), sep="\n\n")
    print("\n" + sharded(json.loads(SHARDED.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()

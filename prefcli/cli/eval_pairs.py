"""The tables of `prefcli eval --pairs`: accuracy, calibration, which pairs a source gets right, RewardBench."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from prefcli.cli.eval_tables import table, with_interval
from prefcli.text import shown

PAIRS_NOTE = (
    "ECE: expected calibration error of σ(margin); in brackets the value below which a calibrated source stays in "
    "95 % of cases. longer: how often the longer answer scores higher."
)
Block = list[Table | str]


def blocks(entries: list[dict[str, Any]]) -> list[Block]:
    """Tables of the "reward_models" of `eval --json`, each with its notes."""
    found: list[Block] = [[_sources(entries), escape(f"{PAIRS_NOTE} {_chosen_longer(entries[0])}")]]
    found.append([_quarters(entries)])
    if entries[0]["subsets"]:
        found.append([_subsets(entries)])
    if entries[0]["benchmarks"]:
        found.append([_benchmarks(entries), *map(escape, _missing(entries[0]))])
    return found


def _sources(entries: list[dict[str, Any]]) -> Table:
    made = table(
        f"reward sources on {entries[0]['pairs']} pairs", ["reward", "from"], ["accuracy", "margin", "ECE", "longer"]
    )
    for entry in entries:
        fit, long = entry["calibration"], entry["longer"]
        made.add_row(
            escape(entry["name"]),
            escape(entry["ref"]),
            with_interval(entry["accuracy"], entry["accuracy_ci95"]),
            f"{entry['margin']:.2f}",
            escape(f"{fit['ece']:.3f} [{fit['ece_chance']:.3f}]"),
            with_interval(long["preferred"], long["preferred_ci95"]),
        )
    return made


def _chosen_longer(entry: dict[str, Any]) -> str:
    chosen = entry["longer"]["chosen"]
    return "" if chosen is None else f"The chosen answer is the longer one in {chosen:.2f}."


def _quarters(entries: list[dict[str, Any]]) -> Table:
    """The pairs in four parts, by the source's margin and by how much longer the chosen answer is."""
    made = table(
        "accuracy on a quarter of the pairs each",
        ["reward"],
        ["|margin|", "accuracy", "chosen longer by (characters)", "accuracy"],
    )
    for entry in entries:
        left = [(_range(part, ".2f"), part) for part in entry["by_margin"]]
        right = [(_range(part, ".0f"), part) for part in entry["by_length"]]
        for row in range(max(len(left), len(right))):
            cells = []
            for side in (left, right):
                if row < len(side):
                    where, part = side[row]
                    cells += [where, with_interval(part["accuracy"], part["accuracy_ci95"])]
                else:  # equal keys are in one part, so there may be fewer
                    cells += ["", ""]
            made.add_row("" if row else escape(entry["name"]), *cells)
    return made


def _range(part: dict[str, Any], form: str) -> str:
    return f"{part['low']:{form}} … {part['high']:{form}}"


def _subsets(entries: list[dict[str, Any]]) -> Table:
    made = table("by subset", ["subset"], ["rows", *(entry["name"] for entry in entries)])
    for several in zip(*(entry["subsets"] for entry in entries)):
        cells = [with_interval(one["score"], one["score_ci95"]) for one in several]
        made.add_row(escape(shown(several[0]["subset"])), str(several[0]["rows"]), *cells)
    return made


def _benchmarks(entries: list[dict[str, Any]]) -> Table:
    made = table("benchmarks", ["benchmark", "section"], [entry["name"] for entry in entries])
    for several in zip(*(entry["benchmarks"] for entry in entries)):
        for sections in zip(*(one["sections"] for one in several)):
            cells = [with_interval(one["score"], one["score_ci95"]) for one in sections]
            made.add_row(several[0]["benchmark"], sections[0]["section"], *cells)
        whole = [with_interval(one["score"], one["score_ci95"]) for one in several]
        made.add_row(several[0]["benchmark"], "score", *whole)
    return made


def _missing(entry: dict[str, Any]) -> list[str]:
    return [
        f"{one['benchmark']} without {len(one['missing'])} of its subsets, which are not in these files: "
        + ", ".join(one["missing"])
        for one in entry["benchmarks"]
        if one["missing"]
    ]

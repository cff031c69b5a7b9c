"""`prefcli eval`: models and reward models side by side."""

from __future__ import annotations

import json
from typing import Any

from rich.markup import escape
from rich.table import Table

from prefcli.cli.console import print_result, reporter, result_console
from prefcli.cli.train import quieten
from prefcli.config.evaluate import EvalConfig


def run(config: EvalConfig) -> None:
    quieten(config.debug)
    from prefcli.evaluation.run import evaluate

    result = evaluate(config, reporter(config.quiet))
    if config.json:
        print_result(json.dumps(result, ensure_ascii=False))
        return
    console = result_console()
    if result["models"]:
        console.print(_models(result))
        console.print(_notes(result))
    if result["reward_models"]:
        console.print(_reward_models(result["reward_models"]))
    for sample in result["samples"]:
        console.print(f"\n[bold]prompt[/bold]  {escape(sample['prompt'])}")
        for answer in sample["answers"]:
            scores = "  ".join(f"{name} {value:.2f}" for name, value in answer["reward"].items())
            console.print(f"  [bold]{escape(answer['ref'])}[/bold]  {escape(answer['text'])}  [dim]{scores}[/dim]")


def _models(result: dict[str, Any]) -> Table:
    entries = result["models"]
    table = Table(
        title=f"{result['prompts']} prompts, one answer each, temperature {result['temperature']:g}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("model")
    for name in entries[0]["reward"]:
        table.add_column(f"reward {name}", justify="right")
    for name in ("wins", "KL", "tokens", "distinct-2", "ended", "seconds"):
        table.add_column(name, justify="right")
    for entry in entries:
        table.add_row(
            escape(entry["ref"]),
            *(_with_interval(value["mean"], value["ci95"]) for value in entry["reward"].values()),
            "–" if entry["win_rate"] is None else _with_interval(entry["win_rate"], entry["win_rate_ci95"]),
            "–" if entry["kl"] is None else f"{entry['kl']:.2f}",
            f"{entry['length']:.1f}",
            f"{entry['distinct_2']:.2f}",
            f"{entry['ended']:.0%}",
            f"{entry['seconds']:.1f}",
        )
    return table


def _notes(result: dict[str, Any]) -> str:
    notes = ["[95 % intervals] by bootstrap over prompts."]
    entries = result["models"]
    if any(entry["win_rate"] is not None for entry in entries):
        first = next(iter(entries[0]["reward"]))
        notes.append(f"wins: share of prompts with a higher {first} than {entries[0]['ref']}, ties as halves.")
    to = {entry["ref"]: entry["kl_to"] for entry in entries if entry["kl_to"] not in (None, entry["ref"])}
    if to:
        targets = sorted(set(to.values()))
        said = targets[0] if len(targets) == 1 else ", ".join(f"{ref} to {target}" for ref, target in to.items())
        notes.append(f"KL in nats, to {said}." if len(targets) == 1 else f"KL in nats: {said}.")
    return escape(" ".join(notes))


def _reward_models(entries: list[dict[str, Any]]) -> Table:
    table = Table(
        title=f"reward sources on {entries[0]['pairs']} pairs", title_justify="left", box=None, pad_edge=False
    )
    for name in ("reward", "from"):
        table.add_column(name)
    for name in ("accuracy", "margin"):
        table.add_column(name, justify="right")
    for entry in entries:
        table.add_row(
            escape(entry["name"]),
            escape(entry["ref"]),
            _with_interval(entry["accuracy"], entry["accuracy_ci95"]),
            f"{entry['margin']:.2f}",
        )
    return table


def _with_interval(value: float, interval: list[float]) -> str:
    return escape(f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]")

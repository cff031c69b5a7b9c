"""`prefcli eval`: models and reward models side by side."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from rich.markup import escape
from rich.table import Table

from prefcli.cli import eval_pairs
from prefcli.cli import eval_tables as tables
from prefcli.cli.console import print_result, reporter, result_console
from prefcli.cli.out import draw_picture, picture_file
from prefcli.config.evaluate import EvalConfig
from prefcli.text import shown

JUDGE_NOTE = (
    "wins: preferred in both orders; all else is a tie and counts half. "
    "same place: one place was preferred in both orders."
)

LM_EVAL_NOTE = "p: paired sign-flip test over questions, corrected (Holm) for all rows of a model."


def run(config: EvalConfig) -> None:
    plot = picture_file("--plot", config.plot)
    from prefcli.evaluation.run import evaluate
    from prefcli.evaluation.together import share

    result = evaluate(config, reporter(config.quiet), share=share())
    if not result:
        return
    if config.json:
        print_result(json.dumps(result, ensure_ascii=False))
    else:
        _show(result)
    if plot is not None:
        from prefcli.report.evaluation import draw

        draw_picture("--plot", plot, partial(draw, result), quiet=config.quiet)


def _show(result: dict[str, Any]) -> None:
    console = result_console()
    for number, block in enumerate(_blocks(result)):
        if number:
            console.print()
        for part in block:
            console.print(part)
    for sample in result["samples"]:
        console.print(f"\n[bold]prompt[/bold]  {escape(shown(sample['prompt']))}")
        for answer in sample["answers"]:
            scores = "  ".join(f"{escape(name)} {value:.2f}" for name, value in answer["reward"].items())
            ref, text = (escape(shown(answer[name])) for name in ("ref", "text"))
            console.print(f"  [bold]{ref}[/bold]  {text}  [dim]{scores}[/dim]")


def _blocks(result: dict[str, Any]) -> list[list[Table | str]]:
    """Tables, each with its notes."""
    found: list[list[Table | str]] = []
    if result["models"]:
        found.append([_models(result), _notes(result)])
    if result["differences"]:
        found.append([tables.differences(result["differences"]), tables.differences_note(result["differences"])])
    if result["judge"] is not None:
        found.append([tables.judge(result["judge"]), JUDGE_NOTE])
    if result["models"] and (equal := tables.at_equal_length(result["models"], result["judge"])) is not None:
        found.append([equal])
    curves = result["overoptimisation"]
    if best_of := [curve for curve in curves if curve["kind"] == "best-of-n"]:
        found.append([tables.best_of_n(best_of), *(escape(tables.turn(curve)) for curve in best_of)])
    found += [[tables.training(curve), escape(tables.turn(curve))] for curve in curves if curve["kind"] == "rl"]
    if result["reward_models"]:
        found += eval_pairs.blocks(result["reward_models"])
    if result["lm_eval"] is not None:
        found.append([tables.lm_eval(result["lm_eval"]), LM_EVAL_NOTE])
    if result["agreement"]:
        found.append([tables.agreement(result["agreement"])])
    return found


def _models(result: dict[str, Any]) -> Table:
    entries = result["models"]
    answers = "one answer" if result["answers"] == 1 else f"{result['answers']} answers"
    table = tables.table(
        f"{result['prompts']} prompts, {answers} each, temperature {result['temperature']:g}",
        ["model"],
        [f"reward {name}" for name in entries[0]["reward"]]
        + ["wins", "KL", "tokens", "distinct-2", "ended", "seconds"],
    )
    for entry in entries:
        table.add_row(
            escape(entry["ref"]),
            *(tables.with_interval(value["mean"], value["ci95"]) for value in entry["reward"].values()),
            "–" if entry["win_rate"] is None else tables.with_interval(entry["win_rate"], entry["win_rate_ci95"]),
            "–" if entry["kl"] is None else f"{entry['kl']:.2f}",
            f"{entry['length']:.1f}",
            f"{entry['distinct_2']:.2f}",
            f"{entry['ended']:.0%}",
            f"{entry['seconds']:.1f}",
        )
    return table


def _notes(result: dict[str, Any]) -> str:
    entries = result["models"]
    won = any(entry["win_rate"] is not None for entry in entries)
    notes = ["[95 % intervals] by bootstrap over prompts" + (", of wins by Wilson's formula." if won else ".")]
    if won:
        first = next(iter(entries[0]["reward"]))
        notes.append(f"wins: fraction of prompts with a higher {first} than {entries[0]['ref']}, ties count half.")
    to = {entry["ref"]: entry["kl_to"] for entry in entries if entry["kl_to"] not in (None, entry["ref"])}
    if to:
        targets = sorted(set(to.values()))
        said = targets[0] if len(targets) == 1 else ", ".join(f"{ref} to {target}" for ref, target in to.items())
        notes.append(f"KL in nats, to {said}." if len(targets) == 1 else f"KL in nats: {said}.")
    return escape(" ".join(notes))

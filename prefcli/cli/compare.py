"""`prefcli compare`: which route won, criterion by criterion."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

from rich.markup import escape
from rich.table import Table

from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.cli.command import command_of
from prefcli.cli.console import print_result, reporter, result_console
from prefcli.cli.passing_on import parse, stage_of
from prefcli.config.base import option
from prefcli.config.compare import CompareConfig
from prefcli.config.stages import STAGES
from prefcli.errors import UsageError
from prefcli.progress import Reporter


def run(config: CompareConfig) -> None:
    report = reporter(config.quiet)
    if config.data or config.model:
        config = replace(config, refs=_both(config, report))
    elif config.budget or config.set or config.train_prompts:
        raise UsageError("--budget, --set and --train-prompts go with --data and --model", "see prefcli compare --help")
    from prefcli.comparison.run import compare

    result = compare(config, report)
    if config.json:
        print_result(json.dumps(result, ensure_ascii=False))
        return
    console = result_console()
    console.print(_criteria(result))
    console.print(f"\n[bold]{escape(score_line(result))}[/bold]\n")
    if result["quality"]:
        console.print(_quality(result["quality"]))
        for head in result["quality"]["win_rate"]:
            wins = _interval(head["win_rate"], head["ci95"])
            console.print(
                escape(f"{head['a']} scores higher than {head['b']} on {wins} of the prompts; ties count half.")
            )
        if not result["quality"]["independent"]:
            console.print("The first reward is one that a route was trained against: name another first.")
    for criterion in result["criteria"]:
        if criterion["why"]:
            console.print(f"\n[bold]{criterion['criterion']}[/bold]  {escape(criterion['why'])}")
    missing: dict[str, list[str]] = {}
    for criterion in result["criteria"]:
        for command in criterion["measure_with"]:
            missing.setdefault(command, []).append(criterion["criterion"])
    if missing:
        console.print("\n[bold]To measure what is not measured yet[/bold]")
    last: list[str] = []
    for command, served in missing.items():
        if served != last:
            console.print(f"# {', '.join(served)}")
        console.print(escape(command), soft_wrap=True)
        last = served


def _both(config: CompareConfig, report: Reporter) -> list[str]:
    """The refs of both routes' policies, run now or found."""
    if config.refs or not (config.data and config.model):
        raise UsageError(
            "give REF REF, or --data FILE with --model REF", "prefcli compare --data pairs.jsonl --model sft"
        )
    from prefcli.comparison.both_routes import parse_budget, run_both

    budget = parse_budget(config.budget)
    store = Store(config.runs)
    start = resolve(config.model, store)
    if start.artifact is not None:
        resolve(start.shown, store)  # in this store, or the routes could not be traced to it
    words: dict[str, list[str]] = {"rm": [], "ppo": [], "dpo": []}
    for text in config.set:
        name, dot, rest = text.partition(".")
        setting, equals, value = rest.partition("=")
        if not (dot and equals) or stage_of(name).name not in words:
            raise UsageError(f"--set {text}: expected STAGE.OPTION=VALUE", "for example: --set ppo.kl-coef=0.2")
        words[stage_of(name).name] += [option(setting)] if value == "true" else [option(setting), value]
    everywhere = ["--model", config.model, "--runs", str(store.root), *_alike(config)]
    pairs = [word for file in config.data for word in ("--data", file)]
    prompts = [word for file in config.train_prompts or config.data for word in ("--prompts", file)]
    own = {"rm": pairs, "ppo": prompts, "dpo": pairs}
    tells = partial(command_of, tells=not config.quiet)
    rm, ppo, dpo = (
        parse(STAGES[name], [*everywhere, *own[name], *words[name]], tells) for name in ("rm", "ppo", "dpo")
    )
    return [artifact.ref for artifact in run_both(rm, ppo, dpo, budget, report)]


def _alike(config: CompareConfig) -> list[str]:
    """What was said to compare of rows, device and seed, for the stages too; what was not, each decides by itself."""
    words = ["--skip-bad"] if config.skip_bad else []
    for name in ("device", "dtype", "seed"):
        if (value := getattr(config, name)) != getattr(CompareConfig, name):
            words += [option(name), str(value)]
    return words


def score_line(result: dict[str, Any]) -> str:
    """As the claims are counted: DPO 5 of 8."""
    total = len(result["criteria"])
    kinds = {route["ref"]: route["route"] for route in result["routes"]}
    won = ", ".join(f"{kind} ({ref}) {result['score'][ref]} of {total}" for ref, kind in kinds.items())
    rest = ", ".join(f"{name} {n}" for name, n in result["score"].items() if name not in kinds and n)
    return f"{won}" + (f"; {rest}" if rest else "")


def _criteria(result: dict[str, Any]) -> Table:
    refs = [route["ref"] for route in result["routes"]]
    title = f"from {result['ancestor']}: " + " against ".join(
        f"{r['route']} ({' → '.join(ref + ' (stopped)' * (ref in r['stopped']) for ref in r['artifacts'])})"
        for r in result["routes"]
    )
    table = Table(title=escape(title), title_justify="left", box=None, pad_edge=False)
    table.add_column("criterion", no_wrap=True)
    table.add_column("measure", overflow="fold")
    for ref in refs:
        table.add_column(escape(ref), justify="right")
    table.add_column("ahead")
    table.add_column("claimed", no_wrap=True)
    for criterion in result["criteria"]:
        name = criterion["criterion"].replace(" ", "\n")  # and no word of it broken
        for number, measure in enumerate(criterion["measures"]):
            first = number == 0
            table.add_row(
                f"[bold]{name}[/bold]" if first else "",
                escape(measure["measure"]),
                *(_shown(measure["figures"][ref], measure["unit"]) for ref in refs),
                f"[bold]{escape(criterion['verdict'])}[/bold]" if first else "",
                criterion["claimed"] if first else "",
            )
    return table


def _shown(figure: dict[str, Any] | None, unit: str) -> str:
    if figure is None:
        return "–"
    value = figure["value"]
    if unit == "bytes":
        from prefcli.memory.sizes import format_bytes

        return format_bytes(int(value))
    if figure["ci95"] is None:
        return f"{value:,.0f} s" if unit == "seconds" else f"{value:,.0f}" if value == int(value) else f"{value:.2f}"
    return _interval(value, figure["ci95"], 1 if unit == "seconds" else 2)


def _quality(quality: dict[str, Any]) -> Table:
    table = Table(title=f"quality, on {quality['prompts']} prompts", title_justify="left", box=None, pad_edge=False)
    table.add_column("model")
    for name in quality["frontier"][0]["reward"]:
        table.add_column(escape(name), justify="right")
    for name in ("KL", "tokens", "distinct-2"):
        table.add_column(name, justify="right")
    for entry in quality["frontier"]:
        table.add_row(
            escape(entry["ref"]),
            *(_interval(value["mean"], value["ci95"]) for value in entry["reward"].values()),
            "–" if entry["kl"] is None else f"{entry['kl']:.2f}",
            f"{entry['length']:.1f}",
            f"{entry['distinct_2']:.2f}",
        )
    return table


def _interval(value: float, interval: list[float], digits: int = 2) -> str:
    return escape(f"{value:.{digits}f} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]")

"""The tables of `prefcli sweep`."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prefcli.experiments.points import Planned, shown
from prefcli.text import shown as fit_to_show


def tables(console: Console, result: dict[str, Any]) -> None:
    """Settings, sensitivities, areas, and the best one's command."""
    score = result["score"]
    console.print(_settings(result))
    console.print(
        escape(f"score: {score['name']}, {score['source']}; {score['better']} is better. [95 % intervals] of the mean "
               "by Student's t over seeds.")
    )  # fmt: skip
    for point in result["points"]:
        if point["status"] == "failed":
            options = [f"{name} {shown(value)}" for name, value in point["options"].items()]
            at = ", ".join([*options, *([f"{point['rows']:,} rows"] if point["rows"] else []), f"seed {point['seed']}"])
            console.print(escape(fit_to_show(f"failed: {at}: {point['reason']}")))
    if result["sensitivity"]:
        console.print()
        console.print(_sensitivity(result["sensitivity"]))
    if result["areas"]:
        console.print()
        console.print(_areas(result["areas"]))
    if result["best"]:
        console.print(f"\nbest: {escape(_options(result['best']) or result['best']['ref'])}, "
                      f"score {result['best']['score']:.4g}")  # fmt: skip
        if others := "; ".join(_options(entry) or "the rest" for entry in result["best"]["not_above"]):
            console.print(escape(f"no difference shown from {others} (intervals overlap, or there is one seed)"))
        console.print("  " + escape(result["best"]["command"]), soft_wrap=True)
    elif result["equal"]:
        named = "; ".join(_options(entry) for entry in result["equal"])
        console.print(f"\nno best: {escape(named)} have the same score")


def dry_table(planned: list[Planned]) -> Table:
    names = list(planned[0].point.options)
    with_rows = planned[0].point.rows is not None
    table = _table(*names, *(["rows"] if with_rows else []), "seed")
    if planned[0].point.retrains:
        table.add_column("reward model")
    table.add_column("artifact")
    for one in planned:
        cells = [shown(value) for value in one.point.options.values()]
        cells += [f"{one.point.rows:,}"] if with_rows else []
        cells.append(str(one.point.seed))
        if one.point.retrains:
            cells.append(one.reward_model.ref if one.reward_model else "to be trained")
        cells.append(one.existing.ref if one.existing else "to be trained")
        table.add_row(*map(escape, cells))
    return table


def _settings(result: dict[str, Any]) -> Table:
    settings = result["settings"]
    with_rows = any(setting["rows"] for setting in settings)
    with_kl = any(setting["kl"] is not None for setting in settings)
    several = any(len(setting["seeds"]) > 1 for setting in settings)
    table = _table(
        *settings[0]["options"], *(["rows"] if with_rows else []), "seeds", f"score {result['score']['name']}"
    )
    for name in (*(["95 % interval", "min – max", "sd"] if several else []), *(["KL"] if with_kl else []), "seconds"):
        table.add_column(name, justify="right")
    for setting in settings:
        found, asked = len(setting["seeds"]), len(setting["seeds"]) + len(setting["failed"])
        cells = [shown(value) for value in setting["options"].values()]
        cells += [f"{setting['rows']:,}"] if with_rows else []
        cells.append(str(found) if found == asked else f"{found} of {asked}")
        score = setting["score"]
        if score is None:
            table.add_row(*map(escape, [*cells, "failed"]))
            continue
        cells.append(f"{score['mean']:.4g}")
        if several:
            cells += [_interval(score["ci95"]), f"{score['min']:.4g} – {score['max']:.4g}"]
            cells.append("–" if score["std"] is None else f"{score['std']:.2g}")
        if with_kl:
            cells.append("–" if setting["kl"] is None else f"{setting['kl']:.2f}")
        table.add_row(*map(escape, [*cells, f"{setting['seconds']:.1f}"]))
    return table


def _sensitivity(found: dict[str, Any]) -> Table:
    table = Table(title="how much the score changes", title_justify="left", box=None, pad_edge=False)
    table.add_column("option")
    for name in ("when it is tripled", "95 % interval", "between values, at most"):
        table.add_column(name, justify="right")
    for option, entry in found.items():
        slope = entry.get("per_factor_of_3")
        table.add_row(
            escape(option.replace("_", "-")),
            "–" if slope is None else f"{slope:+.3g}",
            escape(_interval(entry.get("ci95"))),
            f"{entry['range']:.3g}",
        )
    return table


def _areas(found: list[dict[str, Any]]) -> Table:
    rows = found[0]["rows"]
    table = Table(
        title=f"area under the score over log rows, {rows[0]:,} to {rows[-1]:,}, normalised: the mean score on the way",
        title_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    for name in found[0]["options"]:
        table.add_column(escape(name.replace("_", "-")))
    for name in ("seeds", "area", "95 % interval", "min – max", "sd"):
        table.add_column(name, justify="right")
    for area in found:
        table.add_row(
            *(escape(shown(value)) for value in area["options"].values()),
            str(area["seeds"]),
            f"{area['mean']:.4g}",
            escape(_interval(area["ci95"])),
            f"{area['min']:.4g} – {area['max']:.4g}",
            "–" if area["std"] is None else f"{area['std']:.2g}",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(escape(name.replace("_", "-")), justify="right")
    return table


def _options(entry: dict[str, Any]) -> str:
    options = [f"{name.replace('_', '-')} {shown(value)}" for name, value in entry["options"].items()]
    return ", ".join([*options, *([f"{entry['rows']:,} rows"] if entry["rows"] else [])])


def _interval(ci95: list[float] | None) -> str:
    return "–" if ci95 is None else f"[{ci95[0]:.3g}, {ci95[1]:.3g}]"

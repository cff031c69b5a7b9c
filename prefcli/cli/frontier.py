"""`prefcli frontier`: reward against KL of many runs and their kept steps."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from rich.markup import escape
from rich.table import Table

from prefcli.cli import eval_tables as tables
from prefcli.cli.console import print_result, reporter, result_console
from prefcli.cli.out import draw_picture, picture_file
from prefcli.config.frontier import FrontierConfig

SHOWN = 6  # places of the hulls that the table has


def run(config: FrontierConfig) -> None:
    plot = picture_file("--plot", config.plot)
    from prefcli.comparison.frontier import frontier

    result = frontier(config, reporter(config.quiet))
    if config.json:
        print_result(json.dumps(result, ensure_ascii=False))
    else:
        _show(result)
    if plot is not None:
        from prefcli.report.frontier import draw

        draw_picture("--plot", plot, partial(draw, result), quiet=config.quiet)


def _show(result: dict[str, Any]) -> None:
    console = result_console()
    for found in result["frontiers"]:
        console.print(_points(found, result))
        console.print()
        console.print(_hulls(found))
        for one in found["differences"]:
            console.print(escape(f"{one['a']}, {one['b']}: {one['verdict']}."))
        console.print()
    console.print(escape(_note(result)))


def _points(found: dict[str, Any], result: dict[str, Any]) -> Table:
    title = (
        f"{found['reward']} against KL to {result['start']} ({found['start']:.2f} there), {result['prompts']} prompts"
    )
    made = tables.table(title, ["method", "setting"], ["seeds", "KL", found["reward"]])
    for point in sorted(found["points"], key=lambda point: (point["method"], point["kl"])):
        made.add_row(
            escape(point["method"]),
            escape(point["setting"]),
            str(len(point["refs"])),
            tables.with_interval(point["kl"], point["kl_ci95"]),
            tables.with_interval(point["reward"], point["reward_ci95"]),
        )
    return made


def _hulls(found: dict[str, Any]) -> Table:
    """The best reward for a KL, at some places of the range that all methods reach."""
    hulls = found["hulls"]
    made = tables.table(f"best {found['reward']} for a KL", [], ["KL ≤", *(one["method"] for one in hulls)])
    count = len(hulls[0]["kl"])
    for place in sorted({round((number + 1) * count / SHOWN) - 1 for number in range(SHOWN)}):
        cells = [tables.with_interval(one["reward"][place], [one["low"][place], one["high"][place]]) for one in hulls]
        made.add_row(f"{hulls[0]['kl'][place]:.2f}", *cells)
    return made


def _note(result: dict[str, Any]) -> str:
    seeds = [len(point["refs"]) for found in result["frontiers"] for point in found["points"]]
    covers = "prompts and seeds" if min(seeds) > 1 else "prompts; where there is one seed they do not cover training"
    return (
        f"[95 % intervals] by bootstrap over {covers}. A verdict holds for all pairs of methods and all KLs at once. "
        "Hulls are chosen on one half of the prompts and measured on the other."
    )

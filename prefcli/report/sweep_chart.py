"""The picture of a sweep: the score against each option and against rows, one dot a run, a line through the means."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from prefcli.experiments.points import shown
from prefcli.files import written_whole
from prefcli.stages.curves import COLOURS

COLUMNS = 3
FAINT = "#6b6b6b"


def draw(result: dict[str, Any], path: Path) -> bool:
    """Write the picture of `summarise`'s object; False, and no file, where no panel has two values.

    The suffix of `path` says the format. OSError where it cannot be written.
    """
    points = [point for point in result["points"] if point["score"] is not None]
    names = [name for name in result["settings"][0]["options"] if len({shown(p["options"][name]) for p in points}) > 1]
    with_rows = len({point["rows"] for point in points}) > 1
    panels = [*(["rows"] if with_rows else []), *names]
    if not panels:
        return False
    height, width = -(-len(panels) // COLUMNS), min(len(panels), COLUMNS)
    figure = Figure(figsize=(max(4.4 * width, 5.2), 3.3 * height + 0.7), layout="constrained")
    seeds = len({point["seed"] for point in points})
    figure.suptitle(f"{result['stage']}: {len(points)} runs, {seeds} seed{'s' if seeds > 1 else ''} each",
                    x=0.01, ha="left", fontweight="bold")  # fmt: skip
    grid = figure.subplots(height, width, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, panels):
        _panel(axes, name, names, points)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    for row in grid:
        row[0].set_ylabel(f"{result['score']['name']} ({result['score']['better']} is better)", fontsize=9)
    with written_whole(path) as file:
        figure.savefig(file, dpi=130, format=path.suffix[1:].lower(), facecolor="white")
    return True


def _panel(axes: Axes, name: str, options: list[str], points: list[dict[str, Any]]) -> None:
    """One line for each setting of the other option with the fewest values, where one colour each is enough."""
    values = [p["rows"] if name == "rows" else p["options"][name] for p in points]
    numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values)
    order = sorted(set(values)) if numeric else list(dict.fromkeys(map(shown, values)))
    lines = _lines(points, [other for other in options if other != name])
    for (label, line), colour in zip(lines.items(), COLOURS):
        at = defaultdict(list)
        for point in line:
            value = point["rows"] if name == "rows" else point["options"][name]
            at[value if numeric else order.index(shown(value))].append(point["score"])
        xs = sorted(at)
        axes.plot([x for x in xs for _ in at[x]], [y for x in xs for y in at[x]], "o", color=colour, markersize=4.5,
                  alpha=0.55, markeredgewidth=0)  # fmt: skip
        axes.plot(xs, [sum(at[x]) / len(at[x]) for x in xs], color=colour, linewidth=1.6, label=label,
                  linestyle="-" if numeric else ":")  # fmt: skip
    if numeric:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(order))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"{v:,}" if isinstance(v, int) else f"{v:g}" for v in order])
        axes.margins(x=0.12)
    else:
        axes.set_xticks(range(len(order)), [str(text)[:24] for text in order])
        axes.set_xlim(-0.5, len(order) - 0.5)
    axes.set_title(name.replace("_", "-") + (" (log scale)" if numeric else ""), fontsize=10, loc="left")
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, colors=FAINT)
    if len(lines) > 1:
        axes.legend(fontsize=7, frameon=False)


def _lines(points: list[dict[str, Any]], others: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Points by the value of the first other option that has at most as many as there are colours; else all as one."""
    for other in others:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for point in points:
            found[f"{other.replace('_', '-')} {shown(point['options'][other])}"].append(point)
        if len(found) <= len(COLOURS):
            return dict(found)
    return {"all": points}

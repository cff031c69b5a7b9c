"""The curves of a finished run from its metrics.jsonl, alarms marked, as report/curves.png in the artifact."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefcli.artifacts.metrics import alarms, read_log
from prefcli.artifacts.store import CURVES
from prefcli.files import written_whole
from prefcli.stages.series import Panel, panels

COLUMNS = 3
# Okabe and Ito's palette, told apart with every common colour blindness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
ALARM = "#B00020"


def draw(artifact: Path, title: str) -> Path | None:
    """Write the picture and return its path; None for a run of fewer than two steps."""
    rows = read_log(artifact)
    if len({row["step"] for row in rows}) < 2:
        return None
    drawn = panels(rows)
    height = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 2.7 * height + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    grid = figure.subplots(height, COLUMNS, squeeze=False)
    marked = sorted({step for step, _ in alarms(rows)})
    for axes, panel in zip(grid.flat, drawn):
        _panel(axes, panel, marked)
    for axes in list(grid.flat)[len(drawn) :]:
        axes.set_axis_off()
    path = artifact / CURVES
    path.parent.mkdir(exist_ok=True)
    with written_whole(path) as file:
        figure.savefig(file, dpi=110, format="png")
    return path


def _panel(axes: Axes, panel: Panel, alarms: list[int]) -> None:
    for series, colour in zip(panel.series, COLOURS):
        dots = series.name.startswith("eval_") or len(series.steps) == 1
        marker = "o" if dots else None
        axes.plot(series.steps, series.values, color=colour, label=series.name, linewidth=1.4, marker=marker)
    for number, step in enumerate(alarms):
        axes.axvline(step, color=ALARM, linewidth=0.8, linestyle=":", label=None if number else "alarm")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if len(panel.series) > 1 or alarms:
        axes.legend(fontsize=7, frameon=False)

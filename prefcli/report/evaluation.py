"""The picture of an evaluation: over-optimisation and the calibration of reward sources, a panel each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prefcli.files import written_whole
from prefcli.report import overoptimisation
from prefcli.report.overoptimisation import COLOURS, FAINT

COLUMNS = 2


def draw(result: dict[str, Any], path: Path) -> bool:
    """Write the picture of what `evaluate` gives, if there is any; see `write`."""
    panels = [partial(overoptimisation.panel, curve=curve) for curve in result["overoptimisation"]]
    panels += [partial(reliability, entry=entry) for entry in result["reward_models"]]
    if panels:
        write(panels, path)
    return bool(panels)


def write(panels: Sequence[Callable[[Axes], None]], path: Path) -> None:
    """Draw the panels, two beside each other, to `path`; its suffix (.png or .svg) says the format. OSError where it
    cannot be written."""
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.6 * columns, 4.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, panel in zip(grid.flat, panels):
        panel(axes)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    kind = path.suffix[1:].lower()
    undated: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {}  # equal results, equal files
    with matplotlib.rc_context({"svg.hashsalt": "prefcli"}), written_whole(path) as file:
        figure.savefig(file, dpi=150, facecolor="white", format=kind, **undated)


def reliability(axes: Axes, entry: dict[str, Any]) -> None:
    """Accuracy against confidence in each bin of a reward source's pairs: the diagonal is calibration."""
    fit = entry["calibration"]
    sure = [one["confidence"] for one in fit["bins"]]
    accurate = [one["accuracy"] for one in fit["bins"]]
    low, high = zip(*(one["accuracy_ci95"] for one in fit["bins"]))
    axes.plot((0.5, 1), (0.5, 1), color=FAINT, linewidth=1, linestyle="--", label="calibrated")
    axes.vlines(sure, low, high, color=COLOURS["proxy"], alpha=0.4, linewidth=2)
    said = f"{entry['accuracy']:.2f} right, ECE {fit['ece']:.3f} (by chance below {fit['ece_chance']:.3f})"
    axes.plot(sure, accurate, "o", color=COLOURS["proxy"], markersize=4, label=said)
    axes.set_xlim(0.49, 1.01)
    axes.set_title(f"calibration: {entry['name']}", loc="left", fontsize=10)
    axes.set_xlabel("confidence, σ(|margin|), in equal numbers of pairs", fontsize=9)
    axes.set_ylabel("fraction of pairs right", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False, loc="best")

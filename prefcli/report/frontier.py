"""The picture of `prefcli frontier`: each model's reward against its KL, the methods' hulls and their intervals."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from prefcli.report.evaluation import write
from prefcli.report.overoptimisation import FAINT
from prefcli.stages.curves import COLOURS

MARKERS = "osD^vPX*"


def draw(result: dict[str, Any], path: Path) -> None:
    """Write one panel a reward; see `evaluation.write`."""
    write([partial(_panel, found=found, start=result["start"]) for found in result["frontiers"]], path)


def _panel(axes: Axes, found: dict[str, Any], start: str) -> None:
    for number, hull in enumerate(found["hulls"]):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        points = [point for point in found["points"] if point["method"] == hull["method"]]
        kl, reward = [point["kl"] for point in points], [point["reward"] for point in points]
        low, high = zip(*(point["reward_ci95"] for point in points))
        axes.vlines(kl, low, high, color=colour, alpha=0.35, linewidth=1)
        axes.plot(kl, reward, marker, color=colour, markersize=4, label=hull["method"])
        axes.plot([0, *hull["kl"]], [found["start"], *hull["reward"]], color=colour, linewidth=1.4)
        axes.fill_between(hull["kl"], hull["low"], hull["high"], color=colour, alpha=0.15, linewidth=0)
    axes.axhline(found["start"], color=FAINT, linewidth=0.6)
    axes.set_xlabel(f"KL to {Path(start).name} (nats)", fontsize=9)  # of a directory its own name alone
    axes.set_ylabel(found["reward"], fontsize=9)
    axes.set_title(f"{found['reward']} against KL", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False, loc="best")

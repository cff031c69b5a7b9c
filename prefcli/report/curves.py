"""The curves of a finished run from its metrics.jsonl, alarms marked, as report/curves.png in the artifact."""

from __future__ import annotations

import json
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prefcli.artifacts.store import CURVES

# Title → the metrics drawn in it (patterns). A panel is left out where none of its metrics was logged.
PANELS: dict[str, tuple[str, ...]] = {
    "reward": ("objective/scores", "objective/scores/*", "objective/rlhf_reward", "judge/*"),
    "KL to the reference, nats": ("objective/kl", "objective/kl_k3"),
    "entropy, nats a token": ("policy/entropy_avg",),
    "answer length, tokens": ("completions/mean_length",),
    "value loss": ("loss/value_avg",),
    "clip fraction": ("policy/clipfrac_avg", "val/clipfrac_avg"),
    "loss": ("loss", "eval_loss"),
    "rewards": ("rewards/chosen", "rewards/rejected", "rewards/margins"),
    "log-probability of an answer, nats": ("logps/chosen", "logps/rejected"),
    "accuracy": ("rewards/accuracies", "eval_rewards/accuracies", "accuracy", "eval_accuracy", "mean_token_accuracy"),
    "margin": ("margin", "eval_margin"),
    "gradient norm": ("grad_norm",),
    "learning rate": ("lr", "learning_rate"),
}
COLUMNS = 3
# Okabe and Ito's palette, told apart with every common colour blindness.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
ALARM = "#B00020"


def draw(artifact: Path, title: str) -> Path | None:
    """Write the picture and return its path; None for a run of fewer than two steps."""
    rows = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    if len({row["step"] for row in rows}) < 2:
        return None
    names = {name for row in rows for name, value in row.items() if isinstance(value, (int, float))}
    panels = {
        panel: [name for pattern in patterns for name in sorted(names) if fnmatch(name, pattern)]
        for panel, patterns in PANELS.items()
    }
    panels = {panel: found for panel, found in panels.items() if found}
    height = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(4.2 * COLUMNS, 2.7 * height + 0.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    grid = figure.subplots(height, COLUMNS, squeeze=False)
    for axes, (panel, found) in zip(grid.flat, panels.items()):
        _panel(axes, panel, found, rows)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    path = artifact / CURVES
    path.parent.mkdir(exist_ok=True)
    aside = path.with_name("." + path.name)  # so that there is a whole picture or none
    figure.savefig(aside, dpi=110, format="png")
    os.replace(aside, path)
    return path


def _panel(axes: Axes, title: str, names: list[str], rows: list[dict[str, Any]]) -> None:
    for name, colour in zip(names, COLOURS):
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        held_out = name.startswith("eval_")
        axes.plot(
            *zip(*points), color=colour, label=name, linewidth=1.4, marker="o" if held_out or len(points) == 1 else None
        )
    alarms = {row["step"] for row in rows if any(name.startswith("alarm/") for name in row)}
    for number, step in enumerate(sorted(alarms)):
        axes.axvline(step, color=ALARM, linewidth=0.8, linestyle=":", label=None if number else "alarm")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    if len(names) > 1 or alarms:
        axes.legend(fontsize=7, frameon=False)

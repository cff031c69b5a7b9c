"""The picture of PPO's four models beside DPO's two, one bar a model, as a PNG or SVG file."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from prefcli.memory.comparison import Comparison
from prefcli.memory.comparison import Method as Route
from prefcli.memory.estimate import PARTS
from prefcli.memory.gpus import Gpu
from prefcli.memory.methods import Method
from prefcli.memory.sizes import format_bytes, format_count

# Blue and orange of Okabe and Ito's palette, apart for every common colour blindness; the hatch tells them apart
# in print without colour too.
TRAINED, FROZEN = "#0072B2", "#E69F00"
INK, FAINT = "#222222", "#6b6b6b"
PART_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito's
NAMES = {"ppo": "PPO", "dpo": "DPO"}


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture to `path`; its suffix (.png or .svg) says the format. OSError where it cannot be written."""
    methods = comparison.methods
    figure = Figure(figsize=(10, 5.4), layout="none")
    # Panels as wide as they have models, so that a bar is equally wide in both: area is memory.
    widths = [method.models for method in methods.values()]
    panels = figure.subplots(1, len(methods), sharey=True, width_ratios=widths)
    figure.subplots_adjust(left=0.085, right=0.985, top=0.74, bottom=0.205, wspace=0.08)
    for axes, (name, method) in zip(panels, methods.items()):
        _panel(axes, NAMES[name], method, comparison.gpu)
    panels[0].set_ylabel("size, in base models", color=INK, fontsize=11)
    base = comparison.architecture.parameters
    figure.suptitle(
        f"Models in memory for a base of {format_count(base)} parameters: DPO holds {comparison.saving:.0%} less",
        x=0.085,
        y=0.96,
        ha="left",
        fontsize=14,
        fontweight="bold",
        color=INK,
    )
    figure.legend(
        handles=[
            Patch(facecolor=TRAINED, label="trained: weights, gradients, optimizer states"),
            Patch(facecolor=FROZEN, hatch="//", edgecolor="white", label="frozen: weights only"),
        ],
        loc="lower left",
        bbox_to_anchor=(0.077, 0.055),
        ncols=2,
        frameon=False,
        fontsize=10.5,
    )
    figure.text(0.085, 0.03, _footnote(comparison), fontsize=9, color=FAINT)
    figure.savefig(path, dpi=150, facecolor="white")


def draw_methods(methods: list[Method], gpu: Gpu, path: Path) -> None:
    """One bar a method, its parts side by side, and a line where the GPU ends. OSError where it cannot be written."""
    figure = Figure(figsize=(10, 1.6 + 0.55 * len(methods)), layout="constrained")
    axes = figure.subplots()
    names = [method.name for method in methods]
    left = [0.0] * len(methods)
    for part, colour in zip(PARTS, PART_COLOURS):
        sizes = [method.estimate.parts[part] / 1e9 for method in methods]
        axes.barh(names, sizes, left=left, color=colour, label=part, height=0.68)
        left = [start + size for start, size in zip(left, sizes)]
    for row, method in enumerate(methods):
        told = format_bytes(method.estimate.bytes) + ("" if method.fits else f", {method.gpus:,} GPUs")
        axes.text(left[row], row, f" {told}", va="center", fontsize=11, color=INK)
    axes.set_xlim(0, max(left) * 1.25)
    label = "GB at the peak"
    if gpu.usable_bytes / 1e9 < axes.get_xlim()[1]:
        axes.axvline(gpu.usable_bytes / 1e9, color=INK, linewidth=1, linestyle="--")
        label += f"; the line is what {gpu.name} has for tensors"
    axes.invert_yaxis()
    axes.set_xlabel(label, color=INK, fontsize=11)
    base = methods[0].estimate.run.architecture.parameters
    what = "by method" if len(methods) > 1 else f"of {methods[0].name}"
    axes.set_title(f"Memory {what} for a base of {format_count(base)} parameters", loc="left", fontweight="bold")
    figure.legend(ncols=len(PARTS), frameon=False, loc="outside lower center", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=150, facecolor="white")


def _panel(axes: Axes, name: str, method: Route, gpu: Gpu) -> None:
    roles = method.estimate.roles
    base = method.estimate.run.architecture.parameters
    heights = [role.parameters / base for role in roles.values()]
    bars = axes.bar(
        range(len(roles)),
        heights,
        width=0.74,
        color=[TRAINED if role.trained else FROZEN for role in roles.values()],
        edgecolor="white",
        linewidth=0,
        hatch=["" if role.trained else "//" for role in roles.values()],
    )
    for bar, role, height in zip(bars, roles.values(), heights):
        middle = bar.get_x() + bar.get_width() / 2
        axes.text(middle, height + 0.02, f"{height:.2g}×", ha="center", va="bottom", fontsize=12, color=INK)
        axes.text(
            middle,
            height / 2,
            f"{format_count(role.parameters)}\n{format_bytes(role.bytes)}",
            ha="center",
            va="center",
            fontsize=12,
            linespacing=1.5,
            color="white" if role.trained else INK,
            bbox={"facecolor": TRAINED if role.trained else FROZEN, "edgecolor": "none", "pad": 5},
        )
    axes.set_title(f"{name}: {method.models} models", loc="left", fontsize=13, fontweight="bold", color=INK, pad=40)
    axes.text(
        0,
        1.035,
        f"{format_count(method.parameters)} parameters' worth\n"
        f"{format_bytes(method.estimate.bytes)}, {method.gpus:,} × {gpu.name}",
        transform=axes.transAxes,
        fontsize=11.5,
        linespacing=1.35,
        color=INK,
    )
    axes.set_xticks(range(len(roles)), list(roles), fontsize=11.5, color=INK)
    axes.set_xlim(-0.5, len(roles) - 0.5)
    axes.set_ylim(0, max(heights) * 1.15)
    axes.set_yticks([0, 0.5, 1], ["0", "½×", "1×"], color=FAINT)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)


def _footnote(comparison: Comparison) -> str:
    run = comparison.methods["ppo"].estimate.run
    checkpointing = "gradient checkpointing" if run.checkpointing else "no gradient checkpointing"
    return (
        f"Calculated, not measured: {run.dtype}, fp32 master weights, AdamW, batch {run.batch_size:,} × "
        f"{run.max_length:,} tokens, {checkpointing}. 1 GB is 10⁹ bytes."
    )

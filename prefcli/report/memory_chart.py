"""The pictures of mem-estimate as PNG or SVG files: PPO's models beside DPO's, and methods by their parts."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from prefcli.memory.estimate import PARTS
from prefcli.memory.methods import Method, Routes
from prefcli.memory.run import Run
from prefcli.memory.sizes import format_bytes, format_count

# Blue and orange of Okabe and Ito's palette, apart for every common colour blindness; the hatch tells them apart
# in print without colour too.
TRAINED, FROZEN = "#0072B2", "#E69F00"
INK, FAINT = "#222222", "#6b6b6b"
PART_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito's


def draw(found: Routes | list[Method], path: Path) -> None:
    """Write the picture to `path`; its suffix (.png or .svg) says the format. OSError where it cannot be written."""
    figure = _routes(found) if isinstance(found, Routes) else _methods(found)
    figure.savefig(path, dpi=150, facecolor="white")


def _routes(routes: Routes) -> Figure:
    """A panel a route, one bar a model."""
    figure = Figure(figsize=(10, 5.4), layout="none")
    # Panels as wide as they have models, so that a bar is equally wide in both: area is memory.
    panels = figure.subplots(1, 2, sharey=True, width_ratios=[method.models for method in routes.both])
    figure.subplots_adjust(left=0.085, right=0.985, top=0.74, bottom=0.205, wspace=0.08)
    for axes, method in zip(panels, routes.both):
        _panel(axes, method)
    panels[0].set_ylabel("size, as a multiple of the base model", color=INK, fontsize=11)
    base = routes.ppo.run.architecture.parameters
    figure.suptitle(
        f"Models in memory for a base of {format_count(base)} parameters: DPO holds {routes.saving:.0%} less",
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
    figure.text(0.085, 0.03, _footnote(routes.ppo.run), fontsize=9, color=FAINT)
    return figure


def _methods(methods: list[Method]) -> Figure:
    """One bar a method, its parts side by side, and a line where the GPU ends."""
    gpu = methods[0].gpu
    figure = Figure(figsize=(10, 1.6 + 0.55 * len(methods)), layout="constrained")
    axes = figure.subplots()
    names = [method.name for method in methods]
    left = [0.0] * len(methods)
    for part, colour in zip(PARTS, PART_COLOURS):
        sizes = [method.estimate.parts[part] / 1e9 for method in methods]
        axes.barh(names, sizes, left=left, color=colour, label=part, height=0.68)
        left = [start + size for start, size in zip(left, sizes)]
    for row, method in enumerate(methods):
        told = format_bytes(method.estimate.bytes) + ("" if method.fits else f", {method.verdict}")
        axes.text(left[row], row, f" {told}", va="center", fontsize=11, color=INK)
    axes.set_xlim(0, max(left) * 1.25)
    label = "GB at the peak"
    if gpu.usable_bytes / 1e9 < axes.get_xlim()[1]:
        axes.axvline(gpu.usable_bytes / 1e9, color=INK, linewidth=1, linestyle="--")
        label += f"; the line is what {gpu.name} has for tensors"
    axes.invert_yaxis()
    axes.set_xlabel(label, color=INK, fontsize=11)
    base = methods[0].run.architecture.parameters
    what = "by method" if len(methods) > 1 else f"of {methods[0].name}"
    axes.set_title(f"Memory {what} for a base of {format_count(base)} parameters", loc="left", fontweight="bold")
    figure.legend(ncols=len(PARTS), frameon=False, loc="outside lower center", fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure


def _panel(axes: Axes, method: Method) -> None:
    roles = method.estimate.roles
    base = method.run.architecture.parameters
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
    axes.set_title(
        f"{method.name}: {method.models} models", loc="left", fontsize=13, fontweight="bold", color=INK, pad=40
    )
    axes.text(
        0,
        1.035,
        f"{format_count(method.parameters)} parameters in all\n"
        f"{format_bytes(method.estimate.bytes)}" + (f", {method.gpus:,} × {method.gpu.name}" if method.gpus else ""),
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


def _footnote(run: Run) -> str:
    checkpointing = "gradient checkpointing" if run.checkpointing else "no gradient checkpointing"
    return (
        f"Calculated, not measured: {run.dtype}, fp32 master weights, AdamW, batch {run.batch_size:,} × "
        f"{run.max_length:,} tokens, {checkpointing}. 1 GB is 10⁹ bytes."
    )

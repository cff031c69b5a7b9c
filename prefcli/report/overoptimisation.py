"""Over-optimisation as a picture: proxy and gold against √KL, the fits with their intervals, and where gold turns."""

from __future__ import annotations

from math import sqrt
from typing import Any

from matplotlib.axes import Axes

# Of Okabe and Ito's palette, told apart with every common colour blindness; the markers tell them apart in grey.
COLOURS = {"proxy": "#0072B2", "gold": "#E69F00"}
MARKERS = {"proxy": "o", "gold": "s"}
FAINT = "#6b6b6b"
BELOW = {
    "best-of-n": "√KL of the best of n (nats; upper bound)",
    "rl": "√KL to the start (nats)",
}


def panel(axes: Axes, curve: dict[str, Any]) -> None:
    """Draw one curve of `eval --json`'s "overoptimisation"."""
    points = curve["points"]
    at = [sqrt(point["kl"]) for point in points]
    for role, colour in COLOURS.items():
        start = points[0][role]
        fit = curve[f"{role}_fit"]
        label = f"{role}: {curve[role]}"
        # The points that a fit's band hides matter most where they leave it.
        axes.plot(
            at,
            [point[role] - start for point in points],
            MARKERS[role],
            color=colour,
            markersize=4,
            label=label,
            zorder=3,
        )
        if fit is not None:
            d, middle, low, high = zip(*[(0.0, 0.0, 0.0, 0.0), *fit["band"]])
            axes.plot(d, middle, color=colour, linewidth=1.4)
            axes.fill_between(d, low, high, color=colour, alpha=0.2, linewidth=0)
    gold = curve["gold_fit"]
    if gold is not None and gold["turn"] is not None:
        low, high = gold["turn_ci95"]
        axes.axvspan(low, max(at) if high is None else high, color=FAINT, alpha=0.12, linewidth=0)
        axes.axvline(gold["turn"], color=FAINT, linestyle="--", linewidth=1, label=_turn(gold))
    if curve["kind"] == "best-of-n":
        shown = [i for i in range(len(points)) if points[i]["n"] in (2, 4, 8, 16, 32, 64, 128, 256)]
        for i in shown:
            axes.annotate(
                f"n={points[i]['n']}",
                (at[i], 0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=7,
                color=FAINT,
                ha="center",
            )
    axes.axhline(0, color=FAINT, linewidth=0.6)
    axes.set_title(
        ("best of n: " if curve["kind"] == "best-of-n" else "training: ") + curve["of"], loc="left", fontsize=10
    )
    axes.set_xlabel(BELOW[curve["kind"]], fontsize=9)
    axes.set_ylabel("reward above the start", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False, loc="best")


def _turn(fit: dict[str, Any]) -> str:
    sure = fit["turn_ci95"][1] is not None
    return f"gold {'turns' if sure else 'may turn'} at {fit['turn']:.2f}"

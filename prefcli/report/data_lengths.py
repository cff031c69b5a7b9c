"""A picture of the lengths of the prompts and answers of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from prefcli.stages.curves import COLOURS

BINS = 40


def draw(lengths: Mapping[str, Sequence[int]], unit: str, path: Path) -> None:
    """One panel a part, all on one axis up to the 99.5 % quantile, the median and what lies beyond marked.

    Raises OSError.
    """
    figure = Figure(figsize=(7, 1.6 * len(lengths) + 0.6), layout="constrained")
    grid = figure.subplots(len(lengths), 1, squeeze=False, sharex=True)[:, 0]
    end = max(float(np.quantile(np.asarray(values), 0.995)) for values in lengths.values()) + 1
    for axes, (name, values), colour in zip(grid, lengths.items(), COLOURS):
        shown = np.asarray(values)
        axes.hist(np.minimum(shown, end), bins=np.linspace(0, end, BINS + 1), color=colour)
        axes.axvline(float(np.median(shown)), color="black", linewidth=0.8, linestyle=":")
        title = f"{name}: {len(shown):,} rows, median {np.median(shown):,.0f}"
        if beyond := int((shown > end).sum()):
            title += f"; in the last bin {beyond:,} beyond {end:,.0f}, up to {shown.max():,}"
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    grid[-1].set_xlabel(unit, fontsize=9)
    figure.savefig(path, dpi=110)

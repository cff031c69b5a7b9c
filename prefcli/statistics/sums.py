"""Means over rows that come in batches: sums over numbers, so that no batch, part or process changes them."""

from __future__ import annotations

from collections.abc import Mapping


class Sums:
    """Metrics as (sum, of how many). A mean of batches' means would weigh the rows of a short batch more."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def add(self, found: Mapping[str, tuple[float, float]]) -> None:
        """Add the sums of some rows: metric → (its sum over them, their number)."""
        for name, (total, count) in found.items():
            self.totals[name] = self.totals.get(name, 0.0) + float(total)
            self.counts[name] = self.counts.get(name, 0.0) + float(count)

    def means(self) -> dict[str, float]:
        """Metric → mean, where anything was counted."""
        return {name: total / self.counts[name] for name, total in self.totals.items() if self.counts[name]}

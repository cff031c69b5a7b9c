"""Length bias: how much longer chosen answers are than rejected ones, which is learnt first (arXiv 2403.19159)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from prefcli.statistics.intervals import Z95, wilson_interval

LONGER, LONGER_BY = 0.6, 0.1  # share of pairs, and of the rejected answers' mean length: measured, see docs/watchers.md


class LengthBias(NamedTuple):
    """Ties count half; intervals are of 95 %, for the share Wilson's, for the mean difference the normal one."""

    pairs: int
    share: float  # of pairs whose chosen answer is the longer one
    share_ci95: tuple[float, float]
    difference: float  # in the lengths' unit, on average
    difference_ci95: tuple[float, float]
    rejected: float  # on average

    @property
    def text(self) -> str:
        return self.told("tokens")

    def told(self, unit: str) -> str:
        low, high = self.share_ci95
        least, most = self.difference_ci95
        return (
            f"chosen answers are longer in {self.share:.0%} [{low:.0%}, {high:.0%}] of {self.pairs:,} pairs, "
            f"by {self.difference:.1f} [{least:.1f}, {most:.1f}] {unit} on average"
        )

    @property
    def large(self) -> bool:
        """Whether both are surely more than a little."""
        return self.share_ci95[0] > LONGER and self.difference_ci95[0] > LONGER_BY * self.rejected


def length_bias(lengths: Iterable[tuple[int, int]]) -> LengthBias | None:
    """`lengths` of the chosen and the rejected answer of every pair, in tokens or characters; None without pairs."""
    pairs = longer = difference = squares = rejected = 0
    for one, other in lengths:
        pairs += 1
        longer += 2 * (one > other) + (one == other)  # in halves
        difference += one - other
        squares += (one - other) ** 2
        rejected += other
    if not pairs:
        return None
    mean = difference / pairs
    half = Z95 * math.sqrt(pairs * squares - difference**2) / pairs / math.sqrt(pairs)  # the root is of a whole number
    return LengthBias(
        pairs,
        longer / 2 / pairs,
        wilson_interval(longer / 2, pairs),
        mean,
        (mean - half, mean + half),
        rejected / pairs,
    )

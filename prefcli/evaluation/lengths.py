"""How much longer chosen answers are than rejected ones: what DPO and reward models learn first (arXiv 2403.19159)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import NamedTuple

from prefcli.evaluation.statistics import Z95, wilson_interval

LONGER, LONGER_BY = 0.6, 0.1  # share of pairs, and of the rejected answers' mean length: measured, see docs/watchers.md


class LengthBias(NamedTuple):
    """Ties count half; intervals are of 95 %, for the share Wilson's, for the mean difference the normal one."""

    pairs: int
    share: float  # of pairs whose chosen answer is the longer one
    share_ci95: tuple[float, float]
    difference: float  # tokens, on average
    difference_ci95: tuple[float, float]
    rejected: float  # tokens, on average

    @property
    def text(self) -> str:
        low, high = self.share_ci95
        least, most = self.difference_ci95
        return (
            f"chosen answers are longer in {self.share:.0%} [{low:.0%}, {high:.0%}] of {self.pairs:,} pairs, "
            f"by {self.difference:.1f} [{least:.1f}, {most:.1f}] tokens on average"
        )

    @property
    def large(self) -> bool:
        """Whether both are surely more than a little."""
        return self.share_ci95[0] > LONGER and self.difference_ci95[0] > LONGER_BY * self.rejected


def length_bias(lengths: Sequence[tuple[int, int]]) -> LengthBias:
    """`lengths`: tokens of the chosen and of the rejected answer of every pair; at least one pair."""
    pairs = len(lengths)
    longer = sum((chosen > rejected) + (chosen == rejected) / 2 for chosen, rejected in lengths)
    differences = [chosen - rejected for chosen, rejected in lengths]
    mean, half = fmean(differences), Z95 * pstdev(differences) / math.sqrt(pairs)
    return LengthBias(
        pairs,
        longer / pairs,
        wilson_interval(longer, pairs),
        mean,
        (mean - half, mean + half),
        fmean(rejected for _, rejected in lengths),
    )

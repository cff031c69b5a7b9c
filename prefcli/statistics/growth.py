"""How many labels a better model needs: a power law through the accuracies of runs on several numbers of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prefcli.statistics.intervals import Z95, student_t


@dataclass(frozen=True)
class Growth:
    """Rows for fewer mistakes, with a 95 % interval. `rows` is None where more rows have not helped, `high` where that
    many may not be enough; `exponent` is α."""

    rows: float | None
    low: float | None
    high: float | None
    exponent: float


def rows_for(runs: Sequence[tuple[int, float, int]], rows: int, fewer: float) -> Growth | None:
    """Rows for the fraction `fewer` fewer mistakes than on `rows`; None where all runs have the same number.

    `runs` are (rows, accuracy, number of held-out pairs). Mistakes fall as c·rows^−α (Hestness et al., arXiv
    1712.00409), so they are 1 − fewer times as many on rows·(1 − fewer)^(−1/α). α is the slope of ln(mistakes) over
    ln(rows), by least squares with the binomial variances of ln(mistakes), (1 − e)/(e·pairs); where the runs scatter
    more than that, they are made larger, and the interval is Student's, since few runs tell little of their scatter.
    Mistakes are counted with a half more, so that none has a logarithm.
    """
    points = []
    for number, accuracy, pairs in runs:
        mistakes = ((1 - accuracy) * pairs + 0.5) / (pairs + 1)
        points.append((math.log(number), math.log(mistakes), mistakes * pairs / (1 - mistakes)))
    if len({x for x, *_ in points}) < 2:
        return None
    weights = sum(w for *_, w in points)
    x0, y0 = (sum(w * point[place] for *point, w in points) / weights for place in (0, 1))
    spread = sum(w * (x - x0) ** 2 for x, _, w in points)
    slope = sum(w * (x - x0) * (y - y0) for x, y, w in points) / spread
    scatter = sum(w * (y - y0 - slope * (x - x0)) ** 2 for x, y, w in points)
    free = len(points) - 2
    beyond = free > 0 and scatter > free  # more than the binomial variances explain
    error = student_t(free) * math.sqrt(scatter / free / spread) if beyond else Z95 / math.sqrt(spread)

    def reached(exponent: float) -> float | None:
        power = -math.log1p(-fewer) / exponent if exponent > 0 else math.inf
        return rows * math.exp(power) if power < 100 else None

    return Growth(reached(-slope), reached(-slope + error), reached(-slope - error), -slope)

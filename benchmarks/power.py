"""What `compare` can see and how often it is wrong, and how often intervals of few prompts hold: by simulation.

    python -m benchmarks power

Half a minute on one core. Prints the tables of docs/compare.md and docs/eval.md.
"""

from __future__ import annotations

import torch

from prefcli.comparison.spread import _critical
from prefcli.statistics.bootstrap import mean_intervals, percentile_interval, resample_counts

PAIRS, TIMES = 200_000, 4000
SHAPES = {
    "normal": lambda size, g: torch.randn(size, generator=g, dtype=torch.float64),
    "Laplace": lambda size, g: _exponential(size, g) - _exponential(size, g),
    "exponential": lambda size, g: _exponential(size, g),
}
MEAN = {"normal": 0.0, "Laplace": 0.0, "exponential": 1.0}


def main() -> None:
    print("| runs of each | spread × 3 | × 5 | × 10 | alike: normal | Laplace | exponential |")
    print("|---|---|---|---|---|---|---|")
    for n in (3, 4, 5, 8, 10):
        powers = [named(n, "normal", ratio)[0] for ratio in (3.0, 5.0, 10.0)]
        wrong = [sum(named(n, shape, 1.0)) for shape in SHAPES]
        print(
            f"| {n} | " + " | ".join(f"{x:.2f}" for x in powers) + " | " + " | ".join(f"{x:.3f}" for x in wrong) + " |"
        )
    print("\n| prompts | " + " | ".join(f"{shape}: bootstrap-t | percentile" for shape in SHAPES) + " |")
    print("|---" * (1 + 2 * len(SHAPES)) + "|")
    for n in (10, 20, 50):
        cells = [f"{x:.3f}" for shape in SHAPES for x in coverage(n, shape)]
        print(f"| {n} | " + " | ".join(cells) + " |")


def named(n: int, shape: str, ratio: float) -> tuple[float, float]:
    """How often of n runs of each route the first, with `ratio` times the spread, is named, and how often the other."""
    g = torch.Generator().manual_seed(0)
    one, other = (_spread(factor * SHAPES[shape]((PAIRS, n), g)) for factor in (ratio, 1.0))
    limit = _critical(n, n)
    return float((one > limit * other).double().mean()), float((other > limit * one).double().mean())


def coverage(n: int, shape: str) -> tuple[float, float]:
    """How often a mean of n values lies in the 95 % interval, and in the percentile interval of the same resamples."""
    values = SHAPES[shape]((TIMES, n), torch.Generator().manual_seed(1))
    held, counts = [0, 0], resample_counts(n).T / n
    for part in values.split(500):
        found = mean_intervals(part), map(percentile_interval, part @ counts)
        for i, intervals in enumerate(found):
            held[i] += sum(low <= MEAN[shape] <= high for low, high in intervals)
    return held[0] / TIMES, held[1] / TIMES


def _spread(scores: torch.Tensor) -> torch.Tensor:
    n = scores.shape[1]
    return scores.sort(1).values @ (2 * torch.arange(n, dtype=torch.float64) - n + 1)


def _exponential(size: tuple[int, int], g: torch.Generator) -> torch.Tensor:
    return torch.empty(size, dtype=torch.float64).exponential_(1.0, generator=g)

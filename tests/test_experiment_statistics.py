"""Intervals, slopes and areas of sweeps against closed forms and brute force."""

from __future__ import annotations

import math
import random

import pytest

from prefcli.statistics.intervals import mean_interval, spread, student_t
from prefcli.statistics.trends import area_under, slope_per_factor


def test_t_quantiles_are_the_closed_forms_of_one_two_and_many_degrees():
    assert student_t(1) == pytest.approx(math.tan(0.95 * math.pi / 2), rel=1e-9)
    p = 0.95  # two degrees: t = p·sqrt(2 / (1 − p²))
    assert student_t(2) == pytest.approx(p * math.sqrt(2 / (1 - p * p)), rel=1e-9)
    assert student_t(10_000) == pytest.approx(1.959963985, abs=1e-3)
    assert student_t(4, 0.5) == pytest.approx(0.740697, abs=1e-6)  # tables


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 11, 30])
def test_95_percent_of_the_density_lies_within_t(df):
    """The density integrated by Simpson's rule."""
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    t, n = student_t(df), 2000
    step = t / n
    density = [scale * (1 + (i * step) ** 2 / df) ** (-(df + 1) / 2) for i in range(n + 1)]
    inside = step / 3 * (density[0] + density[-1] + 4 * sum(density[1:-1:2]) + 2 * sum(density[2:-1:2]))
    assert 2 * inside == pytest.approx(0.95, abs=1e-9)


def test_an_interval_over_three_seeds_holds_the_mean_in_95_of_100_draws():
    draw = random.Random(0)
    held = 0
    for _ in range(2000):
        low, high = mean_interval([draw.gauss(5, 2) for _ in range(3)])
        held += low <= 5 <= high
    assert 0.935 < held / 2000 < 0.965


def test_one_seed_has_no_interval_and_no_deviation():
    assert mean_interval([1.0]) is None
    assert spread([1.0]) == {"mean": 1.0, "min": 1.0, "max": 1.0, "std": None, "ci95": None}
    assert spread([1.0, 3.0])["std"] == pytest.approx(math.sqrt(2))


def test_a_line_in_log3_has_its_slope_back():
    xs = [0.05, 0.1, 0.3, 2.7]
    assert slope_per_factor(xs, [2 - 0.7 * math.log(x) / math.log(3) for x in xs]) == pytest.approx(-0.7)
    assert slope_per_factor([1, 3, 9], [0, 5, 10]) == pytest.approx(5)
    assert slope_per_factor([1, 3, 9], [1, 0, 1]) == pytest.approx(0)


def test_no_other_slope_fits_better():
    draw = random.Random(1)
    xs = [0.01, 0.02, 0.3, 0.9, 5]
    ys = [draw.gauss(0, 1) for _ in xs]

    def misfit(slope):
        rest = [y - slope * math.log(x) / math.log(3) for x, y in zip(xs, ys)]
        return sum((r - sum(rest) / len(rest)) ** 2 for r in rest)

    best = min((k / 1000 for k in range(-3000, 3000)), key=misfit)
    assert slope_per_factor(xs, ys) == pytest.approx(best, abs=1e-3)


def test_the_area_is_the_mean_of_the_curve_over_log_rows():
    rows, scores = [100, 300, 1000, 5000], [0.1, 0.5, 0.4, 0.9]
    n = 5_000
    total = 0.0
    for i in range(n):  # the piecewise straight line, point by point
        at = math.log(100) + (i + 0.5) / n * math.log(50)
        k = max(j for j in range(3) if math.log(rows[j]) <= at)
        share = (at - math.log(rows[k])) / (math.log(rows[k + 1]) - math.log(rows[k]))
        total += scores[k] + share * (scores[k + 1] - scores[k])
    assert area_under(rows, scores) == pytest.approx(total / n, abs=1e-6)
    assert area_under([10, 1000], [0.3, 0.3]) == pytest.approx(0.3)
    assert area_under([10, 1000], [0.0, 1.0]) == pytest.approx(0.5)

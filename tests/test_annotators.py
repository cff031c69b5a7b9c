"""Krippendorff's α against its definition by brute force, a published value, closed cases; its interval's coverage."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction

import pytest

from prefcli.statistics.agreement import agreement


def brute_force(units):
    """α from its definition: the mean disagreement of pairs of values within units, each unit by its values, over that
    of all pairs of values that stand in units of two or more."""
    units = [list(unit.values()) for unit in units if len(unit) > 1]
    values = [value for unit in units for value in unit]
    n = len(values)
    observed = sum(
        Fraction(len(unit), n) * Fraction(sum(a != b for a, b in pairs), len(pairs))
        for unit in units
        for pairs in [list(itertools.permutations(unit, 2))]
    )
    pairs = list(itertools.permutations(range(n), 2))
    expected = Fraction(sum(values[i] != values[j] for i, j in pairs), len(pairs))
    return None if expected == 0 else float(1 - observed / expected)


def drawn(generator, annotators=4, units=25, values="abc", error=0.3, missing=0.3):
    found = []
    for _ in range(units):
        truth = generator.choice(values)
        found.append({
            f"ann{k}": truth if generator.random() > error else generator.choice(values)
            for k in range(annotators) if generator.random() > missing
        })  # fmt: skip
    return found


@pytest.mark.parametrize("seed", range(10))
def test_alpha_is_its_definition(seed):
    generator = random.Random(seed)
    units = drawn(generator, annotators=2 + seed % 4, error=seed / 10)
    found = agreement(units)
    assert found["alpha"] == pytest.approx(brute_force(units), abs=1e-12)
    assert found["units"] == sum(len(unit) > 1 for unit in units)
    names = sorted({name for unit in units for name in unit})
    for a, b in itertools.combinations(names, 2):
        both = [{a: unit[a], b: unit[b]} for unit in units if a in unit and b in unit]
        assert agreement(units, a, b)["alpha"] == pytest.approx(brute_force(both), abs=1e-12)
        pairs = [unit[a] == unit[b] for unit in both]
        assert agreement(units, a, b)["same"] == pytest.approx(sum(pairs) / len(pairs))


def test_alpha_of_the_published_example():
    """Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C: 4 observers, 12 units: 0.743."""
    data = {
        "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    }
    units = [{name: row[i] for name, row in data.items() if row[i] is not None} for i in range(12)]
    assert agreement(units)["alpha"] == pytest.approx(0.743, abs=5e-4)


def test_closed_cases():
    same = [{"a": value, "b": value} for value in "xyxy"]
    assert agreement(same)["alpha"] == 1 and agreement(same)["ci95"] == [1, 1]
    # Two annotators who always differ, of two values: D_o = 1, D_e = n/(2(n − 1)) with n = 2u values.
    apart = [{"a": "x", "b": "y"}, {"a": "y", "b": "x"}] * 5
    assert agreement(apart)["alpha"] == pytest.approx(1 - 2 * 19 / 20)
    assert agreement([{"a": "x", "b": "x"}] * 9)["alpha"] is None  # nothing to tell chance from
    assert agreement([])["alpha"] is None and agreement([{"a": "x"}])["units"] == 0
    one = agreement([{"a": "x", "b": "y"}])
    assert one["alpha"] == 0 and one["ci95"] is None


def test_units_of_one_question_are_drawn_together():
    """Each unit six times over, as the pairs of a ranking that all agree: the interval is that of the questions, but
    for the n − 1 of D_e, which is closed."""
    units = [dict(zip("ab", random.Random(i).choices("xy", [3, 2], k=2))) for i in range(20)]
    low, high = agreement(units)["ci95"]
    n, found = 2 * len(units), agreement(units * 6, of=list(range(20)) * 6)
    expected = [1 - (1 - alpha) * (n - 1 / 6) / (n - 1) for alpha in (low, high)]
    assert found["ci95"] == pytest.approx(expected) and found["units"] == 120
    alone = agreement(units * 6)["ci95"]
    assert alone[1] - alone[0] < 0.6 * (high - low)
    assert agreement(units * 6, of=["one"] * 120)["ci95"] is None  # nothing to draw


def test_of_one_annotator_only_their_own_pairs_count():
    # b and c always agree; a is random to them.
    generator = random.Random(1)
    units = [{"a": generator.choice("xy"), "b": v, "c": v} for v in "xy" * 60]
    found = {name: agreement(units, name)["alpha"] for name in "abc"}
    assert abs(found["a"]) < 0.2 and found["b"] == found["c"] > 0.4
    assert agreement(units, "b", "c")["alpha"] == 1


def test_the_interval_covers():
    """Of two annotators who give a truth of two even values with error e each: α = 1 − 2·2e(1 − e)."""
    generator = random.Random(0)
    e, covered = 0.15, 0
    truth = 1 - 4 * e * (1 - e)
    for _ in range(100):
        units = []
        for _ in range(60):
            value = generator.random() < 0.5
            units.append({name: value ^ (generator.random() < e) for name in "ab"})
        low, high = agreement(units)["ci95"]
        covered += low <= truth <= high
    assert 88 <= covered <= 99

"""How far annotators agree beyond chance: Krippendorff's α of nominal values, with an interval. No torch."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefcli.statistics.intervals import percentile_tail

RESAMPLES = 2000
Unit = dict[str, Hashable]  # annotator → the value that they gave to one thing


def agreement(
    units: Sequence[Unit], one: str | None = None, other: str | None = None, seed: int = 0,
    of: Sequence[Hashable] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """{"alpha", "ci95": [low, high], "units", "same"} of nominal values.

    α = 1 − D_o / D_e: of two values of one unit how often they differ, against two values of any units (Krippendorff,
    Content Analysis, 2004, section 11.3; a value missing is none). `one` alone: the pairs of values in which that
    annotator has a part; with `other`: of these two. "units" have two values at least, "same" is the fraction of
    pairs of values that are equal. "alpha" is None where no two values differ anywhere, or there are none; "ci95",
    by bootstrap over units, is None there and for fewer than two units. Units that are not independent, since they
    come of one question, are drawn together: `of` names each unit's.
    """
    tables, drawn = _coincidences(units, one, other, range(len(units)) if of is None else of)
    total = tables.sum(0)
    n = float(total.sum())
    same = float(np.trace(total)) / n if n else None
    found: dict[str, Any] = {
        "alpha": _finite(_alphas(total[None])[0]),
        "ci95": None,
        "units": len(tables),
        "same": same,
    }
    if found["alpha"] is not None and len(drawn) > 1:
        draws = np.random.default_rng(seed).multinomial(len(drawn), [1 / len(drawn)] * len(drawn), RESAMPLES)
        resampled = np.tensordot(draws.astype(float), drawn, 1)
        alphas = np.sort(_alphas(resampled))
        alphas = alphas[np.isfinite(alphas)]
        if len(alphas):
            tail, last = percentile_tail(len(drawn)), len(alphas) - 1
            found["ci95"] = [float(alphas[round(tail * last)]), float(alphas[round((1 - tail) * last)])]
    return found


def _coincidences(
    units: Sequence[Unit], one: str | None, other: str | None, of: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[units with two values, values, values] how often two values stand together in a unit, in both orders; and
    their sums [questions with such units, values, values] over the units `of` each question.

    A unit of m values has m(m − 1) ordered pairs, each of weight 1/(m − 1); those asked for are counted.
    """
    code: dict[Hashable, int] = {}
    for unit in units:
        for value in unit.values():
            code.setdefault(value, len(code))
    found, sums = [], dict[Hashable, NDArray[np.float64]]()
    for unit, question in zip(units, of):
        table = np.zeros((len(code), len(code)))
        for a, x in unit.items():
            for b, y in unit.items():
                if a != b and (one is None or one in (a, b)) and (other is None or other in (a, b)):
                    table[code[x], code[y]] += 1 / (len(unit) - 1) if other is None else 1
        if table.any():
            found.append(table)
            sums[question] = sums.get(question, 0) + table
    shape = (len(code), len(code))
    return np.array(found).reshape(len(found), *shape), np.array(list(sums.values())).reshape(len(sums), *shape)


def _alphas(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    """[B] α of coincidence tables [B, values, values]; NaN where all values are the same."""
    n = tables.sum((1, 2))
    marginal = tables.sum(2)
    observed = n - np.trace(tables, axis1=1, axis2=2)
    expected = n * n - (marginal * marginal).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 1e-9, 1 - (n - 1) * observed / expected, np.nan)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

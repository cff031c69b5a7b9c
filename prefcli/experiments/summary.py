"""Summary of a sweep: each setting over its seeds, how each option changes the score, the best, the area over rows.

A setting is a point without its seed. Comparisons are made within a seed, and then over the seeds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import fmean
from typing import Any

from prefcli.artifacts.commands import command
from prefcli.experiments.points import shown
from prefcli.experiments.scores import Score
from prefcli.experiments.sweep import Outcome
from prefcli.statistics.intervals import spread
from prefcli.statistics.trends import area_under, slope_per_factor

Cell = tuple[Any, ...]


def summarise(stage: str, score: Score, outcomes: list[Outcome]) -> dict[str, Any]:
    """The JSON object of `prefcli sweep --json`; its shape is in docs/sweep.md."""
    settings = _settings(outcomes)
    leading = _leading(settings, score)
    return {
        "stage": stage,
        "score": {"name": score.name, "source": score.source, "better": score.better},
        "points": [_point(outcome) for outcome in outcomes],
        "settings": settings,
        "sensitivity": sensitivity(outcomes),
        "areas": areas(outcomes),
        "best": _best(leading, settings, outcomes),
        "equal": [{"options": s["options"], "rows": s["rows"]} for s in leading] if len(leading) > 1 else [],
    }


def sensitivity(outcomes: list[Outcome]) -> dict[str, Any]:
    """Option → how far it moves the score, the other options and rows averaged over.

    Numbers above 0: `per_factor_of_3`, the least-squares slope on log₃ of the value, averaged within each seed, with
    Student's interval over seeds. All: `range`, the largest difference between the means of two values. Only where all
    values of an option have a score are they compared, if there is such a place at all.
    """
    found: dict[str, Any] = {}
    for name in outcomes[0].point.options if outcomes else []:
        rows: dict[tuple[int, Cell], dict[str, tuple[Any, float]]] = defaultdict(dict)
        for outcome in outcomes:
            if outcome.figure is not None:
                others = (*(shown(v) for n, v in outcome.point.options.items() if n != name), outcome.point.rows)
                value = outcome.point.options[name]
                rows[outcome.point.seed, others][shown(value)] = (value, outcome.figure.value)
        values = {shown(outcome.point.options[name]): outcome.point.options[name] for outcome in outcomes}
        whole = {at: row for at, row in rows.items() if len(row) == len(values)}
        compared = whole or {at: row for at, row in rows.items() if len(row) > 1}
        if len(values) < 2 or not compared:
            continue
        means = {
            text: fmean(row[text][1] for row in compared.values() if text in row)
            for text in values
            if any(text in row for row in compared.values())
        }
        entry: dict[str, Any] = {"means": means, "range": max(means.values()) - min(means.values())}
        if all(_positive(value) for value in values.values()):
            by_seed: dict[int, list[float]] = defaultdict(list)
            for (seed, _), row in compared.items():
                by_seed[seed].append(slope_per_factor(*zip(*row.values())))
            over = spread([fmean(slopes) for slopes in by_seed.values()])
            entry |= {"per_factor_of_3": over["mean"], "ci95": over["ci95"], "seeds": len(by_seed)}
        found[name] = entry
    return found


def areas(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """One a set of options: the area under the score over log rows, over the seeds that have a score at all rows."""
    rows = sorted({outcome.point.rows for outcome in outcomes if outcome.point.rows})
    if len(rows) < 2:
        return []
    curves: dict[Cell, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    options: dict[Cell, dict[str, Any]] = {}
    for outcome in outcomes:
        key = _key(outcome.point.options)
        options[key] = outcome.point.options
        if outcome.figure is not None and outcome.point.rows:
            curves[key][outcome.point.seed][outcome.point.rows] = outcome.figure.value
    found = []
    for key, by_seed in curves.items():
        whole = [area_under(rows, [curve[n] for n in rows]) for curve in by_seed.values() if len(curve) == len(rows)]
        if whole:
            found.append({"options": options[key], "rows": rows, "seeds": len(whole), **spread(whole)})
    return found


def _settings(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    groups: dict[Cell, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[(*_key(outcome.point.options), outcome.point.rows)].append(outcome)
    found = []
    for group in groups.values():
        scored = [outcome for outcome in group if outcome.figure is not None]
        kls = [o.figure.kl for o in scored if o.figure is not None and o.figure.kl is not None]
        found.append(
            {
                "options": group[0].point.options,
                "rows": group[0].point.rows,
                "seeds": [outcome.point.seed for outcome in scored],
                "failed": [outcome.point.seed for outcome in group if outcome.figure is None],
                "score": spread([o.figure.value for o in scored if o.figure is not None]) if scored else None,
                "kl": fmean(kls) if kls else None,
                "seconds": fmean([_seconds(outcome) for outcome in scored]) if scored else None,
            }
        )
    return found


def _point(outcome: Outcome) -> dict[str, Any]:
    figure, point = outcome.figure, outcome.point
    return {
        "options": point.options,
        "rows": point.rows,
        "seed": point.seed,
        "ref": outcome.artifact.ref if outcome.artifact else None,
        "score": figure.value if figure else None,
        "ci95": figure.ci95 if figure else None,
        "kl": figure.kl if figure else None,
        "status": "complete" if figure else "failed",
        "reason": outcome.reason,
        "seconds": _seconds(outcome) if outcome.artifact else None,
    }


def _leading(settings: list[dict[str, Any]], score: Score) -> list[dict[str, Any]]:
    """The settings with the best mean, several where it is the same but for rounding. Those whose seeds all came
    through go before those that lost some."""
    scored = [setting for setting in settings if setting["score"]]
    if not scored:
        return []
    sign = 1 if score.better == "higher" else -1
    best = max(scored, key=lambda s: (not s["failed"], sign * s["score"]["mean"]))
    return [s for s in scored if bool(s["failed"]) == bool(best["failed"]) and _equal(s, best)]


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return math.isclose(one["score"]["mean"], other["score"]["mean"], rel_tol=1e-9, abs_tol=1e-12)


def _apart(one: list[float] | None, other: list[float] | None) -> bool:
    return one is not None and other is not None and (one[1] < other[0] or other[1] < one[0])


def _best(
    leading: list[dict[str, Any]], settings: list[dict[str, Any]], outcomes: list[Outcome]
) -> dict[str, Any] | None:
    """The one best setting, if there is one; "not_above" are those whose intervals reach into its own, or that have
    none, being of one seed: against them no difference is shown."""
    if len(leading) != 1:
        return None
    (best,) = leading
    artifact = next(
        o.artifact
        for o in outcomes
        if (o.point.options, o.point.rows) == (best["options"], best["rows"]) and o.figure is not None
    )
    assert artifact is not None
    return {
        "options": best["options"],
        "rows": best["rows"],
        "score": best["score"]["mean"],
        "not_above": [
            {"options": s["options"], "rows": s["rows"]}
            for s in settings
            if s is not best and s["score"] and not _apart(s["score"]["ci95"], best["score"]["ci95"])
        ],
        "ref": artifact.ref,
        "command": command(artifact.manifest),
    }


def _seconds(outcome: Outcome) -> float:
    assert outcome.artifact is not None
    return float(outcome.artifact.manifest.resources.get("train_seconds") or 0.0)


def _key(options: dict[str, Any]) -> Cell:
    return tuple(shown(value) for value in options.values())


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0

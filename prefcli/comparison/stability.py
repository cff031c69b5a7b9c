"""Stability: what the watchers named, gradients that leapt, and how far the result depends on the seed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import comb
from statistics import median

from prefcli.artifacts.commands import altered
from prefcli.artifacts.metrics import Row, is_number, read_log
from prefcli.artifacts.metrics import alarms as alarms_of
from prefcli.artifacts.store import Store
from prefcli.comparison.figures import LEVEL, Criterion, Measure, Samples, over_runs, shares
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores
from prefcli.comparison.spread import over_seeds
from prefcli.config.base import option
from prefcli.config.stages import STAGES
from prefcli.experiments.siblings import rows_of

SEEDS = 5  # with which a spread five times as wide is seen four times in five (docs/compare.md)
FACTOR, DEVIATIONS = 5.0, 10.0  # as the watcher of explosions (prefcli/watch/explosion.py)
LEAPT = f"grad_norm in metrics.jsonl: over {FACTOR:g} medians and {DEVIATIONS:g} MAD"


def stability(routes: Routes, scores: Scores | None) -> Criterion:
    repeated = routes.repetitions
    final = {
        ref: [scores.mean(run[-1]) for run in runs] if scores and len(runs) > 2 else []
        for ref, runs in repeated.items()
    }
    source = {ref: f"{len(runs)} runs that differ in the seed" for ref, runs in repeated.items()}
    lacking = [route for route in routes if len(final[route.ref]) < SEEDS]
    return Criterion(
        "training stability",
        "DPO",
        (
            _share_of_steps("steps with an alarm", routes, _with_an_alarm, "metrics.jsonl of its stages"),
            _share_of_steps("gradients that leapt", routes, _that_leapt, LEAPT),
            over_seeds("spread over seeds", "mean difference of two runs", final, source),
        ),
        measure_with=tuple(seeds_command(route, routes.store) for route in lacking),
        why=f"The spread over seeds takes {SEEDS} runs of each, and --prompts with --reward." if lacking else "",
    )


def _share_of_steps(name: str, routes: Routes, count: Callable[[Sequence[Row]], tuple[int, int]], told: str) -> Measure:
    """(how many, of how many) steps of a log, by `count`. Steps of one run depend on each other, so where there are
    several runs it is these that are compared."""
    repeated = routes.repetitions
    counts = {
        ref: [tuple(map(sum, zip(*(count(read_log(stage.path)) for stage in run)))) for run in runs]
        for ref, runs in repeated.items()
    }
    if all(len(runs) > 1 and all(n for _, n in runs) for runs in counts.values()):
        values = {ref: [k / n for k, n in runs] for ref, runs in counts.items()}
        source = {ref: f"{told}, {len(runs)} runs that differ in the seed" for ref, runs in counts.items()}
        measure = over_runs(name, "fraction of steps", Samples(values, source), "lower")
        return replace(measure, ahead=tuple((a, b) for a, b in measure.ahead if _may_tell(values[a], values[b])))
    single = {}
    for route in routes:
        logs = [read_log(artifact.path) for artifact in route.artifacts]
        k, n = map(sum, zip(*map(count, logs)))
        named = sorted({watcher for rows in logs for _, watcher in alarms_of(rows)})
        single[route.ref] = (k, n, f"{told}: {', '.join(named) or 'none named'}" if count is _with_an_alarm else told)
    return shares(name, "fraction of steps", single, "lower")


def _may_tell(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the runs are enough to tell two routes apart. Values that do not vary, as equal counts, give Welch's
    interval a width of 0: then there must be enough runs that chance seldom separates them (exact permutation test)."""
    return min(len(set(a)), len(set(b))) > 1 or 2 / comb(len(a) + len(b), len(a)) < LEVEL


def _with_an_alarm(rows: Sequence[Row]) -> tuple[int, int]:
    """Held-out rows that were measured after a step have a row of their own in the log."""
    return len({step for step, _ in alarms_of(rows)}), len({row["step"] for row in rows})


def _that_leapt(rows: Sequence[Row]) -> tuple[int, int]:
    norms = norms_of(rows)
    return outliers(norms), len(norms)


def norms_of(rows: Sequence[Row]) -> list[float]:
    """The gradient norms of a run's steps; none where they are too few to tell a leap."""
    found = [float(row["grad_norm"]) for row in rows if is_number(row.get("grad_norm"))]
    return found if len(found) >= 4 else []


def outliers(norms: list[float]) -> int:
    """The number of values far beyond the others."""
    if not norms:
        return 0
    middle = median(norms)
    spread = median(abs(norm - middle) for norm in norms)
    return sum(norm > FACTOR * middle and norm > middle + DEVIATIONS * spread for norm in norms)


def seeds_command(route: Route, store: Store) -> str:
    """The sweep that repeats a route with other seeds; of RLHF the reward model too, or its share of the spread stays
    unseen."""
    rows = rows_of(route.final, store)
    again = ["--rows", str(rows)] if len(route.rewards) == 1 and rows else []
    return sweep_command(route, store, *again, "--seeds", str(SEEDS))


def sweep_command(route: Route, store: Store, *more: str) -> str:
    """`prefcli sweep` of the run that made a route's policy."""
    manifest = route.final.manifest
    # In a sweep --prompts are the held-out ones; ppo's own go by --data there.
    words = [option("data") if word == option("prompts") else word for word in altered(manifest, {"seed": []})]
    return shlex.join(["prefcli", "sweep", STAGES[manifest.stage].command, *words, *more, *elsewhere(store)])


def elsewhere(store: Store) -> list[str]:
    """--runs, where the store is not the one that a command finds by itself."""
    return [] if store.root == Store().root else [option("runs"), str(store.root)]

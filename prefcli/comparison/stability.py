"""Stability: what the watchers named, gradients that leapt, and how far the result depends on the seed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from statistics import median

from prefcli.artifacts.commands import COMMANDS, altered
from prefcli.artifacts.metrics import Row, is_number, read_log
from prefcli.artifacts.metrics import alarms as alarms_of
from prefcli.artifacts.store import Store
from prefcli.comparison.figures import Criterion, Samples, deviations, over_runs, shares
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores
from prefcli.config.base import option
from prefcli.experiments.siblings import rows_of

SEEDS = 3  # fewer say nothing of a spread
FACTOR, DEVIATIONS = 5.0, 10.0  # as the watcher of explosions (prefcli/watch/explosion.py)


def stability(routes: Routes, scores: Scores | None) -> Criterion:
    alarms, leaps, final, source = {}, {}, {}, {}
    for route in routes:
        logs = [read_log(artifact.path) for artifact in route.artifacts]
        named = sorted({watcher for rows in logs for _, watcher in alarms_of(rows)})
        spoke = sum(len({step for step, _ in alarms_of(rows)}) for rows in logs)
        told = f"metrics.jsonl of its stages: {', '.join(named) or 'none named'}"
        alarms[route.ref] = (spoke, sum(map(len, logs)), told)
        norms = [norms_of(rows) for rows in logs]
        leaps[route.ref] = (
            sum(map(outliers, norms)),
            sum(map(len, norms)),
            f"grad_norm in metrics.jsonl: over {FACTOR:g} medians and {DEVIATIONS:g} MAD",
        )
        runs = routes.repetitions[route.ref] if scores else []
        final[route.ref] = deviations([scores.mean(run[-1]) for run in runs]) if scores and len(runs) >= SEEDS else []
        source[route.ref] = f"{len(runs)} runs that differ in the seed"
    lacking = [route for route in routes if not final[route.ref]]
    return Criterion(
        "training stability",
        "DPO",
        (
            shares("steps with an alarm", "share of steps", alarms, "lower"),
            shares("gradients that leapt", "share of steps", leaps, "lower"),
            over_runs("spread over seeds", "mean distance from the median", Samples(final, source), "lower"),
        ),
        measure_with=tuple(seeds_command(route, routes.store) for route in lacking),
        why="The spread over seeds needs three runs or more of each, and --prompts with --reward." if lacking else "",
    )


def norms_of(rows: Sequence[Row]) -> list[float]:
    """The gradient norms of a run's steps; none where they are too few to tell a leap."""
    found = [float(row["grad_norm"]) for row in rows if is_number(row.get("grad_norm"))]
    return found if len(found) >= 4 else []


def outliers(norms: list[float]) -> int:
    """How many are far beyond the others."""
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
    return sweep_command(route, store, *again, "--seeds", "5")


def sweep_command(route: Route, store: Store, *more: str) -> str:
    """`prefcli sweep` of the run that made a route's policy."""
    manifest = route.final.manifest
    # In a sweep --prompts are the held-out ones; ppo's own go by --data there.
    words = [option("data") if word == option("prompts") else word for word in altered(manifest, {"seed": []})]
    return shlex.join(["prefcli", "sweep", COMMANDS[manifest.stage][0], *words, *more, *elsewhere(store)])


def elsewhere(store: Store) -> list[str]:
    """--runs, where the store is not the one that a command finds by itself."""
    return [] if store.root == Store().root else [option("runs"), str(store.root)]

"""Stability: what the watchers named, gradients that leapt, and how far the result depends on the seed."""

from __future__ import annotations

import shlex
from statistics import median

from prefcli.artifacts.commands import COMMANDS, altered
from prefcli.artifacts.store import Artifact, Store
from prefcli.comparison.figures import Criterion, Samples, deviations, over_runs, shares
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores
from prefcli.config.base import option
from prefcli.experiments.siblings import parent_of, rows_of, siblings

SEEDS = 3  # fewer say nothing of a spread
FACTOR, DEVIATIONS = 5.0, 10.0  # as the watcher of explosions (prefcli/watch/explosion.py)


def stability(routes: Routes, scores: Scores | None) -> Criterion:
    alarms, leaps, final, source = {}, {}, {}, {}
    for route in routes:
        rows = [row for artifact in route.artifacts for row in route.rows(artifact)]
        named = sorted({name.removeprefix("alarm/") for row in rows for name in row if name.startswith("alarm/")})
        spoke = sum(any(name.startswith("alarm/") for name in row) for row in rows)
        alarms[route.ref] = (spoke, len(rows), f"metrics.jsonl of its stages: {', '.join(named) or 'none named'}")
        norms = [norms_of(route, artifact) for artifact in route.artifacts]
        leaps[route.ref] = (
            sum(map(outliers, norms)),
            sum(map(len, norms)),
            f"grad_norm in metrics.jsonl: over {FACTOR:g} medians and {DEVIATIONS:g} MAD",
        )
        runs = repetitions(route, routes.store) if scores else []
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


def norms_of(route: Route, artifact: Artifact) -> list[float]:
    """The gradient norms of a run's steps; none where they are too few to tell a leap."""
    found = [float(row["grad_norm"]) for row in route.rows(artifact) if isinstance(row.get("grad_norm"), (int, float))]
    return found if len(found) >= 4 else []


def outliers(norms: list[float]) -> int:
    """How many are far beyond the others."""
    if not norms:
        return 0
    middle = median(norms)
    spread = median(abs(norm - middle) for norm in norms)
    return sum(norm > FACTOR * middle and norm > middle + DEVIATIONS * spread for norm in norms)


def repetitions(route: Route, store: Store) -> list[list[Artifact]]:
    """The route and its repetitions with other seeds: of each, the artifacts after the ancestor, the policy last."""
    found = []
    for final in siblings(route.final, store, over="seed"):
        parents = [parent_of(final.manifest, role, store) for role in sorted(final.manifest.parents)]
        stages = {artifact.manifest.stage for artifact in route.artifacts[:-1]}
        made = {parent.ref: parent for parent in parents if parent and parent.manifest.stage in stages}
        found.append([*made.values(), final])
    return found


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

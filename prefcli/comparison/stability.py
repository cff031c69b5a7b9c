"""Stability: what the watchers named, gradients that leapt, and how far the result depends on the seed."""

from __future__ import annotations

import shlex
from statistics import median

from prefcli.artifacts.store import Artifact, Store
from prefcli.comparison.figures import Criterion, Samples, counted, deviations, over_runs
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores
from prefcli.config.base import option
from prefcli.experiments.siblings import parent_of, siblings
from prefcli.stages.card import COMMANDS, command

SEEDS = 3  # fewer say nothing of a spread
FACTOR, DEVIATIONS = 5.0, 10.0  # as the watcher of explosions (prefcli/watch/explosion.py)


def stability(routes: Routes, scores: Scores | None) -> Criterion:
    alarms, leaps, final, source = {}, {}, {}, {}
    for route in routes:
        rows = [row for artifact in route.artifacts for row in route.rows(artifact)]
        named = sorted({name.removeprefix("alarm/") for row in rows for name in row if name.startswith("alarm/")})
        spoke = sum(any(name.startswith("alarm/") for name in row) for row in rows)
        alarms[route.ref] = (float(spoke), f"metrics.jsonl of its stages: {', '.join(named) or 'none named'}")
        leapt = sum(outliers(route, artifact) for artifact in route.artifacts)
        leaps[route.ref] = (float(leapt), f"grad_norm in metrics.jsonl: over {FACTOR:g} medians and {DEVIATIONS:g} MAD")
        runs = repetitions(route, routes.store) if scores else []
        final[route.ref] = deviations([scores.mean(run[-1]) for run in runs]) if scores and len(runs) >= SEEDS else []
        source[route.ref] = f"{len(runs)} runs that differ in the seed"
    lacking = [route for route in routes if not final[route.ref]]
    return Criterion(
        "training stability",
        "DPO",
        (
            counted("steps with an alarm", "steps", alarms, "lower"),
            counted("gradients that leapt", "steps", leaps, "lower"),
            over_runs("spread over seeds", "mean distance from the median", Samples(final, source), "lower"),
        ),
        measure_with=tuple(seeds_command(route) for route in lacking),
        why="The spread over seeds needs three runs or more of each, and --prompts with --reward." if lacking else "",
    )


def outliers(route: Route, artifact: Artifact) -> int:
    """Steps whose gradient norm is far beyond the run's others."""
    names = ("grad_norm", "policy/grad_norm")
    norms = [float(row[n]) for row in route.rows(artifact) for n in names if isinstance(row.get(n), (int, float))]
    if len(norms) < 4:
        return 0
    middle = median(norms)
    spread = median(abs(norm - middle) for norm in norms)
    return sum(norm > FACTOR * middle and norm > middle + DEVIATIONS * spread for norm in norms)


def repetitions(route: Route, store: Store) -> list[list[Artifact]]:
    """The route and its repetitions with other seeds: of each, the artifacts after the ancestor, the policy last."""
    found = []
    for final in siblings(route.final, store, over="seed"):
        made = [parent_of(final.manifest, role, store) for role in sorted(final.manifest.parents)]
        stages = {artifact.manifest.stage for artifact in route.artifacts[:-1]}
        found.append([*(artifact for artifact in made if artifact and artifact.manifest.stage in stages), final])
    return found


def seeds_command(route: Route) -> str:
    """The sweep that repeats a route with other seeds."""
    return sweep_command(route, "--seeds", "5")


def sweep_command(route: Route, *more: str) -> str:
    """`prefcli sweep` of the run that made a route's policy."""
    manifest = route.final.manifest
    name = COMMANDS[manifest.stage][0]
    words = shlex.split(command(manifest))[2:]
    kept, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word == option("seed"):
            skip = True
        else:
            # In a sweep --prompts are the held-out ones; ppo's own go by --data there.
            kept.append(option("data") if word == option("prompts") else word)
    return shlex.join(["prefcli", "sweep", name, *kept, *more])

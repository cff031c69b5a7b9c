"""Training time: seconds of training over a route's stages, start-up left out, PPO's sampling told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prefcli.artifacts.metrics import read_log
from prefcli.artifacts.store import Artifact
from prefcli.comparison.figures import Criterion, Figure, Measure, Samples, over_runs
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores
from prefcli.comparison.stability import seeds_command

TIME = "training time"
TIMES = ("time/step", "time/generate", "time/score", "time/train")  # one of the first, or ppo's three parts


def training_time(routes: Routes, scores: Scores | None) -> Criterion:
    repeated = routes.repetitions
    seconds: dict[str, list[float]] = {}
    source: dict[str, str] = {}
    for route in routes:
        runs = repeated[route.ref]
        if len(runs) > 1:
            seconds[route.ref] = [sum(map(seconds_of, run)) for run in runs]
            source[route.ref] = f"train_seconds of {len(runs)} runs that differ in the seed"
        else:
            seconds[route.ref] = by_steps(route)
            source[route.ref] = "train_seconds of " + ", ".join(a.ref for a in route.artifacts)
    generating: dict[str, Figure | None] = {
        route.ref: Figure(float(spent), "time/generate of its rollouts")
        for route in routes
        if (spent := sum(row.get("time/generate", 0.0) for a in route.artifacts for row in read_log(a.path)))
    }
    seen: dict[str, Figure | None] = {
        route.ref: Figure(float(sum(map(samples_of, route.artifacts))), "steps × --batch-size, over its stages")
        for route in routes
    }
    spent_on_it = over_runs("seconds of training", "seconds", Samples(seconds, source), "lower")
    enough = all(len(values) > 1 for values in seconds.values())
    single = any(len(runs) < 2 for runs in repeated.values())
    return Criterion(
        TIME,
        "DPO",
        (
            replace(spent_on_it, of_single_runs=single),
            Measure("of which sampling", "seconds", {ref: generating.get(ref) for ref in routes.refs}),
            Measure("rows and answers trained on", "samples", seen),
        ),
        measure_with=() if enough and not single else tuple(seeds_command(route, routes.store) for route in routes),
        why="The interval covers the times of the steps within the run, not those on a busier machine."
        if all(len(runs) < 2 for runs in repeated.values())
        else "",
    )


def seconds_of(artifact: Artifact) -> float:
    return float(artifact.manifest.resources.get("train_seconds") or 0.0)


def samples_of(artifact: Artifact) -> int:
    manifest = artifact.manifest
    return int(manifest.resources.get("steps") or 0) * int(manifest.config.get("batch_size") or 0)


def step_seconds(rows: list[dict[str, Any]]) -> list[float]:
    """Of each logged step that was timed."""
    return [sum(float(row.get(name, 0.0)) for name in TIMES) for row in rows if any(name in row for name in TIMES)]


def by_steps(route: Route) -> list[float]:
    """The whole time, as many times as the route has steps: each step's deviation from its stage's mean step, scaled so
    that the mean of these values has the standard error of the sum. One value, the sum, where no steps were timed."""
    total = sum(map(seconds_of, route.artifacts))
    deviations: list[float] = []
    for artifact in route.artifacts:
        times = step_seconds(read_log(artifact.path))[1:]
        if len(times) < 2:
            return [total]
        middle = sum(times) / len(times)
        deviations += [time - middle for time in times]
    return [total + len(deviations) * deviation for deviation in deviations]

"""Hyperparameters: how many a route asks for, and how far the score moves when one is tripled that both routes have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch

from prefcli.artifacts.store import Artifact
from prefcli.comparison.figures import Criterion, Figure, Measure, counted
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores
from prefcli.comparison.stability import sweep_command
from prefcli.config.stages import STAGES, Stage
from prefcli.experiments.siblings import varied
from prefcli.statistics.bootstrap import percentile_interval, resample_counts
from prefcli.statistics.trends import slope_per_factor

WITHOUT_VALUE = {"clip_range_value", "vf_coef", "lam", "gamma"}
# What plays the same part in different routes: like is compared with like, so that a route which was swept over more
# options has no more chances to look fickle.
MOVE = "score change when the option is tripled"
RATE, TIE = "learning rate", "tie to the reference"
AXES: dict[str, Callable[[Stage], str | None]] = {RATE: lambda stage: "lr", TIE: lambda stage: stage.tie}
PROMPTS = 20  # of fewer a bootstrap interval is too short


def hyperparameters(routes: Routes, scores: Scores | None) -> Criterion:
    numbers = {route.ref: (float(sum(len(tuned(a)) for a in route.artifacts)), _listed(route)) for route in routes}
    found = {
        axis: {route.ref: slopes(route, routes, scores, option) if scores else None for route in routes}
        for axis, option in AXES.items()
    }
    shared = {axis: by_route for axis, by_route in found.items() if all(by_route.values())}
    tie = found[TIE]
    lacking = tuple(
        sweep_command(route, routes.store, "--grid", grid)
        for route in routes
        if tie[route.ref] is None and (grid := STAGES[route.final.manifest.stage].grid)
    )
    unit = scores.trusted if scores else "score"
    shown = shared or {TIE: tie}
    return Criterion(
        "hyperparameters",
        "DPO",
        (
            counted("to be chosen", "options", numbers, "lower"),
            *(_sensitivity(f"{MOVE}: {axis}", by_route, unit) for axis, by_route in shown.items()),
        ),
        measure_with=() if TIE in shared else lacking,
        why="The score change is compared only where all routes were swept over an option that plays the same part."
        if shared
        else "",
    )


def tuned(artifact: Artifact) -> tuple[str, ...]:
    manifest = artifact.manifest
    free = WITHOUT_VALUE if manifest.config.get("advantage") in ("rloo", "grpo") else set()
    return tuple(name for name in STAGES[manifest.stage].tuned if name not in free)


def _listed(route: Route) -> str:
    return "; ".join(f"{a.manifest.stage}: {', '.join(tuned(a))}" for a in route.artifacts)


def slopes(
    route: Route, routes: Routes, scores: Scores, option: Callable[[Stage], str | None]
) -> tuple[str, list[float]] | None:
    """The option that plays a part in the route's last stage, and its slope a factor of three, prompt by prompt; None
    where the store has no runs that differ in it alone."""
    name = option(STAGES[route.final.manifest.stage])
    if name is None:
        return None
    runs = varied(route.final, routes.store).get(name, [])
    points = [(run.manifest.config.get(name), run) for run in (route.final, *runs)]
    known = [(float(x), run) for x, run in points if isinstance(x, (int, float)) and not isinstance(x, bool)]
    known = [(x, run) for x, run in known if x > 0]
    xs = [x for x, _ in known]
    if len(set(xs)) < 2:
        return None
    values = [scores.values(run) for _, run in known]
    return name, [slope_per_factor(xs, prompt) for prompt in zip(*values)]


def _sensitivity(measure: str, found: dict[str, tuple[str, list[float]] | None], unit: str) -> Measure:
    """|slope| of each route, from one run at each value, and whose is shown to be smaller by bootstrap over prompts."""
    drawn = {ref: _resampled(one[1]).abs() for ref, one in found.items() if one}
    enough = all(len(one[1]) >= PROMPTS for one in found.values() if one)
    figures = {
        ref: Figure(abs(fmean(one[1])), f"runs that differ in {one[0]}", percentile_interval(drawn[ref], len(one[1])))
        if one
        else None
        for ref, one in found.items()
    }
    ahead = [
        (a, b) for a in drawn for b in drawn if a != b and enough and percentile_interval(drawn[a] - drawn[b])[1] < 0
    ]
    return Measure(measure, unit, figures, "lower", tuple(ahead), of_single_runs=True)


def _resampled(values: Sequence[float]) -> torch.Tensor:
    """Means of 2,000 resamples of the prompts, the same ones for every route."""
    return resample_counts(len(values)) @ torch.tensor(values, dtype=torch.float64) / len(values)

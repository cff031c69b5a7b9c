"""Hyperparameters: how many a route asks for, and how far the score moves when one is tripled."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch

from prefcli.artifacts.store import Artifact
from prefcli.comparison.figures import Criterion, Figure, Measure, counted
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores
from prefcli.comparison.stability import sweep_command
from prefcli.evaluation.statistics import percentile_interval, resample_counts
from prefcli.experiments.siblings import varied
from prefcli.experiments.statistics import slope_per_factor

# What the field tunes in each stage; the same of every stage (seed, batch size, schedule, length) is left out.
TUNED = {
    "sft": ("lr", "epochs"),
    "rm": ("lr", "epochs"),
    "dpo": ("lr", "epochs", "beta"),
    "kto": ("lr", "epochs", "beta", "desirable_weight", "undesirable_weight"),
    "ppo": ("lr", "max_steps", "kl_coef", "clip_range", "clip_range_value", "vf_coef", "entropy_coef", "gamma", "lam",
            "ppo_epochs", "minibatches", "temperature", "max_new_tokens"),
}  # fmt: skip
WITHOUT_VALUE = {"clip_range_value", "vf_coef", "lam", "gamma"}
PROMPTS = 20  # of fewer a bootstrap interval is too short
GRIDS = {"dpo": "beta=0.03,0.1,0.3", "kto": "beta=0.03,0.1,0.3", "ppo": "kl_coef=0.02,0.06,0.2"}


def hyperparameters(routes: Routes, scores: Scores | None) -> Criterion:
    numbers = {route.ref: (float(sum(len(tuned(a)) for a in route.artifacts)), _listed(route)) for route in routes}
    slopes = {route.ref: steepest(route, routes, scores) if scores else None for route in routes}
    lacking = tuple(
        sweep_command(route, routes.store, "--grid", grid)
        for route in routes
        if slopes[route.ref] is None and (grid := GRIDS.get(route.final.manifest.stage))
    )
    return Criterion(
        "hyperparameters",
        "DPO",
        (
            counted("to be chosen", "options", numbers, "lower"),
            _sensitivity(slopes, scores.trusted if scores else "score"),
        ),
        measure_with=lacking,
        why="The score's move is that of the hyperparameter which moves it most, of those that were swept."
        if any(slopes.values())
        else "",
    )


def tuned(artifact: Artifact) -> tuple[str, ...]:
    manifest = artifact.manifest
    free = WITHOUT_VALUE if manifest.config.get("advantage") in ("rloo", "grpo") else set()
    return tuple(name for name in TUNED[manifest.stage] if name not in free)


def _listed(route: Route) -> str:
    return "; ".join(f"{a.manifest.stage}: {', '.join(tuned(a))}" for a in route.artifacts)


def steepest(route: Route, routes: Routes, scores: Scores) -> tuple[str, list[float]] | None:
    """The swept hyperparameter that moves the score most, and its slope a factor of three, prompt by prompt."""
    found: list[tuple[str, list[float]]] = []
    for name, runs in varied(route.final, routes.store).items():
        points = [(run.manifest.config.get(name), run) for run in (route.final, *runs)]
        known = [(float(x), run) for x, run in points if isinstance(x, (int, float)) and not isinstance(x, bool)]
        known = [(x, run) for x, run in known if x > 0]
        if len({x for x, _ in known}) > 1:
            xs = [x for x, _ in known]
            values = [scores.values(run) for _, run in known]
            found.append((name, [slope_per_factor(xs, prompt) for prompt in zip(*values)]))
    return max(found, key=lambda item: abs(fmean(item[1])), default=None)


def _sensitivity(slopes: dict[str, tuple[str, list[float]] | None], unit: str) -> Measure:
    """|slope| of each route, and whose is shown to be smaller by bootstrap over the prompts, which they share."""
    drawn = {ref: _resampled(found[1]).abs() for ref, found in slopes.items() if found}
    enough = all(len(found[1]) >= PROMPTS for found in slopes.values() if found)
    figures = {
        ref: Figure(abs(fmean(found[1])), f"runs that differ in {found[0]}", percentile_interval(drawn[ref]))
        if found
        else None
        for ref, found in slopes.items()
    }
    ahead = [
        (a, b) for a in drawn for b in drawn if a != b and enough and percentile_interval(drawn[a] - drawn[b])[1] < 0
    ]
    return Measure("score's move a factor of three", unit, figures, "lower", tuple(ahead))


def _resampled(values: Sequence[float]) -> torch.Tensor:
    """Means of 2,000 resamples of the prompts, the same ones for every route."""
    return resample_counts(len(values)) @ torch.tensor(values, dtype=torch.float64) / len(values)

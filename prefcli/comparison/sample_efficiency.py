"""Sample efficiency: the score against the number of pairs, as the area under that curve over log pairs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from prefcli.artifacts.store import Artifact
from prefcli.comparison.figures import Criterion, Figure, Measure, Samples, over_prompts, over_runs
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores
from prefcli.comparison.stability import sweep_command
from prefcli.experiments.siblings import rows_of, seed_of, siblings
from prefcli.statistics.trends import area_under
from prefcli.text import counted

LEAST = 8  # pairs: fewer teach nothing
SEEDS = 3  # of each number of pairs


def numbers(pairs: int | None) -> str:
    """All pairs, a third and a ninth of them, as `sweep --rows` takes them; empty of too few."""
    return ",".join(str(n) for n in ((pairs or 0) // 9, (pairs or 0) // 3, pairs or 0) if n >= LEAST)


def sample_efficiency(routes: Routes, scores: Scores | None) -> Criterion:
    curves = {route.ref: by_rows(route, routes) if scores else {} for route in routes}
    common = sorted(set.intersection(*(set(curve) for curve in curves.values())))
    runs_of_each = [curve[n] for curve in curves.values() for n in common]
    seeds = sorted(set.intersection(*(set(map(seed_of, runs)) for runs in runs_of_each))) if common else []
    commands = tuple(
        sweep_command(route, routes.store, "--rows", wanted, "--seeds", str(SEEDS))
        for route in routes
        if (wanted := numbers(rows_of(route.final, routes.store)))
    )
    if scores is None or len(common) < 2 or not seeds:
        nothing: dict[str, Figure | None] = dict.fromkeys(routes.refs)
        return Criterion(
            "sample efficiency",
            "DPO",
            (Measure("mean score over log pairs", scores.trusted if scores else "score", nothing, "higher"),),
            measure_with=commands,
            why="It needs runs of both routes on two numbers of pairs or more, of a seed that all of these have.",
        )
    counts = ", ".join(f"{n:,}" for n in common)
    source = {ref: f"runs on {counts} pairs, {counted(len(seeds), 'seed')}" for ref in curves}
    runs = {ref: [_of_seed(curve, common, seed) for seed in seeds] for ref, curve in curves.items()}
    if len(seeds) > 1:
        areas = {ref: [_area(common, one, scores) for one in of_seeds] for ref, of_seeds in runs.items()}
        measure = over_runs("mean score over log pairs", scores.trusted, Samples(areas, source), "higher")
    else:
        by_prompt = {ref: _by_prompt(common, of_seeds[0], scores) for ref, of_seeds in runs.items()}
        measure = over_prompts("mean score over log pairs", scores.trusted, Samples(by_prompt, source), "higher")
    shown = {
        ref: "  ".join(f"{n:,}: {fmean(map(scores.mean, on)):.2f}" for n, on in zip(common, zip(*of_seeds)))
        for ref, of_seeds in runs.items()
    }
    return Criterion(
        "sample efficiency",
        "DPO",
        (measure,),
        why="; ".join(f"{ref} {text}" for ref, text in shown.items()) + ".",
    )


def by_rows(route: Route, routes: Routes) -> dict[int, list[Artifact]]:
    """Number of pairs → the runs on so many, this one among them."""
    found: dict[int, list[Artifact]] = {}
    for run in siblings(route.final, routes.store, over="rows"):
        rows = rows_of(run, routes.store)
        if rows:
            found.setdefault(rows, []).append(run)
    return found


def _of_seed(curve: dict[int, list[Artifact]], common: Sequence[int], seed: int) -> list[Artifact]:
    return [next(run for run in curve[n] if seed_of(run) == seed) for n in common]


def _area(common: Sequence[int], runs: Sequence[Artifact], scores: Scores) -> float:
    return area_under(common, [scores.mean(run) for run in runs])


def _by_prompt(common: Sequence[int], runs: Sequence[Artifact], scores: Scores) -> list[float]:
    """The area of each prompt's own scores."""
    return [area_under(common, prompt) for prompt in zip(*map(scores.values, runs))]

"""Memory: the highest peak of a route's stages, predicted before the run and measured while it ran."""

from __future__ import annotations

from dataclasses import replace

from prefcli.comparison.figures import Criterion, Measure, Samples, counted, over_runs
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores


def memory(routes: Routes, scores: Scores | None) -> Criterion:
    predicted = {route.ref: _peak(route, "predicted_peak_bytes") for route in routes}
    return Criterion(
        "memory",
        "DPO",
        (
            _measured(routes),
            counted("predicted peak", "bytes", predicted, "lower"),
        ),
        why="On a CPU both include Python and its libraries, which are most of it for a small model.",
    )


def _measured(routes: Routes) -> Measure:
    """Over the runs that differ in the seed where each route has two or more whose peaks are known, else as it is."""
    name = "measured_peak_bytes"
    repeated = {
        ref: [run for run in runs if all(a.manifest.resources.get(name) for a in run)]
        for ref, runs in routes.repetitions.items()
    }
    if any(len(runs) < 2 for runs in repeated.values()):
        once = counted("measured peak", "bytes", {route.ref: _peak(route, name) for route in routes}, "lower")
        return replace(once, of_single_runs=True)
    peaks = {
        ref: [float(max(a.manifest.resources[name] for a in run)) for run in runs] for ref, runs in repeated.items()
    }
    source = {ref: f"{name} of {len(runs)} runs that differ in the seed" for ref, runs in repeated.items()}
    return over_runs("measured peak", "bytes", Samples(peaks, source), "lower")


def _peak(route: Route, name: str) -> tuple[float, str] | None:
    found = [(artifact.manifest.resources.get(name), artifact.ref) for artifact in route.artifacts]
    known = [(int(value), ref) for value, ref in found if value]
    if len(known) < len(found):
        return None
    value, ref = max(known)
    return float(value), f"{name} of {ref}"

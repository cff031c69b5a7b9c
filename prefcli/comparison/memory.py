"""Memory: the highest peak of a route's stages, predicted before the run and measured while it ran."""

from __future__ import annotations

from prefcli.comparison.figures import Criterion, counted
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores


def memory(routes: Routes, scores: Scores | None) -> Criterion:
    measured = {route.ref: _peak(route, "measured_peak_bytes") for route in routes}
    predicted = {route.ref: _peak(route, "predicted_peak_bytes") for route in routes}
    bases = [
        f"{route.ref} {found[0] / base:.1f}"
        for route in routes
        if (found := predicted[route.ref]) and (base := _base_bytes(route))
    ]
    return Criterion(
        "memory",
        "DPO",
        (
            counted("measured peak", "bytes", measured, "lower"),
            counted("predicted peak", "bytes", predicted, "lower"),
        ),
        why="Measured is all that the process held, Python and its libraries too: of a small model mostly those. "
        + (f"Predicted, in base models: {', '.join(bases)}." if bases else ""),
    )


def _peak(route: Route, name: str) -> tuple[float, str] | None:
    found = [(artifact.manifest.resources.get(name), artifact.ref) for artifact in route.artifacts]
    known = [(int(value), ref) for value, ref in found if value]
    if len(known) < len(found):
        return None
    value, ref = max(known)
    return float(value), f"{name} of {ref}"


def _base_bytes(route: Route) -> int | None:
    """The policy's weights once, in the type that they were held in."""
    manifest = route.final.manifest
    parameters = manifest.model.get("parameters")
    wide = 4 if manifest.environment.get("dtype") == "float32" else 2
    return int(parameters) * wide if parameters else None

"""Reward hacking: how much more the route's own reward has risen than what is trusted has, as KL grew."""

from __future__ import annotations

from statistics import fmean, pstdev

from prefcli.artifacts.references import kept_steps, resolve
from prefcli.artifacts.store import Artifact
from prefcli.comparison.figures import Criterion, Measure, Samples, over_prompts, over_runs
from prefcli.comparison.routes import Route, Routes
from prefcli.comparison.scores import Scores, causes


def reward_hacking(routes: Routes, scores: Scores | None) -> Criterion:
    proxy = proxy_of(scores) if scores else None
    if scores is None or proxy is None:
        return Criterion(
            "reward-hacking risk",
            "DPO",
            (
                Measure(
                    "own reward's rise minus the trusted one's",
                    "standard deviations",
                    dict.fromkeys(routes.refs),
                    "lower",
                ),
            ),
            measure_with=("prefcli compare " + " ".join(routes.refs) + " --prompts FILE --reward NAME=REF",),
            why="It needs a score that no route was trained against, and a reward model that one was trained against.",
        )
    proxies = {route.ref: own_proxy(route, scores) or proxy for route in routes}
    names = (*proxies.values(), scores.trusted)
    unit = {name: pstdev(scores.values(routes.start, name)) or 1.0 for name in names}
    runs = {ref: [gap(run[-1], routes, scores, proxies[ref], unit) for run in found] for ref, found in
            routes.repetitions.items()}  # fmt: skip
    nats = {route.ref: scores.of(route.final).kl for route in routes}
    source = {
        ref: f"{proxies[ref]} against {scores.trusted}" + (f", at {fmean(kl):.2f} nats" if kl else "")
        for ref, kl in nats.items()
    }
    name = "own reward's rise minus the trusted one's"
    if all(len(found) > 1 for found in runs.values()):
        source = {ref: f"{text}; {len(runs[ref])} runs that differ in the seed" for ref, text in source.items()}
        means = {ref: [fmean(prompts) for prompts in found] for ref, found in runs.items()}
        measure = over_runs(name, "standard deviations", Samples(means, source), "lower")
    else:
        gaps = {route.ref: gap(route.final, routes, scores, proxies[route.ref], unit) for route in routes}
        measure = over_prompts(name, "standard deviations", Samples(gaps, source), "lower")
    steps = [text for route in routes if (text := along(route, scores, proxies[route.ref]))]
    return Criterion(
        "reward-hacking risk",
        "DPO",
        (measure,),
        why="Both in standard deviations of the start's scores; a route without a reward is scored by the other's. "
        + " ".join(steps),
    )


def proxy_of(scores: Scores) -> str | None:
    """The reward model that a route was trained against, else the second source; None without a second opinion."""
    if not scores.independent or len(scores.specs) < 2:
        return None
    others = [spec.name for spec in scores.specs[1:]]
    return next((name for name in others if name in scores.own), others[0])


def own_proxy(route: Route, scores: Scores) -> str | None:
    """The reward that this very route was trained against, among those that score; the first of several."""
    own = causes([route])
    return next((spec.name for spec in scores.specs[1:] if (spec.digest or spec.text, spec.function) in own), None)


def gap(final: Artifact, routes: Routes, scores: Scores, proxy: str, unit: dict[str, float]) -> list[float]:
    """(rise of the proxy − rise of what is trusted) of each prompt, in standard deviations of the start's own scores
    (`unit`)."""
    parts = []
    for source in (proxy, scores.trusted):
        before, after = scores.values(routes.start, source), scores.values(final, source)
        parts.append([(b - a) / unit[source] for a, b in zip(before, after)])
    return [p - t for p, t in zip(*parts)]


def along(route: Route, scores: Scores, proxy: str) -> str:
    """Both rewards at each kept step, where a run kept any."""
    artifact = route.final
    points = []
    for step in kept_steps(artifact.path):
        found = scores.of(resolve(f"{artifact.ref}:step{step}", scores.store))
        kl = f"{fmean(found.kl):.1f} nats " if found.kl else ""
        points.append(f"{kl}{fmean(found.scores[proxy]):.2f}/{fmean(found.scores[scores.trusted]):.2f}")
    return f"{artifact.ref}, {proxy}/{scores.trusted} by kept step: {', '.join(points)}." if points else ""

"""`compare` as a function: the eight criteria, and the quality beside them."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

from prefcli.artifacts.store import Store
from prefcli.comparison.both_routes import parse_budget
from prefcli.comparison.figures import DISAGREE, NO_DIFFERENCE, NOT_MEASURED, OF_THESE_RUNS, Criterion
from prefcli.comparison.flexibility import flexibility
from prefcli.comparison.hyperparameters import hyperparameters
from prefcli.comparison.memory import memory
from prefcli.comparison.reward_hacking import reward_hacking
from prefcli.comparison.routes import Routes, read_routes
from prefcli.comparison.sample_efficiency import sample_efficiency
from prefcli.comparison.scores import Scores, causes, open_scores
from prefcli.comparison.simplicity import simplicity
from prefcli.comparison.stability import stability
from prefcli.comparison.training_time import TIME, training_time
from prefcli.config.compare import CompareConfig
from prefcli.evaluation import models
from prefcli.progress import Reporter
from prefcli.statistics.paired import differences

# In the order of the common claims. Each is handed the routes and the scores (None where nothing scores).
CRITERIA = (
    simplicity,
    memory,
    stability,
    sample_efficiency,
    flexibility,
    training_time,
    hyperparameters,
    reward_hacking,
)


def compare(config: CompareConfig, reporter: Reporter) -> dict[str, Any]:
    """{"ancestor", "routes", "criteria", "score", "quality"}; the shapes are in docs/compare.md.

    Trains nothing. Raises UsageError, ArtifactError, DataError as `read_routes` and `open_scores` do.
    """
    store = Store(config.runs)
    routes = read_routes(list(config.refs), store)
    for ref in dict.fromkeys(ref for route in routes for ref in route.stopped):
        reporter.notice(f"{ref} was stopped before its end: what is compared is what was trained until then")
    own = list({reward.ref: reward for route in routes for reward in route.rewards}.values())
    scores = open_scores(config, store, routes.start, own, reporter, causes(routes))
    judged = scores if scores and scores.independent else None  # one that a route was trained against favours it
    criteria = [criterion(routes, judged) for criterion in CRITERIA]
    if config.data and (budget := parse_budget(config.budget)) is not None and budget.of == "seconds":
        criteria = [only_told(c, "--budget gave both the same.") if c.criterion == TIME else c for c in criteria]
    return {
        "ancestor": routes.start.shown,
        "routes": [
            {
                "ref": route.ref,
                "route": route.kind,
                "stages": [artifact.manifest.stage for artifact in route.artifacts],
                "artifacts": [artifact.ref for artifact in route.artifacts],
                "stopped": route.stopped,
            }
            for route in routes
        ],
        "criteria": [criterion.as_dict() for criterion in criteria],
        "score": tally(criteria, routes.refs),
        "quality": quality(routes, scores) if scores else None,
    }


def only_told(criterion: Criterion, why: str) -> Criterion:
    """A criterion whose figures decide nothing."""
    measures = tuple(replace(measure, better=None, ahead=()) for measure in criterion.measures)
    return replace(criterion, measures=measures, measure_with=(), why=why)


def tally(criteria: list[Criterion], refs: list[str]) -> dict[str, int]:
    """The number of rows that each route won, and that nobody won. What single runs show counts for nobody."""
    verdicts = [OF_THESE_RUNS if criterion.of_these_runs else criterion.verdict for criterion in criteria]
    return {name: verdicts.count(name) for name in (*refs, OF_THESE_RUNS, NO_DIFFERENCE, DISAGREE, NOT_MEASURED)}


def quality(routes: Routes, scores: Scores) -> dict[str, Any]:
    """Rewards with intervals against KL, head-to-head wins and paired differences by every source."""
    entries: list[tuple[str, Any]] = [(routes.start.shown, routes.start)]
    entries += [(route.ref, route.final) for route in routes]
    found = {ref: scores.of(model) for ref, model in entries}
    first, *others = routes.refs
    heads = []
    for other in others:
        rate, interval = models.win_rate(found[other].scores[scores.trusted], found[first].scores[scores.trusted])
        heads.append({"a": other, "b": first, "win_rate": rate, "ci95": list(interval)})
    return {
        "prompts": len(scores.rows),
        "trusted": scores.trusted,
        "independent": scores.independent,
        "frontier": [
            {
                "ref": ref,
                "kl": fmean(one.kl) if one.kl is not None else None,
                "reward": {name: models.summary(values) for name, values in one.scores.items()},
                **one.measures,
            }
            for ref, one in found.items()
        ],
        "win_rate": heads,
        "differences": differences({ref: found[ref].scores for ref in routes.refs}),
    }

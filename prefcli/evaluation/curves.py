"""The over-optimisation curves of an evaluation: best of n of every model, and the steps of a run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from prefcli.config.evaluate import EvalConfig
from prefcli.errors import UsageError
from prefcli.evaluation.measured import Measured
from prefcli.evaluation.overoptimisation import LEAST, best_of_n_curve, training_curve
from prefcli.progress import Reporter

_STEP = re.compile(r"(?P<run>[^@]+)@v\d+(:step\d+)?")


def check(config: EvalConfig, refs: Sequence[str], rewards: int) -> None:
    """Raise UsageError where --best-of or --plot ask for curves that there cannot be. `refs`: the baseline first."""
    two = "the first --reward is the gold one, the second the proxy: --reward gold=python:FILE:FUNCTION --reward rm"
    if config.best_of > 1 and not refs:
        raise UsageError("--best-of without --model", "name the model that answers: --model sft")
    if config.best_of > 1 and rewards < 2:
        raise UsageError("--best-of needs two --reward", two)
    if config.plot is not None and not (config.pairs and rewards):
        if rewards < 2:
            raise UsageError("--plot needs two --reward", two + ", or --pairs")
        if config.best_of == 1 and not (config.against and _runs(refs[1:])):
            raise UsageError(
                "--plot: there is nothing to draw",
                f"give --best-of N, or --against and at least {LEAST} steps of a run: "
                "--model ppo@v1:steps --against sft; or --pairs",
            )


def curves(
    measured: Sequence[Measured], baseline: Measured | None, best_of: int, reporter: Reporter
) -> list[dict[str, Any]]:
    """[{"of": model or name, "gold": reward, "proxy": reward} | curve, …]; none of fewer than two sources.

    The curve of a run is that of its models in the order given, and starts at the baseline; these models have no curve
    of best of n each.
    """
    sources = list(measured[0].scores)[:2]
    if len(sources) < 2:
        return []
    gold, proxy = sources
    roles = {"gold": gold, "proxy": proxy}
    found = []
    runs = _runs([one.ref for one in measured[1:]]) if baseline else {}
    on_the_way = {ref for refs in runs.values() for ref in refs}
    if best_of > 1:
        found += [
            {"of": one.ref, **roles, **best_of_n_curve(one.scores[proxy], one.scores[gold])}
            for one in measured
            if one.ref not in on_the_way
        ]
    by_ref = {one.ref: one for one in measured}
    for name, refs in runs.items():
        path = [by_ref[ref] for ref in refs]
        assert baseline is not None
        if any(one.kl_to != baseline.ref for one in path):
            reporter.notice(f"no curve of {name}: the KL of some of its models is not relative to {baseline.ref}")
            continue
        nats = [[0.0] * len(baseline.texts)] + [one.kl or [] for one in path]
        means = [one.means for one in (baseline, *path)]
        curve = training_curve(
            [baseline.ref, *refs], nats, [mean[proxy] for mean in means], [mean[gold] for mean in means]
        )
        found.append({"of": name, **roles, **curve})
    return found


def _runs(refs: Sequence[str]) -> dict[str, list[str]]:
    """Artifact's name → its models, where there are enough for a fit. Versions of one name make one curve."""
    found: dict[str, list[str]] = {}
    for ref in refs:
        if match := _STEP.fullmatch(ref):
            found.setdefault(match["run"], []).append(ref)
    return {name: of for name, of in found.items() if len(of) >= LEAST}

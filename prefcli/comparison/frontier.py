"""`frontier` as a function: reward against KL of many runs and their kept steps, and which method lies above which.

A method is the name of its artifacts (`--name`). Runs of it that differ in the seed alone are one setting, and their
models of one step are one point, the mean over the seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from prefcli.artifacts.places import AT_VERSION, refuse_elsewhere
from prefcli.artifacts.references import expand, resolve
from prefcli.artifacts.store import Artifact, Store
from prefcli.comparison.scores import Scored, open_scores
from prefcli.config.frontier import FrontierConfig
from prefcli.errors import ArtifactError, UsageError
from prefcli.experiments.points import shown
from prefcli.experiments.siblings import SEED, causal_options, repetition, setting
from prefcli.progress import Reporter
from prefcli.rewards.grammar import refuse_reward_model
from prefcli.statistics.hulls import Draws, compare, interval

NONE = "no difference shown"
FEWEST = 10  # prompts: of five in a half the spread is hardly known


@dataclass
class Point:
    """The models of one setting at one step, a seed each."""

    runs: list[Artifact] = field(default_factory=list)
    refs: list[str] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)


def frontier(config: FrontierConfig, reporter: Reporter) -> dict[str, Any]:
    """What `frontier --json` prints, with the shapes of docs/frontier.md.

    Raises UsageError: nothing named, no start, no prompts or rewards. ArtifactError: no artifact, a reward model, no
    KL to the start. DataError as everywhere.
    """
    store = Store(config.runs)
    if not config.refs or config.against is None or not (config.prompts and config.reward):
        raise UsageError(
            "frontier needs finished policies, --against, --prompts and --reward",
            "prefcli frontier 'dpo@*:steps' ppo@v1:steps --against sft --prompts held_out.jsonl --reward rm",
        )
    start = resolve(config.against, store)
    found = _points([ref for text in config.refs for ref in expand(text, store)], store, reporter)
    scores = open_scores(config, store, start, [], reporter)
    assert scores is not None
    if len(scores.rows) < FEWEST:
        raise UsageError(
            f"frontier needs {FEWEST} prompts or more, not {len(scores.rows)}: hulls are chosen on one half of them",
            "give more prompts: hundreds make narrow intervals",
        )
    for points in found.values():
        for point in points:
            point.scored = [scores.of(resolve(ref, store)) for ref in point.refs]
            for ref, one in zip(point.refs, point.scored):
                if one.kl is None:
                    raise ArtifactError(f"{ref} reads other token ids than {start.shown}", "leave it out: it has no KL")
    labels = {name: _labels(points) for name, points in found.items()}
    at_start = scores.of(start)
    reporter.end()
    return {
        "start": start.shown,
        "prompts": len(scores.rows),
        "temperature": config.temperature,
        "frontiers": [_of(spec.name, at_start, found, labels) for spec in scores.specs],
    }


def _points(refs: list[str], store: Store, reporter: Reporter) -> dict[str, list[Point]]:
    """Method → its points, in the order named. Raises ArtifactError: there is none.

    Left out with a notice: runs that were stopped, and of one run that was made twice the second.
    """
    kin: dict[str, str] = {}  # a run → its setting
    first: dict[tuple[Any, ...], str] = {}  # a setting and its seed → the run
    left_out: set[str] = set()
    found: dict[tuple[str, str, str], Point] = {}
    named = {text: resolve(text, store) for text in refs}
    for text, reference in named.items():
        if reference.artifact is not None:
            refuse_elsewhere(text, reference.artifact, store)
    for ref in dict.fromkeys(reference.shown for reference in named.values()):
        match = AT_VERSION.fullmatch(ref)
        if match is None:
            raise ArtifactError(f"{ref} is not an artifact in this store", "frontier takes NAME@vN and NAME@vN:steps")
        artifact = store.open(match["name"], int(match["version"]))
        refuse_reward_model(resolve(artifact.ref, store))
        if artifact.ref not in kin:
            kin[artifact.ref], why = setting(artifact, store), ""
            if artifact.manifest.stopped:
                why = "was stopped before its end"
            elif (same := first.setdefault((match["name"], kin[artifact.ref], *repetition(artifact, store)),
                                           artifact.ref)) != artifact.ref:  # fmt: skip
                why = f"is {same}, run again"
            if why:
                left_out.add(artifact.ref)
                reporter.notice(f"{artifact.ref} {why}: left out")
        if artifact.ref in left_out:
            continue
        point = found.setdefault((match["name"], kin[artifact.ref], match["step"] or _last(artifact)), Point())
        if artifact.ref in {run.ref for run in point.runs}:  # its last kept step is the final model, no second seed
            continue
        point.runs.append(artifact)
        point.refs.append(ref)
    if not found:
        raise ArtifactError("all runs named were stopped before their end", "name finished ones: see prefcli ls")
    methods: dict[str, list[Point]] = {}
    for (name, _, _), point in found.items():
        methods.setdefault(name, []).append(point)
    return methods


def _last(artifact: Artifact) -> str:
    return str(artifact.manifest.resources.get("steps") or "end")


def _labels(points: list[Point]) -> list[str]:
    """What tells each point's setting from the method's others: the options that differ, and the step."""
    options = [causal_options(point.runs[0].manifest) for point in points]
    names = sorted({name for one in options for name in one if name != SEED and one[name] != options[0].get(name)})
    said = []
    for point, one in zip(points, options):
        match = AT_VERSION.fullmatch(point.refs[0])
        step = match["step"] if match is not None and match["step"] else _last(point.runs[0])
        differing = [f"{name.replace('_', '-')} {shown(one.get(name))}" for name in names]
        said.append(", ".join([*differing, f"step {step}"]))
    return said


def _of(reward: str, start: Scored, found: dict[str, list[Point]], labels: dict[str, list[str]]) -> dict[str, Any]:
    first = np.array(start.scores[reward])
    draws = Draws(first, {
        name: [(np.array([one.kl for one in point.scored]), np.array([one.scores[reward] for one in point.scored]),
                [run.ref for run in point.runs]) for point in points]
        for name, points in found.items()
    })  # fmt: skip
    rows = []
    for name, points in found.items():
        kl, rewards = (draws.whole(of, name) for of in (draws.kl, draws.reward))
        for place, (point, label) in enumerate(zip(points, labels[name]), 1):
            rows.append(
                {
                    "method": name,
                    "setting": label,
                    "refs": point.refs,
                    "kl": float(kl[0, place]),
                    "kl_ci95": interval(kl[:, place]),
                    "reward": float(rewards[0, place]),
                    "reward_ci95": interval(rewards[:, place]),
                }
            )
    compared = compare(draws, list(found))
    for one in compared["differences"]:
        one["verdict"] = verdict(one)
    return {"reward": reward, "start": fmean(start.scores[reward]), "points": rows, **compared}


def verdict(difference: dict[str, Any]) -> str:
    """Where one method lies above the other, in words."""
    said = []
    for one in difference["where"]:
        other = difference["b"] if one["above"] == difference["a"] else difference["a"]
        said.append(f"{one['above']} above {other} for a KL of {one['from']:.2f} to {one['to']:.2f}")
    return "; ".join(said) or NONE

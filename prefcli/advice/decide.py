"""From facts and rules to one recommendation, its points, the next best, and what would change it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from prefcli.advice.evidence import EVIDENCE, Evidence
from prefcli.advice.facts import METHODS, Facts
from prefcli.advice.rules import MANY, RULES, Rule
from prefcli.config.advise import AIMS
from prefcli.errors import MemoryShortError

SHOWN_CHANGES = 4


@dataclass(frozen=True)
class Decision:
    """`scores` has the methods that are possible, best first; `ruled_out` the others with the first reason.

    `runner_up` is the best of another family, or None. `reasons` are the rules that applied and moved `method`, the
    weightiest first.
    """

    method: str
    runner_up: str | None
    scores: dict[str, int]
    ruled_out: dict[str, str]
    reasons: tuple[Rule, ...]
    for_runner_up: tuple[Rule, ...]


@dataclass(frozen=True)
class Reason:
    """Why, in words; `points` are those that it gave to the recommended method."""

    text: str
    points: int
    evidence: tuple[Evidence, ...]


def decide(facts: Facts) -> Decision:
    """Raises MemoryShortError: whatever is possible with this data does not fit into the device."""
    applied = [rule for rule in RULES if rule.when(facts)]
    ruled_out: dict[str, str] = {}
    for rule in applied:
        for method in rule.rules_out:
            ruled_out.setdefault(method, rule.because.format(f=facts))
    left = [method for method in METHODS if method not in ruled_out]
    if not left:
        raise MemoryShortError(
            f"no method fits into {facts.device}, not even with an adapter on a base in 4 bits",
            "take a smaller model, a larger kind of GPU or more of them (docs/scaling.md)",
        )
    points = {method: sum(rule.favours.get(method, 0) for rule in applied) for method in left}
    scores = dict(sorted(points.items(), key=lambda item: -item[1]))  # stable: of equals the first in METHODS
    best = next(iter(scores))
    second = next((m for m in scores if METHODS[m].family != METHODS[best].family), None)
    return Decision(best, second, scores, ruled_out, _moving(applied, best), _moving(applied, second))


def _moving(applied: list[Rule], method: str | None) -> tuple[Rule, ...]:
    moving = [rule for rule in applied if method is not None and rule.favours.get(method)]
    return tuple(sorted(moving, key=lambda rule: -abs(rule.favours[str(method)])))


def reasons(facts: Facts, decision: Decision) -> list[Reason]:
    """The reasons for the recommended method; last what is disputed, where the answer is one of the two routes."""
    found = [
        Reason(
            rule.because.format(f=facts),
            rule.favours[decision.method],
            tuple(EVIDENCE[key] for key in rule.evidence),
        )
        for rule in decision.reasons
    ]
    families = {METHODS[method].family for method in (decision.method, decision.runner_up) if method}
    if families & {"dpo", "rl"} and not any("disputed" in rule.evidence for rule in decision.reasons):
        shown = any("demo" in rule.evidence for rule in decision.reasons)
        keys = ("disputed", "disputed-too", *(() if shown else ("demo",)))
        found.append(Reason("disputed: which of DPO and PPO ends up better", 0, tuple(EVIDENCE[key] for key in keys)))
    return found


def why(facts: Facts, decision: Decision) -> list[dict[str, object]]:
    """The reasons as --json prints them."""
    return [
        {
            "reason": reason.text,
            "evidence": "; ".join(evidence.figure for evidence in reason.evidence),
            "source": "; ".join(evidence.source for evidence in reason.evidence),
            "points": reason.points,
        }
        for reason in reasons(facts, decision)
    ]


def would_change(facts: Facts, decision: Decision) -> list[dict[str, str]]:
    """Changes of the situation that give another kind of method, found by deciding again: {"if", "then"}."""
    found: list[dict[str, str]] = []
    seen = {_kind(decision.method)}
    for said, change in _changes(facts):
        try:
            other = decide(change(facts)).method
        except MemoryShortError:
            continue
        if _kind(other) not in seen:
            found.append({"if": said, "then": METHODS[other].title})
            seen.add(_kind(other))
    return found[:SHOWN_CHANGES]


def _kind(method: str) -> str:
    """Methods that are worth telling apart: of the same family, the losses on pairs only."""
    family = METHODS[method].family
    return method if family == "dpo" else family


def _changes(facts: Facts) -> list[tuple[str, Callable[[Facts], Facts]]]:
    """The changes to try, one at a time, the likeliest first."""
    tried: list[tuple[str, Callable[[Facts], Facts]]] = []
    if not facts.pairs:
        tried.append(("you had 1,000 pairs", lambda f: replace(f, pairs=1000)))
    if facts.pairs and facts.noise == 0:
        tried.append(
            (
                "many labels of the pairs turned out to be wrong",
                lambda f: replace(f, noise=0.2, noise_estimate=0.2, relabelled=100, contradicted=32),
            )
        )
    if not facts.labels and not facts.pairs:
        tried.append(("you had answers labelled good or bad", lambda f: replace(f, labels=1000)))
    if not facts.judge:
        tried.append(("a language model could judge (--judge)", lambda f: replace(f, judge="a judge")))
    if not facts.rewards:
        tried.append(("something scored answers (--reward)", lambda f: replace(f, rewards=("a reward",))))
    for aim in ("iterate-on-reward", "online", "several-objectives", "stability", "team"):
        if aim not in facts.aims:
            tried.append((f"{AIMS[aim]} (--aim {aim})", partial(_aiming, aim=aim, more=True)))
    for aim in sorted(facts.aims):
        tried.append((f"not for --aim {aim}", partial(_aiming, aim=aim, more=False)))
    if facts.pairs:
        tried.append((f"there were {MANY} times as many prompts as pairs", _with_prompts))
    return tried


def _aiming(facts: Facts, aim: str, more: bool) -> Facts:
    return replace(facts, aims=facts.aims | {aim} if more else facts.aims - {aim})


def _with_prompts(facts: Facts) -> Facts:
    return replace(facts, prompts=max(facts.prompts, MANY * facts.pairs))

"""Stalling: the run costs time and moves nothing.

It sees a score that has not changed over a long window, a policy that stays where it began (learning rate too low),
and rollouts whose answers all get one score (no advantage, so no direction). It cannot tell a run that is finished
from one that is stuck, though it says whether the score had risen before; nor see a score that swings and comes back,
or a policy that moves in ways the score does not pay for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from prefcli.watch.records import Alarm, Answers, Sign
from prefcli.watch.series import Track, pooled, summary, z_score

NAME = "stalling"

# Half against half of so many rollouts, and the change surely below 0.2 standard deviations, a "small" effect (Cohen
# 1988). "Surely" is the 95 % interval of the change.
PLATEAU, PLATEAU_START, SMALL_EFFECT, INTERVAL = 40, 5, 0.2, 1.96
RISE = 4.0  # standard errors by which the score rose before, so that the run may be finished
# Nats, and share of tokens: measured, see docs/watchers.md.
STILL_AFTER, STILL_KL, STILL_CLIPPED = 10, 0.005, 0.001
ALIKE, ALIKE_FOR = 0.01, 3  # of the widest spread seen, and for so many rollouts: measured, as above

SIGNS = {
    "plateau": Sign(
        "notice", "The run is finished", "Stop here, or lower --kl-coef if the answers are too near the reference"
    ),
    "never rose": Sign(
        "notice",
        "The policy finds nothing that the reward pays for",
        "Check the reward on a few answers; raise --lr or --temperature",
    ),
    "too slow": Sign("notice", "The policy is where it began", "Raise --lr"),
    "scores alike": Sign(
        "notice",
        "Where no answer is better than another, nothing but the KL penalty is learnt",
        "Look at the reward (constant? saturated?) and at the answers (all alike?)",
    ),
}


class Stalling:
    """`value_warmup`: rollouts in which the policy is meant to stand still. `grouped`: advantages compare the answers
    to one prompt, so it is within these that scores must differ."""

    def __init__(self, value_warmup: int = 0, *, grouped: bool = False) -> None:
        self._value_warmup, self._grouped = value_warmup, grouped
        self._score = Track(PLATEAU_START, PLATEAU)
        self._still = Track(0, STILL_AFTER)  # [k3, clip fraction, learning rate]
        self._spread = Track(0, ALIKE_FOR)
        self._widest = 0.0

    def observe(self, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        return [*self._plateau(step, answers), *self._too_slow(step, metrics), *self._alike(step, answers)]

    def _plateau(self, step: int, answers: Answers) -> Iterator[Alarm]:
        if step <= self._value_warmup:
            return
        self._score.add(summary(answers.totals))
        if not self._score.ready:
            return
        first, second = pooled(self._score.recent[: PLATEAU // 2]), pooled(self._score.recent[PLATEAU // 2 :])
        if not first.n or not second.n:
            return
        error = math.sqrt(first.variance / first.n + second.variance / second.n)
        if abs(second.mean - first.mean) + INTERVAL * error < SMALL_EFFECT * max(first.deviation, second.deviation):
            start = pooled(self._score.start)
            seen = (
                f"the score hardly moved in {PLATEAU} rollouts, from {first.mean:.2f} to {second.mean:.2f} "
                f"(at first {start.mean:.2f})"
            )
            yield _alarm("plateau" if z_score(start, second) > RISE else "never rose", step, seen)

    def _too_slow(self, step: int, metrics: dict[str, float]) -> Iterator[Alarm]:
        names = ("objective/kl_k3", "policy/clipfrac_avg", "lr")
        if step <= self._value_warmup or any(name not in metrics for name in names):
            return
        self._still.add([metrics[name] for name in names])
        rows = self._still.recent
        if not self._still.ready or rows[-1][2] > rows[0][2]:  # while the rate is still warming up, wait
            return
        kl, clipped = rows[-1][0], max(row[1] for row in rows)
        if max(row[0] for row in rows) < STILL_KL and clipped < STILL_CLIPPED:
            seen = (
                f"after {step} rollouts, at a learning rate of {rows[-1][2]:.2g}, the KL to the reference is {kl:.2g} "
                f"nats and at most {clipped:.2%} of tokens were clipped"
            )
            yield _alarm("too slow", step, seen)

    def _alike(self, step: int, answers: Answers) -> Iterator[Alarm]:
        spread = _spread(answers, self._grouped)
        self._spread.add(spread)
        self._widest = max(self._widest, spread)
        if self._spread.ready and max(self._spread.recent) <= ALIKE * self._widest:
            seen = (
                f"over {ALIKE_FOR} rollouts the scores' standard deviation was {max(self._spread.recent):.2g} at most, "
                f"{self._widest:.2g} before"
            )
            yield _alarm("scores alike", step, seen)

    def state_dict(self) -> dict[str, Any]:
        return {
            "score": self._score.state_dict(),
            "still": self._still.state_dict(),
            "spread": self._spread.state_dict(),
            "widest": self._widest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, track in (("score", self._score), ("still", self._still), ("spread", self._spread)):
            track.load_state_dict(state[name])
        self._widest = state["widest"]


def _alarm(signal: str, step: int, seen: str) -> Alarm:
    return SIGNS[signal].alarm(NAME, signal, step, seen)


def _spread(answers: Answers, grouped: bool) -> float:
    """Standard deviation of the scores, or the root mean square of those within each prompt's answers."""
    if not grouped:
        return summary(answers.totals).deviation
    groups: dict[str, list[float]] = {}
    for prompt, total in zip(answers.prompts, answers.totals):
        groups.setdefault(prompt, []).append(total)
    within = sum(len(group) * summary(group).variance for group in groups.values())
    return math.sqrt(within / len(answers.totals)) if groups else 0.0

"""Explosion: the updates are too large, or the numbers they rest on have come apart.

It sees a metric that is not finite; a gradient norm or policy loss far outside its own recent values; a policy that
one rollout's updates moved too far (ratio, approximate KL, clip fraction); a KL that is negative beyond noise or
runs away; a value loss that grows. It cannot see damage within one rollout that its mean hides (the metrics are means
over the updates), a start that is broken already (outliers are judged against the run's own past), or a slow drift
that drags the running median along.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from prefcli.watch.records import Alarm, Answers, Sign, not_finite
from prefcli.watch.series import Track, deviations_from, mean, summary

NAME = "explosion"
LOWER_LR = "Lower --lr, --ppo-epochs or --clip-range"
SIGNS = {
    "not finite": Sign("serious", "The weights may be lost already", f"{LOWER_LR}, and go back to a good step"),
    "gradient": Sign(
        "notice",
        "A few extreme scores, or a step too large before this one",
        f"Look at this rollout's scores. {LOWER_LR}",
    ),
    "policy loss": Sign("serious", "The updates made tokens likelier that have negative advantages", LOWER_LR),
    "ratio": Sign("serious", "The updates of one rollout move the policy far away from it", LOWER_LR),
    "step size": Sign("serious", "The policy moves too far from the policy that sampled the rollout", LOWER_LR),
    "clip fraction": Sign("notice", "Many tokens are clipped, so they add nothing to the update", LOWER_LR),
    "negative KL": Sign(
        "serious",
        "A KL cannot be negative: the answers were not drawn from the distribution whose probabilities are taken "
        "(sampling settings, dropout, another adapter)",
        "Find the cause before you continue: PPO maximises the wrong thing",
    ),
    "KL runs away": Sign(
        "serious",
        "The policy no longer writes like its reference",
        "Raise --kl-coef, lower --lr, and go back to a good step",
    ),
    "value loss": Sign(
        "notice",
        "The value model predicts worse than the mean score would, so the advantages are noise",
        "Lower --lr or raise --clip-range-value; look for extreme scores",
    ),
}

# Outliers: measured, see docs/watchers.md; below 8 values a MAD says little.
HISTORY, HISTORY_LEAST = 16, 8
OUTLIER = 10.0  # standard deviations from the running median
TIMES = 5.0  # and times the median, for a gradient norm, which is positive
LOSS_FLOOR = 0.02  # least standard deviation of a policy loss; whitened advantages make 1 its natural unit

# E[π/π_old] is 1 over π_old's own samples however far π went, so the mean ratio speaks late: TRL's docs call 2.0 and
# 0.1 too drastic. Beyond the default --clip-range the average token has left the interval.
RATIO = 0.2
# TRL chose 0.1 to stop a rollout's updates, having seen 0.2 before instabilities (TRL pull request 238).
APPROX_KL = 0.1
CLIPPED, CLIPPED_FOR = 0.1, 3  # share of tokens, and for so many rollouts: measured, see docs/watchers.md

KL_WINDOW = 5
NEGATIVE = 4.0  # standard errors
NEGATIVE_LEAST = 0.05  # nats: less is no matter, and rounding in bfloat16 may make it
RUNAWAY, RUNAWAY_IN = 10.0, 3  # nats from which doubling within so many rollouts counts; TRL's FAQ wants 0 to 10

VALUE_START, VALUE_RECENT = 5, 3
VALUE_GROWTH = 4.0  # times: measured, see docs/watchers.md


class Explosion:
    """`value_warmup`: rollouts whose gradient is the value model's alone."""

    def __init__(self, value_warmup: int = 0) -> None:
        self._value_warmup = value_warmup
        self._norms = Track(0, HISTORY)
        self._losses = Track(0, HISTORY)
        self._clipped = Track(0, CLIPPED_FOR)
        self._kl = Track(0, KL_WINDOW)  # [k1, k3, answers]
        self._value = Track(VALUE_START, VALUE_RECENT)
        self._tracks = {
            "norms": self._norms,
            "losses": self._losses,
            "clipped": self._clipped,
            "kl": self._kl,
            "value": self._value,
        }

    def observe(self, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        broken = not_finite(metrics, answers)
        if broken:  # and nothing of it enters the histories
            return [_alarm("not finite", step, f"not a finite number: {', '.join(broken)}")]
        return [
            *self._outliers(step, metrics),
            *self._moved(step, metrics),
            *self._kl_signs(step, metrics, len(answers.completions)),
            *self._value_loss(step, metrics, answers),
        ]

    def _outliers(self, step: int, metrics: dict[str, float]) -> Iterator[Alarm]:
        norm, loss = metrics.get("grad_norm"), metrics.get("loss/policy_avg")
        if step == self._value_warmup + 1:  # from here on the policy's gradient is in the norm
            self._norms.recent = []
        if norm is not None:
            past = self._norms.recent
            if far_out(past, norm):
                seen = f"the gradient norm is {norm:.3g}, its median over {len(past)} rollouts {median(past):.3g}"
                yield _alarm("gradient", step, seen)
            self._norms.add(norm)
        if loss is not None:
            past = self._losses.recent
            if len(past) >= HISTORY_LEAST and deviations_from(past, loss, LOSS_FLOOR) > OUTLIER:
                seen = f"the policy loss is {loss:.3g}, its median over {len(past)} rollouts {median(past):.3g}"
                yield _alarm("policy loss", step, seen)
            self._losses.add(loss)

    def _moved(self, step: int, metrics: dict[str, float]) -> Iterator[Alarm]:
        ratio, moved, clipped = (metrics.get(n) for n in ("val/ratio", "policy/approxkl_avg", "policy/clipfrac_avg"))
        if ratio is not None and abs(ratio - 1) > RATIO:
            seen = f"the mean ratio π/π_old is {ratio:.3g}, and should be near 1"
            yield _alarm("ratio", step, seen)
        if moved is not None and moved > APPROX_KL:
            seen = f"one rollout's updates moved the policy by {moved:.2g} (policy/approxkl_avg), past {APPROX_KL}"
            yield _alarm("step size", step, seen)
        if clipped is not None:
            self._clipped.add(clipped)
            if self._clipped.ready and min(self._clipped.recent) > CLIPPED:
                seen = f"{mean(self._clipped.recent):.0%} of tokens were clipped over {CLIPPED_FOR} rollouts"
                yield _alarm("clip fraction", step, seen)

    def _kl_signs(self, step: int, metrics: dict[str, float], answers: int) -> Iterator[Alarm]:
        k1, k3 = metrics.get("objective/kl"), metrics.get("objective/kl_k3")
        if k1 is None:
            return
        lately = min((k for k, *_ in self._kl.recent[-RUNAWAY_IN:]), default=k1)
        if k1 > RUNAWAY and k1 > 2 * lately:
            seen = f"the KL to the reference is {k1:.1f} nats; within {RUNAWAY_IN} rollouts before it was {lately:.1f}"
            yield _alarm("KL runs away", step, seen)
        self._kl.add([k1, 0.0 if k3 is None else k3, answers])
        if k3 is None or not self._kl.ready:
            return
        # A log ratio l of like distributions has E[l] = ½Var[l], so a k1 of one answer has a variance of about twice
        # the KL, which k3 measures without ever being negative.
        total = sum(n for *_, n in self._kl.recent)
        if not total:
            return
        found = sum(k * n for k, _, n in self._kl.recent) / total
        error = math.sqrt(max(0.0, 2 * sum(k * n for _, k, n in self._kl.recent) / total / total))
        if found < -max(NEGATIVE * error, NEGATIVE_LEAST):
            seen = f"the KL to the reference is {found:.2f} ± {error:.2f} nats over {KL_WINDOW} rollouts, below 0"
            yield _alarm("negative KL", step, seen)

    def _value_loss(self, step: int, metrics: dict[str, float], answers: Answers) -> Iterator[Alarm]:
        loss = metrics.get("loss/value_avg")
        if loss is None:
            return
        # With the loss, what predicting the mean would cost: ½ the scores' variance. A reward whose scale grows is not
        # the value model's fault.
        self._value.add([loss, 0.5 * summary(answers.totals).variance])
        if not self._value.ready:
            return
        recent = median(row[0] for row in self._value.recent)
        usual = max(median(row[0] for row in self._value.start), mean(row[1] for row in self._value.recent))
        if recent > VALUE_GROWTH * usual > 0:
            seen = f"the value loss is {recent:.3g}, {recent / usual:.1f} times what is usual ({usual:.3g})"
            yield _alarm("value loss", step, seen)

    def state_dict(self) -> dict[str, Any]:
        return {name: track.state_dict() for name, track in self._tracks.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, track in self._tracks.items():
            track.load_state_dict(state[name])


def far_out(past: Sequence[float], norm: float) -> bool:
    """Whether a gradient norm lies far above the newest ones before it, at most `HISTORY` of them.

    Never where most of these are exactly 0: then nothing was learnt, and the first gradient is the first success.
    """
    if len(past) < HISTORY_LEAST or (usual := median(past)) <= 0 or norm <= TIMES * usual:
        return False
    return deviations_from(past, norm, 0.1 * usual) > OUTLIER


def _alarm(signal: str, step: int, seen: str) -> Alarm:
    return SIGNS[signal].alarm(NAME, signal, step, seen)

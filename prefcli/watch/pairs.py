"""Pairs: what a loss on better and worse answers is made of (dpo, kto, train-rm).

It sees, as far as the metrics are there:

- likelihood displacement: chosen answers lose probability, and the loss falls only because the rejected ones lose more
  (Razin et al. 2024, arXiv 2410.08847; Pal et al. 2024, arXiv 2402.13228);
- a reference that is not the model which training started from, though it should be: before the first update every
  log-ratio is 0, so DPO's loss is ln 2 (arXiv 2305.18290, equation 7);
- nearly every pair right as soon as anything has moved: the sides differ in something that needs no learning;
- after many pairs no more right than a coin: labels that contradict each other;
- margins that stay at 0: the rate is too low;
- in the rows themselves, before training, chosen answers that are longer (Park et al. 2024, arXiv 2403.19159).

It cannot see which answers took the probability that the chosen ones lost, whether what tells the sides apart is wanted
(a format) or leaked, wrong labels that are few or consistent, any bias but length; nor displacement or margins that
stay at 0 where there is no reference or log-ratios are means over tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from prefcli.watch.records import Alarm, Answers, Sign
from prefcli.watch.series import Track, mean, steps_of

NAME = "pairs"
DISPLACED = "The loss falls only because rejected answers lose more; what both lose goes to answers in neither column"
DISPLACED_ADVICE = "Read some answers; lower --lr or raise --beta; with dpo --sft-weight 0.1 or --loss ipo"
SIGNS = {
    "displacement begins": Sign("notice", DISPLACED, DISPLACED_ADVICE),
    "displacement": Sign("serious", DISPLACED, DISPLACED_ADVICE),
    "reference": Sign(
        "serious",
        "Before the first update the two are the same model, so another reference is compared with (a stale cache, an "
        "adapter that is on or off where it should not be, dropout)",
        "Find the cause before you continue: the wrong thing is trained",
    ),
    "too easy": Sign(
        "notice",
        "The sides differ in something that needs no learning: a format, a length, a mark that leaked from the labels",
        "Read some pairs; rejected answers should be ones that the model might give",
    ),
    "guessing": Sign(
        "notice",
        "The labels contradict each other or the answers are alike, or the rate is far too low",
        "Read some pairs and check which column is which; raise --lr",
    ),
    "too slow": Sign("notice", "The policy is where it began", "Raise --lr"),
    "length": Sign(
        "notice",
        "Length alone tells the sides apart, so longer answers will be learnt, whatever they say",
        "Balance the data; with dpo --length-normalise or --loss simpo",
    ),
}

START, RECENT, RECENT_PAIRS = 3, 5, 100  # steps that stand for "at first" and for "now", and least pairs of these
BEGINS, RULES = 0.3, 1.0  # of the log-probability that the reference gives: measured, see docs/watchers.md
# Nats, and share of the answers' log-probability; more than rounding in bfloat16 makes: measured, as above.
OTHER, OTHER_SHARE = 0.5, 0.05
EASY_FOR, EASY_PAIRS, EASY = 10, 64, 0.95  # steps since the first that moved, least pairs, share: measured, as above
GUESS_FOR, GUESS_PAIRS = 20, 320  # steps, least pairs
STILL_FOR, STILL = 20, 0.1  # steps, nats: measured, as above
INTERVAL = 1.96  # standard errors: 95 %


class Pairs:
    """`batch_size`: pairs in a step. `beta`: reward for a nat of log-ratio, None where there is no reference.

    `from_reference`: the reference is the starting model, so that rewards begin at 0.
    """

    def __init__(self, batch_size: int, beta: float | None = None, *, from_reference: bool = False) -> None:
        self._batch_size = batch_size
        self._beta = beta
        self._from_reference = from_reference
        chosen = steps_of(RECENT_PAIRS, batch_size, RECENT)
        self._chosen = Track(START, chosen)  # nats [of chosen, by the reference, of rejected]
        self._moved = Track(0, steps_of(EASY_PAIRS, batch_size, EASY_FOR))  # accuracies since it moved
        self._lately = Track(0, steps_of(GUESS_PAIRS, batch_size, GUESS_FOR))  # [accuracy, rate]
        self._still = Track(0, STILL_FOR)  # [margin, rate]
        self._tracks = {
            "chosen": self._chosen,
            "moved": self._moved,
            "lately": self._lately,
            "still": self._still,
        }

    def observe(self, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        right = metrics.get("rewards/accuracies", metrics.get("accuracy"))
        margin = metrics.get("rewards/margins", metrics.get("margin"))
        found = [*self._other_reference(step, metrics), *self._displaced(step, metrics)]
        if right is not None and margin is not None:
            found += [*self._too_easy(step, right, margin), *self._guesses(step, right, metrics)]
        if margin is not None:
            found += self._stands_still(step, margin, metrics)
        return found

    def _other_reference(self, step: int, metrics: dict[str, float]) -> Iterator[Alarm]:
        rewards = {side: metrics[f"rewards/{side}"] for side in ("chosen", "rejected") if f"rewards/{side}" in metrics}
        if step != 1 or self._beta is None or not self._from_reference:
            return
        for side, reward in rewards.items():
            apart, usual = reward / self._beta, metrics.get(f"logps/{side}", 0.0)
            if abs(apart) > max(OTHER, OTHER_SHARE * abs(usual)):
                seen = f"at the start the policy gives {side} answers {apart:+.2f} nats against the reference, not 0"
                yield _alarm("reference", step, seen)
                return

    def _displaced(self, step: int, metrics: dict[str, float]) -> Iterator[Alarm]:
        """The policy and the reference on the same answers: which rows are in a batch makes no difference."""
        reward, logps = metrics.get("rewards/chosen"), metrics.get("logps/chosen")
        if reward is None or logps is None or self._beta is None:
            return
        gained = reward / self._beta
        self._chosen.add([gained, logps - gained, metrics.get("rewards/rejected", 0.0) / self._beta])
        if not self._chosen.ready:
            return
        now, usual, rejected = _mean(self._chosen.recent)
        before = 0.0 if self._from_reference else _mean(self._chosen.start)[0]
        lost = before - now
        if lost > BEGINS * abs(usual) > 0:
            seen = (
                f"chosen answers lost {lost:.2g} nats, {lost / abs(usual):.0%} of their log-probability by the "
                f"reference ({usual:.3g}); rejected ones {'lost' if rejected < 0 else 'gained'} {abs(rejected):.2g}"
            )
            yield _alarm("displacement" if lost > RULES * abs(usual) else "displacement begins", step, seen)

    def _too_easy(self, step: int, right: float, margin: float) -> Iterator[Alarm]:
        if self._moved.ready or (margin == 0 and self._moved.seen == 0):
            return
        self._moved.add(right)
        if self._moved.ready and (share := mean(self._moved.recent)) > EASY:
            seen = f"{share:.1%} of the first {self._moved.seen * self._batch_size} pairs were right at once"
            yield _alarm("too easy", step, seen)

    def _guesses(self, step: int, right: float, metrics: dict[str, float]) -> Iterator[Alarm]:
        self._lately.add([right, metrics.get("learning_rate", 0.0)])
        rows = self._lately.recent
        if not self._lately.ready or _warming_up(rows):
            return
        share, pairs = mean(row[0] for row in rows), len(rows) * self._batch_size
        if share < 0.5 + INTERVAL * 0.5 / math.sqrt(pairs):
            yield _alarm("guessing", step, f"{share:.1%} of the newest {pairs} pairs are right, no better than chance")

    def _stands_still(self, step: int, margin: float, metrics: dict[str, float]) -> Iterator[Alarm]:
        if self._beta is None or not self._from_reference:
            return
        self._still.add([margin / self._beta, metrics.get("learning_rate", 0.0)])
        rows = self._still.recent
        if self._still.ready and not _warming_up(rows) and (most := max(abs(row[0]) for row in rows)) < STILL:
            seen = f"over {STILL_FOR} steps the sides came {most:.2g} nats apart at most (rewards/margins over beta)"
            yield _alarm("too slow", step, seen)

    def state_dict(self) -> dict[str, Any]:
        return {name: track.state_dict() for name, track in self._tracks.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, track in self._tracks.items():
            track.load_state_dict(state[name])


def longer_chosen(seen: str) -> Alarm:
    """Of what data/lengths.py saw in the rows, before training."""
    return _alarm("length", 0, seen)


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    """Of each column."""
    return [mean(column) for column in zip(*rows)]


def _warming_up(rows: Sequence[Sequence[float]]) -> bool:
    """Whether the learning rate, the last of each row, still rises."""
    return rows[-1][-1] > rows[0][-1]


def _alarm(signal: str, step: int, seen: str) -> Alarm:
    return SIGNS[signal].alarm(NAME, signal, step, seen, unit="step")

"""Reward hacking: the score rises and something that should rise with it does not.

Over-optimised, a reward model is ever more pleased while the true reward falls (Gao et al. 2022, arXiv 2210.10760;
Stiennon et al. 2020, arXiv 2009.01325, fig. 5). The true reward is not at hand, so this looks at what is:

- a second opinion (another source, or a judge that is not trained on) falls from its best, and the score, which has
  risen, does not;
- the sources agree less and less on which answers are better (ensembles: Coste et al. 2023, arXiv 2310.02743);
- one phrase, or length (Singhal et al. 2023, arXiv 2310.03716), takes over while the score rises;
- the KL to the reference is past a budget: the cheapest sign, and the bluntest.

It cannot see a hack that all its opinions share, or one that is neither a phrase, nor length, nor far from the
reference, where there is no second opinion. Nor can it tell a wanted phrase (a format that the reward asks for) from
a hack: a reader can.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from prefcli.statistics.ranks import rank_correlation
from prefcli.watch.records import Alarm, Answers, Sign
from prefcli.watch.series import Sample, Track, mean, pooled, summary, z_score
from prefcli.watch.texts import answers_with

NAME = "reward hacking"

# Nats an answer: TRL's training FAQ wants 0 to 10. It grows with the answers' length, so long ones may need more.
KL_BUDGET = 10.0
KL_WINDOW = 3

START, WINDOW = 3, 5  # rollouts that stand for "at first" and for "now"
RISE = 2.0  # standard errors by which the score must have risen
# A second opinion: standard errors, and in its own standard deviations so that large batches do not make trifles
# alarming. Measured, see docs/watchers.md.
FALL, FALL_LEAST = 4.0, 0.1
DISAGREE = 0.3  # fall of Spearman's rho, and by FALL standard errors: measured, see docs/watchers.md
LONGER = 1.3  # times as long: measured, see docs/watchers.md
PHRASE_WORDS = 3
# Share of answers that hold it, to be noticed and to be serious, and by how much it grew: measured, as above.
PHRASE_SPREADS, PHRASE_RULES, PHRASE_GAIN = 1 / 3, 1 / 2, 1 / 4
KEPT_START, KEPT_NOW = 0.05, 0.1  # shares below which a phrase is not kept, so that the state stays small

PHRASE_MEANING = "The reward may pay for the phrase whatever is asked, or it is a format that is wanted"
PHRASE_ADVICE = "Read the newest answers; if you do not want that format, raise --kl-coef, or repair the reward's data"
SIGNS = {
    "judge": Sign(
        "serious",
        "The two part ways: the policy earns its score by what only the reward likes",
        "Read the newest answers; raise --kl-coef, or repair the reward, and go back to a step near the best",
    ),
    "agreement": Sign(
        "notice",
        "They no longer like the same answers: one of them may be exploited",
        "Read answers on which they differ",
    ),
    "length": Sign(
        "notice",
        "The reward may pay for length",
        "Compare long and short answers that say the same; raise --length-penalty or --kl-coef",
    ),
    "phrase spreads": Sign("notice", PHRASE_MEANING, PHRASE_ADVICE),
    "phrase": Sign("serious", PHRASE_MEANING, PHRASE_ADVICE),
    "KL budget": Sign(
        "serious",
        "The farther from the reference, the less the reward model knows what it scores",
        "Raise --kl-coef or stop here; raise --kl-budget if the answers are long and read well",
    ),
}


class RewardHacking:
    def __init__(self, kl_budget: float | None = KL_BUDGET) -> None:
        self._kl_budget = kl_budget
        self._kl = Track(0, KL_WINDOW)
        self._total = Track(START, WINDOW)  # Samples, as all but the last
        self._length = Track(START, WINDOW)
        self._phrases = Track(START, WINDOW)  # [answers, {phrase: answers that hold it}]
        self._opinions: dict[str, Track] = {}
        self._best: dict[str, list[Sample]] = {}  # opinion → [its best window, the score of that time]
        self._agreement: dict[str, Track] = {}  # "a and b" → [ρ, answers]

    def observe(self, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        self._total.add(summary(answers.totals))
        return [
            *self._second_opinions(step, answers),
            *self._disagreement(step, answers),
            *self._longer(step, answers),
            *self._phrase(step, answers),
            *self._past_budget(step, metrics),
        ]

    def _rise(self) -> tuple[bool, str]:
        """Whether the score rose since the start, and in words."""
        before, now = pooled(self._total.start), pooled(self._total.recent)
        return _z(self._total) > RISE, f"the score rose from {before.mean:.2f} to {now.mean:.2f}"

    def _second_opinions(self, step: int, answers: Answers) -> Iterator[Alarm]:
        opinions = {**answers.scores, **answers.judges}
        if len(opinions) < 2:  # a sole source is the score itself
            return
        for name, scores in opinions.items():
            track = self._opinions.setdefault(name, Track(START, WINDOW))
            track.add(summary(scores))
            if not track.ready:
                continue
            now, total = pooled(track.recent), pooled(self._total.recent)
            if name not in self._best or now.mean > self._best[name][0].mean:
                self._best[name] = [now, total]
            best, total_then = self._best[name]
            # The best of k windows lies √(2 ln k) of its own errors too high, z is in errors of the difference.
            chance = math.sqrt(2 * math.log(track.seen - START - WINDOW + 1))
            beyond_noise = z_score(best, now) < -(FALL + chance) / math.sqrt(2)
            fell = beyond_noise and best.mean - now.mean > FALL_LEAST * best.deviation
            score_fell_too = z_score(total_then, total) < -RISE
            if fell and self._rise()[0] and not score_fell_too:
                seen = (
                    f"{name} fell from {best.mean:.2f} to {now.mean:.2f} while the score went from "
                    f"{total_then.mean:.2f} to {total.mean:.2f}"
                )
                yield _alarm("judge", step, seen)

    def _disagreement(self, step: int, answers: Answers) -> Iterator[Alarm]:
        """After the opinions' means: where both have risen, they agree less only because the bad answers, on which all
        agree, are gone."""
        for (left, a), (right, b) in combinations({**answers.scores, **answers.judges}.items(), 2):
            rho = rank_correlation(a, b)
            if rho is None:
                continue
            track = self._agreement.setdefault(f"{left} and {right}", Track(WINDOW, WINDOW))
            track.add([rho, len(a)])
            if not track.ready:
                continue
            before, now = (_mean(rows) for rows in (track.start, track.recent))
            error = math.sqrt(sum(1 / sum(n for _, n in rows) for rows in (track.start, track.recent)))
            rose, words = self._rise()
            both = all(_z(self._opinions[name]) > RISE for name in (left, right))
            if rose and not both and before - now > max(DISAGREE, FALL * error):
                seen = f"the rank correlation of {left} and {right} fell from {before:.2f} to {now:.2f} while {words}"
                yield _alarm("agreement", step, seen)

    def _longer(self, step: int, answers: Answers) -> Iterator[Alarm]:
        self._length.add(summary(answers.lengths))
        if not self._length.ready:
            return
        before, now = pooled(self._length.start), pooled(self._length.recent)
        rose, words = self._rise()
        if rose and now.mean > LONGER * before.mean and z_score(before, now) > FALL:
            seen = f"answers grew from {before.mean:.1f} to {now.mean:.1f} tokens while {words}"
            yield _alarm("length", step, seen)

    def _phrase(self, step: int, answers: Answers) -> Iterator[Alarm]:
        kept = KEPT_NOW if len(self._phrases.start) == START else KEPT_START
        self._phrases.add([len(answers.completions), answers_with(answers.completions, PHRASE_WORDS, kept)])
        if not self._phrases.ready:
            return
        before, now = _shares(self._phrases.start), _shares(self._phrases.recent)
        phrase = max(now, key=lambda p: now[p] - before.get(p, 0.0), default=None)
        rose, words = self._rise()
        if phrase is None or not rose:
            return
        share, first = now[phrase], before.get(phrase, 0.0)
        if share > PHRASE_SPREADS and share - first > PHRASE_GAIN:
            least = f"{first:.0%}" if first else f"under {KEPT_START:.0%}"
            seen = f"{share:.0%} of the answers say “{phrase}”, {least} did at first, while {words}"
            yield _alarm("phrase" if share > PHRASE_RULES else "phrase spreads", step, seen)

    def _past_budget(self, step: int, metrics: dict[str, float]) -> Iterator[Alarm]:
        if not self._kl_budget or "objective/kl" not in metrics:
            return
        self._kl.add(metrics["objective/kl"])
        if self._kl.ready and mean(self._kl.recent) > self._kl_budget:
            seen = f"the KL to the reference is {mean(self._kl.recent):.1f} nats, its budget is {self._kl_budget:g}"
            yield _alarm("KL budget", step, seen)

    def state_dict(self) -> dict[str, Any]:
        plain = {"kl": self._kl, "total": self._total, "length": self._length, "phrases": self._phrases}
        named = {"opinions": self._opinions, "agreement": self._agreement}
        return {
            **{name: track.state_dict() for name, track in plain.items()},
            **{kind: {name: track.state_dict() for name, track in tracks.items()} for kind, tracks in named.items()},
            "best": {name: [list(sample) for sample in best] for name, best in self._best.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, track in (("kl", self._kl), ("total", self._total), ("length", self._length),
                            ("phrases", self._phrases)):  # fmt: skip
            track.load_state_dict(state[name])
        self._opinions = {name: Track(START, WINDOW) for name in state["opinions"]}
        self._agreement = {name: Track(WINDOW, WINDOW) for name in state["agreement"]}
        for kind, tracks in (("opinions", self._opinions), ("agreement", self._agreement)):
            for name, track in tracks.items():
                track.load_state_dict(state[kind][name])
        self._best = {name: [Sample(*sample) for sample in best] for name, best in state["best"].items()}


def _z(track: Track) -> float:
    return z_score(pooled(track.start), pooled(track.recent))


def _mean(rows: list[list[float]]) -> float:
    return sum(rho * n for rho, n in rows) / sum(n for _, n in rows)


def _shares(rows: list[Any]) -> dict[str, float]:
    """Phrase → share of all answers of these rollouts that hold it (at least: rare ones are not kept)."""
    answers = sum(n for n, _ in rows)
    counts: Counter[str] = Counter()
    for _, phrases in rows:
        counts.update(phrases)
    return {phrase: count / max(1, answers) for phrase, count in counts.items()}


def _alarm(signal: str, step: int, seen: str) -> Alarm:
    return SIGNS[signal].alarm(NAME, signal, step, seen)

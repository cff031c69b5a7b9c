"""Mode collapse: the policy has ever fewer things to say.

It sees distinct-2 (Li et al. 2016, arXiv 1510.03055) and the entropy of the next-token distributions fall against the
run's own start, and one answer given to many different prompts. Some of that is what training is for (a good policy
is surer than its start), so the thresholds are far below what healthy runs reach. It cannot see answers that differ in
words and not in sense, a few answers that share the prompts evenly, a collapse on one kind of prompt only, or a start
that had collapsed already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from prefcli.statistics.variety import distinct
from prefcli.watch.records import Alarm, Answers, Sign
from prefcli.watch.series import Track, mean

NAME = "mode collapse"

START, WINDOW = 3, 5  # rollouts that stand for "at first" and for "now"
DISTINCT_LEFT = 0.45  # share of the start's distinct-n: measured, see docs/watchers.md
ENTROPY_LEFT = 0.2  # share of the start's entropy: measured, as above
SAME_NOW, SAME_GAIN = 0.5, 0.25  # share of prompts with one answer, and by how much it grew: measured, as above
PROMPTS_LEAST = 8  # different prompts in a rollout: fewer say nothing about "every prompt"
ADVICE = "Raise --kl-coef or --entropy-coef, lower --lr, and go back to a step before it"
SIGNS = {
    "distinct-2": Sign("serious", "The answers repeat each other, or themselves", ADVICE),
    "entropy": Sign("serious", "The policy is sure of every token: nothing new is tried, so nothing is learnt", ADVICE),
    "same answer": Sign("serious", "The policy answers without reading", ADVICE),
}


class ModeCollapse:
    def __init__(self) -> None:
        self._distinct = Track(START, WINDOW)
        self._entropy = Track(START, WINDOW)
        self._same = Track(START, WINDOW)
        self._tracks = {"distinct": self._distinct, "entropy": self._entropy, "same": self._same}

    def observe(self, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        return [
            *self._fell("distinct-2", step, self._distinct, distinct(answers.completions, 2), DISTINCT_LEFT),
            *self._fell("entropy", step, self._entropy, metrics.get("policy/entropy_avg"), ENTROPY_LEFT),
            *self._same_answer(step, answers),
        ]

    def _fell(self, signal: str, step: int, track: Track, value: float | None, left: float) -> Iterator[Alarm]:
        if value is None:
            return
        track.add(value)
        if track.ready and mean(track.recent) < left * mean(track.start):
            seen = f"{signal} fell from {mean(track.start):.3g} at first to {mean(track.recent):.3g}"
            yield SIGNS[signal].alarm(NAME, signal, step, seen)

    def _same_answer(self, step: int, answers: Answers) -> Iterator[Alarm]:
        # One answer a prompt: several samples of one prompt may well agree.
        by_prompt = {prompt: text.strip() for prompt, text in zip(answers.prompts, answers.completions)}
        if len(by_prompt) < PROMPTS_LEAST:
            return
        text, count = Counter(by_prompt.values()).most_common(1)[0]
        self._same.add(count / len(by_prompt))
        before, now = (mean(values) for values in (self._same.start, self._same.recent))
        if self._same.ready and now > SAME_NOW and now - before > SAME_GAIN:
            shown = text if len(text) <= 60 else text[:57] + "..."
            seen = f"{now:.0%} of different prompts get the same answer, {before:.0%} did at first; now “{shown}”"
            yield SIGNS["same answer"].alarm(NAME, "same answer", step, seen)

    def state_dict(self) -> dict[str, Any]:
        return {name: track.state_dict() for name, track in self._tracks.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, track in self._tracks.items():
            track.load_state_dict(state[name])

"""Models against a baseline as a language model judges them: each prompt's two answers, asked in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from prefcli.evaluation.judge import QUESTION, Judge, Tally, Verdict, fill
from prefcli.statistics.intervals import wilson_interval

PROMPTS_AT_A_TIME = 16
Both = tuple[Verdict, Verdict] | None  # on an answer against the baseline's, and the other way round; None: identical


def ask_both(judge: Judge, prompts: Sequence[str], answers: Sequence[str], baseline: Sequence[str]) -> list[Both]:
    """The verdicts on each prompt's answer against the baseline's. Two identical answers are not asked about."""
    three = list(zip(prompts, answers, baseline, strict=True))
    questions = [fill(QUESTION, p, *order) for p, a, b in three if a != b for order in ((a, b), (b, a))]
    left = iter(judge.verdicts(questions) if questions else [])
    return [None if a == b else (next(left), next(left)) for _, a, b in three]


class Wins:
    """A win rate by a judge, of verdicts that come some prompts at a time."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._outcomes: list[float] = []

    def add(self, found: Sequence[Both]) -> None:
        self._outcomes += [0.5 if both is None else self._tally.add(*both) for both in found]

    @property
    def outcomes(self) -> list[list[float]]:
        """[prompts][1]: 1 where it is won, 0 where it is lost, else ½."""
        return [[outcome] for outcome in self._outcomes]

    def summary(self) -> dict[str, Any]:
        """{"win_rate", "win_rate_ci95", "ties", "identical", "no_verdict", "first_place", "first_place_ci95",
        "same_place", "same_place_ci95"}.

        A prompt is won where both orders say so; all else is a tie, and counts half. Two identical answers are a tie
        without asking, and stand in "identical", not in "ties". The place figures are of the comparisons that were
        asked, None where none was: `first_place` as in `label`, `same_place` the share in which both orders named one
        place.
        """
        tally, outcomes = self._tally, self._outcomes
        asked = tally.comparisons
        return {
            "win_rate": fmean(outcomes),
            "win_rate_ci95": list(wilson_interval(sum(outcomes), len(outcomes))),
            "ties": tally.ties,
            "identical": len(outcomes) - asked,
            "no_verdict": tally.no_verdict,
            "first_place": tally.first / (2 * asked) if asked else None,
            "first_place_ci95": list(wilson_interval(tally.first / 2, asked)) if asked else None,
            "same_place": tally.same_place / asked if asked else None,
            "same_place_ci95": list(wilson_interval(tally.same_place, asked)) if asked else None,
        }

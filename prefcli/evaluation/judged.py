"""Models against a baseline as a language model judges them: each prompt's two answers, asked in both orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from prefcli.evaluation.judge import QUESTION, Judge, Tally, fill
from prefcli.statistics.intervals import wilson_interval

PROMPTS_AT_A_TIME = 16


def judged_win_rate(
    judge: Judge,
    prompts: Sequence[str],
    answers: Sequence[str],
    baseline: Sequence[str],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """{"win_rate", "win_rate_ci95", "ties", "identical", "no_verdict", "first_place", "first_place_ci95", "same_place",
    "same_place_ci95"} of one answer a prompt against the baseline's.

    A prompt is won where both orders say so; all else is a tie, and counts half. Two identical answers are a tie
    without asking, and stand in "identical", not in "ties". The place figures are of the comparisons that were asked,
    None where none was: `first_place` as in `label`, `same_place` the share in which both orders named one place.
    `progress` is told how many prompts are done each time.
    """
    tally = Tally()
    outcomes: list[float] = []
    for start in range(0, len(prompts), PROMPTS_AT_A_TIME):
        end = min(start + PROMPTS_AT_A_TIME, len(prompts))
        differ = [i for i in range(start, end) if answers[i] != baseline[i]]
        both = [((answers[i], baseline[i]), (baseline[i], answers[i])) for i in differ]
        questions = [fill(QUESTION, prompts[i], *order) for i, orders in zip(differ, both) for order in orders]
        verdicts = judge.verdicts(questions) if questions else []
        won = {i: tally.add(one, two) for i, one, two in zip(differ, verdicts[0::2], verdicts[1::2], strict=True)}
        outcomes += [won.get(i, 0.5) for i in range(start, end)]
        progress(end - start)
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

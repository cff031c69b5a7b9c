"""All answers to a prompt compared with each other by a judge: the share of the others that each one beats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from prefcli.evaluation.judge import Judge, Tally, fill
from prefcli.labelling.verdicts import Verdicts
from prefcli.progress import Reporter

PROMPTS_AT_A_TIME = 16  # whose verdicts are on record together


def win_shares(
    judge: Judge, asked: Sequence[tuple[str, list[str]]], template: str, kept: Verdicts, reporter: Reporter
) -> tuple[list[dict[str, float]], Tally]:
    """For each (prompt, its different answers) the share of the other answers that each one beats, ties as halves.

    All n(n − 1)/2 pairs of a prompt are compared, in both orders: n(n − 1) questions. An answer alone has 0.5.
    """
    tally, found = Tally(), []
    total, done = sum(len(texts) * (len(texts) - 1) for _, texts in asked), 0
    reporter.begin("judging", total)
    for start in range(0, len(asked), PROMPTS_AT_A_TIME):
        part = asked[start : start + PROMPTS_AT_A_TIME]
        pairs = [(n, a, b) for n, (_, texts) in enumerate(part) for a, b in combinations(texts, 2)]
        questions = [fill(template, part[n][0], *order) for n, a, b in pairs for order in ((a, b), (b, a))]
        verdicts = kept.of(questions, judge.verdicts)
        wins = [dict.fromkeys(texts, 0.0) for _, texts in part]
        for (n, a, b), one, two in zip(pairs, verdicts[0::2], verdicts[1::2]):
            outcome = tally.add(one, two)
            wins[n][a] += outcome
            wins[n][b] += 1 - outcome
        found += [
            {text: won / (len(value) - 1) if len(value) > 1 else 0.5 for text, won in value.items()} for value in wins
        ]
        done += len(questions)
        reporter.advance(done)
    reporter.end()
    return found, tally

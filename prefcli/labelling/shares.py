"""All answers to a prompt compared with each other by a judge: the fraction of the others that each one beats."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from prefcli.evaluation.judge import Judge, Tally, Verdict, fill


def ask(judge: Judge, asked: Sequence[tuple[str, list[str]]], template: str) -> list[list[Verdict]]:
    """For each (prompt, its different answers) the verdicts on all pairs of them, each in both orders.

    Of n answers there are n(n − 1)/2 pairs, so n(n − 1) verdicts; none of an answer alone.
    """
    pairs = [(prompt, a, b) for prompt, texts in asked for a, b in combinations(texts, 2)]
    questions = [fill(template, prompt, *order) for prompt, a, b in pairs for order in ((a, b), (b, a))]
    left = iter(judge.verdicts(questions) if questions else [])
    return [[next(left) for _ in range(len(texts) * (len(texts) - 1))] for _, texts in asked]


def win_shares(texts: Sequence[str], verdicts: Sequence[Verdict], tally: Tally) -> dict[str, float]:
    """The fraction of the other answers that each one beats, ties as halves, by what `ask` found; {} of one alone."""
    wins = dict.fromkeys(texts, 0.0)
    for (a, b), one, two in zip(combinations(texts, 2), verdicts[0::2], verdicts[1::2], strict=True):
        outcome = tally.add(one, two)
        wins[a] += outcome
        wins[b] += 1 - outcome
    return {text: won / (len(texts) - 1) for text, won in wins.items()} if len(texts) > 1 else {}

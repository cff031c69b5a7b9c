"""VADER's compound score as a reward: python:experiments/vader.py:score. It needs `pip install vaderSentiment`.

A lexicon and rules (Hutto and Gilbert, 2014), from −1 to 1: nobody here made it, nothing is learnt, and it is exact.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


@cache
def _analyzer() -> Any:
    return SentimentIntensityAnalyzer()


def score(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """Of the completion alone: what the prompt says is not the model's doing."""
    return [float(_analyzer().polarity_scores(text)["compound"]) for text in completions]

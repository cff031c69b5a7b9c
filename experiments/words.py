"""A judge of another kind: Bradley and Terry's model of bags of words, fitted with the answers' length beside them; it
judges without the length. Convex, so there is one optimum; it shares nothing with a language model but the pairs.

`write` makes a Python file with a function for --reward python:FILE:score; the weights are inside it.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

WORD = re.compile(r"[a-z']+|[?!]")
LEAST = 5  # answers that a word must stand in
PENALTY = 0.5  # of the sum of squares of the words' weights; the length's is free
STEPS = 100

JUDGE = '''"""By experiments/words.py, of {pairs} pairs: a linear score of an answer's words, whatever its length."""

import math
import re
from collections import Counter

WORD = re.compile({word!r})
WEIGHTS = {weights}


def score(prompts, completions, **_):
    return [one(text) for text in completions]


def one(text):
    counts = Counter(WORD.findall(text.lower()))
    norm = math.sqrt(sum(n * n for n in counts.values())) or 1.0
    return sum(WEIGHTS.get(word, 0.0) * n for word, n in counts.items()) / norm
'''


def counted(text: str) -> Counter[str]:
    return Counter(WORD.findall(text.lower()))


def features(counts: Sequence[Counter[str]], vocabulary: dict[str, int]) -> Tensor:
    """[answers, words + 1]: the counts in their Euclidean norm, and the logarithm of 1 + the number of words."""
    found = torch.zeros(len(counts), len(vocabulary) + 1, dtype=torch.float64)
    for row, count in zip(found, counts):
        norm = math.sqrt(sum(n * n for n in count.values())) or 1.0
        for word, n in count.items():
            if word in vocabulary:
                row[vocabulary[word]] = n / norm
        row[-1] = math.log1p(sum(count.values()))
    return found


def fit(chosen: Sequence[str], rejected: Sequence[str]) -> tuple[dict[str, float], float]:
    """Each word's weight, and the length's: argmin of Σ −log σ(difference of scores) + PENALTY/2·Σ weight²."""
    pairs = [[counted(text) for text in side] for side in (chosen, rejected)]
    answers = Counter(word for side in pairs for count in side for word in count)
    vocabulary = {word: place for place, word in enumerate(sorted(w for w, n in answers.items() if n >= LEAST))}
    difference = features(pairs[0], vocabulary) - features(pairs[1], vocabulary)
    weights = torch.zeros(len(vocabulary) + 1, dtype=torch.float64, requires_grad=True)
    steps = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def value() -> Tensor:
        steps.zero_grad()
        loss = -torch.nn.functional.logsigmoid(difference @ weights).sum() + PENALTY / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    steps.step(value)  # type: ignore[no-untyped-call]
    found = weights.detach().tolist()
    return dict(zip(vocabulary, found)), found[-1]


def write(chosen: Sequence[str], rejected: Sequence[str], path: Path) -> float:
    """The judge as a Python file; the weight that the length had."""
    weights, length = fit(chosen, rejected)
    said = json.dumps({word: round(weight, 4) for word, weight in weights.items()}, ensure_ascii=False)
    text = JUDGE.format(pairs=len(chosen), word=WORD.pattern, weights=said)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return length

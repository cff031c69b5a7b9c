"""What is asked: the questions that a file of answers gives, in the order in which they are asked."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from prefcli.config.shared import read_as
from prefcli.config.ui import Kind
from prefcli.data.row import Prompt
from prefcli.errors import DataError
from prefcli.files import digest_json
from prefcli.labelling.human import answered, comparisons, digest_of
from prefcli.progress import Reporter

RANKED = 9  # answers of a ranking: as many as there are digits


@dataclass(frozen=True)
class Question:
    """A prompt and what is to be judged: two answers, one, or several to rank."""

    prompt: Prompt
    answers: tuple[str, ...]
    digest: str
    parts: tuple[str, ...]  # digests of the decisions that it gives: of a ranking, its pairs


def questions(config: Any, reporter: Reporter) -> list[Question]:
    """All questions of `config.label`: one of each prompt, then a second of each, and so on, in random order.

    Raises DataError: there is none.
    """
    read = read_as(config)
    if config.to == "pairs":
        found = comparisons(config.label, config.seed, config.skip_bad, reporter, **read)
        made = [Question(c.prompt, tuple(sorted((c.left, c.right))), c.digest, (c.digest,)) for c in found]
        return _shuffled(made, config.seed)
    made, over = [], 0
    for prompt, answers in answered(config.label, config.skip_bad, reporter, **read):
        if config.to == "binary":
            made += [Question(prompt, (text,), digest, (digest,)) for text in answers
                     for digest in [digest_json([prompt, text])]]  # fmt: skip
        elif len(answers) > 1:
            over += len(answers) > RANKED
            some = tuple(sorted(answers[:RANKED]))
            parts = tuple(digest_of(prompt, *two) for two in itertools.combinations(some, 2))
            made.append(Question(prompt, some, digest_json([prompt, list(some)]), parts))
    if not made:
        raise DataError(
            f"no prompt of {', '.join(config.label)} has {'an answer' if config.to == 'binary' else 'two answers'}",
            "sample some: prefcli sample --num-generations 4",
        )
    if over:
        reporter.notice(f"{over:,} prompts have more than {RANKED} answers: the first {RANKED} of each are ranked")
    return _shuffled(made, config.seed)


def _shuffled(made: list[Question], seed: int) -> list[Question]:
    """Which of a prompt's questions comes first is drawn too: the order of the file may say whose answers they are."""
    before: Counter[str] = Counter()
    rounds = []
    for question in sorted(made, key=lambda question: draw(seed, question.digest)):
        prompt = json.dumps(question.prompt, default=str)
        rounds.append((before[prompt], question))
        before[prompt] += 1
    return [question for _, question in sorted(rounds, key=lambda entry: entry[0])]


def draw(*of: Any) -> bytes:
    """A random number that is the same each time."""
    return hashlib.sha256(" ".join(map(str, of)).encode("utf-8", "surrogatepass")).digest()


def by_uncertainty(todo: Sequence[Question], scores: Sequence[Sequence[Sequence[float]]], kind: Kind) -> list[Question]:
    """The questions, those first of which the reward sources are least sure. `scores` is [sources][questions][answers].

    One source is least sure where the answers' scores are closest: to each other or, of one answer alone, to the mean
    of all. Several are where they differ most in what they say of two answers (of a ranking, of any two): by the
    standard deviation over the sources of the differences of scores, each source's divided by their root mean square.
    """
    told = [_differences(one, kind) for one in scores]
    if len(told) == 1:
        unsure = [-max(map(abs, some)) for some in told[0]]
    else:
        scaled = []
        for one in told:
            size = math.sqrt(fmean(value * value for some in one for value in some)) or 1.0
            scaled.append([[value / size for value in some] for some in one])
        unsure = [max(map(pstdev, zip(*of_question))) for of_question in zip(*scaled)]
    return [todo[place] for place in sorted(range(len(todo)), key=lambda place: -unsure[place])]


def _differences(scores: Sequence[Sequence[float]], kind: Kind) -> list[list[float]]:
    """What a source says of each question: of every two answers the difference of their scores, of one alone its
    score less the mean of all."""
    if kind == "binary":
        middle = fmean(score for some in scores for score in some)
        return [[some[0] - middle] for some in scores]
    return [[one - other for one, other in itertools.combinations(some, 2)] for some in scores]

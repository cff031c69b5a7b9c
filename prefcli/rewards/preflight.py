"""Reward sources, tried before anything is trained: NaN, or a score that is upside down, costs seconds here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prefcli.data.row import Row
from prefcli.errors import ArtifactError
from prefcli.progress import Reporter
from prefcli.rewards.sources import Answer, HTTPReward, ModelReward, RewardSource

# (question, a helpful answer, one that no reader prefers: noise, repetition, an empty refusal). Written for this
# project: the pairs that a reward model was trained on are not kept, and these are of no domain.
PAIRS = (
    (
        "How long do I boil an egg?",
        "About seven minutes in boiling water for a soft yolk, ten for a firm one. Cool it in cold water afterwards.",
        "egg blorf the of zint 77 ; under under quark lamp when",
    ),
    ("What is the capital of France?", "The capital of France is Paris.", "France France France France France France"),
    ("Can you suggest a name for my cat?", "How about Pepper? It is short and easy to call.", "I cannot answer that."),
    (
        "Why is the sky blue?",
        "Air scatters blue light more than red light, so blue reaches us from every part of the sky.",
        "the the the is is sky sky why the the the the is",
    ),
    (
        "Write one sentence about autumn.",
        "Golden leaves drift over the wet path, and the air smells of apples.",
        "asdkj qwpeo zmxnc lkjsd wieur",
    ),
    ("How many days are in a week?", "A week has seven days.", "No."),
    ("How do I say 'good morning' in Spanish?", "You say 'buenos días'.", ".........."),
)
PROBE = "I do not know."


def preflight(sources: Sequence[RewardSource], rows: Sequence[Row], reporter: Reporter) -> None:
    """Have reward models score the pairs above, and a service one answer to the first of `rows`.

    A reward model that prefers the bad side of most pairs only causes a warning: it may know another language or a
    narrow domain. There is no warning where its accuracy on held-out pairs of its own kind is on record. A service
    is only asked whether it answers, and a Python function has been tried: what they score need not be of this kind.
    Raises ArtifactError: a score that is not a finite number. SurroundingsError: a service that does not answer.
    """
    for source in sources:
        if isinstance(source, ModelReward):
            _check_model(source, reporter)
        elif isinstance(source, HTTPReward):
            source.score([Answer(rows[0].prompt, PROBE, columns=rows[0].columns)])


def refuse_not_finite(name: str, scores: Sequence[float], answers: Sequence[Answer]) -> None:
    """Raise ArtifactError where a source's score of an answer is NaN or infinite."""
    for score, answer in zip(scores, answers, strict=True):
        if not math.isfinite(score):
            raise ArtifactError(
                f"reward {name} gives {score} for the answer {answer.completion[:80]!r}",
                "a reward model in float16 may overflow: try --dtype float32; else train it again",
            )


def _check_model(source: ModelReward, reporter: Reporter) -> None:
    answers = [Answer([{"role": "user", "content": question}], answer) for question, *both in PAIRS for answer in both]
    scores = source.score(answers)
    refuse_not_finite(source.name, scores.tolist(), answers)
    right = int((scores[0::2] > scores[1::2]).sum())
    if right < len(PAIRS) / 2 and not source.proven:
        reporter.notice(
            f"reward {source.name} prefers a helpful answer to noise, repetition or an empty refusal in only "
            f"{right} of {len(PAIRS)} built-in pairs: fine for another language or a narrow domain, else check its "
            "accuracy: prefcli score"
        )

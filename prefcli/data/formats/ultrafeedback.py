"""UltraFeedback's own rows: an instruction and several completions with scores, of which one pair is made.

The pair is the completion with the best score against the one with the worst; of equal ones the first that stands in
the row. (UltraFeedback binarized draws the rejected one at random from the others; best against worst is the same each
time, and the pair whose order is the least in doubt.) A row whose completions all have one score is no pair. The score
is fine-grained_score, the mean over four aspects, where all that are scored have one, else overall_score.
"""

from __future__ import annotations

import math
from typing import Any

from prefcli.data.formats.fields import Raw, answer_in, as_list, optional_in, others, pair, string_in
from prefcli.data.formats.form import Form
from prefcli.data.row import BadRow, Message, Row

_SCORES = ("fine-grained_score", "overall_score", "score")


def _convert(raw: Raw, question: str = "instruction") -> Row:
    prompt: list[Message] = [{"role": "user", "content": string_in(raw, question)}]
    if system := optional_in(raw, "system"):
        prompt.insert(0, {"role": "system", "content": system})
    found = as_list(raw.get("completions"))
    if not isinstance(found, list):
        raise BadRow("wrong type", "'completions' must be a list of answers with scores")
    given = [(scores, one) for one in found if (scores := _scores(one))]
    scale = next((name for name in _SCORES if all(name in scores for scores, _ in given)), None)
    known = ", ".join(_SCORES)
    if scale is None:
        raise BadRow("wrong type", f"'completions' must have one score in common ({known}): two scales do not compare")
    scored = [(scores[scale], one) for scores, one in given]
    if len(scored) < 2:
        raise BadRow(
            "missing column", f"'completions' holds {len(scored)} answers with a score ({known}): a pair needs two"
        )
    best, worst = max(scored, key=lambda one: one[0]), min(scored, key=lambda one: one[0])
    if best[0] == worst[0]:
        raise BadRow("same sides", f"all completions have the score {best[0]:g}")
    columns = others(raw, question, "system", "completions") | {"score_chosen": best[0], "score_rejected": worst[0]}
    return pair(prompt, answer_in(best[1], "response"), answer_in(worst[1], "response"), columns)


def _scores(completion: Any) -> dict[str, float]:
    """The scores that are finite numbers (a missing one is text there, or null)."""
    if not isinstance(completion, dict):
        raise BadRow("wrong type", '\'completions\' must hold objects {"response": …, "fine-grained_score": …}')
    found = {}
    for name in _SCORES:
        try:
            score = float(completion.get(name))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if math.isfinite(score):
            found[name] = score
    return found


def _has_responses(row: Raw) -> bool:
    found = as_list(row["completions"])
    return isinstance(found, list) and bool(found) and all(isinstance(one, dict) and "response" in one for one in found)


_GIVEN = [{"response": "On the shelf.", "fine-grained_score": 4.5}, {"response": "No idea.", "fine-grained_score": 1.0}]
FORMS = (
    Form(
        "UltraFeedback completions",
        ("instruction", "completions"),
        "pairs",
        "UltraFeedback's own rows: the completion with the best score against that with the worst",
        ({"instruction": "Where is the cup?", "completions": _GIVEN},),
        _convert,
        _has_responses,
    ),
    Form(
        "scored completions",
        ("prompt", "completions"),
        "pairs",
        "the same under a prompt column",
        ({"prompt": "Where is the cup?", "completions": _GIVEN},),
        lambda raw: _convert(raw, "prompt"),
        _has_responses,
    ),
)

"""From answers that have a value to rows to train on: pairs, good and bad answers, or the best one.

`prompts` are of `different_answers`; `values` hold a number for each of those answers, prompt by prompt, or none where
an answer alone has no value. Of equal values the first answer counts.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from prefcli.data.formats.fields import for_other_answers
from prefcli.data.row import Message, Row, written

Place = tuple[int, int]  # a row, and which of its answers
Values = Sequence[dict[str, float]]
Rows = Sequence[Row] | Mapping[int, Row]  # at least those that the places name


@dataclass
class Made:
    """Rows to train on, and how many prompts (or answers) gave none, by reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def different_answers(rows: Sequence[Row], texts: Sequence[Sequence[str]]) -> list[dict[str, Place]]:
    """For each prompt, as they first come: its different answers, and where each one first stands.

    `texts` are the answers of each row. A text without a prompt (the format `text`) answers nothing, and is left out.
    """
    found: dict[str, dict[str, Place]] = {}
    for place, (row, answers) in enumerate(zip(rows, texts)):
        if row.prompt:
            known = found.setdefault(json.dumps(row.prompt, default=str), {})
            for side, text in enumerate(answers):
                known.setdefault(text, (place, side))
    return list(found.values())


def extremes(value: dict[str, float]) -> tuple[str, str] | None:
    """The best answer to a prompt and the worst; None where no answer is better than another."""
    if not value:
        return None
    best, worst = max(value, key=value.__getitem__), min(value, key=value.__getitem__)
    return (best, worst) if value[best] > value[worst] else None


def as_pairs(rows: Rows, prompts: Sequence[dict[str, Place]], values: Values) -> Made:
    """{…, "prompt", "chosen", "rejected", "scores": {"chosen", "rejected"}}: the best answer against the worst.

    The other columns are those that both answers' rows agree on.
    """
    made = Made()
    for answers, value in zip(prompts, values):
        if (both := extremes(value)) is None:
            made.left_out["with_one_answer" if len(answers) < 2 else "tied"] += 1
            continue
        best, worst = both
        good, bad = rows[answers[best][0]], rows[answers[worst][0]]
        shared = {k: v for k, v in for_other_answers(good.columns).items() if k in bad.columns and bad.columns[k] == v}
        sides = {"prompt": good.prompt, "chosen": _written(good, best), "rejected": _written(bad, worst)}
        made.rows.append(shared | sides | {"scores": {"chosen": value[best], "rejected": value[worst]}})
    return made


def as_binary(
    rows: Rows, prompts: Sequence[dict[str, Place]], values: Values, name: str, threshold: float | None
) -> Made:
    """{…, "prompt", "completion", "label", "scores": {name}}: whether an answer is above the threshold, or below it.

    Without a threshold: the mean of the prompt's different answers. An answer just there is neither, and left out.
    """
    made = Made()
    for answers, value in zip(prompts, values):
        if not value or (threshold is None and extremes(value) is None):
            made.left_out["with_one_answer" if len(answers) < 2 else "tied"] += 1
            continue
        cut = fmean(value.values()) if threshold is None else threshold
        for text, (place, _) in answers.items():
            if value[text] == cut:
                made.left_out["at_mean" if threshold is None else "at_threshold"] += 1
            else:
                made.rows.append(_answer(rows[place], text, {name: value[text]}, label=value[text] > cut))
    return made


def as_best(
    rows: Rows, prompts: Sequence[dict[str, Place]], values: Values, name: str, threshold: float | None
) -> Made:
    """{…, "prompt", "completion", "scores": {name}}: each prompt's best answer, where it is above the threshold."""
    made = Made()
    for answers, value in zip(prompts, values):
        if not value:
            made.left_out["with_one_answer"] += 1
            continue
        best = max(value, key=value.__getitem__)
        if threshold is not None and value[best] <= threshold:
            made.left_out["not_above_threshold"] += 1
        else:
            made.rows.append(_answer(rows[answers[best][0]], best, {name: value[best]}))
    return made


def _answer(row: Row, text: str, scores: dict[str, float], **label: bool) -> dict[str, Any]:
    """An answer as JSON. A label that the row had is gone: `sft` leaves out what is labelled false."""
    columns = for_other_answers(row.columns)
    return columns | {"prompt": row.prompt, "completion": _written(row, text)} | label | {"scores": scores}


def _written(row: Row, text: str) -> str | list[Message]:
    """An answer that the row has, with what its message has more."""
    return written(next((answer for answer in row.answers if answer == text), text))

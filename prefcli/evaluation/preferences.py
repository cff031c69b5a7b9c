"""From scored answers to pairs: of the answers to each prompt, the best against the worst."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefcli.data.formats import Row

Place = tuple[int, int]  # a row, and which of its answers


@dataclass
class Pairs:
    """Rows that `dpo` and `train-rm` read, and how many prompts gave none."""

    rows: list[dict[str, Any]]
    one_answer: int  # prompts without two different answers
    tied: int  # prompts whose answers all have the same score


def different_answers(rows: Sequence[Row], texts: Sequence[Sequence[str]]) -> list[dict[str, Place]]:
    """For each prompt, as they first come: its different answers, and where each one first stands.

    `texts` are the answers of each row. A text without a prompt (the form `text`) answers nothing, and is left out.
    """
    found: dict[str, dict[str, Place]] = {}
    for place, (row, answers) in enumerate(zip(rows, texts)):
        if row.prompt:
            known = found.setdefault(json.dumps(row.prompt), {})
            for side, text in enumerate(answers):
                known.setdefault(text, (place, side))
    return list(found.values())


def best_against_worst(
    rows: Sequence[Row], prompts: Sequence[dict[str, Place]], scores: Sequence[Sequence[float]]
) -> Pairs:
    """{…, "prompt", "chosen", "rejected", "scores": {"chosen", "rejected"}} of each prompt that has a better answer.

    `prompts` are of `different_answers`; `scores` of each row's answers, by one reward. Of equal scores the first
    answer counts. The other columns are those that both answers' rows agree on.
    """
    made = Pairs([], 0, 0)
    for answers in prompts:
        value = {text: scores[row][side] for text, (row, side) in answers.items()}
        best, worst = max(value, key=value.__getitem__), min(value, key=value.__getitem__)
        if len(answers) < 2:
            made.one_answer += 1
        elif value[best] == value[worst]:
            made.tied += 1
        else:
            good, bad = rows[answers[best][0]], rows[answers[worst][0]]
            shared = {k: v for k, v in good.columns.items() if k in bad.columns and bad.columns[k] == v}
            sides = {"prompt": good.prompt, "chosen": best, "rejected": worst}
            made.rows.append(shared | sides | {"scores": {"chosen": value[best], "rejected": value[worst]}})
    return made

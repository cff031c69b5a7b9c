"""RewardBench (arXiv 2403.13787), a pair a row, and RewardBench 2 (arXiv 2506.01937), right and wrong answers a row.

Their prompts are what a user says, so they become a message. A row of RewardBench 2 is read as the pair of its first
right and its first wrong answer; `answers_of` has all of them, by which `eval --pairs` scores it.
"""

from __future__ import annotations

import re

from prefcli.data.formats.fields import ALL, Raw, answer_in, as_list, others, pair, string_in
from prefcli.data.formats.form import Form
from prefcli.data.row import BadRow, Message, Row

TIES = "ties"
TIE_ID = re.compile(r"(?P<kind>ref|tied):(?P<number>\d+)")


def answers_of(row: Row) -> tuple[list[str], list[str]] | None:
    """All right and all wrong answers of a row of RewardBench 2; None of any other row."""
    right, wrong = (row.columns.get(name) for name in ALL.values())
    return (right, wrong) if isinstance(right, list) and isinstance(wrong, list) else None


def _convert(raw: Raw) -> Row:
    chosen, rejected = (answer_in(raw, side) for side in ALL)
    return pair(_asked(raw), chosen, rejected, others(raw, "prompt", *ALL))


def _convert_several(raw: Raw) -> Row:
    found = {column: _answers(raw, side) for side, column in ALL.items()}
    if str(raw["subset"]).lower() == TIES and not TIE_ID.fullmatch(str(raw.get("id"))):
        raise BadRow("does not fit", f"'id' in the subset Ties must be ref:N or tied:N, and is {raw.get('id')!r}")
    chosen, rejected = (answers[0] for answers in found.values())
    return pair(_asked(raw), chosen, rejected, others(raw, "prompt", *ALL) | found)


def _is_plain(raw: Raw) -> bool:
    """Not one that `data convert` wrote: its prompt is a message."""
    return isinstance(raw["prompt"], str)


def _asked(raw: Raw) -> list[Message]:
    return [{"role": "user", "content": string_in(raw, "prompt")}]


def _answers(raw: Raw, side: str) -> list[str]:
    found = as_list(raw[side])
    if not isinstance(found, list) or not found:
        raise BadRow("wrong type", f"'{side}' must be a list of answers")
    return [answer_in({side: text}, side) for text in found]


_ROW = {"prompt": "Where is the cup?", "id": "1"}
FORMS = (
    Form(
        "RewardBench 2",
        ("prompt", "chosen", "rejected", "num_correct", "total_completions", "subset"),
        "pairs",
        "RewardBench 2: right and wrong answers to a prompt; eval --pairs scores all of them by its rules",
        (
            _ROW
            | {"chosen": ["On the shelf."], "rejected": ["No idea.", "What?"]}
            | {"num_correct": 1, "total_completions": 3, "subset": "Focus"},
        ),
        _convert_several,
        _is_plain,
    ),
    Form(
        "RewardBench",
        ("prompt", "chosen", "chosen_model", "rejected", "rejected_model", "subset"),
        "pairs",
        "RewardBench: pairs in 23 subsets, of which eval --pairs makes the four sections' scores",
        (
            _ROW
            | {"chosen": "On the shelf.", "chosen_model": "a", "rejected": "No idea.", "rejected_model": "b"}
            | {"subset": "llmbar-natural"},
        ),
        _convert,
        _is_plain,
    ),
)

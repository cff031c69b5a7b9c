"""Rows as the examples that a stage trains on: token ids, cut to --max-length; the ids are data/encoder.py's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefcli.data.encoder import Encoder
from prefcli.data.lazy import LazyExamples, LazyRows
from prefcli.data.row import Row

Example = dict[str, Any]
Encoded = tuple[Sequence[Example], int, int]  # examples, how many rows were cut, how many left out


def encode_demos(rows: Sequence[Row], encoder: Encoder, max_length: int, train_on_prompt: bool) -> Encoded:
    """Rows for TRL's SFTTrainer {"input_ids", "completion_mask"}."""

    def encode(row: Row) -> tuple[Example | None, bool]:
        ids, mask = encoder.demo(row, train_on_prompt, max_length)
        if not any(mask[:max_length]):
            return None, False
        return {"input_ids": ids[:max_length], "completion_mask": mask[:max_length]}, len(ids) > max_length

    return _encoded(rows, encode)


def encode_pairs(rows: Sequence[Row], encoder: Encoder, max_length: int) -> Encoded:
    """{"prompt_ids", "chosen_ids", "rejected_ids", "weight", "margin"}: answers without the prompt."""

    def encode(row: Row) -> tuple[Example | None, bool]:
        assert row.chosen is not None and row.rejected is not None
        prompt = encoder.prompt_ids(row.prompt, max_length)
        room = max_length - len(prompt)
        if room < 1:
            return None, False
        sides = [encoder.completion_ids(row.prompt, answer, room) for answer in (row.chosen, row.rejected)]
        if sides[0][:room] == sides[1][:room]:
            return None, False  # nothing is left that tells the two apart
        example = {"prompt_ids": prompt, "chosen_ids": sides[0][:room], "rejected_ids": sides[1][:room],
                   "weight": row.weight, "margin": row.margin}  # fmt: skip
        return example, any(len(side) > room for side in sides)

    return _encoded(rows, encode)


def encode_labelled(rows: Sequence[Row], encoder: Encoder, max_length: int) -> Encoded:
    """{"prompt_ids", "completion_ids", "label", "weight"}."""

    def encode(row: Row) -> tuple[Example | None, bool]:
        assert row.completion is not None
        prompt = encoder.prompt_ids(row.prompt, max_length)
        room = max_length - len(prompt)
        if room < 1:
            return None, False
        answer = encoder.completion_ids(row.prompt, row.completion, room)
        example = {
            "prompt_ids": prompt,
            "completion_ids": answer[:room],
            "label": bool(row.label),
            "weight": row.weight,
        }
        return example, len(answer) > room

    return _encoded(rows, encode)


def _encoded(rows: Sequence[Row], encode: Callable[[Row], tuple[Example | None, bool]]) -> Encoded:
    """All rows now; or, where they are read as they are needed, each then: the counts are over the first rows."""
    if isinstance(rows, LazyRows):
        lazy = LazyExamples(rows, encode)
        return lazy, lazy.cut, lazy.dropped
    found = [encode(row) for row in rows]
    examples = [example for example, _ in found if example is not None]
    return examples, sum(cut for _, cut in found), len(found) - len(examples)

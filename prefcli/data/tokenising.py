"""A row as the example that a stage trains on: token ids, cut to --max-length; the ids are data/encoder.py's.

Each function returns None where the row does not fit, and whether the example was cut.
"""

from __future__ import annotations

from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.data.rows import Example


def encode_demo(row: Row, encoder: Encoder, max_length: int, train_on_prompt: bool) -> tuple[Example | None, bool]:
    """For TRL's SFTTrainer {"input_ids", "completion_mask"}."""
    ids, mask = encoder.demo(row, train_on_prompt, max_length)
    if not any(mask[:max_length]):
        return None, False
    return {"input_ids": ids[:max_length], "completion_mask": mask[:max_length]}, len(ids) > max_length


def encode_pair(row: Row, encoder: Encoder, max_length: int) -> tuple[Example | None, bool]:
    """{"prompt_ids", "chosen_ids", "rejected_ids", "weight", "margin"}: answers without the prompt."""
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


def encode_labelled(row: Row, encoder: Encoder, max_length: int) -> tuple[Example | None, bool]:
    """{"prompt_ids", "completion_ids", "label", "weight"}."""
    assert row.completion is not None
    prompt = encoder.prompt_ids(row.prompt, max_length)
    room = max_length - len(prompt)
    if room < 1:
        return None, False
    answer = encoder.completion_ids(row.prompt, row.completion, room)
    example = {"prompt_ids": prompt, "completion_ids": answer[:room], "label": bool(row.label), "weight": row.weight}
    return example, len(answer) > room


def encode_prompt(row: Row, encoder: Encoder, max_length: int) -> tuple[Example | None, bool]:
    """{"prompt_ids", "of"}: nothing of a prompt is cut, and "of" is its row."""
    ids = encoder.prompt_ids(row.prompt, max_length)
    return ({"prompt_ids": ids, "of": row} if len(ids) <= max_length else None), False

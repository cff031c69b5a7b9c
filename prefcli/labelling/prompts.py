"""Rows by their prompts, many of them: numbers alone are held, and rows are read some prompts at a time."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from prefcli.data.fingerprints import fingerprint
from prefcli.data.row import Row
from prefcli.evaluation.score import texts_of
from prefcli.labelling.preferences import Place

Loaded = tuple[dict[int, Row], list[dict[str, Place]]]  # rows by their index, and the different answers to each prompt


class Prompts:
    """Which rows are of which prompt, the prompts in the order in which they first come. 24 bytes a row are held.

    A text without a prompt (the format `text`) answers nothing, and is left out.
    """

    def __init__(self) -> None:
        self._keys: array[int] = array("Q")

    def add(self, row: Row) -> None:
        """The next row."""
        self._keys.append(fingerprint(json.dumps(row.prompt, default=str)) or 1 if row.prompt else 0)

    def sort(self) -> Prompts:
        """Itself, once all rows were added."""
        keys = np.frombuffer(self._keys, np.uint64) if self._keys else np.empty(0, np.uint64)
        rows = np.flatnonzero(keys)
        _, first, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
        place = np.empty(len(first), np.int64)
        place[first.argsort()] = np.arange(len(first))
        prompt = place[inverse]
        self._rows = rows[prompt.argsort(kind="stable")]
        self._starts = np.concatenate([[0], np.bincount(prompt, minlength=len(first)).cumsum()]).astype(np.int64)
        self._keys = array("Q")
        return self

    @property
    def parts(self) -> tuple[Any, Any]:
        """All that it is, as arrays: what `of` takes."""
        return self._rows, self._starts

    @classmethod
    def of(cls, rows: Sequence[int], starts: Sequence[int]) -> Prompts:
        made = cls()
        made._rows, made._starts = np.array(rows, np.int64), np.array(starts, np.int64)
        return made

    def __len__(self) -> int:
        return len(self._starts) - 1

    def load(self, rows: Sequence[Row], span: range) -> Loaded:
        """The rows of some prompts, and each one's different answers with the place where it first stands."""
        found: dict[int, Row] = {}
        prompts = []
        for number in span:
            answers: dict[str, Place] = {}
            for index in self._rows[self._starts[number] : self._starts[number + 1]].tolist():
                row = found[index] = rows[index]
                for side, text in enumerate(texts_of(row)):
                    answers.setdefault(text, (index, side))
            prompts.append(answers)
        return found, prompts

    def spans(self, size: int) -> Iterator[range]:
        """All prompts, `size` at a time."""
        return (range(start, min(start + size, len(self))) for start in range(0, len(self), size))

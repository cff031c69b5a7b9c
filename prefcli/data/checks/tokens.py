"""Findings that need a tokenizer: answers cut or lost, dialogues that its template refuses, the rendering."""

from __future__ import annotations

from collections.abc import Iterator

from prefcli.data.checks.rendering import EXAMPLES, of_row
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.data.tokenising import encode_demo, encode_labelled, encode_pair
from prefcli.errors import DataError


class Tokens:
    """Checks of rows as token ids: the first as they are rendered; where `max_length` is given each, about 1 ms a row,
    for what that cuts."""

    def __init__(self, encoder: Encoder, max_length: int | None, train_on_prompt: bool = False) -> None:
        self._encoder, self._max_length, self._train_on_prompt = encoder, max_length, train_on_prompt
        self._seen = 0

    def __call__(self, row: Row) -> Iterator[tuple[str, str]]:
        """(kind of finding, example) of everything that is wrong with a row as it is tokenised."""
        self._seen += 1
        try:
            if self._seen <= EXAMPLES:
                yield from of_row(row, self._encoder, self._train_on_prompt)
            fits, cut = self._fits(row, self._max_length) if self._max_length else (True, False)
        except DataError as error:
            yield "template refuses", error.message
            return
        if not fits:
            yield "answer cut away", row.prompt_text
        elif cut:
            yield "answer cut", row.prompt_text

    def _fits(self, row: Row, max_length: int) -> tuple[bool, bool]:
        """Whether the row is not left out, and whether it is cut."""
        if row.chosen is not None and row.completion is None:
            example, cut = encode_pair(row, self._encoder, max_length)
        elif row.completion is None:
            return len(self._encoder.prompt_ids(row.prompt, max_length)) < max_length, False
        elif row.label is None:
            example, cut = encode_demo(row, self._encoder, max_length, False)
        else:
            example, cut = encode_labelled(row, self._encoder, max_length)
        return example is not None, cut

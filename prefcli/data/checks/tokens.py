"""What shows only with a tokenizer: answers cut or lost, dialogues that its template refuses, the rendering."""

from __future__ import annotations

from collections.abc import Iterator

from prefcli.data.checks.rendering import EXAMPLES, of_row
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.data.tokenising import encode_demos, encode_labelled, encode_pairs
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
            cut, dropped = self._lengths(row, self._max_length) if self._max_length else (0, 0)
        except DataError as error:
            yield "template refuses", error.message
            return
        if dropped:
            yield "answer cut away", row.prompt_text
        elif cut:
            yield "answer cut", row.prompt_text

    def _lengths(self, row: Row, max_length: int) -> tuple[int, int]:
        """How many of this one row are cut, and left out."""
        if row.chosen is not None and row.completion is None:
            _, cut, dropped = encode_pairs([row], self._encoder, max_length)
        elif row.completion is None:
            cut, dropped = 0, int(len(self._encoder.prompt_ids(row.prompt, max_length)) >= max_length)
        elif row.label is None:
            _, cut, dropped = encode_demos([row], self._encoder, max_length, False)
        else:
            _, cut, dropped = encode_labelled([row], self._encoder, max_length)
        return cut, dropped

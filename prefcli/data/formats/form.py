"""What a data format declares: its name, the columns it is known by, what it gives, an example, the conversion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prefcli.config.stages import Purpose
from prefcli.data.row import Prompt, Row


@dataclass(frozen=True)
class Ranked:
    """A prompt and its answers, each with a score: the higher the better."""

    prompt: Prompt
    answers: list[tuple[float, str]]
    columns: dict[str, Any]


@dataclass(frozen=True)
class Form:
    """One data format. It is taken where all `columns` are there and the first row `fits`.

    `gives` is what its rows are; `about` one line on where it is used; `examples` are rows of it, the plainest first;
    `has_prompt` whether they hold a prompt that could be answered otherwise. `unclear` says why rows make their whole
    file unreadable, or None. `lists` are a row's ranked answers, of which several pairs can be made; `trees` says that
    one row always has several such lists, `grouped` that each answer is a row, those of one prompt one after another;
    `turns` that a prompt's text may be a dialogue, and is read as one.
    """

    name: str
    columns: tuple[str, ...]
    gives: Purpose
    about: str
    examples: tuple[dict[str, Any], ...]
    convert: Callable[[dict[str, Any]], Row]
    fits: Callable[[dict[str, Any]], bool] = lambda row: True
    has_prompt: bool = True
    unclear: Callable[[Iterable[dict[str, Any]]], str | None] | None = None
    lists: Callable[[dict[str, Any]], list[Ranked]] | None = None
    trees: bool = False
    grouped: bool = False
    turns: bool = False

    def is_that_of(self, row: dict[str, Any]) -> bool:
        return self.has_columns(row) and self.fits(row)

    def settled(self, rows: Sequence[dict[str, Any]]) -> Form:
        """The format with what is the same for all rows of a file, as its first rows decide it."""
        return self

    def has_columns(self, row: dict[str, Any]) -> bool:
        return all(column in row for column in self.columns)

"""The rows that models are measured on, sampled from and trained by PPO on: read, and held to a length."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from prefcli.data.encoder import Encoder
from prefcli.data.lazy import LazyRows
from prefcli.data.row import Row
from prefcli.errors import DataError
from prefcli.progress import Reporter


def short_ones(rows: LazyRows, tokenizer: Any, longest: int, reporter: Reporter) -> tuple[LazyRows, int]:
    """As `short_enough`, none of the rows held; and how many tokens the longest of their prompts has."""
    encoder = Encoder(tokenizer)
    kept: array[int] = array("Q")
    most = 0
    for position, row in zip(rows.positions, rows, strict=True):
        length = len(encoder.prompt_ids(row.prompt, longest))
        if length <= longest:
            kept.append(position)
            most = max(most, length)
    _tell(len(kept), len(rows), longest, reporter)
    return LazyRows(rows.source, kept), most


def short_enough(rows: Sequence[Row], tokenizer: Any, longest: int, reporter: Reporter) -> list[tuple[list[int], Row]]:
    """The rows whose prompts have at most `longest` tokens, with those tokens; how many are left out is told.

    Raises DataError: none is short enough.
    """
    encoder = Encoder(tokenizer)
    encoded = [(encoder.prompt_ids(row.prompt, longest), row) for row in rows]
    kept = [(ids, row) for ids, row in encoded if len(ids) <= longest]
    _tell(len(kept), len(rows), longest, reporter)
    return kept


def _tell(kept: int, rows: int, longest: int, reporter: Reporter) -> None:
    if not kept:
        raise DataError(
            f"all {rows} prompts are longer than --max-prompt-length {longest}", "raise --max-prompt-length"
        )
    if kept < rows:
        reporter.notice(f"{rows - kept} of {rows} prompts are longer than --max-prompt-length {longest} and left out")

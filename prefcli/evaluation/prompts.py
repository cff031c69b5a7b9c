"""The rows that models are measured on, sampled from and trained by PPO on: read, and held to a length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefcli.config.stages import Purpose
from prefcli.data.dataset import read_dataset
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.errors import DataError
from prefcli.progress import Reporter


def read(paths: Sequence[str], purpose: Purpose, config: Any, reporter: Reporter) -> list[Row]:
    """All rows of the files, as the config's skip_bad, split and map say; what `read_dataset` notes is told.

    Raises DataError and UsageError as it does.
    """
    data = read_dataset(paths, purpose, config.skip_bad, split=config.split, names=config.map)
    for note in data.notes:
        reporter.notice(note)
    return list(data.rows)


def short_enough(rows: Sequence[Row], tokenizer: Any, longest: int, reporter: Reporter) -> list[tuple[list[int], Row]]:
    """The rows whose prompts have at most `longest` tokens, with those tokens; how many are left out is told.

    Raises DataError: none is short enough.
    """
    encoder = Encoder(tokenizer)
    encoded = [(encoder.prompt_ids(row.prompt, longest), row) for row in rows]
    kept = [(ids, row) for ids, row in encoded if len(ids) <= longest]
    if not kept:
        raise DataError(
            f"all {len(rows)} prompts are longer than --max-prompt-length {longest}", "raise --max-prompt-length"
        )
    if len(kept) < len(rows):
        reporter.notice(
            f"{len(rows) - len(kept)} of {len(rows)} prompts are longer than --max-prompt-length {longest} and left out"
        )
    return kept

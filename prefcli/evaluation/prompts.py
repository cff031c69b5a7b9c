"""The rows that models are measured on, sampled from and trained by PPO on: read, and held to a length."""

from __future__ import annotations

from array import array
from functools import partial
from typing import Any

from prefcli.data.encoder import Encoder
from prefcli.data.rows import Rows
from prefcli.errors import DataError
from prefcli.progress import Reporter


def short_ones(rows: Rows, tokenizer: Any, longest: int, reporter: Reporter) -> tuple[Rows, int]:
    """The rows whose prompts have at most `longest` tokens, and how many the longest of these has.

    How many are left out is told. Raises DataError: none is short enough, or the chat template refuses one that is not
    to be left out.
    """
    encoder = Encoder(tokenizer)
    rows.source.judge(partial(encoder.refusal, prompt_alone=True))
    kept: array[int] = array("Q")
    most = refused = 0
    for position in rows.positions:
        row = rows.source.row(position)
        if row is None:
            refused += 1
            continue
        length = len(encoder.prompt_ids(row.prompt, longest))
        if length <= longest:
            kept.append(position)
            most = max(most, length)
    if refused:
        why = next(iter(rows.source.left_out.values()))
        reporter.notice(f"{refused} of {len(rows)} prompts left out (--skip-bad); {why}")
    say_kept(len(kept), len(rows) - refused, longest, reporter)
    return Rows(rows.source, kept), most


def say_kept(kept: int, rows: int, longest: int, reporter: Reporter) -> None:
    """Notice how many prompts are left out. Raises DataError: all are."""
    if not kept:
        raise DataError(
            f"all {rows} prompts are longer than --max-prompt-length {longest}", "raise --max-prompt-length"
        )
    if kept < rows:
        reporter.notice(f"{rows - kept} of {rows} prompts are longer than --max-prompt-length {longest} and left out")

"""The rows that models are measured on, sampled from and trained by PPO on: read, and held to a length."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

from prefcli.artifacts.references import Reference
from prefcli.data.checks.kinds import OTHER_TEMPLATE
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.data.rows import Rows
from prefcli.errors import DataError
from prefcli.models.tokenizers import load_tokenizer, template_digest
from prefcli.progress import SILENT, Reporter


def short_ones(
    rows: Rows, tokenizer: Any, longest: int, reporter: Reporter, others: Iterable[Reference] = ()
) -> tuple[Rows, int]:
    """The rows whose prompts have at most `longest` tokens, and how many the longest of these has.

    `others` are further models that read the same rows.
    How many are left out is told. Raises DataError: none is short enough, or a chat template refuses all, or one that
    is not to be left out.
    """
    encoder = Encoder(tokenizer)
    further: dict[str, tuple[str, Encoder]] = {}  # by their templates: a run's kept steps have all the same
    for reference in others:
        other = load_tokenizer(reference, SILENT)
        further.setdefault(template_digest(other), (reference.shown, Encoder(other)))
    further.pop(template_digest(tokenizer), None)

    def refusal(row: Row) -> str | None:
        if (why := encoder.refusal(row, prompt_alone=True)) is not None:
            return why
        whys = ((name, other.refusal(row, prompt_alone=True)) for name, other in further.values())
        return next((f"{name}: {why}" for name, why in whys if why is not None), None)

    rows.source.judge(refusal)
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
        if refused == len(rows):
            raise DataError(f"no prompt is left: {why}", OTHER_TEMPLATE)
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

"""Rows whose answers are judged: by a reward source, a model or a person."""

from __future__ import annotations

from collections.abc import Sequence

from prefcli.data.row import Row
from prefcli.data.scan import scan_all
from prefcli.progress import Reporter


def read_rows(
    paths: Sequence[str], skip_bad: bool, reporter: Reporter, *, split: str | None = None, names: Sequence[str] = ()
) -> list[Row]:
    """Every row that holds an answer, or two: the forms of `sft`, `dpo` and `kto`. `split` and `names`: as in `scan`.

    A row labelled false is no demonstration, which is why `read_dataset` leaves it out; here it is scored.
    Raises DataError as `read_dataset` does.
    """
    rows: list[Row] = []
    for found in scan_all(paths, "demos", split=split, names=names):
        good, note = found.sorted_out(skip_bad)
        for told in (*found.notes, *([note] if note else [])):
            reporter.notice(told)
        rows += good
    return rows

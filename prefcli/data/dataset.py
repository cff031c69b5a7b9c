"""All rows of a run's files, for one purpose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from prefcli.data.formats import Purpose, Row
from prefcli.data.scan import scan
from prefcli.errors import DataError


@dataclass
class Dataset:
    """All rows of one purpose, and what the manifest says of the files they came from."""

    rows: list[Row]
    sources: list[dict[str, Any]]
    notes: list[str]

    @property
    def digests(self) -> list[str]:
        return [source["digest"] for source in self.sources]


def read_dataset(paths: list[str], purpose: Purpose, skip_bad: bool = False) -> Dataset:
    """Read files, recognise their form from the first row's columns, and check every row.

    With `skip_bad` rows that do not fit are left out, and counted in the notes.
    Raises DataError naming file, line and what was expected, and how many more rows are bad.
    """
    rows: list[Row] = []
    sources, notes = [], []
    for path in paths:
        found = scan(path, purpose)
        good, note = found.sorted_out(skip_bad)
        notes += [note] if note else []
        if purpose == "demos" and (bad := [row for row in good if row.columns.get("label") is False]):
            good = [row for row in good if row.columns.get("label") is not False]
            notes.append(f"{path}: {len(bad)} rows labelled false are no demonstrations and left out")
            if not good:
                raise DataError(f"{path}: every row is labelled false", "give demonstrations that are worth imitating")
        if purpose == "labelled" and good[0].label is None:
            good = [half for row in good for half in _halves(row)]
        rows += good
        sources.append({"path": path, "format": found.format, "rows": len(good), "digest": found.digest})
        if isinstance(good[0].prompt, str) and found.format != "text":
            notes.append(f"{path}: prompts are plain strings, so no chat template is applied")
    return Dataset(rows, sources, notes)


def _halves(pair: Row) -> tuple[Row, Row]:
    """A pair as two labelled answers."""
    return (
        replace(pair, completion=pair.chosen, chosen=None, rejected=None, label=True),
        replace(pair, completion=pair.rejected, chosen=None, rejected=None, label=False),
    )

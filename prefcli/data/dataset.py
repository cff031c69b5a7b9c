"""All rows of a run's files, for one purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefcli.config.stages import Purpose
from prefcli.data import records
from prefcli.data.lazy import CHECKED, LazyRows, Source, halves_of
from prefcli.data.reading import has_splits
from prefcli.data.row import Row
from prefcli.data.scan import Scan, scan_all
from prefcli.errors import DataError, UsageError


@dataclass
class Dataset:
    """All rows of one purpose, and what the manifest says of the files they came from."""

    rows: Sequence[Row]
    sources: list[dict[str, Any]]
    notes: list[str]

    @property
    def digests(self) -> list[str]:
        return [source["digest"] for source in self.sources]

    def check(self) -> None:
        """Raise DataError where a file that is still read from was changed since its digest was taken."""
        for scan in self.rows.source.scans if isinstance(self.rows, LazyRows) else ():
            scan.records.check()

    @property
    def left_out(self) -> str | None:
        """What a run that read its rows as it needed them has left out of them, in words."""
        found = self.rows.source.left_out if isinstance(self.rows, LazyRows) else {}
        if not found:
            return None
        return f"{len(found)} of the rows met do not fit, and the next ones were taken; {next(iter(found.values()))}"


def read_dataset(
    paths: Sequence[str],
    purpose: Purpose,
    skip_bad: bool = False,
    *,
    split: str | None = None,
    names: Sequence[str] = (),
    held_out: bool = False,
    lazily: bool = False,
    beside: bool = False,
) -> Dataset:
    """Read files, recognise their form from the first row's columns, and check every row.

    With `skip_bad` rows that do not fit are left out, and counted in the notes. `split` and `names` are --split and
    --map; of `held_out` rows the split is the other one. `lazily` may return rows that are read when they are needed,
    where there are many: the first of each file are checked then. `beside`: as for `scan`.
    Raises DataError naming file, line and what was expected, and how many more rows are bad; and as `scan` does.
    """
    if not held_out:
        check_split(paths, split)
    scans = scan_all(paths, purpose, split=split, names=names, held_out=held_out, beside=beside)
    notes = [note for found in scans for note in found.notes]
    if lazily and sum(map(len, scans)) > records.LARGE:
        return _lazy(scans, skip_bad, notes)
    rows: list[Row] = []
    sources = []
    for found in scans:
        good, note = found.sorted_out(skip_bad)
        notes += [note] if note else []
        if purpose == "demos" and (bad := [row for row in good if not row.to_imitate]):
            good = [row for row in good if row.to_imitate]
            notes.append(f"{found.path}: {len(bad)} rows labelled false are no demonstrations and left out")
            if not good:
                raise DataError(
                    f"{found.path}: every row is labelled false", "give demonstrations that are worth imitating"
                )
        if found.in_halves:
            good = [half for row in good for half in halves_of(row)]
        rows += good
        sources.append(source_of(found, len(good)))
        notes += plain_prompts(found, good[0])
    return Dataset(rows, sources, notes)


def check_split(paths: Sequence[str], split: str | None) -> None:
    """Raise UsageError where --split is given and no source has any."""
    if split is not None and paths and not any(map(has_splits, paths)):
        raise UsageError(f"--split {split}: {paths[0]} is one file, which has no splits", "leave it out")


def _lazy(scans: list[Scan], skip_bad: bool, notes: list[str]) -> Dataset:
    source = Source(scans, skip_bad)
    for found in scans:
        good, note = found.sorted_out(skip_bad, CHECKED)
        notes += ([note] if note else []) + plain_prompts(found, good[0])
    total = sum(source.sizes)
    notes.append(
        f"{total:,} rows are read as they are needed; {min(CHECKED, total):,} of each file are checked now "
        "(prefcli data check FILE checks all)"
    )
    sources = [source_of(found, size) for found, size in zip(scans, source.sizes)]
    return Dataset(LazyRows(source, range(total)), sources, notes)


def source_of(found: Scan, rows: int) -> dict[str, Any]:
    """What a manifest says of a source of which N rows are used."""
    return {"path": found.path, "format": found.format, "rows": rows, "digest": found.digest}


def plain_prompts(found: Scan, first: Row) -> list[str]:
    """The note that a source's prompts are plain strings, where they are."""
    if isinstance(first.prompt, str) and found.format != "text":
        return [f"{found.path}: prompts are plain strings, so no chat template is applied"]
    return []

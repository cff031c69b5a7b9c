"""Rows of which each is checked at the start and none is held: a few bytes a row, however many there are."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prefcli.config.shared import Reading
from prefcli.config.stages import Purpose
from prefcli.data.dataset import Dataset, check_split, plain_prompts, source_of
from prefcli.data.lazy import LazyRows, Source
from prefcli.data.records import raise_for
from prefcli.data.row import BadRow, Row
from prefcli.data.scan import Scan, scan_all
from prefcli.progress import Reporter

SHOWN = 3  # bad rows of a file that are named


@dataclass
class Checked(Dataset):
    """A data set whose rows are read when they are asked for."""

    rows: LazyRows


def read_checked(
    paths: Sequence[str],
    purpose: Purpose,
    options: Reading,
    reporter: Reporter,
    *,
    look: Callable[[Row], None] = lambda row: None,
) -> Checked:
    """As `read_dataset`, but for the rows, which are read whenever they are asked for; `look` is shown each one once,
    and the reporter the notes.

    Of "demos" every row counts that holds an answer, those too that are labelled false and so not to be imitated.
    Raises DataError and UsageError as `read_dataset` does.
    """
    check_split(paths, options.split)
    scans = scan_all(paths, purpose, split=options.split, names=options.map)
    notes = [note for found in scans for note in found.notes]
    positions: array[int] = array("Q")
    sources, start = [], 0
    for found in scans:
        before = len(positions)
        first, note = _check(found, options.skip_bad, start, positions, look)
        notes += ([note] if note else []) + (plain_prompts(found, first) if purpose != "demos" else [])
        sources.append(source_of(found, len(positions) - before))
        start += len(found)
    for told in notes:
        reporter.notice(told)
    return Checked(LazyRows(Source(scans, options.skip_bad, every=True), positions), sources, notes)


def read_again(paths: Sequence[str], purpose: Purpose, positions: Sequence[int], options: Reading) -> Checked:
    """What `read_checked` found in another process, by the positions of its rows."""
    scans = scan_all(paths, purpose, split=options.split, names=options.map)
    return Checked(LazyRows(Source(scans, skip_bad=True, every=True), positions), [], [])


def _check(
    found: Scan, skip_bad: bool, start: int, positions: array[int], look: Callable[[Row], None]
) -> tuple[Row, str | None]:
    """The first good row, and a note where some were left out; the positions of the good ones go to `positions`."""
    first: Row | None = None
    problems: list[str] = []
    bad = 0
    for own in range(len(found)):
        row = found.row(own)
        if isinstance(row, BadRow):
            bad += 1
            if len(problems) < SHOWN:
                problems.append(f"{found.place(own)}: {row}")
            continue
        first = first or row
        positions.append(start + own)
        look(row)
    if problems and not (skip_bad and first):
        raise_for(found.path, problems, found.hint, more=bad - len(problems))
    assert first is not None  # a source has rows
    note = f"{found.path}: {bad} of {len(found)} rows left out (--skip-bad); {problems[0]}" if problems else None
    return first, note

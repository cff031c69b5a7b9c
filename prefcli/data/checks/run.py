"""All checks on files: one pass over each, its rows let go again at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefcli.config.stages import Purpose
from prefcli.data.checks.found import Finding, Found
from prefcli.data.checks.gathered import Gathered, find
from prefcli.data.checks.rows import odd
from prefcli.data.dataset import check_split
from prefcli.data.row import BadRow, Row, Tie
from prefcli.data.scan import counts, scan, scan_all
from prefcli.errors import DataError
from prefcli.progress import SILENT, Reporter

EVERY = 1000  # rows between two steps of the progress bar


@dataclass
class Checked:
    """The files read and the findings. `files`: path, purpose, format, rows, bad, ties of each."""

    files: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def check(
    paths: Sequence[str],
    purpose: Purpose | None = None,
    held_out: Sequence[str] = (),
    *,
    of_row: Callable[[Row], Iterable[tuple[str, str]]] | None = None,
    reporter: Reporter = SILENT,
    **options: Any,
) -> Checked:
    """Look at every row of the files. `of_row` is a further check of each; `options` are `scan`'s.

    Raises DataError: a file that is none, or whose columns are of no format; no bad row raises anything.
    """
    check_split(paths, options.get("split"))
    found, gathered, checked = Found(), Gathered(), Checked()
    prompts = _prompts(held_out, purpose, options) if held_out else None  # first: a mistake in it shows at once
    for path, source in zip(paths, scan_all(paths, purpose, **options)):
        for note in source.notes:
            reporter.notice(note)
        if unread := source.unread:
            found.add("unread columns", ", ".join(unread), path, source.records.number(0))
        gathered.open(path)
        before, ties = len(gathered), 0
        reporter.begin(f"checking {path}", len(source), "rows")
        for count, (number, row) in enumerate(source, 1):
            if isinstance(row, BadRow):
                ties += isinstance(row, Tie)
                found.add(row.kind, str(row), path, number)
            else:
                gathered.add(number, row)
                for name, example in (*odd(row), *(of_row(row) if of_row else ())):
                    found.add(name, example, path, number)
            if count % EVERY == 0:
                reporter.advance(count)
        reporter.end()
        checked.files.append(counts(path, source, len(gathered) - before, ties))
    find(gathered, prompts, found)
    checked.findings = found.findings
    for finding in checked.findings:
        finding.most = finding.count > len(gathered) / 2
    return checked


def quick(rows: Iterable[Row], labelled: bool) -> list[Finding]:
    """The cautions that a few microseconds a row find: what a run says before it trains.

    Of `labelled` answers those may be one pair's with another's, and being labelled both ways is not a contradiction.
    """
    found, gathered = Found(), Gathered()
    gathered.open("")
    for number, row in enumerate(rows, 1):
        gathered.add(number, row)
        for name, example in odd(row):
            found.add(name, example)
    find(gathered, None, found)
    # The stages say by themselves what lengths and kinds of labels are amiss.
    passed = {"longer chosen", "one kind of label", "one prompt often"} | (
        {"labelled both ways"} if labelled else set()
    )
    return [finding for finding in found.findings if finding.name not in passed]


def _prompts(paths: Sequence[str], purpose: Purpose | None, options: dict[str, Any]) -> Gathered:
    """The prompts of held-out rows, whatever format they are in."""
    gathered = Gathered()
    for path in paths:
        try:
            source = scan(path, "prompts", held_out=True, **options)
        except DataError:
            source = scan(path, purpose or "demos", held_out=True, **options)
        gathered.open(path)
        for number, row in source:
            if isinstance(row, Row):
                gathered.add(number, row)
    return gathered

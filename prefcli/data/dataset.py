"""All rows of a run's files, for one purpose."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from prefcli.config.shared import Reading, read_as
from prefcli.config.stages import Purpose
from prefcli.data import records
from prefcli.data.reading import has_splits
from prefcli.data.records import raise_for
from prefcli.data.row import BadRow, Row, Tie
from prefcli.data.rows import CHECKED, Rows, Source
from prefcli.data.scan import Scan, scan_all
from prefcli.errors import DataError, UsageError
from prefcli.progress import Reporter

AS_CHAT = "--as-chat makes each a user's message"
AS_CHAT_TURNS = "--as-chat makes messages of their turns, \\n\\nHuman: and \\n\\nAssistant:"
SHOWN = 3  # bad rows of a file that are named


@dataclass
class Dataset:
    """All rows of one purpose, and what the manifest says of the files they came from."""

    rows: Rows
    sources: list[dict[str, Any]]
    notes: list[str]

    @property
    def digests(self) -> list[str]:
        """What is read, for a key: the same bytes are other rows in a .txt file, each of whose lines is a prompt."""
        return [source["digest"] + " text" * source["path"].endswith(".txt") for source in self.sources]

    @property
    def as_chat(self) -> bool:
        """Whether plain prompts of one of the files become messages."""
        return any(scan.as_chat for scan in self.rows.source.scans)

    def check(self) -> None:
        """Raise DataError where a file that is still read from was changed since its digest was taken."""
        for scan in () if self.rows.whole else self.rows.source.scans:
            scan.records.check()

    @property
    def left_out(self) -> str | None:
        """The rows that a lazily read run has left out, in words."""
        found = {} if self.rows.whole else self.rows.source.left_out
        if not found:
            return None
        return f"{len(found)} of the rows read do not fit, later ones were used instead; {next(iter(found.values()))}"


def read_dataset(
    paths: Sequence[str],
    purpose: Purpose,
    skip_bad: bool = False,
    *,
    split: str | None = None,
    held_out: bool = False,
    lazily: bool = False,
    every: bool = False,
    **options: Any,
) -> Dataset:
    """Read files, recognise their format from the first row's columns, and check every row.

    With `skip_bad` rows that do not fit are left out, and counted in the notes. Of `held_out` rows the split is the
    other one. `lazily` may return rows that are read when they are needed, where there are many: the first of each file
    are checked then. `every`: "demos" that are labelled false, and so not to be imitated, count too. `split` and the
    other `options` are `scan`'s.
    Raises DataError naming file, line and what was expected, and how many more rows are bad; and as `scan` does.
    """
    if not held_out:
        check_split(paths, split)
    scans = scan_all(paths, purpose, split=split, held_out=held_out, **options)
    large = lazily and sum(map(len, scans)) > records.LARGE
    data = _looked_at(Source(scans, skip_bad, whole=not large, every=every), CHECKED if large else None)
    if large:
        if len(data.rows) == (every_row := data.rows.source.starts[-1]):
            data.rows = Rows(data.rows.source, range(every_row))  # which takes no memory
        checked = (
            "all are checked now"
            if all(one.leaves_out for one in scans)
            else f"{min(CHECKED, len(data.rows)):,} of each file are checked now (prefcli data check FILE checks all)"
        )
        data.notes.append(f"{len(data.rows):,} rows are read as they are needed; {checked}")
    return data


def read_checked(
    paths: Sequence[str],
    purpose: Purpose,
    options: Reading,
    reporter: Reporter,
    *,
    look: Callable[[Row], None] = lambda row: None,
) -> Dataset:
    """As `read_dataset` with `every`, but that no row is held, however many there are: each is read whenever it is
    asked for. `look` is shown each one once, and the reporter the notes."""
    check_split(paths, options.split)
    scans = scan_all(paths, purpose, **read_as(options))
    data = _looked_at(Source(scans, options.skip_bad, every=True), None, look)
    for told in data.notes:
        reporter.notice(told)
    return data


def read_again(paths: Sequence[str], purpose: Purpose, positions: Sequence[int], options: Reading) -> Dataset:
    """The rows that `read_checked` found in another process, by the positions of its rows."""
    scans = scan_all(paths, purpose, **read_as(options))
    return Dataset(Rows(Source(scans, skip_bad=True, every=True), positions), [], [])


def check_split(paths: Sequence[str], split: str | None) -> None:
    """Raise UsageError where --split is given and no source has any. A file's rows are its train split."""
    if split not in (None, "train") and paths and not any(map(has_splits, paths)):
        raise UsageError(f"--split {split}: {paths[0]} is one file, which has no splits", "leave it out")


def _looked_at(source: Source, most: int | None, look: Callable[[Row], None] = lambda row: None) -> Dataset:
    """The good rows. Of a file with no ties and no labels only the first N are looked at, and the others taken as they
    are. Raises DataError: a bad one that is not to be left out, or none that is good."""
    positions: array[int] = array("Q")
    sources, notes = [], [note for found in source.scans for note in found.notes]
    for at, found in enumerate(source.scans):
        all_of_it = most is None or found.leaves_out
        before, rows, first = len(positions), range(len(found))[: None if all_of_it else most], None
        problems: list[str] = []
        bad, ties, unlike, texts, plain = 0, 0, 0, 0, ""
        for own in rows:
            position, made = source.made(at, own)
            if isinstance(made, Tie):
                ties += 1
                continue
            if isinstance(made, BadRow):
                bad += 1
                if len(problems) < SHOWN:
                    problems.append(f"{found.place(own)}: {made}")
                continue
            unlike += not made
            for place, row in enumerate(made, position):
                first = first or row
                if isinstance(row.prompt, str) and row.prompt:
                    texts, plain = texts + 1, plain or row.prompt
                positions.append(place)
                look(row)
        if problems and not (source.skip_bad and bad + ties < len(rows)):
            raise_for(found.path, problems, found.hint, more=bad - len(problems))
        if problems:
            notes.append(f"{found.path}: {bad} of {len(rows)} rows left out (--skip-bad); {problems[0]}")
        notes += Tie.told(found.path, ties, len(rows))
        if ties == len(rows):
            found.refuse_ties()
        if unlike:
            notes.append(f"{found.path}: {unlike} rows labelled false are not demonstrations and are left out")
            if first is None:
                raise DataError(
                    f"{found.path}: every row is labelled false", "give demonstrations that are worth imitating"
                )
        if plain and not (source.every and found.purpose == "demos"):
            as_chat = AS_CHAT_TURNS if plain.startswith("\n\nHuman:") else AS_CHAT
            looked = len(positions) - before
            which, them = ("", "") if texts == looked else (f"{texts:,} of {looked:,} ", " to these")
            notes.append(
                f"{found.path}: {which}prompts are plain strings, so no chat template is applied{them}; {as_chat}"
            )
        if not all_of_it:  # what does not fit is told when it is met
            del positions[before:]
            positions.extend(range(source.starts[at], source.starts[at + 1]))
        sources.append(source_of(found, len(positions) - before))
    return Dataset(Rows(source, positions), sources, notes)


def source_of(found: Scan, rows: int) -> dict[str, Any]:
    """The manifest's entry for a source of which N rows are used."""
    return {"path": found.path, "format": found.format, "rows": rows, "digest": found.digest}

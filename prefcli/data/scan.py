"""A source's rows one by one, each with its place: the row that it makes, or what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from prefcli.config.stages import Purpose
from prefcli.data.formats.registry import FORMS, Recognised, recognise
from prefcli.data.reading import read
from prefcli.data.records import Raw, Records, raise_for
from prefcli.data.row import BadRow, Row, whole
from prefcli.errors import DataError, UsageError

LOOKED_AT = 100  # rows in which the first that can be read is looked for
OURS = sorted({column for form in FORMS for column in form.columns})


@dataclass(frozen=True)
class Scan:
    """One source, read for one purpose: rows are converted when they are asked for, by position or one by one."""

    records: Records
    recognised: Recognised
    names: Mapping[str, str]  # a column of ours → its name in the source

    @property
    def path(self) -> str:
        return self.records.path

    @property
    def purpose(self) -> Purpose:
        return self.recognised.purpose

    @property
    def format(self) -> str:
        """The name of the form that was recognised."""
        return self.recognised.name

    @property
    def digest(self) -> str:
        return self.records.digest

    @property
    def notes(self) -> list[str]:
        notes = [self.recognised.note] if self.recognised.note else []
        first = next((row for i in range(len(self))[:LOOKED_AT] if isinstance(row := self.row(i), Row)), None)
        if first and _unread_system(first):
            plain = isinstance(first.prompt, str)
            why = "a plain prompt has no place for it" if plain else "the dialogues have a system message of their own"
            notes.append(f"the column 'system' is not read: {why}")
        return [f"{self.path}: {note}" for note in notes]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[tuple[int, Row | BadRow]]:
        """Each row's number (a line's where the source has lines), and what `row` says of it."""
        for position in range(len(self)):
            yield self.records.number(position), self.row(position)

    def row(self, position: int) -> Row | BadRow:
        """The row at a position, or the BadRow that says why it is none."""
        try:
            return _with_system(whole(self.recognised.convert(_renamed(self.records.raw(position), self.names))))
        except BadRow as error:
            return error

    def place(self, position: int) -> str:
        """Where a row stands, in words: after the path."""
        return self.records.place(position)

    def first(self) -> Row:
        """The first row that fits. Raises DataError where none does."""
        problems = []
        for position in range(len(self)):
            row = self.row(position)
            if isinstance(row, Row):
                return row
            problems.append(f"{self.place(position)}: {row}")
        raise_for(self.path, problems, self.hint)
        raise AssertionError("a source has rows")

    @property
    def in_halves(self) -> bool:
        """Whether its rows are pairs, and each side is to be a labelled answer."""
        return self.purpose == "labelled" and self.recognised.form.gives == "pairs"

    @property
    def hint(self) -> str:
        form = self.recognised.form
        example = json.dumps(form.examples[0], ensure_ascii=False)
        return f"a row of this form ({form.name}): {example}; --skip-bad leaves such out, prefcli data check lists all"


def scan(
    path: str,
    purpose: Purpose | None = None,
    *,
    split: str | None = None,
    names: Sequence[str] = (),
    held_out: bool = False,
    beside: bool = False,
) -> Scan:
    """A source for a purpose, or for what its rows are. `split` and `names` are --split and --map.

    A source that is read `beside` others, as held-out rows are, may have our names where they have those of --map.
    Raises DataError as `read` does, and where the first row's columns are of no form of this purpose, or lack one that
    --map names. UsageError: a --map that is none, a split that is not there. SurroundingsError as `read`.
    """
    wanted = parse_names(names)
    records = read(path, split, held_out)
    position, first = _first_row(records)
    where = f"{path}, {records.place(position)}"
    for ours, theirs in wanted.items():
        if theirs not in first and (ours not in first or not (beside or held_out or _is_there(theirs, records))):
            raise _no_column(where, first, ours, theirs)
    named = _renamed(first, wanted)
    for column in ("label", "kto_tag"):
        if column in named and named[column] is None:  # the rows are of the kind that the first label says
            named = named | {column: _first_value(column, wanted, records)}
    return Scan(records, recognise(where, named, purpose), wanted)


def scan_all(paths: Sequence[str], purpose: Purpose | None = None, **options: Any) -> list[Scan]:
    """Sources that are read together: one of them must have what --map names. `options` are `scan`'s; raises as it."""
    if len(paths) == 1:
        return [scan(paths[0], purpose, **options)]
    found = [scan(path, purpose, **options | {"beside": True}) for path in paths]
    own = found and not (options.get("held_out") or options.get("beside"))
    for ours, theirs in found[0].names.items() if own else ():
        if not any(_is_there(theirs, one.records) for one in found):
            first = _first_row(found[0].records)[1]
            raise _no_column(", ".join(paths), first, ours, theirs)
    return found


def parse_names(names: Sequence[str]) -> dict[str, str]:
    """--map's values: our column → theirs. Raises UsageError."""
    found: dict[str, str] = {}
    for text in names:
        ours, equals, theirs = text.partition("=")
        if not (ours and equals and theirs):
            raise UsageError(f"--map {text}: expected OURS=THEIRS", "for example: --map chosen=good")
        if ours in found:
            raise UsageError(f"--map names {ours} twice", "leave one out")
        # A longer name (prompt_id) may be what a reward in Python or --weight-column reads.
        near = [] if ours in OURS else get_close_matches(ours, OURS, n=1, cutoff=0.8)
        if near and not ours.startswith(near[0]):
            raise UsageError(f"--map {text}: no form of rows reads {ours!r}", f"did you mean --map {near[0]}={theirs}?")
        found[ours] = theirs
    return found


def _first_row(records: Records) -> tuple[int, Raw]:
    problems: list[str] = []
    for position in range(len(records)):
        try:
            return position, records.raw(position)
        except BadRow as error:
            if len(problems) < LOOKED_AT:
                problems.append(f"{records.place(position)}: {error}")
    raise_for(records.path, problems, "no row can be read: repair these, or give another file")
    raise AssertionError("a source has rows")


def _is_there(column: str, records: Records) -> bool:
    """Whether one of the first rows has a column that the very first may lack."""
    return any(column in row for row in _first_rows(records))


def _first_value(column: str, names: Mapping[str, str], records: Records) -> Any:
    """What the first of the first rows that says anything in a column of ours says."""
    values = (_renamed(row, names).get(column) for row in _first_rows(records))
    return next((value for value in values if value is not None), None)


def _first_rows(records: Records) -> Iterator[Raw]:
    """Of the first rows those that can be read."""
    for position in range(min(LOOKED_AT, len(records))):
        with suppress(BadRow):
            yield records.raw(position)


def _unread_system(row: Row) -> str:
    """What a column `system` says, where the prompt does not begin with it."""
    system = row.columns.get("system")
    if not isinstance(system, str) or not system.strip():
        return ""
    begins = isinstance(row.prompt, list) and row.prompt[0] == {"role": "system", "content": system}
    return "" if begins else system


def _with_system(row: Row) -> Row:
    """The row with its column `system` as the first message of a dialogue that has none of its own."""
    system = _unread_system(row)
    if system and isinstance(row.prompt, list) and row.prompt[0]["role"] != "system":
        return whole(replace(row, prompt=[{"role": "system", "content": system}, *row.prompt]))
    return row


def _no_column(where: str, row: Raw, ours: str, theirs: str) -> DataError:
    near = get_close_matches(theirs, [name for name in map(str, row) if name != ours], n=1, cutoff=0.5)
    return DataError(
        f"{where}: there is no column {theirs!r} (--map {ours}={theirs}); there is: {', '.join(map(str, row))}",
        f"did you mean --map {ours}={near[0]}?" if near else "name one of these",
    )


def _renamed(row: Raw, names: Mapping[str, str]) -> Raw:
    """A column of the source that has one of our names already gives way."""
    there = {ours: theirs for ours, theirs in names.items() if theirs in row}
    if not there:
        return row
    kept = {name: value for name, value in row.items() if name not in there.values() and name not in there}
    return kept | {ours: row[theirs] for ours, theirs in there.items()}

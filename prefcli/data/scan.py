"""A source's rows one by one, each with its place: the row that it makes, or what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from prefcli.config.stages import Purpose
from prefcli.data import records as sizes
from prefcli.data.columns import more_in, unread_system, with_system, with_tools
from prefcli.data.formats.fields import PARTS, SCORES, VOTES, words_of
from prefcli.data.formats.form import Form
from prefcli.data.formats.implicit import turns_of
from prefcli.data.formats.ranked import GroupedRecords, RankedRecords, remade
from prefcli.data.formats.registry import (
    FORMS,
    Recognised,
    advice,
    answers_in,
    doubtful,
    implied,
    maps,
    recognise,
    spelling,
)
from prefcli.data.formats.votes import PROMPTS, crossed, other_votes, votes_beside, with_signs
from prefcli.data.reading import read
from prefcli.data.records import JoinedRecords, Raw, Records, raise_for, renamed
from prefcli.data.row import ODD, BadRow, Row, Tie, is_verdict, odd, whole
from prefcli.errors import DataError, UsageError

LOOKED_AT = 100  # rows in which the first that can be read is looked for
OURS = sorted({column for form in FORMS for column in form.columns})
MINUS = ("-1", "-1.0")
READ_BY_CHECKS = {"margin", *(name for names in SCORES for name in names)}


@dataclass(frozen=True)
class Scan:
    """One source, read for one purpose: rows are converted when they are asked for, by position or one by one."""

    records: Records
    recognised: Recognised
    names: Mapping[str, str]  # a column of ours → its name in the source
    as_chat: bool = False  # plain prompts become a user's message
    signed: bool = False  # its labels are 1 and -1, so 0 is neither
    told: tuple[str, ...] = ()  # how its columns are read
    advice: str = ""  # what --map would read of those that are not
    guessed: bool = False  # no command says what its rows are for

    @property
    def path(self) -> str:
        return self.records.path

    @property
    def purpose(self) -> Purpose:
        return self.recognised.purpose

    @property
    def format(self) -> str:
        """The name of the format that was recognised."""
        return self.recognised.name

    @property
    def digest(self) -> str:
        return self.records.digest

    @property
    def notes(self) -> list[str]:
        notes = [*([self.recognised.note] if self.recognised.note else []), *self.told]
        first = self._first
        if first and unread_system(first):
            plain = isinstance(first.prompt, str)
            why = (
                "a plain prompt has no place for it (--as-chat makes one)"
                if plain
                else ("the dialogues have a system message of their own")
            )
            notes.append(f"the column 'system' is not read: {why}")
        if unread := self.unread:
            those, advice = ", ".join(map(repr, unread)), self.advice or "--map names what they are"
            notes.append(f"not read, though by their names they may matter: {those} ({advice})")
        return [f"{self.path}: {note}" for note in notes]

    @cached_property
    def _first(self) -> Row | None:
        return next(self.made_first(), None)

    def made_first(self) -> Iterator[Row]:
        """The rows that fit, of the first."""
        return (row for i in range(len(self))[:LOOKED_AT] if isinstance(row := self.row(i), Row))

    @property
    def unread(self) -> list[str]:
        """Columns of the first row that look like labels, votes, ratings, tools or images, or like a part of the
        question, and that nothing reads."""
        first = self._first
        looks = PARTS if self.purpose == "prompts" and not self.guessed else PARTS | VOTES
        found = answers_in(first.columns) if first and self.guessed and self.purpose == "prompts" else []
        for name, value in first.columns.items() if first else ():
            read = name in READ_BY_CHECKS or name == "tools" and isinstance(first and first.prompt, list)
            read |= (
                self.purpose == "demos" and name in ("label", "kto_tag") and is_verdict(value)
            )  # bad ones are left out
            if words_of(name) & looks and value not in (None, "", [], {}) and not read:
                found.append(name)
        parts = [name for name in (*PROMPTS, "system_prompt") if first and first.prompt and name in first.columns]
        parts = [] if self.recognised.note else parts  # which says that there is another question
        rows = list(self.made_first()) if parts else []
        return found + [name for name in parts if name not in found and any(more_in(row, name) for row in rows)]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[tuple[int, Row | BadRow]]:
        """Each row's number (a line's where the source has lines), and what `row` says of it."""
        for position in range(len(self)):
            yield self.records.number(position), self.row(position)

    def row(self, position: int) -> Row | BadRow:
        """The row at a position, or the BadRow that says why it is none.

        Raises DataError: of a large source, what the first rows and some of the others said of its 0s was wrong.
        """
        try:
            raw = renamed(self.records.raw(position), self.names)
            if self.purpose != "prompts":
                self._judge_label(position, raw)
            row = self._converted(raw)
        except Tie as error:
            if self.purpose != "prompts" or error.row is None:
                return error
            row = error.row
        except BadRow as error:
            if error.kind == "bad label" and self.recognised.form.unclear is not None:
                refuse_unclear(self.path, self.recognised.form, [renamed(self.records.raw(position), self.names)])
            return error
        try:
            if self.as_chat and isinstance(row.prompt, str) and row.prompt:
                prompt = turns_of(row.prompt, "prompt")
                row.prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            return whole(with_tools(with_system(row)))
        except BadRow as error:
            return error

    def _judge_label(self, position: int, raw: Raw) -> None:
        """Raises Tie: a 0 between 1 and -1. DataError: a -1, where a 0 was taken for bad."""
        label = _label_in(raw)
        if self.signed and label in ("0", "0.0"):
            raise Tie("the label is 0, between 1 and -1")
        if not self.signed and label in MINUS and self.recognised.form.gives == "labelled":
            raise DataError(
                f"{self.path}, {self.place(position)}: the label is -1, so a 0 is neither good nor bad, and was read "
                "as bad: none of the rows that were looked at before is labelled -1",
                f"put such a row among the first {LOOKED_AT}, or write true and false",
            )

    def _converted(self, raw: Raw) -> Row:
        try:
            return self.recognised.convert(raw)
        except ODD as error:
            raise odd(error) from error

    def place(self, position: int) -> str:
        """The place of a row, in words: after the path."""
        return self.records.place(position)

    def first(self) -> Row:
        """The first row that fits. Raises DataError where none does."""
        problems = []
        for position in range(len(self)):
            row = self.row(position)
            if isinstance(row, Row):
                return row
            if not isinstance(row, Tie):
                problems.append(f"{self.place(position)}: {row}")
        raise_for(self.path, problems, self.hint)
        self.refuse_ties()
        raise AssertionError("a source has rows")

    def refuse_ties(self) -> None:
        """Raise DataError: not a row has a better answer."""
        raise DataError(f"{self.path}: every row is a tie ({self.row(0)})", "give rows in which one answer is better")

    @property
    def in_halves(self) -> bool:
        """Whether its rows are pairs, and each side is to be a labelled answer."""
        return self.purpose == "labelled" and self.recognised.form.gives == "pairs"

    @property
    def leaves_out(self) -> bool:
        """Whether some of its rows may be left out that are not bad: ties, and demonstrations that are labelled bad.
        The columns of the first rows tell."""
        if self.purpose == "prompts":
            return False
        form, rows = self.recognised.form, (renamed(raw, self.names) for raw in _first_rows(self.records))
        columns = {name for row in rows for name in row}
        if form.gives == "pairs" and (form.lists or form.unclear or any(set(both) <= columns for both in SCORES)):
            return True
        return self.signed or (self.purpose == "demos" and not columns.isdisjoint(("label", "kto_tag")))

    @property
    def hint(self) -> str:
        form = self.recognised.form
        example = json.dumps(form.examples[0], ensure_ascii=False)
        return (
            f"a row of this format ({form.name}): {example}; --skip-bad leaves such out, prefcli data check lists all"
        )


def scan(
    path: str,
    purpose: Purpose | None = None,
    *,
    split: str | None = None,
    names: Sequence[str] = (),
    held_out: bool = False,
    beside: bool = False,
    pairs_of: str = "best-worst",
    as_chat: bool = False,
) -> Scan:
    """A source for a purpose, or for what its rows are. `split`, `names`, `pairs_of` and `as_chat` are --split, --map,
    --pairs-of and --as-chat.

    A source that is read `beside` others, as held-out rows are, may have our names where they have those of --map.
    Raises DataError as `read` does, and where the first row's columns fit no format of this purpose, or lack one that
    --map names. UsageError: a --map that is none, a split that is not there. SurroundingsError as `read`.
    """
    wanted = parse_names(names)
    records = read(path, split, held_out)
    position, first = _first_row(records)
    raws = list(_first_rows(records)) or [first]
    where = f"{path}, {records.place(position)}"
    for ours, theirs in wanted.items():
        if theirs not in first and (
            ours not in first or not (beside or held_out or any(theirs in raw for raw in raws))
        ):
            raise _no_column(where, first, ours, theirs)
    wanted = with_signs(wanted)
    own = implied([renamed(raw, wanted) for raw in raws], purpose)
    renamed_own = {ours: theirs for ours, theirs in own.items() if spelling(theirs) != ours}
    told = [*([records.note] if records.note else []), *doubtful(wanted)]
    if renamed_own:
        told.append(f"read with {maps(renamed_own)}")
    if "a" in wanted and "b" in wanted and crossed(wanted["a"], wanted["b"]):
        told.append(
            f"{maps({side: wanted[side] for side in 'ab'})}: a vote for a counts for {wanted['a']!r}; leave both out "
            "if votes call the columns by their names"
        )
    wanted |= {ours: wanted.get(theirs, theirs) for ours, theirs in own.items()}
    rows = [renamed(raw, wanted) for raw in raws]
    named = renamed(first, wanted)
    for column in ("label", "kto_tag"):
        if column in named and named[column] is None:  # the rows are of the kind that the first label says
            named = named | {column: next((row[column] for row in rows if row.get(column) is not None), None)}
    recognised = recognise(where, named, purpose, rows)
    form = recognised.form
    refuse_unclear(path, form, (renamed(raw, wanted) for raw in _deciding(records)))
    _refuse_other_files(records, form, wanted)
    said = "chosen" in wanted and "chosen" not in own
    if said and (votes := [name for name in votes_beside(first) if name not in wanted.values()]):
        raise DataError(
            f"{where}: --map chosen={wanted['chosen']} takes that answer as the better one in every row, and the "
            f"column {votes[0]!r} says which one is",
            f"--map a={wanted['chosen']} --map b={wanted.get('rejected', 'COLUMN')} --map winner={votes[0]}; "
            f"--map unused={votes[0]} ignores it",
        )
    if form.gives == "pairs" and recognised.purpose != "prompts":
        told += other_votes([named, *rows], wanted)
    every = pairs_of == "all" and recognised.purpose == "pairs"
    labelled = form.gives != "pairs" and any("label" in row or "kto_tag" in row for row in rows)
    signed = labelled and any(_label_in(renamed(raw, wanted)) in MINUS for raw in _deciding(records))
    if form.grouped:
        records, wanted = GroupedRecords(records, wanted), {}
    if form.lists is not None and (every or form.trees):
        records, wanted = RankedRecords(records, wanted, form, every, recognised.purpose), {}
        name = f"{form.name}, all pairs" if every else form.name
        recognised = replace(recognised, name=name, convert=remade)
    more = advice(rows, None, wanted) if form.gives in ("demos", "prompts") else ""
    if not (form.gives == "prompts" and purpose is None or "label" in more and purpose != "prompts"):
        more = ""
    return _alike([Scan(records, recognised, wanted, as_chat, signed, tuple(told), more, purpose is None)])[0]


def _alike(scans: list[Scan]) -> list[Scan]:
    """Sources whose prompts may be dialogues written as text, as chats where some are and others are plain: whether the
    template is applied must not depend on how many turns came before."""
    may = [one for one in scans if one.recognised.form.turns]
    if {type(row.prompt) for one in may for row in one.made_first()} != {str, list}:
        return scans
    note = (
        "some prompts are dialogues written as text, so plain ones become user's messages, too (--as-chat makes them "
        "such in files of every format)"
    )
    return [
        replace(one, as_chat=True, told=(*one.told, note)) if one.recognised.form.turns and not one.as_chat else one
        for one in scans
    ]


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
    return _alike(found)


def counts(path: str, source: Scan, rows: int, ties: int) -> dict[str, Any]:
    """What a report says of a file that was read whole: how many of its rows are good, bad and ties."""
    bad = len(source) - rows - ties
    return {"path": path, "for": source.purpose, "format": source.format, "rows": rows, "bad": bad, "ties": ties}


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
            raise UsageError(f"--map {text}: no data format reads {ours!r}", f"did you mean --map {near[0]}={theirs}?")
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


def _refuse_other_files(records: Records, form: Form, names: Mapping[str, str]) -> None:
    """Raise DataError: a file of a folder has rows of another format than those before it."""
    parts = records.parts if isinstance(records, JoinedRecords) else []
    for part in parts:
        rows = (renamed(raw, names) for raw in _first_rows(part))
        is_that_of = form.has_columns if form.gives == "prompts" else form.is_that_of
        if (first := next(rows, None)) and not (is_that_of(first) or any(map(is_that_of, rows))):
            raise DataError(
                f"{records.path} is read as {form.name}, as {parts[0].path} is, and {part.path} is not of that "
                f"format: it has the columns {', '.join(map(str, first))}",
                "keep files of one format in the folder, or name each that is meant with an option of its own",
            )


def refuse_unclear(path: str, form: Form, rows: Iterable[Raw]) -> None:
    """Raise DataError: one of the rows makes the votes of the whole file unclear."""
    if form.unclear is not None and (why := form.unclear(rows)):
        raise DataError(f"{path}: {why}", "write a, b and tie, or 1 and 2, in that column")


def _deciding(records: Records) -> Iterator[Raw]:
    """The rows that say what a 0 means: all; of a large source the first, and some of the others (it may be sorted)."""
    total = len(records)
    first, step = min(LOOKED_AT, total), 1 if total <= sizes.LARGE else max(1, total // LOOKED_AT)
    for position in (*range(first), *range(first, total, step)):
        with suppress(BadRow):
            yield records.raw(position)


def _label_in(row: Raw) -> str:
    return str(row.get("label", row.get("kto_tag"))).strip()


def _first_rows(records: Records) -> Iterator[Raw]:
    """Of the first rows those that can be read."""
    for position in range(min(LOOKED_AT, len(records))):
        with suppress(BadRow):
            yield records.raw(position)


def _no_column(where: str, row: Raw, ours: str, theirs: str) -> DataError:
    near = get_close_matches(theirs, [name for name in map(str, row) if name != ours], n=1, cutoff=0.5)
    return DataError(
        f"{where}: there is no column {theirs!r} (--map {ours}={theirs}); found: {', '.join(map(str, row))}",
        f"did you mean --map {ours}={near[0]}?" if near else "name one of these",
    )

"""Rows of large files: read, converted and tokenised when a step needs them, a few bytes a row held.

A row that does not fit stops the run when it is met. Where it shall be left out (--skip-bad), or its prompt alone fills
--max-length, the next row that fits takes its place, so that a batch stays as large as it is.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import Any, TypeVar, overload

from prefcli.data.row import BadRow, Row
from prefcli.data.scan import Scan
from prefcli.errors import DataError

CHECKED = 1000  # of a large file so many rows are looked at before a run begins
T = TypeVar("T")
Example = dict[str, Any]


class Source:
    """All rows of several files by position, and what holds for all views of them. `every`: those, too, that are
    labelled false and so no demonstrations."""

    def __init__(self, scans: Sequence[Scan], skip_bad: bool, every: bool = False) -> None:
        self.scans, self.skip_bad, self._every = scans, skip_bad, every
        self._halves = [2 if scan.in_halves else 1 for scan in scans]
        self.sizes = [len(scan) * halves for scan, halves in zip(scans, self._halves)]
        self._starts = [0, *accumulate(self.sizes)]
        self.weight: Callable[[Row], float] | None = None
        self.margin: Callable[[Row], float] | None = None
        self.margins: array[float] | None = None
        self.left_out: dict[int, str] = {}

    def row(self, position: int) -> Row | None:
        """None where it is left out. Raises DataError: it does not fit, and is not to be left out."""
        at = bisect_right(self._starts, position) - 1
        scan, halves = self.scans[at], self._halves[at]
        own, half = divmod(position - self._starts[at], halves)
        row = scan.row(own)
        where = f"{scan.path}, {scan.place(own)}"
        if isinstance(row, BadRow):
            if not self.skip_bad:
                raise DataError(f"{where}: {row}", scan.hint)
            self.left_out[position] = f"{where}: {row}"
            return None
        if scan.purpose == "demos" and not row.to_imitate and not self._every:
            return None
        if halves == 2:
            row = halves_of(row)[half]
        try:
            if self.weight is not None:
                row.weight = self.weight(row)
            if self.margin is not None:
                row.margin = self.margin(row)
        except BadRow as error:
            raise DataError(f"{where}: {error}", "weights are numbers, 0 or more; margins are numbers") from error
        if self.margins is not None:
            row.margin = self.margins[position]
        return row


class LazyRows(Sequence[Row]):
    """A view of a source: its rows at `positions`. Iterating passes over rows that are left out."""

    def __init__(self, source: Source, positions: Sequence[int]) -> None:
        self.source, self.positions = source, positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> LazyRows: ...
    def __getitem__(self, index: int | slice) -> Row | LazyRows:
        if isinstance(index, slice):
            return LazyRows(self.source, self.positions[index])
        return self.first_from(range(len(self))[index], lambda row: row)[1]

    def __iter__(self) -> Iterator[Row]:
        return (row for position in self.positions if (row := self.source.row(position)) is not None)

    def first_from(self, index: int, use: Callable[[Row], T | None]) -> tuple[int, T]:
        """The first row from `index` on, in a circle, that `use` makes something of: its index, and what was made.

        Raises DataError: there is none, or a row that does not fit is not to be left out.
        """
        for step in range(len(self)):
            at = (index + step) % len(self)
            row = self.source.row(self.positions[at])
            if row is not None and (found := use(row)) is not None:
                return at, found
        raise DataError(f"no row of {', '.join(scan.path for scan in self.source.scans)} can be used")


class LazyExamples(Sequence[Example]):
    """The rows of a view as token ids. `encode` gives an example, or None, and whether it was cut.

    An example has its number under "row". `first` are those of the first rows, `cut` and `dropped` counted over them.
    """

    def __init__(self, rows: LazyRows, encode: Callable[[Row], tuple[Example | None, bool]]) -> None:
        self._rows, self._encode = rows, encode
        found = [encode(row) for row in islice(rows, CHECKED)]
        self.first = [example for example, _ in found if example is not None]
        self.cut, self.dropped = sum(cut for _, cut in found), len(found) - len(self.first)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at, example = self._rows.first_from(range(len(self))[index], lambda row: self._encode(row)[0])
        return example | {"row": at}


def looked_at(found: Sequence[Any]) -> list[Any]:
    """What a start looks at: all rows or examples, or the first of those that are read when needed."""
    if isinstance(found, LazyExamples):
        return found.first
    return list(islice(found, CHECKED)) if isinstance(found, LazyRows) else list(found)


def take(rows: Sequence[Row], indices: Sequence[int]) -> Sequence[Row]:
    """The rows at these places, in this order."""
    if isinstance(rows, LazyRows):
        return LazyRows(rows.source, array("Q", (rows.positions[i] for i in indices)))
    return [rows[i] for i in indices]


def identities(rows: Sequence[Row]) -> Sequence[int]:
    """A number for each row, the same where a row is there again (--data-weight)."""
    return rows.positions if isinstance(rows, LazyRows) else list(map(id, rows))


def set_margins(rows: Sequence[Row], margins: Sequence[float]) -> None:
    """Give each row what other rewards say of it."""
    if isinstance(rows, LazyRows):
        if rows.source.margins is None:
            rows.source.margins = array("d", bytes(8 * sum(rows.source.sizes)))
        for position, margin in zip(rows.positions, margins):
            rows.source.margins[position] = margin
        return
    for row, margin in zip(rows, margins):
        row.margin = margin


def halves_of(pair: Row) -> tuple[Row, Row]:
    """A pair as two labelled answers."""
    return (
        replace(pair, completion=pair.chosen, chosen=None, rejected=None, label=True),
        replace(pair, completion=pair.rejected, chosen=None, rejected=None, label=False),
    )

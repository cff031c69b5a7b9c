"""Rows, and rows as token ids, of files small and large.

Of a small source each row is checked at the start, converted and tokenised once, and remembered. Of a large one a few
bytes a row are held: each is read, converted and tokenised when a step needs it. One that does not fit stops the run
when it is met. Where it shall be left out (--skip-bad), or its prompt alone fills --max-length, the next row that fits
takes its place, so that a batch stays as large as it is.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import Any, TypeVar, overload

from prefcli.data.checks.kinds import OTHER_TEMPLATE
from prefcli.data.row import BadRow, Row, Tie
from prefcli.data.scan import Scan
from prefcli.errors import DataError

CHECKED = 1000  # rows of a large file that are checked before a run begins
REFUSED = f"{OTHER_TEMPLATE}; --skip-bad leaves such out, and prefcli data check --model M counts them"
T = TypeVar("T")
Example = dict[str, Any]
Encode = Callable[
    [Row], tuple[Example | None, bool]
]  # a row's example, or None where it does not fit; whether it is cut


class Source:
    """All rows of several files by position, and what holds for all views of them. Where it is `whole` they are
    remembered. `every`: those, too, that are labelled false and so no demonstrations."""

    def __init__(self, scans: Sequence[Scan], skip_bad: bool, *, whole: bool = False, every: bool = False) -> None:
        self.scans, self.skip_bad, self.whole, self.every = scans, skip_bad, whole, every
        self._halves = [2 if scan.in_halves else 1 for scan in scans]
        self.sizes = [len(scan) * halves for scan, halves in zip(scans, self._halves)]
        self.starts = [0, *accumulate(self.sizes)]
        self._made: dict[int, Sequence[Row] | BadRow] = {}  # by the first position
        self.weight: Callable[[Row], float] | None = None
        self.margin: Callable[[Row], float] | None = None
        self.margins: array[float] | None = None
        self.left_out: dict[int, str] = {}
        self.refusal: Callable[[Row], str | None] = lambda row: None  # of the model's chat template

    def made(self, at: int, own: int) -> tuple[int, Sequence[Row] | BadRow]:
        """The position of what a row of the `at`-th file is made: itself, its halves, none where it is not to be
        imitated; or what is wrong with it."""
        scan, first = self.scans[at], self.starts[at] + own * self._halves[at]
        if first in self._made:
            return first, self._made[first]
        row = scan.row(own)
        found: Sequence[Row] | BadRow
        if isinstance(row, BadRow):
            found = row
        elif scan.purpose == "demos" and not row.to_imitate and not self.every:
            found = ()
        else:
            found = halves_of(row) if self._halves[at] == 2 else (row,)
        found = self._judged(found)
        if self.whole:
            self._made[first] = found
        return first, found

    def _judged(self, found: Sequence[Row] | BadRow) -> Sequence[Row] | BadRow:
        reasons = () if isinstance(found, BadRow) else filter(None, map(self.refusal, found))
        why = next(iter(reasons), None)
        return found if why is None else BadRow("template refuses", why)

    def judge(self, refusal: Callable[[Row], str | None]) -> None:
        """From now on rows that are refused do not fit: what is remembered of them, too."""
        self.refusal = refusal
        self._made = {position: self._judged(found) for position, found in self._made.items()}

    def row(self, position: int) -> Row | None:
        """None where it is left out. Raises DataError: it does not fit, and is not to be left out."""
        at = bisect_right(self.starts, position) - 1
        scan, (own, half) = self.scans[at], divmod(position - self.starts[at], self._halves[at])
        made = self.made(at, own)[1]
        if isinstance(made, Tie):
            return None
        if isinstance(made, BadRow):
            if not self.skip_bad:
                hint = REFUSED if made.kind == "template refuses" else scan.hint
                raise DataError(f"{scan.path}, {scan.place(own)}: {made}", hint)
            self.left_out[position] = f"{scan.path}, {scan.place(own)}: {made}"
            return None
        if not made:
            return None
        row = made[half]
        try:
            if self.weight is not None:
                row.weight = self.weight(row)
            if self.margin is not None:
                row.margin = self.margin(row)
        except BadRow as error:
            where = f"{scan.path}, {scan.place(own)}"
            raise DataError(f"{where}: {error}", "weights are numbers, 0 or more; margins are numbers") from error
        if self.margins is not None:
            row.margin = self.margins[position]
        return row


class Rows(Sequence[Row]):
    """A view of a source: its rows at `positions`, of which one may be there several times (--data-weight).

    Iterating passes over rows that are left out.
    """

    def __init__(self, source: Source, positions: Sequence[int]) -> None:
        self.source, self.positions = source, positions

    @property
    def whole(self) -> bool:
        """Whether all are checked and in memory."""
        return self.source.whole

    @property
    def first(self) -> Sequence[Row]:
        """The rows checked at the start: all, or the first of those that are read when they are needed."""
        return self if self.whole else list(islice(self, CHECKED))

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return Rows(self.source, self.positions[index])
        return self.first_from(range(len(self))[index], lambda row: row)[1]

    def __iter__(self) -> Iterator[Row]:
        return (row for position in self.positions if (row := self.source.row(position)) is not None)

    def take(self, indices: Sequence[int]) -> Rows:
        """The rows at these places, in this order."""
        return Rows(self.source, array("Q", (self.positions[i] for i in indices)))

    def held(self) -> Rows:
        """The rows without those that are left out; all are checked now, and remembered. Raises DataError."""
        self.source.whole = True
        return Rows(self.source, array("Q", (p for p in self.positions if self.source.row(p) is not None)))

    def accepted(self, refusal: Callable[[Row], str | None]) -> tuple[Rows, str | None]:
        """The rows without those that a chat template refuses, and a note on these. Where not all rows are in memory
        they are left out when they are met. `refusal` says why, or None.

        Raises DataError: one is refused (of those that are not in memory, of the first), and is not to be left out; or
        all are.
        """
        self.source.judge(refusal)
        kept = self.held() if self.whole else self
        left = len(self) - len(kept)
        why = next(iter(self.source.left_out.values()), None) if left or not self.first else None
        if why and not kept.first:
            raise DataError(f"no row is left: {why}", OTHER_TEMPLATE)
        return kept, f"{left} of {len(self)} rows left out (--skip-bad); {why}" if left else None

    def set_margins(self, margins: Sequence[float]) -> None:
        """Give each row what other rewards say of it."""
        if self.source.margins is None:
            self.source.margins = array("d", bytes(8 * self.source.starts[-1]))
        for position, margin in zip(self.positions, margins):
            self.source.margins[position] = margin

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


class Examples(Sequence[Example]):
    """The rows of a view as token ids, each example with its number under "row".

    Where all rows are in memory (`whole`) so are the examples, without rows that do not fit; else each is made when it
    is asked for. `first` are those of the first rows, and `cut` and `dropped` are counted over these.
    """

    def __init__(self, rows: Rows, encode: Encode) -> None:
        self.rows, self._encode, self.whole = rows, encode, rows.whole
        found = [encode(row) for row in rows.first]
        self.first = [example for example, _ in found if example is not None]
        self.cut, self.dropped = sum(cut for _, cut in found), len(found) - len(self.first)
        for number, example in enumerate(self.first if self.whole else ()):
            example["row"] = number

    def __len__(self) -> int:
        return len(self.first if self.whole else self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if self.whole:
            return self.first[index]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at, example = self.rows.first_from(range(len(self))[index], lambda row: self._encode(row)[0])
        return example | {"row": at}


def halves_of(pair: Row) -> tuple[Row, Row]:
    """A pair as two labelled answers."""
    return (
        replace(pair, completion=pair.chosen, chosen=None, rejected=None, label=True),
        replace(pair, completion=pair.rejected, chosen=None, rejected=None, label=False),
    )

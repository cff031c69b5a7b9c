"""The rows of one source as they are in it, by position: read when asked for, so that a large file takes little."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from prefcli.data.row import CALLS, ROLES, BadRow
from prefcli.data.unchanged import Watched, changed
from prefcli.errors import DataError

Raw = dict[str, Any]
# A source of more rows is large: it is never held in memory whole. 20,000 rows are converted and tokenised in some ten
# seconds, which is what a start may cost.
LARGE = 20_000
NAMED = 3  # files of a folder in a note
DIALOGUES = (
    "messages",
    "conversations",
    "prompt",
    "completion",
    "chosen",
    "rejected",
)  # the columns that hold messages
CALLED = ("tools", *CALLS)
_LIST = re.compile(r"\s*\[\s*\{")


class Records:
    """The rows of a source. `digest` is the sha256 of what they are read from; `unit` what their numbers count."""

    unit = "row"
    note = ""  # on what is read

    def __init__(self, path: str, digest: str) -> None:
        self.path, self.digest = path, digest
        self._watched: list[tuple[Watched, str]] = []

    def watch(self, file: Watched, digest: str) -> None:
        """Have `check` look at a file that rows are read from until the end. `digest` is its sha256."""
        self._watched.append((file, digest))

    def check(self) -> None:
        """Raise DataError where a file that rows are still read from was changed since its digest was taken."""
        for file, digest in self._watched:
            file.check(digest)

    def __len__(self) -> int:
        raise NotImplementedError

    def raw(self, position: int) -> Raw:
        """Raises BadRow where there is no row that can be read."""
        raise NotImplementedError

    def rows_at(self, position: int) -> list[Raw]:
        """What stands in the source there: one row, or those that are read together."""
        return [self.raw(position)]

    def number(self, position: int) -> int:
        """From 1 on; a line's where the source has lines."""
        return position + 1

    def place(self, position: int) -> str:
        """The place of a row in the source, in words."""
        return f"{self.unit} {self.number(position)}"


class LineRecords(Records):
    """Rows that are pieces of a file: `starts` are their offsets and, at last, the end; `numbers` their lines, `sums`
    their checksums: a row is read again as it was when the digest was taken, or not at all."""

    unit = "line"
    json = False  # whether each piece is a line of JSON

    def __init__(
        self,
        path: str,
        digest: str,
        file: Any,
        starts: array[int],
        numbers: array[int],
        sums: array[int],
        parse: Any,
    ) -> None:
        super().__init__(path, digest)
        self._file, self._starts, self._numbers, self._sums, self._parse = file, starts, numbers, sums, parse

    def __len__(self) -> int:
        return len(self._numbers)

    def raw(self, position: int) -> Raw:
        found: Raw = self._parse(self.piece(position))
        return found

    def piece(self, position: int) -> bytes:
        """The row as it is in the file, with the blank lines behind it. Raises DataError: it was changed."""
        start = self._starts[position]
        self._file.seek(start)
        found: bytes = self._file.read(self._starts[position + 1] - start)
        if zlib.crc32(found) != self._sums[position]:
            raise changed(self.path, self.place(position))
        return found

    def number(self, position: int) -> int:
        return self._numbers[position]


class ListRecords(Records):
    """Rows that are in memory."""

    def __init__(self, path: str, digest: str, rows: list[Any]) -> None:
        super().__init__(path, digest)
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def raw(self, position: int) -> Raw:
        return an_object(self._rows[position])


class TableRecords(Records):
    """Rows of Arrow batches, which may be a file that is mapped and not in memory."""

    def __init__(self, path: str, digest: str, batches: Sequence[Any]) -> None:
        super().__init__(path, digest)
        self._batches = [batch for batch in batches if len(batch)]
        self._starts = [0, *accumulate(map(len, self._batches))]
        self._classes = _class_names(self._batches[0].schema.metadata) if self._batches else {}

    def __len__(self) -> int:
        return self._starts[-1]

    def raw(self, position: int) -> Raw:
        at = bisect_right(self._starts, position) - 1
        try:
            found: Raw = self._batches[at].slice(position - self._starts[at], 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise BadRow("not UTF-8", "not valid UTF-8") from error
        for column, names in self._classes.items():  # 0 may be called "good"
            if isinstance(number := found.get(column), int) and 0 <= number < len(names):
                found[column] = names[number]
        whole: Raw = _calls_alone(found)
        return whole


def _calls_alone(value: Any, within: bool = False) -> Any:
    """A table's objects have each key that any row has: in tools and calls those are left out that this row lacks,
    which are null there."""
    if isinstance(value, dict):
        parts = {name: _calls_alone(part, within or name in CALLED) for name, part in value.items()}
        return {name: part for name, part in parts.items() if not within or part is not None}
    if isinstance(value, list) and any(isinstance(one, dict) for one in value[:1]):
        return [_calls_alone(one, within) for one in value]
    return value


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of the numbers in a column that is a ClassLabel of `datasets`, which keeps them in the schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {column: one["names"] for column, one in features.items() if one.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


class JoinedRecords(Records):
    """The files of a folder, one after the other."""

    def __init__(self, path: str, parts: list[Records]) -> None:
        super().__init__(path, hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest())
        self.parts = parts
        self._starts = [0, *accumulate(map(len, parts))]
        if len(parts) > 1:
            more = f" and {len(parts) - NAMED:,} more" if len(parts) > NAMED else ""
            names = ", ".join(part.path.removeprefix(path).lstrip("/") for part in parts[:NAMED])
            self.note = f"{len(parts):,} files are read as one: {names}{more}"

    def __len__(self) -> int:
        return self._starts[-1]

    def raw(self, position: int) -> Raw:
        part, own = self._of(position)
        return part.raw(own)

    def check(self) -> None:
        for part in self.parts:
            part.check()

    def place(self, position: int) -> str:
        part, own = self._of(position)
        return f"{part.path}, {part.place(own)}"

    def _of(self, position: int) -> tuple[Records, int]:
        at = bisect_right(self._starts, position) - 1
        return self.parts[at], position - self._starts[at]


def renamed(row: Raw, names: Mapping[str, str]) -> Raw:
    """The row under our names: a column that has one already gives way. Dialogues that are JSON text become lists."""
    if there := {ours: theirs for ours, theirs in names.items() if theirs in row}:
        kept = {name: value for name, value in row.items() if name not in there.values() and name not in there}
        row = kept | {ours: row[theirs] for ours, theirs in there.items()}
    written = {name: turns for name in DIALOGUES if (turns := _turns_in(row.get(name), name)) is not None}
    return row | written if written else row


def _turns_in(value: Any, column: str) -> list[Any] | None:
    """The messages that a text is as JSON; None for another value."""
    if not isinstance(value, str) or not _LIST.match(value):
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    keys = ("from", "value") if column == "conversations" else ("role", "content")
    if not all(isinstance(one, dict) and {*keys} <= one.keys() for one in found):
        return None
    return list(found) if column in DIALOGUES[:2] or all(one["role"] in ROLES for one in found) else None


def an_object(value: Any) -> Raw:
    """Raises BadRow for a JSON value that is not a row."""
    if not isinstance(value, dict):
        raise BadRow("broken line", f"expected an object {{…}}, found {name_of(value)}")
    return value


def name_of(value: Any) -> str:
    """A JSON value's kind, in words."""
    kinds = {list: "a list", dict: "an object", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def raise_for(path: str, problems: list[str], hint: str | None = None, shown: int = 3, more: int = 0) -> None:
    """Raise one DataError for all problems of a file: the first few in words, the others counted, with `more` of which
    only the number is known."""
    if not problems:
        return
    left = max(len(problems) - shown, 0) + more
    said = f"\n  … and {left} more" if left else ""
    raise DataError(f"{path}, " + "\n  ".join(problems[:shown]) + said, hint)

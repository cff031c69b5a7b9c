"""Files of text: .jsonl(.gz), .csv, .tsv, .txt, .json, read once from end to end for their rows' places and digest."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import re
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from prefcli.data import records
from prefcli.data.records import LineRecords, ListRecords, Raw, Records, an_object, name_of
from prefcli.data.row import BadRow
from prefcli.data.unchanged import Watched
from prefcli.errors import DataError
from prefcli.files import digest_file

BOM = b"\xef\xbb\xbf"
LONGEST_CSV_FIELD = 2**31 - 1  # csv's own limit of 131,072 characters is shorter than some dialogues
DELIMITERS = (",", ";", "\t")
DENSEST = 200  # gzip reaches 1,030 with zeros, about 10 with rows of text
IN_MEMORY = 64 << 20  # bytes of what was unpacked; more goes to a file in TMPDIR


def read_jsonl(path: str) -> Records:
    """Raises DataError: not a whole gzip file."""
    digest, file, watched = _opened(path)
    return _watching(_lines(path, file, digest), watched)


def _watching(found: LineRecords, watched: Watched | None) -> LineRecords:
    """With an eye on the file, where rows are read from it, and not from what was unpacked."""
    if watched is not None:
        found.watch(watched, found.digest)
    return found


def _lines(path: str, file: IO[bytes], digest: Any, parse: Callable[[bytes], Raw] | None = None) -> LineRecords:
    """Where each line that is not blank begins. Only a newline ends one: U+2028 may stand inside a string."""
    starts, numbers, sums, at = array("Q"), array("Q"), array("I"), 0
    for number, line in enumerate(file, 1):
        digest.update(line)
        if number == 1 and line.startswith(BOM):
            at, line = len(BOM), line[len(BOM) :]
        if line.strip():
            starts.append(at)
            numbers.append(number)
            sums.append(zlib.crc32(line))
        elif sums:
            sums[-1] = zlib.crc32(line, sums[-1])
        at += len(line)
    starts.append(at)
    found = LineRecords(path, digest.hexdigest(), file, starts, numbers, sums, parse or _json_row)
    found.json = parse is None
    return found


def _json_row(piece: bytes) -> Raw:
    try:
        return an_object(json.loads(piece.decode(), object_pairs_hook=_each_key_once))
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8", "not valid UTF-8") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, TwiceError):
            raise BadRow("broken line", str(error)) from error
        hint = "; a file that is one array is a .json file" if piece[:1] == b"[" else ""
        raise BadRow("broken line", f"not valid JSON ({getattr(error, 'msg', error)}){hint}") from error


class TwiceError(ValueError):
    """A key that occurs twice in an object: JSON does not say which of them counts."""


def _each_key_once(pairs: list[tuple[str, Any]]) -> Raw:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TwiceError(f"the key {twice!r} occurs twice in an object")
    return found


def read_txt(path: str) -> Records:
    """A prompt a line. Raises DataError as `read_jsonl` does."""
    digest, file, watched = _opened(path)
    return _watching(_lines(path, file, digest, _text_row), watched)


def _text_row(piece: bytes) -> Raw:
    try:
        return {"prompt": piece.decode().strip()}
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8", "not valid UTF-8") from error


def read_csv(path: str) -> Records:
    """Cells apart by commas; by semicolons or tabs where the header has more of those.

    Raises DataError: a header that is not UTF-8 or names a column twice, quotes that do not close.
    """
    csv.field_size_limit(LONGEST_CSV_FIELD)
    digest, file, watched = _opened(path)
    starts, numbers, sums, header = array("Q"), array("Q"), array("I"), None
    fed = _Fed(file, digest)
    reader = csv.reader(fed, strict=True, delimiter=(delimiter := _delimiter(file, path)))
    while True:
        start, number = fed.bytes, reader.line_num + 1  # a row of several lines is known by its first
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}, line {number}: {error}", "check the quotes of the CSV file") from error
        if cells is None:
            break
        row = fed.taken()
        if cells and header is None:
            header = cells
        elif cells:
            starts.append(start)
            numbers.append(number)
            sums.append(zlib.crc32(row))
        elif sums:
            sums[-1] = zlib.crc32(row, sums[-1])
    starts.append(fed.bytes)
    for name in header or []:
        if not _is_utf8(name):
            raise DataError(f"{path}, line 1: not valid UTF-8", "convert the file to UTF-8")
        if name and (header or []).count(name) > 1:
            raise DataError(f"{path}, line 1: the column {name!r} occurs twice", "rename one of them")
    found = LineRecords(
        path, digest.hexdigest(), file, starts, numbers, sums, partial(_csv_row, header or [], delimiter)
    )
    return _watching(found, watched)


class _Fed:
    """The lines of a CSV file, as its reader takes them, which is one by one; `bytes` is how far it has come."""

    def __init__(self, file: IO[bytes], digest: Any) -> None:
        self.bytes = 0
        self._taken = bytearray()
        self._lines = self._read(file, digest)

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def taken(self) -> bytes:
        """The bytes taken since the last call."""
        found = bytes(self._taken)
        self._taken.clear()
        return found

    def _read(self, file: IO[bytes], digest: Any) -> Iterator[str]:
        for number, line in enumerate(file, 1):
            digest.update(line)
            if number == 1 and line.startswith(BOM):
                self.bytes, line = len(BOM), line[len(BOM) :]
            text = _text(line)
            for piece in io.StringIO(text, newline="") if "\r" in text[:-2] else (text,):
                self._taken += (found := piece.encode("utf-8", "surrogateescape"))
                self.bytes += len(found)
                yield piece


def _delimiter(file: IO[bytes], path: str) -> str:
    """The one of , ; and tab that the first line has most of, outside quotes; of equals a comma, in a .tsv the tab."""
    first = next((line for line in file if line.strip()), b"")
    file.seek(0)
    bare = re.sub(rb'"[^"]*"', b"", first)
    order = DELIMITERS[::-1] if path.endswith(".tsv") else DELIMITERS
    return max(order, key=lambda one: bare.count(one.encode()))


def _csv_row(header: list[str], delimiter: str, piece: bytes) -> Raw:
    cells = next(csv.reader(io.StringIO(_text(piece), newline=""), strict=True, delimiter=delimiter))
    if len(cells) != len(header):
        raise BadRow("broken line", f"{len(cells)} columns, and the header has {len(header)}")
    if not all(map(_is_utf8, cells)):
        raise BadRow("not UTF-8", "not valid UTF-8")
    if header.count("") > 1:  # as Excel writes columns that were once filled
        if any(cell and not name for name, cell in zip(header, cells)):
            raise BadRow("broken line", "a cell is filled in a column that has no name")
        return {name: cell for name, cell in zip(header, cells) if name}
    return dict(zip(header, cells))


def _text(line: bytes) -> str:
    return line.decode("utf-8", "surrogateescape")


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)


def read_json(path: str) -> Records:
    """One array of objects, read whole; a large one goes to a file in TMPDIR, line by line.

    Raises DataError: not UTF-8, not valid JSON, cut off, no array.
    """
    text = Path(path).read_bytes()
    digest = hashlib.sha256(text).hexdigest()
    hint = "a .json file holds one array of objects; use .jsonl for one object a line"
    try:
        rows = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_each_key_once)
    except TwiceError as error:
        raise DataError(f"{path}: {error}", "write each key once") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not valid UTF-8", "convert the file to UTF-8") from error
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        if isinstance(error, json.JSONDecodeError) and _ends_early(error):
            last = text.count(b"\n") + 1
            raise DataError(
                f"{path}, line {last}: not valid JSON: truncated at byte {len(text):,}, where the file ends",
                "it was not written or copied whole: write or copy it again",
            ) from error
        raise DataError(f"{path}, line {line}: not valid JSON ({getattr(error, 'msg', error)})", hint) from error
    if isinstance(rows, dict) and isinstance(rows.get("data"), list):
        rows = rows["data"]
    if not isinstance(rows, list):
        raise DataError(f"{path}: expected an array of objects, found {name_of(rows)}", hint)
    if len(rows) <= records.LARGE:
        return ListRecords(path, digest, rows)
    file = tempfile.SpooledTemporaryFile(IN_MEMORY)
    for row in rows:
        file.write(json.dumps(row).encode() + b"\n")
    file.seek(0)
    found = _lines(path, file, hashlib.sha256())
    found.digest, found.unit = digest, "row"
    return found


def _ends_early(error: json.JSONDecodeError) -> bool:
    """Whether it is the end of the text that is amiss, and not something before it."""
    rest = error.doc[error.pos :].strip()
    word = any(name.startswith(rest) for name in ("true", "false", "null", "-"))
    return word or error.msg.startswith("Unterminated string") or ("escape" in error.msg and len(rest) < 7)


def _opened(path: str) -> tuple[Any, IO[bytes], Watched | None]:
    """A digest to be fed with the file's bytes, and the file, watched; of a .gz what was unpacked, and its own digest.

    Raises DataError: not a whole gzip file, or it was changed while it was unpacked.
    """
    if not path.endswith(".gz"):
        plain = open(path, "rb")  # noqa: SIM115  for as long as there are rows to be read
        return hashlib.sha256(), plain, Watched(path, plain)
    packed_file = Watched(path)
    file = tempfile.SpooledTemporaryFile(IN_MEMORY)
    digest = _Fixed(path)
    most = max(IN_MEMORY, DENSEST * os.path.getsize(path))
    try:
        with gzip.open(path) as packed:
            while block := packed.read(1 << 20):
                file.write(block)
                if file.tell() > most:
                    raise DataError(
                        f"{path} unpacks to more than {DENSEST} times its size, which no rows do", "unpack it yourself"
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}", "compress it again") from error
    packed_file.check(digest.hexdigest())
    file.seek(0)
    return digest, file, None


class _Fixed:
    """The digest of a file that is read in other pieces than its bytes."""

    def __init__(self, path: str) -> None:
        self._found = digest_file(Path(path))

    def update(self, data: bytes) -> None:
        pass

    def hexdigest(self) -> str:
        return self._found

"""From a file to rows as they stand in it, each with its line: .jsonl(.gz), .json, .csv, .parquet."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pyarrow.parquet

from prefcli.errors import DataError

Line = tuple[int, dict[str, Any]]
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
LONGEST_CSV_FIELD = 2**31 - 1  # csv's own limit of 131,072 characters is shorter than some dialogues


def read_file(path: str) -> tuple[list[Line], str]:
    """All rows of a file with their numbers (see `unit`), and the sha256 of the file's bytes.

    Raises DataError: no such file, an unknown ending, not UTF-8, a broken line, a row that is no object, no rows.
    """
    if not os.path.exists(path):  # False, too, for what no path can be
        raise DataError(f"{path}: no such file", "check the path; data sets of a hub are downloaded first")
    if not os.path.isfile(path):
        raise DataError(f"{path or repr(path)} is not a file", f"give a file that ends in {', '.join(SUFFIXES)}")
    if not path.endswith(SUFFIXES):
        raise DataError(f"{path}: unknown kind of file", f"known endings: {', '.join(SUFFIXES)}")
    raw = Path(path).read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if path.endswith(".parquet"):
        rows = _parquet(path, raw)
    else:
        text = _text(path, raw)
        rows = _csv(path, text) if path.endswith(".csv") else _json(path, text)
    if not rows:
        raise DataError(f"{path} holds no rows", "give a file with at least one row")
    return rows, digest


def unit(path: str) -> str:
    """What a row's number counts in this kind of file."""
    return "line" if path.endswith((".jsonl", ".jsonl.gz", ".csv")) else "row"


def _text(path: str, raw: bytes) -> str:
    if path.endswith(".gz"):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is not a whole gzip file: {error}", "compress it again") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not valid UTF-8", "convert the file to UTF-8") from error


def _json(path: str, text: str) -> list[Line]:
    if path.endswith(".json"):
        return _json_array(path, text)
    rows: list[Line] = []
    broken: list[str] = []
    # Only a newline ends a JSON line; str.splitlines would also cut at U+2028 inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            broken.append(f"line {number}: not valid JSON ({getattr(error, 'msg', error)})")
            continue
        if isinstance(row, dict):
            rows.append((number, row))
        else:
            broken.append(f"line {number}: expected an object {{…}}, found {_name(row)}")
    raise_for(path, broken, "a .jsonl file holds one JSON object a line: repair these lines, or take them out")
    return rows


def _json_array(path: str, text: str) -> list[Line]:
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(
            f"{path}, line {line}: not valid JSON ({getattr(error, 'msg', error)})",
            "a .json file holds one array of objects; use .jsonl for one object a line",
        ) from error
    if isinstance(loaded, dict) and isinstance(loaded.get("data"), list):
        loaded = loaded["data"]
    if not isinstance(loaded, list):
        raise DataError(
            f"{path}: expected an array of objects, found {_name(loaded)}",
            "a .json file holds one array of objects; use .jsonl for one object a line",
        )
    raise_for(
        path,
        [
            f"row {n}: expected an object {{…}}, found {_name(row)}"
            for n, row in enumerate(loaded, 1)
            if not isinstance(row, dict)
        ],
        "a .json file holds one array of objects",
    )
    return list(enumerate(loaded, 1))


def _csv(path: str, text: str) -> list[Line]:
    csv.field_size_limit(LONGEST_CSV_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Line] = []
    broken: list[str] = []
    header: list[str] = []
    last = 0  # a row of several lines is known by its first
    try:
        for cells in reader:
            number, last = last + 1, reader.line_num
            if not cells:
                continue
            if not header:
                header = cells
            elif len(cells) == len(header):
                rows.append((number, dict(zip(header, cells))))
            else:
                broken.append(f"line {number}: {len(cells)} columns, and the header has {len(header)}")
    except csv.Error as error:
        raise DataError(f"{path}, line {last + 1}: {error}", "check the quotes of the CSV file") from error
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{path}, line 1: the column {twice[0]!r} is there twice", "rename one of them")
    raise_for(path, broken, "put fields that hold commas or line breaks between double quotes")
    return rows


def _parquet(path: str, raw: bytes) -> list[Line]:
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(raw))
    except (pyarrow.lib.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}", "write it again") from error
    return list(enumerate(table.to_pylist(), 1))


def raise_for(path: str, problems: list[str], hint: str | None = None, shown: int = 3) -> None:
    """Raise one DataError for all problems of a file: the first few in words, the others counted."""
    if not problems:
        return
    more = f"\n  … and {len(problems) - shown} more" if len(problems) > shown else ""
    raise DataError(f"{path}, " + "\n  ".join(problems[:shown]) + more, hint)


def _name(value: Any) -> str:
    """A JSON value's kind, in words."""
    kinds = {list: "a list", dict: "an object", str: "a string", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")

"""Rows in a format of ours, and files of them: .jsonl(.gz), .json, .csv, .parquet, written whole or not at all."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow
import pyarrow.parquet

from prefcli.config.stages import Purpose
from prefcli.data.row import AnswerMessage, BadRow, Message, Prompt, Row, message_of, tools_apart
from prefcli.errors import DataError, SurroundingsError
from prefcli.files import written_whole

Target = Literal["pairs", "pairs-plain", "messages", "prompt-completion", "labelled", "prompts", "text"]
READ_AS: dict[Target, Purpose] = {
    "pairs": "pairs",
    "pairs-plain": "pairs",
    "messages": "demos",
    "prompt-completion": "demos",
    "labelled": "labelled",
    "prompts": "prompts",
    "text": "demos",
}
Made = dict[str, Any]
Rows = Callable[[], Iterable[Made]]  # each call goes through them once more
BATCH = 10_000  # rows of a parquet file that are in memory at a time


def target_of(purpose: Purpose, first: Row) -> Target:
    """The format that keeps most of rows of this kind, judged by the first."""
    if purpose == "pairs":
        return "pairs-plain" if isinstance(first.prompt, str) else "pairs"
    if purpose == "demos":
        return "text" if not first.prompt else "prompt-completion" if isinstance(first.prompt, str) else "messages"
    return "labelled" if purpose == "labelled" else "prompts"


def in_form(row: Row, target: Target) -> Made:
    """The row in a format of ours, its other columns after it. Raises BadRow where the format has no place for it."""
    prompt, tools = (row.prompt, None) if isinstance(row.prompt, str) else tools_apart(row.prompt)
    if target == "pairs-plain" and (tools or any(isinstance(answer, AnswerMessage) for answer in row.answers)):
        raise BadRow(
            "does not fit",
            "tools, tool calls and separate thoughts cannot be written as plain text (--to pairs keeps them)",
        )
    if target == "pairs":
        made: Made = {"prompt": _dialogue(prompt), "chosen": _said(row.chosen), "rejected": _said(row.rejected)}
    elif target == "pairs-plain":
        made = {"prompt": _plain(prompt), "chosen": row.chosen, "rejected": row.rejected}
    elif target == "messages":
        made = {"messages": [*_dialogue(prompt), *_said(row.completion)]}
    elif target == "text":
        if prompt:
            raise BadRow("does not fit", "a row with a prompt is not text alone (--to prompt-completion keeps both)")
        made = {"text": row.completion}
    else:
        made = {"prompt": prompt}
        if not prompt:
            raise BadRow("does not fit", "a row of text alone has no prompt (--to text keeps it)")
        if target != "prompts":
            plain = isinstance(prompt, str) and not isinstance(row.completion, AnswerMessage)
            made["completion"] = row.completion if plain else _said(row.completion)
        if target == "labelled":
            made["label"] = row.label
    made |= {"tools": tools} if tools else {}
    return made | {name: value for name, value in row.columns.items() if name not in made}


def _said(answer: str | None) -> list[Message]:
    assert answer is not None
    return [message_of(answer)]


def _dialogue(prompt: Prompt) -> list[Message]:
    if not prompt:
        raise BadRow("does not fit", "a row of text alone has no prompt (--to text keeps it)")
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _plain(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) > 1 or prompt[0]["role"] != "user" or len(prompt[0]) > 2:
        raise BadRow("does not fit", "a dialogue of several messages is not a plain prompt (--to pairs keeps it)")
    return str(prompt[0]["content"])


def write_rows(path: Path, rows: Rows) -> None:
    """Write them by the file's ending. Raises DataError: what this kind of file cannot hold."""
    with written_whole(path) as file:
        WRITERS[ending(str(path)) or ".jsonl"](file, rows)


@contextmanager
def writing_to(name: str, hint: str) -> Iterator[None]:
    """Raises SurroundingsError that names what the user called the file, not its draft, where it cannot be written."""
    try:
        yield
    except OSError as error:
        raise SurroundingsError(f"{name}: cannot be written ({error.strerror or error})", hint) from error


def ending(path: str) -> str | None:
    """The ending by which a file is written, or None where it has none of them."""
    return next((known for known in WRITERS if path.endswith(known)), None)


def _jsonl(file: IO[bytes], rows: Rows) -> None:
    for row in rows():
        file.write(as_line(row) + b"\n")


def _packed(file: IO[bytes], rows: Rows) -> None:
    with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
        _jsonl(packed, rows)  # type: ignore[arg-type]


def _array(file: IO[bytes], rows: Rows) -> None:
    between = b"[\n"
    for row in rows():
        file.write(between + as_line(row))
        between = b",\n"
    file.write(b"\n]\n")


def as_line(row: Made) -> bytes:
    """The row as one JSON line, without its end.

    Half of a surrogate pair, which no file takes, stands as JSON's escape for it.
    """
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")


def _csv(file: IO[bytes], rows: Rows) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", newline="", write_through=True)
    writer = csv.writer(text)
    header: list[str] = []
    for number, row in enumerate(rows(), 1):
        if not header:
            header = list(row)
            writer.writerow(header)
        if more := [name for name in row if name not in header]:
            raise DataError(
                f"row {number} has a column {more[0]!r}, and the first row has none", "write .jsonl, which needs none"
            )
        writer.writerow([_cell(name, row.get(name)) for name in header])
    text.detach()


def _cell(name: str, value: Any) -> str:
    if isinstance(value, list | dict):
        raise DataError(
            f"the column {name!r} holds a {'list' if isinstance(value, list) else 'object'}, and a .csv cell is text",
            "write .jsonl or .parquet; --to pairs-plain has plain prompts and answers",
        )
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _parquet(file: IO[bytes], rows: Rows) -> None:
    try:
        schemas = [pyarrow.Table.from_pylist(batch).schema for batch in _batches(rows)]
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        with pyarrow.parquet.ParquetWriter(file, schema) as writer:
            for batch in _batches(rows):
                writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
    except (pyarrow.lib.ArrowException, UnicodeEncodeError, OverflowError) as error:
        raise DataError(
            f"the rows do not fit a table ({error})", "a column of a .parquet file has one type: write .jsonl"
        ) from error


def _batches(rows: Rows) -> Iterator[list[Made]]:
    left = iter(rows())
    while batch := list(islice(left, BATCH)):
        yield batch


WRITERS: dict[str, Callable[[IO[bytes], Rows], None]] = {
    ".jsonl.gz": _packed,
    ".jsonl": _jsonl,
    ".json": _array,
    ".csv": _csv,
    ".parquet": _parquet,
}

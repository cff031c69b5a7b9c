"""Tables: .parquet, .arrow, and the directories that `datasets` saves. What is large is mapped, not read."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from prefcli.data import records
from prefcli.data.records import Records, TableRecords
from prefcli.data.unchanged import Watched
from prefcli.errors import DataError
from prefcli.files import digest_file

BATCH = 1000  # rows that are unpacked at a time
_BROKEN = (pyarrow.lib.ArrowException, OSError)


def read_parquet(path: str) -> Records:
    """A large file is unpacked into one of Arrow's in TMPDIR, since parquet has no way to a single row.

    Raises DataError: no parquet file.
    """
    watched = Watched(path)
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            batches: Any = file.iter_batches(BATCH)
            if file.metadata.num_rows > records.LARGE:
                batches = _unpacked(file.schema_arrow, batches)
            found = TableRecords(path, digest_file(Path(path)), list(batches))
    except _BROKEN as error:
        if getattr(error, "errno", None):  # no room to unpack it, say
            raise
        raise DataError(f"{path} is not a readable parquet file: {error}", "write it again") from error
    watched.check(found.digest)
    return found


def _unpacked(schema: Any, batches: Any) -> list[Any]:
    handle, name = tempfile.mkstemp(suffix=".arrow")
    try:
        with os.fdopen(handle, "wb") as file, pyarrow.ipc.new_stream(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return _mapped(name)
    finally:
        try:
            os.unlink(name)  # the mapping stays when the name is gone
        except OSError:  # Windows
            pass


def read_arrow(*paths: str, where: str | None = None) -> Records:
    """Arrow files (streams, as `datasets` writes them, or with a footer), one after the other; all are mapped.

    Raises DataError: no Arrow file.
    """
    watched = [Watched(path) for path in paths]
    digests = [digest_file(Path(path)) for path in paths]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    batches = []
    for path in paths:
        try:
            batches += _mapped(path)
        except _BROKEN as error:
            raise DataError(f"{path} is not a readable Arrow file: {error}", "write it again") from error
    found = TableRecords(where or paths[0], digest, batches)
    for file, own in zip(watched, digests, strict=True):
        found.watch(file, own)
    return found


def _mapped(path: str) -> list[Any]:
    source = pyarrow.memory_map(path)
    if source.read(6) == b"ARROW1":
        file = pyarrow.ipc.open_file(source)
        return [file.get_batch(i) for i in range(file.num_record_batches)]
    source.seek(0)
    return list(pyarrow.ipc.open_stream(source))


def saved_files(folder: Path) -> list[str]:
    """The Arrow files of a directory that `Dataset.save_to_disk` made. Raises DataError: its state.json is broken."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return [str(folder / file["filename"]) for file in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'state.json'} is broken: {error}", "save the data set again") from error


def saved_splits(folder: Path) -> list[str]:
    """The splits of a directory that `DatasetDict.save_to_disk` made. Raises DataError as `saved_files` does."""
    try:
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return [str(split) for split in splits]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'dataset_dict.json'} is broken: {error}", "save the data set again") from error

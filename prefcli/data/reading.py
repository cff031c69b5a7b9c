"""From what a user names (a file, a saved data set, a folder of files, a hub id) to its rows."""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from glob import glob
from pathlib import Path

from prefcli.data.hub import HUB_ID, read_hub
from prefcli.data.lines import BOM, read_csv, read_json, read_jsonl, read_txt
from prefcli.data.records import JoinedRecords, Records
from prefcli.data.records import raise_for as raise_for
from prefcli.data.splits import choose, split_of, twice
from prefcli.data.tables import read_arrow, read_parquet, saved_files, saved_splits
from prefcli.errors import DataError

READERS: dict[str, Callable[[str], Records]] = {
    ".parquet": read_parquet,
    ".jsonl": read_jsonl,
    ".jsonl.gz": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".txt": read_txt,
    ".arrow": read_arrow,
    ".json": read_json,
}
SUFFIXES = tuple(READERS)
WORKBOOKS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
STDIN = "-"
NAMED = 20  # files of a folder in a message
ABOUT = ("dataset_info.json", "dataset_infos.json")  # which tell of a folder's data and hold none


def read(path: str, split: str | None = None, held_out: bool = False) -> Records:
    """The rows of a source; a path that is there goes before a hub id, and "-" is standard input.

    Raises DataError: nothing there, an unknown ending, a broken file, no rows. UsageError: no such split.
    SurroundingsError: the hub does not answer.
    """
    if path == STDIN:
        found = _standard_input()
    elif os.path.isfile(path):
        found = _file(path)
    elif os.path.isdir(path):
        found = _folder(Path(path), split, held_out)
    elif os.path.exists(path):  # False, too, for what no path can be
        raise DataError(f"{path} is not a file", f"give a file that ends in {', '.join(SUFFIXES)}")
    elif HUB_ID.fullmatch(path) and not path.endswith(SUFFIXES):
        found = read_hub(path, split, held_out)
    else:
        raise DataError(f"{path}: no such file", "check the path; a data set of the hub is OWNER/NAME")
    if not len(found):
        raise DataError(f"{path} holds no rows", "give a file with at least one row")
    return found


def has_splits(path: str) -> bool:
    """Whether this is not a file, of which --split says nothing."""
    return path != STDIN and not os.path.isfile(path)


def unit(path: str) -> str:
    """The unit of a row's number in this kind of file."""
    return (
        "line" if path.endswith((".jsonl", ".jsonl.gz", ".csv", ".tsv", ".txt")) and not os.path.isdir(path) else "row"
    )


def _standard_input() -> Records:
    """JSON lines, one JSON array, or a sheet with a header, by how it begins."""
    file, begins = _kept_input()
    try:
        found = {b"{": read_jsonl, b"[": read_json}.get(begins, read_csv)(file)
    except DataError as error:
        raise DataError(error.message.replace(file, STDIN), error.hint) from error
    found.path = STDIN
    return found


@functools.cache
def _kept_input() -> tuple[str, bytes]:
    """Standard input, in a file that is removed with the process (it can be read once and is needed several times), and
    its first byte."""
    if sys.stdin.isatty():
        raise DataError("- is standard input, and nothing is sent to it", "prefcli … --data - < FILE")
    text = sys.stdin.buffer.read()
    file = tempfile.NamedTemporaryFile(prefix="prefcli-", delete=False)  # noqa: SIM115
    with file:
        file.write(text)
    atexit.register(os.unlink, file.name)
    return file.name, text.removeprefix(BOM).lstrip()[:1]


def _file(path: str) -> Records:
    suffix = next((suffix for suffix in SUFFIXES if path.endswith(suffix)), None)
    if suffix is None:
        known = f"known endings: {', '.join(SUFFIXES)}"
        raise DataError(
            f"{path}: unknown kind of file",
            "save the sheet as CSV or Parquet" if path.lower().endswith(WORKBOOKS) else known,
        )
    return READERS[suffix](path)


def _words(kinds: dict[str, list[Path]]) -> str:
    """--data, once for each file, for the shell."""
    files = [path for some in kinds.values() for path in some if path.name not in ABOUT]
    more = f" … and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return " ".join(f"--data {shlex.quote(str(path))}" for path in files[:NAMED]) + more


def _folder(folder: Path, split: str | None, held_out: bool) -> Records:
    if (folder / "dataset_dict.json").is_file():
        folder = folder / choose(str(folder), saved_splits(folder), split, held_out)
    if (folder / "state.json").is_file():
        return read_arrow(*saved_files(folder), where=str(folder))
    # A repository of the hub as it was downloaded, or files that belong together: all of one kind.
    # Two levels deep: / is a folder too. glob passes over what is hidden, vanishes or may not be looked at.
    kinds: dict[str, list[Path]] = {}
    for suffix in SUFFIXES:
        names = [name for level in ("*", "*/*") for name in glob(level + suffix, root_dir=folder)]
        if files := [folder / name for name in sorted(names) if (folder / name).is_file()]:
            kinds[suffix] = files
    if len(kinds) > 1 and all(path.name in ABOUT for path in kinds.get(".json", ())):
        kinds.pop(".json", None)
    if len(kinds) > 1:
        raise DataError(
            f"{folder} holds {' and '.join(kinds)} files",
            f"keep those of one kind, or name the files that are meant: {_words(kinds)}",
        )
    if not kinds:
        raise DataError(
            f"{str(folder) or repr(str(folder))} is not a file, nor a folder with data in it",
            f"give a file that ends in {', '.join(SUFFIXES)}, or what datasets' save_to_disk wrote",
        )
    files = next(iter(kinds.values()))
    if both := twice([str(path) for path in files]):
        raise DataError(
            f"{folder} holds {both[0]} and a part of it, {both[1]}: its held-out rows would be trained on",
            "name the files that are meant, or move the whole one to another folder",
        )
    splits: dict[str, list[Path]] = {}
    for path in files:
        splits.setdefault(split_of(path.relative_to(folder).parts), []).append(path)
    taken = choose(str(folder), list(splits), split, held_out)
    found = JoinedRecords(str(folder), [_file(str(path)) for path in splits[taken]])
    if split is None and (others := [name for name in splits if name != taken and name.startswith(taken)]):
        passed_over = ", ".join(str(path.relative_to(folder)) for path in splits[others[0]])
        more = f"not read, since by its name it is another split: {passed_over} (--split {others[0]})"
        found.note = "; ".join(filter(None, (found.note, more)))
    return found

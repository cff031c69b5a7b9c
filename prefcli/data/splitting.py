"""A file's rows in two: no prompt is on both sides, not even in other case or with other white space."""

from __future__ import annotations

import gzip
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefcli.data.fingerprints import asked, fingerprint, loosely
from prefcli.data.records import LineRecords, raise_for
from prefcli.data.row import BadRow, Tie
from prefcli.data.scan import Scan
from prefcli.data.writing import ending, write_rows
from prefcli.errors import DataError
from prefcli.files import written_whole


@dataclass(frozen=True)
class Parts:
    """Positions in the source, in its order, of the rows to train on and of those held out."""

    train: list[int]
    held_out: list[int]
    prompts: tuple[int, int]
    left_out: int
    ties: int


def split(source: Scan, share: float, seed: int, skip_bad: bool) -> Parts:
    """About `share` of the rows are held out, by whole prompts: as many as fit in it, at least one.

    Which prompts is decided by each prompt's own text and the seed: where rows are added later, hardly one changes
    sides. Raises DataError: a row that does not fit, where such are not left out; one prompt in all.
    """
    positions, prompts, problems, ties = array("Q"), array("Q"), [], 0
    for position, (_, row) in enumerate(source):
        if isinstance(row, Tie):
            ties += 1
        elif isinstance(row, BadRow):
            problems.append(f"{source.place(position)}: {row}")
        else:
            positions.append(position)
            prompts.append(fingerprint(str(seed), loosely(asked(row))))
    if problems and not (skip_bad and positions):
        raise_for(source.path, problems, source.hint)
    # In the order of the fingerprints, which is none.
    _, inverse, counts = np.unique(np.asarray(prompts), return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise DataError(
            f"{source.path}: all rows have one prompt, which cannot be on both sides",
            "take a file with more prompts",
        )
    taken = _fill(counts.tolist(), max(1, round(share * len(positions))))
    is_held_out = taken[inverse]
    order = np.asarray(positions)
    return Parts(
        order[~is_held_out].tolist(),
        order[is_held_out].tolist(),
        (int((~taken).sum()), int(taken.sum())),
        len(problems),
        ties,
    )


def _fill(sizes: list[int], room: int) -> np.ndarray:
    """Which of the groups fill the room, one after the other; where none fits the smallest."""
    taken = np.zeros(len(sizes), bool)
    for number, size in enumerate(sizes):
        if size <= room and taken.sum() < len(sizes) - 1:
            taken[number] = True
            room -= size
    if not taken.any():
        taken[int(np.argmin(sizes))] = True
    return taken


def part_file(path: str, part: str, folder: Path) -> Path:
    """pairs.jsonl → FOLDER/pairs.train.jsonl; a source of several files becomes JSON lines."""
    suffix = ending(path) or ".jsonl"
    return folder / f"{Path(path).resolve().name.removesuffix(suffix)}.{part}{suffix}"


def write_part(source: Scan, positions: Iterable[int], path: Path) -> None:
    """The rows as they are in the source; lines of JSON byte for byte. Raises OSError; the file is whole or not."""
    records = source.records
    if not (isinstance(records, LineRecords) and records.json and path.name.endswith((".jsonl", ".jsonl.gz"))):
        write_rows(path, lambda: (row for position in positions for row in records.rows_at(position)))
        return
    with written_whole(path) as file:
        lines = (records.piece(position).rstrip(b"\n") + b"\n" for position in positions)
        if path.name.endswith(".gz"):
            with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
                packed.writelines(lines)
        else:
            file.writelines(lines)

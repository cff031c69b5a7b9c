"""A file's rows one by one, each with its place: the row that it makes, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefcli.data.formats import EXPECTED, BadRow, Purpose, Row, recognise, whole
from prefcli.data.reading import Line, raise_for, read_file, unit


@dataclass(frozen=True)
class Scan:
    """One file read for one purpose. `format` is the name of the form that was recognised."""

    path: str
    purpose: Purpose
    format: str
    digest: str
    _lines: list[Line]
    _convert: Any

    def __iter__(self) -> Iterator[tuple[int, Row | BadRow]]:
        """Each row's number (see `unit`) with the row, or the BadRow that says why it is none."""
        for number, raw in self._lines:
            try:
                yield number, whole(self._convert(raw))
            except BadRow as error:
                yield number, error

    def __len__(self) -> int:
        return len(self._lines)

    def sorted_out(self, skip_bad: bool) -> tuple[list[Row], str | None]:
        """The rows, and a note where some were left out. Raises DataError: a bad row, or nothing but bad rows."""
        good, problems = [], []
        for number, row in self:
            if isinstance(row, BadRow):
                problems.append(f"{unit(self.path)} {number}: {row}")
            else:
                good.append(row)
        if problems and skip_bad and good:
            return good, f"{self.path}: {len(problems)} of {len(self)} rows left out (--skip-bad); {problems[0]}"
        raise_for(self.path, problems, f"every row needs: {EXPECTED[self.purpose]}; --skip-bad leaves such rows out")
        return good, None


def scan(path: str, purpose: Purpose) -> Scan:
    """Raises DataError as `read_file` does, and where the first row's columns are of no form of this purpose."""
    lines, digest = read_file(path)
    name, convert = recognise(f"{path}, {unit(path)} {lines[0][0]}", lines[0][1], purpose)
    return Scan(path, purpose, name, digest, lines, convert)

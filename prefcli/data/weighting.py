"""Which rows count, and how much: the first N, files mixed by weight, weights and margins from a column."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence
from functools import partial
from itertools import islice

from prefcli.data import records
from prefcli.data.dataset import Dataset
from prefcli.data.formats.fields import number_of
from prefcli.data.row import BadRow, Row
from prefcli.data.rows import CHECKED, Rows
from prefcli.errors import DataError, UsageError


def first(data: Dataset, most: int | None) -> Dataset:
    """The first `most` rows of all files together, in their order; all where it is None.

    `rows` of a source becomes what is used of it, `rows_in_file` what is in it.
    """
    if most is None:
        return data
    few = most <= records.LARGE  # then they are read now, and all of them checked
    positions: array[int] = array("Q")
    sources, start, left = [], 0, most
    for source in data.sources:
        used = data.rows[start : start + min(left, source["rows"])]
        start, left = start + source["rows"], left - len(used)
        if few:
            used = used.held()
        positions.extend(used.positions)
        sources.append({**source, "rows": len(used), "rows_in_file": source["rows"]})
    notes = [f"the first {most} of {len(data.rows)} rows are used (--max-rows)"] if most < len(data.rows) else []
    return Dataset(Rows(data.rows.source, positions), sources, data.notes + notes)


def mix(data: Dataset, weights: list[float], seed: int) -> Dataset:
    """The files of a data set drawn so that the n-th has its weight's share of the rows, as many as there were.

    A file is taken whole as often as that goes, and the rest is drawn from it without replacement: no row is there
    twice more often than another of its file. Without weights all rows are there once.
    Raises UsageError: weights that do not go with the files, or that --max-rows has left without rows.
    """
    if not weights:
        return data
    if len(weights) != len(data.sources):
        raise UsageError(
            f"{len(data.sources)} times --data and {len(weights)} times --data-weight", "give each file its weight"
        )
    if not all(map(math.isfinite, weights)) or sum(weights) <= 0 or min(weights) < 0:
        raise UsageError("--data-weight: weights are 0 or more, and not all 0")
    if empty := [source["path"] for source, weight in zip(data.sources, weights) if weight and not source["rows"]]:
        raise UsageError(f"--max-rows leaves no row of {empty[0]}, which has a --data-weight", "raise --max-rows")
    draw = random.Random(seed)
    drawn, notes, start = array("Q"), list(data.notes), 0
    for source, weight in zip(data.sources, weights):
        own = range(start, start + source["rows"])
        start += source["rows"]
        wanted = round(len(data.rows) * weight / sum(weights))
        if own:
            for _ in range(wanted // len(own)):
                drawn.extend(own)
            drawn.extend(draw.sample(own, wanted % len(own)))
        notes.append(f"{source['path']}: {wanted} rows in a pass, from {len(own)} (--data-weight {weight:g})")
        source["drawn"] = wanted
    return Dataset(data.rows.take(drawn), data.sources, notes)


def weigh(data: Dataset, column: str | None) -> None:
    """Give each row the weight that its column says, over the mean of all: doubling the column changes nothing.

    A file that is read as it is needed is read once for the mean. Raises DataError where one says none.
    """
    if column is not None:
        source = data.rows.source
        source.weight = partial(_weight, column=column)
        source.weight = partial(_weight, column=column, unit=_mean(data.rows, column))


MARGIN = "margin"  # the column that is taken unasked, as TRL's RewardTrainer does


def set_apart(data: Dataset, column: str | None) -> str | None:
    """Give each pair the margin that its column says, by which the chosen side shall score higher; the column's name.

    Unasked it is "margin", where one of the first rows has that column; None where none has. Raises DataError where a
    row has no number there.
    """
    if column is None and not any(MARGIN in row.columns for row in islice(data.rows, CHECKED)):
        return None
    column = column or MARGIN
    data.rows.source.margin = partial(_number, column=column, option="--margin-column", least=-math.inf)
    for _ in data.rows.first:  # the others when they are read
        pass
    return column


def _mean(rows: Sequence[Row], column: str) -> float:
    """The mean weight, above 0. Raises DataError where all are 0."""
    weights = array("d", (row.weight for row in rows))
    mean = math.fsum(weight / len(weights) for weight in weights)  # each may be as large as floats are
    if not mean:
        raise DataError(f"--weight-column {column}: every weight is 0", "give a row a weight above 0")
    return mean


def _weight(row: Row, column: str, unit: float = 1.0) -> float:
    return _number(row, column, "--weight-column", least=0.0) / unit


def _number(row: Row, column: str, option: str, least: float) -> float:
    if column not in row.columns:
        found = ", ".join(sorted(row.columns)) or "none"
        raise BadRow("missing column", f"there is no column {column!r} ({option}); found: {found}")
    value = number_of(row.columns[column])
    if value is None or value < least:
        raise BadRow("wrong type", f"{option} {column} is {row.columns[column]!r}")
    return value

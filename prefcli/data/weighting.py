"""Which rows count, and how much: the first so many, files mixed by weight, rows weighted by a column."""

from __future__ import annotations

import math
import random

from prefcli.data.dataset import Dataset
from prefcli.errors import DataError, UsageError


def first(data: Dataset, most: int | None) -> Dataset:
    """The first `most` rows of all files together, in their order; all where it is None.

    `rows` of a source becomes what is used of it, `rows_in_file` what is in it.
    """
    if most is None:
        return data
    sources, left = [], most
    for source in data.sources:
        used = min(left, source["rows"])
        left -= used
        sources.append({**source, "rows": used, "rows_in_file": source["rows"]})
    notes = [f"the first {most} of {len(data.rows)} rows are used (--max-rows)"] if most < len(data.rows) else []
    return Dataset(data.rows[:most], sources, data.notes + notes)


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
    rows, notes, start = [], list(data.notes), 0
    for source, weight in zip(data.sources, weights):
        own = data.rows[start : start + source["rows"]]
        start += source["rows"]
        wanted = round(len(data.rows) * weight / sum(weights))
        if own:
            rows += own * (wanted // len(own)) + draw.sample(own, wanted % len(own))
        notes.append(f"{source['path']}: {wanted} rows in a pass, from {len(own)} (--data-weight {weight:g})")
        source["drawn"] = wanted
    return Dataset(rows, data.sources, notes)


def weigh(data: Dataset, column: str | None) -> None:
    """Give each row the weight that its column says. Raises DataError where one says none."""
    if column is None:
        return
    for number, row in enumerate(data.rows, 1):
        try:
            row.weight = float(row.columns[column])
        except KeyError:
            found = ", ".join(sorted(row.columns)) or "none"
            raise DataError(f"row {number} has no column {column!r} (--weight-column)", f"there is: {found}") from None
        except (TypeError, ValueError):
            row.weight = math.nan
        if not (math.isfinite(row.weight) and row.weight >= 0):
            raise DataError(
                f"row {number}: --weight-column {column} is {row.columns[column]!r}", "weights are numbers, 0 or more"
            )
    if not any(row.weight for row in data.rows):
        raise DataError(f"--weight-column {column}: every weight is 0", "give a row a weight above 0")

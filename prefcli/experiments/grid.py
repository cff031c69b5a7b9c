"""`--grid NAME=VALUE,VALUE` and `--rows N,N`: from what a user writes to names and texts of values."""

from __future__ import annotations

import dataclasses
from typing import Any

from prefcli.config.base import option
from prefcli.config.spelling import canonical, hint, named
from prefcli.config.training import OutputConfig
from prefcli.errors import UsageError

ELSEWHERE = {"seed": "use --seeds N (from --seed on)", "max_rows": "use --rows N,N,…"}
# What cannot change the result makes no points.
NO_POINTS = {field.name for field in dataclasses.fields(OutputConfig)} | {"eval_every"}


def parse_grid(texts: list[str], known: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    """Field → (its name as typed, the texts of its values), in the order given.

    Raises UsageError: not of that form, an unknown name (with the nearest), a name or value twice, one that makes no
    points.
    """
    found: dict[str, tuple[str, list[str]]] = {}
    for text in texts:
        given, equals, rest = text.partition("=")
        given = given.strip().lstrip("-")
        values = [value.strip() for value in rest.split(",")]
        if not given or not equals or not all(values):
            raise UsageError(f"--grid {text}: expected NAME=VALUE,VALUE", "for example: --grid beta=0.05,0.1,0.3")
        field = canonical(given, known)
        if field is None or (named(given) is not None and given.replace("-", "_") not in known):
            why = hint(field or given, known, "name an option of the stage", bare=True)
            raise UsageError(f"--grid {text}: the stage has no option --{given}", why)
        if field in ELSEWHERE:
            raise UsageError(f"--grid {text}: {option(field)} is not swept by --grid", ELSEWHERE[field])
        if field in NO_POINTS:
            raise UsageError(f"--grid {text}: {option(field)} changes no result", "give it as an option of the stage")
        if field in found:
            raise UsageError(f"--grid: {option(field)} is given twice", "put all its values after one =")
        found[field] = (given, values)
    return found


def parse_rows(text: str | None) -> list[int]:
    """Numbers of rows, ascending; empty where none are given. Raises UsageError: no numbers, 0, one twice."""
    if text is None:
        return []
    parts = [part.strip().replace("_", "") for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and 0 < len(part) < 13 and int(part) > 0 for part in parts):
        raise UsageError(f"--rows {text}: expected N,N,…", "for example: --rows 100,300,1000")
    rows = sorted(map(int, parts))
    if len(set(rows)) < len(rows):
        raise UsageError(f"--rows {text}: a number is given twice", "leave one out")
    return rows

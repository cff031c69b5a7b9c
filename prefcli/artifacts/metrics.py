"""metrics.jsonl as it is read again: one object a logged step, and the alarms among them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # one line of metrics.jsonl


def read_log(artifact: Path) -> list[Row]:
    """The rows of metrics.jsonl in order; no row where there is no such file, and no line that is none of its rows."""
    try:
        lines = (artifact / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    found = [row_of(line) for line in lines]
    return [row for row in found if row is not None]


def row_of(line: str) -> Row | None:
    """One line, or None where it is not a row of the log: one that was cut, say."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def alarms(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """(step, watcher) of every alarm, in order."""
    prefix = "alarm/"
    return [(row["step"], name.removeprefix(prefix)) for row in rows for name in row if name.startswith(prefix)]


def is_number(value: Any) -> bool:
    """Whether it can be drawn: the log writes NaN and infinity as words, and JSON has integers beyond all floats."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max

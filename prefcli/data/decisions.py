"""Rows that people decided, as `label --by human` and `ui` write them: two answers to a prompt compared, or a thumb."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefcli.data.formats.fields import BY_WHOM
from prefcli.data.row import said
from prefcli.errors import UsageError

ORDERS = (["chosen", "rejected"], ["rejected", "chosen"])  # from left to right, as `shown` in a row


def is_decision(row: dict[str, Any]) -> bool:
    """Whether a row is a decision between two answers."""
    verdict = "verdict" in row
    sides = row.get("answers") if verdict else [row.get("chosen"), row.get("rejected")]
    return (
        {"prompt", *BY_WHOM} <= set(row)
        and isinstance(row["at"], str)
        and isinstance(row["seconds"], (int, float))
        and isinstance(sides, list)
        and len(sides) == 2
        and all(answer_in(side) is not None for side in sides)
        and (verdict or row.get("shown") in ORDERS)
    )


def is_thumb(row: dict[str, Any]) -> bool:
    """Whether a row is a decision on one answer."""
    skipped = row.get("verdict") == "skip" and isinstance(row.get("answers"), list) and len(row["answers"]) == 1
    thumb = answer_in(row.get("completion")) is not None and isinstance(row.get("label"), bool)
    return {"prompt", *BY_WHOM} <= set(row) and (thumb or skipped)


def answer_in(side: Any) -> str | None:
    """An answer of a decision as it was shown: a text, or that of a list of one message. None: it is neither."""
    match side:
        case str():
            return side
        case [{"content": str()} as message]:
            return said(message)
    return None


def refuse_decided(out: Path) -> None:
    """Raise UsageError where a file that is to be written anew holds what people decided, as its first row tells."""
    if not out.is_file():
        return
    try:
        with out.open("rb") as file:
            row = json.loads(next(filter(bytes.strip, file), b""))
    except (OSError, ValueError, RecursionError):
        return
    # `score` keeps what a decision says, and adds "scores", which no person gives.
    if isinstance(row, dict) and "scores" not in row and (is_decision(row) or is_thumb(row)):
        raise UsageError(f"--out {out} holds what a person decided", "choose another file, or move this one elsewhere")

"""How a report on disk is known to be one of ours, and so may be written again."""

from __future__ import annotations

from pathlib import Path

MARK = '<meta name="generator" content="prefcli report">'
NEAR_THE_TOP = 1000  # bytes


def is_ours(path: Path) -> bool:
    """Whether a file begins as our reports do; False for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(NEAR_THE_TOP)
    except OSError:
        return False

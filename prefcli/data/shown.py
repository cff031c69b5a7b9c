"""Text of a model or a file on a terminal: what would move the cursor or turn the line round becomes visible."""

from __future__ import annotations

import re

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

NARROW = 80  # columns; on a terminal that has fewer the answers stand one below the other
# C0 and C1 controls but tab and newline, DEL, the marks that reorder or break lines, halves of surrogate pairs.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """The text without control characters: a picture of each in its place (␛ for escape), � where there is none."""
    return _UNFIT.sub(_picture, text.replace("\r\n", "\n"))


def counted(count: int, unit: str) -> str:
    """1 row, 2,000 rows"""
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"


def side_by_side(console: Console, one: tuple[str, str], other: tuple[str, str]) -> None:
    """Two texts with their titles in two columns; on a narrow terminal one below the other."""
    titles, texts = zip(*((Text(shown(title)), Text(shown(text))) for title, text in (one, other)))
    if console.width < NARROW:
        for title, text in zip(titles, texts):
            console.print(Rule(title, align="left"), text)
        return
    table = Table(expand=True)
    for title in titles:
        table.add_column(title, ratio=1, overflow="fold")
    table.add_row(*texts)
    console.print(table)

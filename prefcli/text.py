"""Text as it is shown: without what would move the cursor or turn the line round, counted, and cut to a line."""

from __future__ import annotations

import re

# C0 and C1 controls but tab and newline, DEL, the marks that reorder or break lines, halves of surrogate pairs.
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """The text without control characters: a picture of each in its place (␛ for escape), � where there is none."""
    return _UNFIT.sub(_picture, text.replace("\r\n", "\n"))


def counted(count: int, unit: str) -> str:
    """1 row, 2,000 rows"""
    return f"{count:,} {unit}{'' if count == 1 else 's'}"


def first_line(error: BaseException, most: int = 300) -> str:
    """The first line of an exception, at most `most` characters; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else "␡" if code == 0x7F else "\ufffd"

"""Texts as 64 bits each, so that a million rows can be held against each other in a few megabytes."""

from __future__ import annotations

from hashlib import blake2b

from prefcli.data.row import Row


def fingerprint(*parts: str) -> int:
    """The same for the same parts; two different ones among n meet with a chance of n² / 2⁶⁵ (a million: 3e-8)."""
    text = f"{[len(part) for part in parts]}{''.join(parts)}" if len(parts) > 1 else parts[0]
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def loosely(text: str) -> str:
    """The text with neither case nor the shape of its white space."""
    return " ".join(text.casefold().split())


def asked(row: Row) -> str:
    """The part of a row that identifies it in comparisons: its prompt; a text without one by itself."""
    return row.prompt_text or row.completion or ""

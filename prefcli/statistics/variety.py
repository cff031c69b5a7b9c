"""Variety of texts: different n-grams over all n-grams (distinct-n, Li et al. 2016, arXiv 1510.03055)."""

from __future__ import annotations

from collections.abc import Sequence


def distinct(texts: Sequence[str], n: int) -> float:
    """Different runs of n words over all of them, of the texts together; 0 where no text has n words.

    A word is what stands between spaces, so Chinese, Japanese and Thai are not seen. It falls as texts grow longer or
    more, so only like batches compare.
    """
    found = [run for text in texts for run in runs(text.split(), n)]
    return len(set(found)) / len(found) if found else 0.0


def runs(words: list[str], n: int) -> list[tuple[str, ...]]:
    """Every n words that follow each other."""
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]

"""Variety of texts: different n-grams over all n-grams (distinct-n, Li et al. 2016, arXiv 1510.03055)."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


class Distinct:
    """Distinct-n of texts that come one after the other. Eight bytes are held for each different n-gram, so two of N
    are taken for one with a chance of N² / 2⁶⁵: of a million 3e-8."""

    def __init__(self, n: int) -> None:
        self._n, self._all = n, 0
        self._known = np.empty(0, np.uint64)  # ascending
        self._new: set[int] = set()

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            runs = _runs(text.split(), self._n)
            self._all += len(runs)
            self._new.update(map(_fingerprint, runs))
            if len(self._new) > ROOM:
                self._merge()

    @property
    def value(self) -> float:
        """Different runs of n words over all of them, of the texts together; 0 where no text has n words.

        A word is what stands between spaces, so Chinese, Japanese and Thai are not seen. It falls as texts grow longer
        or more, so only like batches compare.
        """
        self._merge()
        return len(self._known) / self._all if self._all else 0.0

    def _merge(self) -> None:
        self._known = np.union1d(self._known, np.fromiter(self._new, np.uint64, len(self._new)))
        self._new.clear()


ROOM = 50_000  # n-grams that wait to be sorted in: some 5 MB


def distinct(texts: Iterable[str], n: int) -> float:
    """`Distinct.value` of these texts."""
    found = Distinct(n)
    found.add(texts)
    return found.value


def _fingerprint(run: tuple[str, ...]) -> int:
    # no word holds a line feed
    return int.from_bytes(blake2b("\n".join(run).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _runs(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]

"""Distinct-n, as `statistics.variety` has it, of texts that come one after the other and are not held."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from prefcli.statistics.variety import runs

ROOM = 50_000  # n-grams that wait to be sorted in: some 5 MB


class Distinct:
    """Eight bytes are held for each different n-gram, so two of N are taken for one with a chance of N² / 2⁶⁵: of a
    million 3e-8."""

    def __init__(self, n: int) -> None:
        self._n, self._all = n, 0
        self._known = np.empty(0, np.uint64)  # ascending
        self._new: set[int] = set()

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            found = runs(text.split(), self._n)
            self._all += len(found)
            self._new.update(map(_fingerprint, found))
            if len(self._new) > ROOM:
                self._merge()

    @property
    def value(self) -> float:
        """`distinct` of the texts together."""
        self._merge()
        return len(self._known) / self._all if self._all else 0.0

    def _merge(self) -> None:
        self._known = np.union1d(self._known, np.fromiter(self._new, np.uint64, len(self._new)))
        self._new.clear()


def _fingerprint(run: tuple[str, ...]) -> int:
    # no word holds a line feed
    return int.from_bytes(blake2b("\n".join(run).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")

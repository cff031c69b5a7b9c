"""Words and n-grams of answers. A text without spaces is one word to it: Chinese, Japanese and Thai are not seen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence


def words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’]\w+)*", text.lower())


def ngrams(text: str, n: int) -> list[str]:
    """All runs of n words, in order."""
    found = words(text)
    return [" ".join(found[start : start + n]) for start in range(len(found) - n + 1)]


def answers_with(texts: Sequence[str], n: int, least: float) -> dict[str, int]:
    """n-gram → in how many of the texts it stands, for those in a fraction of `least` or more."""
    counts = Counter(gram for text in texts for gram in set(ngrams(text, n)))
    return {gram: count for gram, count in counts.items() if count >= least * len(texts)}

"""Accuracy on pairs (how often the chosen answer is preferred) of a reward model, and of DPO's implicit one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefcli.statistics.intervals import wilson_interval


def right(margin: Any, rounding: Any = 0.0) -> Any:
    """1 where the chosen answer scores higher, ½ where both score alike, else 0: of a number, or of each in a tensor.

    A tie is what a coin would make of it; counted as wrong, a model that knows nothing would be below chance. A margin
    of at most `rounding` is none.
    """
    return (margin > rounding) * 1.0 + (abs(margin) <= rounding) * 0.5


def accuracy(margins: Sequence[float]) -> dict[str, Any]:
    """{"accuracy", "accuracy_ci95": [low, high] (Wilson), "margin": their mean, "pairs"} of one margin a pair or more.

    A margin is the score of the chosen answer less that of the rejected one.
    """
    count = len(margins)
    share = sum(map(right, margins)) / count
    return {
        "accuracy": share,
        "accuracy_ci95": list(wilson_interval(share * count, count)),
        "margin": sum(margins) / count,
        "pairs": count,
    }

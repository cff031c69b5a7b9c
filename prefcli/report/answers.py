"""Answers side by side: which prompts are shown, and how the differences between two models are spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefcli.statistics.paired import paired_differences


@dataclass(frozen=True)
class Difference:
    """The first model's score less the second's on each prompt, in the prompts' order. `wins` counts no ties."""

    first: str
    second: str
    reward: str
    values: list[float]
    mean: float
    ci95: tuple[float, float]
    p: float
    wins: int
    ties: int

    @property
    def losses(self) -> int:
        return len(self.values) - self.wins - self.ties

    @property
    def ahead(self) -> str | None:
        """The model that scores higher, where interval and test both say so: the interval of few prompts may have no
        width."""
        low, high = self.ci95
        if self.p >= 0.05 or low <= 0 <= high:
            return None
        return self.first if low > 0 else self.second


def compare(samples: Sequence[dict[str, Any]], first: str, second: str) -> Difference | None:
    """How two models differ by the first reward over all prompts that both answered; None without a reward.

    Mean, 95 % interval and p are those of `paired_differences`.
    """
    scored = [_difference(sample, first, second) for sample in samples]
    values = [value for value in scored if value is not None]
    if not values:
        return None
    reward = next(iter(samples[0]["answers"][0]["reward"]))
    wins, ties = sum(value > 0 for value in values), sum(value == 0 for value in values)
    (found,) = paired_differences([values])
    low, high = found["ci95"]
    return Difference(first, second, reward, values, found["mean"], (low, high), found["p"], wins, ties)


def choose(samples: Sequence[dict[str, Any]], first: str, second: str | None, count: int) -> list[dict[str, Any]]:
    """Half of `count` where `first` scores lowest against `second`, then half where highest, the largest difference
    first in each; the first of the prompts where nothing is scored, or all is equal. Each has its "difference" and its
    "side". Without a second model the difference is the score itself; with one a tie is on neither side.

    A prompt is in one half only. With an odd `count` the worse half has one more.
    """
    marked = [dict(sample, difference=_difference(sample, first, second)) for sample in samples]
    tied = second is not None and not any(sample["difference"] for sample in marked)
    if tied or any(sample["difference"] is None for sample in marked):
        return [dict(sample, side=None) for sample in marked[:count]]
    order = sorted(marked, key=lambda sample: sample["difference"])
    half = (min(count, len(order)) + 1) // 2
    worst = [sample for sample in order[:half] if second is None or sample["difference"] < 0]
    rest = [sample for sample in order[len(worst) :][::-1] if second is None or sample["difference"] > 0]
    best = rest[: count - len(worst)]
    return [dict(sample, side="worst") for sample in worst] + [dict(sample, side="best") for sample in best]


def as_dict(difference: Difference) -> dict[str, Any]:
    return asdict(difference) | {"losses": difference.losses, "ahead": difference.ahead}


def _difference(sample: dict[str, Any], first: str, second: str | None) -> float | None:
    scores = {answer["ref"]: next(iter(answer["reward"].values()), None) for answer in sample["answers"]}
    one, other = scores.get(first), 0.0 if second is None else scores.get(second)
    return None if one is None or other is None else one - other

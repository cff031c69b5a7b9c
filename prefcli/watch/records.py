"""The records that a watcher reads of a rollout or a step, and the alarm that it raises.

A watcher diagnoses what has happened; it foretells nothing. An author of such signals found that they "audit after the
fact" and give no early warning at a usable rate of false alarms (TRL issue 6350). So an alarm names what was seen, with
the numbers, and what it may mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

# "serious": `--on-alarm stop` stops the run. "notice": worth knowing, and met in good runs too; stops nothing.
Severity = Literal["notice", "serious"]


@dataclass(frozen=True)
class Answers:
    """One rollout's answers, of all processes: lists with one entry an answer."""

    prompts: list[str]
    completions: list[str]  # without their EOS
    totals: list[float]  # what is trained on: all sources together, clipped, less the penalties
    scores: dict[str, list[float]]  # by source, weights applied
    lengths: list[int]  # tokens, EOS included
    ended: list[bool]  # by itself, not cut off
    judges: dict[str, list[float]] = field(default_factory=dict)  # sources that score but are not trained on

    def first(self, most: int) -> list[dict[str, Any]]:
        """The first `most` answers, each with its prompt and what it is trained on."""
        rows = zip(self.prompts[:most], self.completions, self.totals)
        return [{"prompt": prompt, "completion": text, "score": score} for prompt, text, score in rows]


NO_ANSWERS = Answers([], [], [], {}, [], [])  # of training that samples none


@dataclass(frozen=True)
class Alarm:
    watcher: str
    signal: str  # which of the watcher's signs; the same one is not repeated at once
    step: int  # rollout, of ppo
    severity: Severity
    seen: str  # what happened, with its numbers
    meaning: str  # what that may mean
    advice: str  # what to do
    unit: str = "rollout"  # what `step` counts
    failed: bool = False  # the watcher itself broke; it has seen nothing of the run

    @property
    def headline(self) -> str:
        return f"{self.watcher} at {self.unit} {self.step}: {self.seen}"

    @property
    def message(self) -> str:
        if self.failed:
            return f"the watcher of {self.watcher} failed at {self.unit} {self.step}: {self.seen}. {self.meaning}."
        return f"{self.headline}. {self.meaning}. {self.advice}."


class Sign(NamedTuple):
    """One thing that a watcher looks for: what of its alarm is known beforehand."""

    severity: Severity
    meaning: str
    advice: str

    def alarm(self, watcher: str, signal: str, step: int, seen: str, unit: str = "rollout") -> Alarm:
        return Alarm(watcher, signal, step, self.severity, seen, self.meaning, self.advice, unit)


def not_finite(metrics: Mapping[str, float], answers: Answers) -> list[str]:
    """The names of what is NaN or infinite: metrics, and of the answers the scores of a source."""
    scores = {"answers": answers.totals, **answers.scores, **answers.judges}
    return [name for name, value in metrics.items() if not math.isfinite(value)] + [
        f"scores of {name}" for name, values in scores.items() if not all(map(math.isfinite, values))
    ]


class Watcher(Protocol):
    """All that a watcher remembers is in its state, so a resumed run continues exactly."""

    def observe(self, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        """The alarms after rollout or step `step`: none, one or several. A metric may be missing.

        prefcli/rl/metrics.py names those of ppo; the others' are TRL's.
        """

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts, as JSON has them; a copy."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

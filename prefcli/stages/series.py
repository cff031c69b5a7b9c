"""The metrics of a run as series over its steps, and which are drawn together."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

from prefcli.artifacts.metrics import Row, is_number

# Title → the metrics drawn in it (patterns). A panel is left out where none of its metrics was logged.
PANELS: dict[str, tuple[str, ...]] = {
    "reward": ("objective/scores", "objective/scores/*", "objective/rlhf_reward", "judge/*"),
    "KL to the reference, nats": ("objective/kl", "objective/kl_k3"),
    "entropy, nats a token": ("policy/entropy_avg",),
    "answer length, tokens": ("completions/mean_length",),
    "value loss": ("loss/value_avg",),
    "clip fraction": ("policy/clipfrac_avg", "val/clipfrac_avg"),
    "loss": ("loss", "eval_loss"),
    "rewards": ("rewards/chosen", "rewards/rejected", "rewards/margins"),
    "log-probability of an answer, nats": ("logps/chosen", "logps/rejected"),
    "accuracy": ("rewards/accuracies", "eval_rewards/accuracies", "accuracy", "eval_accuracy", "mean_token_accuracy"),
    "margin": ("margin", "eval_margin"),
    "gradient norm": ("grad_norm",),
    "learning rate": ("lr", "learning_rate"),
}


@dataclass(frozen=True)
class Series:
    """One metric: its values at the steps where it was logged as a number."""

    name: str
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Panel:
    """The series that share a picture."""

    title: str
    series: list[Series]


def panels(rows: list[Row]) -> list[Panel]:
    """The panels in their order, each with those of its metrics that were logged."""
    names = sorted({name for row in rows for name, value in row.items() if is_number(value)})
    found = []
    for title, patterns in PANELS.items():
        wanted = [name for pattern in patterns for name in names if fnmatch(name, pattern)]
        if wanted:
            found.append(Panel(title, [_series(name, rows) for name in dict.fromkeys(wanted)]))
    return found


def _series(name: str, rows: list[Row]) -> Series:
    points = [(row["step"], float(row[name])) for row in rows if is_number(row.get(name))]
    return Series(name, [step for step, _ in points], [value for _, value in points])

"""Numbers and names as the report writes them."""

from __future__ import annotations

import math
import re
from typing import Any

from prefcli.memory.sizes import format_bytes

# What a reader may know the metrics as; any other is shown by its own name.
SHORT = {
    "objective/scores": "score",
    "objective/rlhf_reward": "score less KL",
    "objective/kl": "KL (k1)",
    "objective/kl_k3": "KL (k3)",
    "loss/value_avg": "value loss",
    "loss/policy_avg": "policy loss",
    "completions/mean_length": "length",
    "policy/entropy_avg": "entropy",
    "policy/clipfrac_avg": "policy",
    "val/clipfrac_avg": "value",
    "rewards/chosen": "chosen",
    "rewards/rejected": "rejected",
    "rewards/margins": "margin",
    "rewards/accuracies": "pairs right",
    "logps/chosen": "chosen",
    "logps/rejected": "rejected",
    "eval_loss": "held out",
    "eval_accuracy": "held-out pairs",
    "eval_rewards/accuracies": "held-out pairs",
    "eval_margin": "held out",
    "mean_token_accuracy": "tokens right",
    "accuracy": "pairs right",
    "loss": "training",
    "margin": "training",
}


def short(metric: str) -> str:
    return SHORT.get(metric, metric.removeprefix("objective/scores/").removeprefix("judge/"))


# What XML 1.0 has no place for: controls but tab and line ends, halves of surrogate pairs, two that are no characters.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    return _UNFIT.sub("\ufffd", text)


def shortened(name: str, longest: int = 20) -> str:
    """A name that fits beside a chart: its end says more than its middle."""
    name = clean(name)
    return name if len(name) <= longest else name[: longest // 2 - 1] + "…" + name[-(longest // 2) :]


def number(value: float) -> str:
    """Three significant digits, with a true minus sign; whole thousands with commas; what is below 0.0001 as 2×10⁻⁶."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 999.5:  # rounded to three digits it is a thousand
        text = f"{size:,.0f}"
    elif size and size < 0.0001:
        digits, _, exponent = f"{size:.2e}".partition("e")
        digits = digits.rstrip("0").rstrip(".")
        raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        text = f"{digits}×10{raised}"
    else:
        text = f"{size:.3g}"
    return "−" + text if value < 0 and text.strip("0.") else text


def share(value: float) -> str:
    return f"{value:.0%}"


def seconds(value: float) -> str:
    """A time as people say it: 41 s, 12 min, 3 h 20 min."""
    if value < 89.5:
        return f"{value:.0f} s" if value >= 9.95 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    minutes = round(value / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def size(value: float) -> str:
    return format_bytes(value)


# Units that have a form of their own.
UNITS = {"bytes": size, "seconds": seconds, "s": seconds, "share": share, "%": share}


def shown(value: Any, unit: str = "") -> str:
    """Any recorded value; what was not recorded is a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        form = UNITS.get(unit, number)
        return form(value) + (f" {unit}" if unit and form is number else "")
    if isinstance(value, list):
        return " to ".join(shown(item, unit) for item in value) if _numbers(value) else ", ".join(map(str, value))
    return str(value)


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)

"""When a cell of the matrix is right: exact, or refused before any training, truly and with a way out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.families import plain
from scripts.families.commands import Ran

EXACT, REFUSED, WRONG, NONE = "exact", "refused", "wrong", "none"
LOSS = 1e-4  # of the first step's loss
LOGPS = 1e-5  # of a sum of log-probabilities, on top of LOSS
FIRST = {"dpo": math.log(2), "kto": 0.5}
REFUSALS = (2, 3, 4)
# Not true of a directory of the zoo, which holds a whole language model in safetensors, nor of a sound disk.
UNTRUE = (
    "in a form that transformers reads",
    "copy the model again",
    "check the name",
    "You set `ignore_mismatched",
    "are not what was meant to be written",
    "what was written does not open",
)


@dataclass
class Cell:
    """`why`: of an exact cell what was compared, of another what it said or what is wrong."""

    verdict: str
    why: str = ""


def refusal(ran: Ran) -> Cell:
    """Of a command that failed."""
    if ran.code not in REFUSALS or ran.exception:
        return Cell(WRONG, f"exit {ran.code}: {ran.exception or ran.error or 'no word of why'}")
    message, _, hint = ran.error.partition("hint: ")
    if ran.began:
        return Cell(WRONG, f"refused after training had begun: {message.strip()}")
    if not message.strip() or not hint.strip():
        return Cell(WRONG, f"refused without {'a hint' if message.strip() else 'a sentence'}: {ran.error}")
    untrue = [phrase for phrase in UNTRUE if phrase in ran.error]
    if untrue:
        return Cell(WRONG, f"refused in words that are not true: {ran.error}")
    return Cell(REFUSED, ran.error)


def stage(name: str, ran: Ran, expected: plain.Figures | None, base: Path) -> Cell:
    """Of a run alone: its first figures against the plain forward, and whether it moved weights."""
    if ran.code != 0:
        return refusal(ran)
    if ran.artifact is None or not ran.first:
        return Cell(WRONG, "it left no artifact, or no figures of its first step")
    wrong = list(_first_step(name, ran.first, expected))
    if name != "rm" and expected is None:
        wrong.append("it trains, and the plain forward of the same rows fails")
    still = unmoved(base, ran.artifact / "model")
    return Cell(WRONG, "; ".join([*wrong, *still])) if wrong or still else Cell(EXACT)


def _first_step(name: str, first: dict[str, Any], expected: plain.Figures | None) -> list[str]:
    wrong = [f"{what} is {value}" for what, value in first.items() if isinstance(value, str) and what != "epoch"]
    if name in FIRST and not abs(_number(first, "loss") - FIRST[name]) <= 1e-6:
        wrong.append(f"the first loss is {first.get('loss')}, not {FIRST[name]:.6f}")
    if name == "ppo" and _number(first, "objective/kl") != 0:
        wrong.append(f"the first KL is {first.get('objective/kl')}, not 0")
    if name == "ppo" and not abs(_number(first, "val/ratio") - 1) <= LOSS:
        wrong.append(f"the first ratio is {first.get('val/ratio')}, not 1")
    if expected is None:
        return wrong
    pairs = {
        "sft": [("loss", expected.sft_loss)],
        "dpo": [("logps/chosen", expected.chosen), ("logps/rejected", expected.rejected)],
        "kto": [("logps/chosen", expected.desirable), ("logps/rejected", expected.undesirable)],
    }
    for what, value in pairs.get(name, []):
        if not close(_number(first, what), value):
            wrong.append(f"{what} is {_number(first, what):.6f}, row by row {value:.6f}")
    return wrong


def both_layouts(name: str, packed: Ran, padded: Ran) -> str | None:
    """What the two layouts of the same run do not agree on; None where they do, or one did not run."""
    if packed.code or padded.code:
        return None
    names = {"rm": ("loss", "mean_reward"), "ppo": ("objective/entropy", "objective/scores")}.get(name, ("loss",))
    for what in names:
        one, other = _number(packed.first, what), _number(padded.first, what)
        if not close(one, other):
            return f"{what} is {one:.6f} packed, {other:.6f} with --no-packed"
    return None


def close(found: float, expected: float) -> bool:
    """False for NaN."""
    return abs(found - expected) <= LOSS + LOGPS * abs(expected)


def _number(row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    return float(value) if isinstance(value, (int, float)) else math.nan


def unmoved(base: Path, trained: Path) -> list[str]:
    """Reasons to think that training moved nothing; none where it did."""
    before, after = _named(plain.tensors(base)), _named(plain.tensors(trained))
    if (trained / "adapter_config.json").is_file():
        ups = [tensor for name, tensor in after.items() if "lora_B" in name]
        return [] if any(bool(up.any()) for up in ups) else ["no weight of the adapter moved"]
    return [] if moved(before, after) else ["no weight moved"]


def _named(tensors: dict[str, Any]) -> dict[str, Any]:
    """By the names that the backbone of the text part has alone: a run may save no more than that."""
    bare = {name.replace("language_model.", ""): tensor for name, tensor in tensors.items()}
    return {
        re.sub(r"^(model|backbone|transformer|rwkv|bert|roberta|gpt_neox_japanese)\.", "", name): tensor
        for name, tensor in bare.items()
    }


def moved(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of tensors that are in both and differ; those that grew by rows are compared where both have rows."""
    names = []
    for name in before.keys() & after.keys():
        rows = min(before[name].shape[:1] + after[name].shape[:1], default=0)
        one, other = (tensor[:rows] if tensor.ndim else tensor for tensor in (before[name], after[name]))
        if one.shape == other.shape and not one.equal(other.to(one.dtype)):
            names.append(name)
    return sorted(names)


def checked(work: Callable[[], str | None]) -> Cell:
    """`work` says what is wrong, or returns None; what it raises is wrong too."""
    try:
        wrong = work()
    except Exception as error:  # of transformers and peft, on what prefcli wrote
        said = (str(error).strip().splitlines() or [""])[0][:200]
        wrong = f"{type(error).__name__}: {said}"
    return Cell(WRONG, wrong) if wrong else Cell(EXACT)

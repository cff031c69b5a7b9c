"""Whether a run fits, the largest that does, and the cheapest changes that make one fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from prefcli.memory.estimate import estimate
from prefcli.memory.run import Run

MOST = 2**20  # rows or tokens: what fits so many has no limit that matters
LEAST_GAIN = 0.01  # a change that saves less is not worth a word


@dataclass(frozen=True)
class Change:
    """An option to add. `costs` says what it is paid with."""

    option: str
    costs: str
    bytes: int  # of the run with this and the changes before it


def _fewer_tokens(run: Run) -> Run | None:
    """One row at a time."""
    if not run.packed:
        return replace(run, batch_size=run.answers or 1, accumulates=True) if run.batch_size > 1 else None
    if run.rows_of_pass == 1:
        return None
    return replace(run, tokens_per_row=run.row_tokens, accumulates=True)


def _adapters(run: Run) -> Run | None:
    if run.lora_rank:
        return None
    return replace(run, lora_rank=16, shared_base=run.about.reference)


# (option, what it costs, the run with it; None where it has it already), the cheapest first.
CHANGES: tuple[tuple[Callable[[Run], str], str, Callable[[Run], Run | None]], ...] = (
    (
        lambda run: f"--tokens-per-row {run.row_tokens}" if run.packed else f"--grad-accum {run.batch_size}",
        "the same result, in smaller passes",
        _fewer_tokens,
    ),
    (
        lambda run: "--gradient-checkpointing",
        "the same result; the forward pass runs twice",
        lambda run: None if run.checkpointing else replace(run, checkpointing=True),
    ),
    (
        lambda run: "--layout shared",
        "the roles become adapters on one base",
        lambda run: (
            replace(run, shared_base=True) if run.about.samples and run.lora_rank and not run.shared_base else None
        ),
    ),
    (
        lambda run: "--optim adafactor",
        "other steps than AdamW's",
        lambda run: None if run.optimizer != "adamw" or run.lora_rank else replace(run, optimizer="adafactor"),
    ),
    (lambda run: "--lora-rank 16", "an adapter is trained in place of all weights", _adapters),
    (
        lambda run: "--load-in-4bit",
        "the base is rounded to 4 bits; slower",
        lambda run: replace(run, in_4bit=True) if run.lora_rank and not run.in_4bit and run.device == "cuda" else None,
    ),
    (
        lambda run: "--advantage rloo",
        "no value model; several answers a prompt in its place",
        lambda run: replace(run, value_model=False, answers=4) if run.about.samples and run.value_model else None,
    ),
    (
        lambda run: f"--max-length {run.max_length // 2}",
        "longer rows are cut",
        lambda run: (
            replace(run, max_length=run.max_length // 2, shared_prompt=min(run.shared_prompt, run.max_length // 2))
            if run.max_length > 128 and not run.about.samples
            else None
        ),
    ),
)


def fits(run: Run, usable: float) -> bool:
    return estimate(run).bytes <= usable


def changes(run: Run, usable: float) -> list[Change] | None:
    """The cheapest options that make the run fit, in order of their cost; [] where it fits, None where nothing helps.

    They are tried one after the other and kept where they save something; what turns out not to be needed, with those
    after it there, is left out again.
    """
    kept: list[int] = []
    now = run
    for number, (_, _, change) in enumerate(CHANGES):
        if fits(now, usable):
            break
        changed = change(now)
        if changed is not None and estimate(changed).bytes < (1 - LEAST_GAIN) * estimate(now).bytes:
            kept.append(number)
            now = changed
    if not fits(now, usable):
        return None
    for number in list(kept):
        without = [one for one in kept if one != number]
        if fits(_all(run, without)[-1][1] if without else run, usable):
            kept = without
    return [
        Change(CHANGES[number][0](before), CHANGES[number][1], estimate(after).bytes)
        for number, (before, after) in zip(kept, _all(run, kept))
    ]


def _all(run: Run, numbers: list[int]) -> list[tuple[Run, Run]]:
    """The run before and after each of these changes."""
    found = []
    for number in numbers:
        after = CHANGES[number][2](run) or run
        found.append((run, after))
        run = after
    return found


def largest(run: Run, usable: float, what: Literal["batch_size", "max_length"]) -> int | None:
    """The largest `batch_size` or `max_length` that fits: 0 where none does, None where the limit is beyond MOST."""

    def good(value: int) -> bool:
        if what == "batch_size":
            return fits(replace(run, batch_size=value), usable)
        return fits(replace(run, max_length=value, shared_prompt=min(run.shared_prompt, value)), usable)

    most = min(MOST, run.architecture.positions or MOST) if what == "max_length" else MOST
    if good(most):
        return None if most == MOST else most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low

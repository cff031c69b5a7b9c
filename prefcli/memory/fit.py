"""Fit of a run: whether it fits, the largest that does, and the cheapest changes that make one fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from prefcli.config.training import not_split
from prefcli.memory.activations import rollout_answers, sampled_answers
from prefcli.memory.estimate import estimate
from prefcli.memory.run import Run

MOST = 2**20  # rows or tokens: what fits so many has no limit that matters
MOST_GPUS = 4096
RANK = 16  # of the adapters that are proposed
SEVERAL = 4  # answers to a prompt: --num-generations of rloo and grpo, where it is not given
AT_A_TIME = 8  # answers that are sampled together where a rollout is too large
LOCKSTEP = "rollouts gather one layer after the other, for each token: the whole policy does not fit"
LEAST_GAIN = 0.01  # a change that saves less is not worth a word


@dataclass(frozen=True)
class Change:
    """An option to add. `costs` says what it is paid with."""

    option: str
    costs: str
    bytes: int  # of the run with this and the changes before it


@dataclass(frozen=True)
class Saving:
    """An option, what it costs, and the run with it: None where it has it already. `same`: the result stays."""

    option: Callable[[Run], str]
    costs: str
    apply: Callable[[Run], Run | None]
    same: bool = False


def _fewer_tokens(run: Run) -> Run | None:
    """One row at a time."""
    if run.packed:
        return replace(run, tokens_per_row=run.row_tokens) if run.rows_of_pass > 1 else None
    parts = _parts(run)
    rollout = rollout_answers(run) if run.about.samples else 0
    smaller = replace(run, batch_size=run.batch_size // parts, grad_accum=run.grad_accum * parts, rollout=rollout)
    return smaller if parts > 1 else None


def _parts(run: Run) -> int:
    """The most parts of the batch, of one size, that the stage takes."""
    return next((n for n in range(run.batch_size // run.least, 1, -1) if run.batch_size % n == 0), 1)


def _no_value_model(run: Run) -> Run | None:
    answers = run.answers if run.answers > 1 else SEVERAL
    if not (run.about.samples and run.value_model) or run.batch_size % answers:
        return None
    return replace(run, value_model=False, answers=answers)


def _fewer_answers(run: Run) -> Run | None:
    return replace(run, sampled=AT_A_TIME) if run.about.samples and sampled_answers(run) > AT_A_TIME else None


def _adapters(run: Run) -> Run | None:
    if run.lora_rank:
        return None
    shared = run.about.reference and not run.separate and not {role.name for role in run.roles[1:]} <= run.own_base
    return replace(run, lora_rank=RANK, shared_base=shared)


# The cheapest first.
SAVINGS = (
    Saving(
        lambda run: (
            f"--tokens-per-row {run.row_tokens}" if run.packed else f"--grad-accum {run.grad_accum * _parts(run)}"
        ),
        "the same result, in smaller passes",
        _fewer_tokens,
        same=True,
    ),
    Saving(
        lambda run: f"--generation-batch {AT_A_TIME}",
        "the same answers, sampled in parts; slower",
        _fewer_answers,
        same=True,
    ),
    Saving(
        lambda run: "--gradient-checkpointing",
        "the same result; the forward pass runs twice",
        lambda run: None if run.checkpointing else replace(run, checkpointing=True),
        same=True,
    ),
    Saving(
        lambda run: "--optim adamw-8bit",
        "AdamW's moments are rounded to 8 bits",
        lambda run: (
            replace(run, optimizer="adamw-8bit")
            if run.optimizer == "adamw" and not (run.lora_rank or run.sharded) and run.device == "cuda"
            else None
        ),
    ),
    Saving(
        lambda run: "--optim adafactor",
        "a different optimizer: results differ",
        lambda run: (
            replace(run, optimizer="adafactor")
            if run.optimizer.startswith("adamw") and not (run.lora_rank or run.sharded)
            else None
        ),
    ),
    Saving(lambda run: f"--lora-rank {RANK}", "an adapter is trained instead of all weights", _adapters),
    Saving(
        lambda run: "--layout shared",
        "the roles become adapters on one base",
        lambda run: (
            replace(run, shared_base=True) if run.about.samples and run.lora_rank and not run.shared_base else None
        ),
    ),
    Saving(
        lambda run: "--load-in-4bit",
        "the base is rounded to 4 bits; slower",
        lambda run: (  # split, a process makes the whole base first, which is not counted
            replace(run, in_4bit=True)
            if run.lora_rank and not (run.in_4bit or run.sharded) and run.device == "cuda"
            else None
        ),
    ),
    Saving(
        lambda run: "--advantage rloo",
        "no value model, but several answers per prompt",
        _no_value_model,
    ),
    Saving(
        lambda run: f"--max-length {run.max_length // 2}",
        "longer rows are cut",
        lambda run: (
            replace(run, max_length=run.max_length // 2, shared_prompt=min(run.shared_prompt, run.max_length // 2))
            if run.max_length > 128 and not run.about.samples
            else None
        ),
    ),
)


def at_pace(run: Run, usable: float) -> Run:
    """As --shard runs it on a device: a rollout gathers the policy once where that fits, else works in lockstep."""
    if not (run.sharded and run.about.samples):
        return run
    run = replace(run, lockstep=False)
    phases = estimate(run).phases
    return replace(run, lockstep=max(phases["rollout"], phases["scoring"]) > usable)


def fits(run: Run, usable: float) -> bool:
    return estimate(at_pace(run, usable)).bytes <= usable


def changes(run: Run, usable: float, *, same: bool = False) -> list[Change] | None:
    """The cheapest options that make the run fit, in order of their cost; [] where it fits, None where nothing helps.
    `same`: only those that leave the result as it is. Rather than in lockstep a rollout is made smaller.
    """
    found = _changes(replace(run, lockstep=False), usable, same)
    if found is None and run.sharded and run.about.samples:
        found = _changes(replace(run, lockstep=True), usable, same)
    return found


def _changes(run: Run, usable: float, same: bool) -> list[Change] | None:
    """They are tried one after the other and kept where they save something; what turns out not to be needed, with the
    others there, is left out again, the dearest first.
    """

    def fits(run: Run) -> bool:
        return estimate(run).bytes <= usable

    kept: list[int] = []
    now = run
    for number, saving in [*enumerate(SAVINGS)] * 2:  # what saved nothing may, once another phase has the peak
        if fits(now):
            break
        changed = saving.apply(now) if number not in kept and (saving.same or not same) else None
        if changed is not None and estimate(changed).bytes < (1 - LEAST_GAIN) * estimate(now).bytes:
            kept.append(number)
            now = changed
    if not fits(now):
        return None
    for number in sorted(kept, reverse=True):
        without = [one for one in kept if one != number]
        if fits(_all(run, without)[-1][1] if without else run):
            kept = without
    return [
        Change(SAVINGS[number].option(before), SAVINGS[number].costs, estimate(after).bytes)
        for number, (before, after) in zip(kept, _all(run, kept))
    ]


def _all(run: Run, numbers: list[int]) -> list[tuple[Run, Run]]:
    """The run before and after each of these savings."""
    found = []
    for number in numbers:
        after = SAVINGS[number].apply(run) or run
        found.append((run, after))
        run = after
    return found


def split(run: Run, gpus: int) -> Run:
    """One process's part of the run over several GPUs, by --shard: of every model, and of the batch."""
    unit = run.unit

    def part(rows: int) -> int:
        return unit * -(-rows // (unit * gpus))

    rows = max(run.least, part(run.batch_size))
    return replace(run, zero=3, shards=gpus, batch_size=rows, rollout=part(run.rollout))


def gpus_needed(run: Run, usable: float) -> int | None:
    """The fewest GPUs that hold the run: one as it is, several with --shard and what leaves the result as it is.

    Several are a number that the batch's rows are divided by, or, of more GPUs than rows, a multiple of them, for a
    larger batch. None: no number of them does.
    """
    if fits(run, usable):
        return 1

    def held(gpus: int) -> bool:
        return changes(split(run, gpus), usable, same=True) is not None

    rows, most = run.rows_of_batch, max(1, MOST_GPUS // run.rows_of_batch)
    if run.in_4bit or not_split(run.optimizer, run.dtype):
        return None
    if (found := next((n for n in range(2, rows + 1) if rows % n == 0 and held(n)), None)) or not held(rows * most):
        return found
    low, high = 1, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if held(rows * middle) else (middle, high)
    return rows * high


def largest(run: Run, usable: float, what: Literal["batch_size", "max_length"]) -> int | None:
    """The largest `batch_size` (of a process) or `max_length` that fits and that the stage takes: 0 where none does,
    None where the limit is beyond MOST."""

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
    if what == "batch_size":
        return low - low % run.unit if low >= run.least else 0
    return low

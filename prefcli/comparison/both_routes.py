"""Both routes from one start, under one budget: what `compare --data FILE --model REF` runs before it compares."""

from __future__ import annotations

import dataclasses
import json
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from prefcli.artifacts.hub import at_hand
from prefcli.artifacts.metrics import read_log
from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Artifact, Store
from prefcli.comparison.training_time import step_seconds
from prefcli.config.base import key_fields
from prefcli.config.shared import read_as
from prefcli.data.dataset import read_dataset
from prefcli.errors import MemoryShortError, UsageError
from prefcli.files import digest_json, write_atomically
from prefcli.memory.sizes import format_bytes
from prefcli.models.devices import pick_dtype, training_device
from prefcli.progress import Reporter
from prefcli.rewards.grammar import parse_rewards, split_name
from prefcli.stages.inputs import Inputs, prepare
from prefcli.stages.plan import peak, run_of, steps
from prefcli.stages.run import made

PROBED = 4  # steps; the first warms up
BUDGETS = ".cache/budgets"  # below the artifact store: numbers of steps
REWARD_SHARE = 0.5  # of RLHF's seconds, at most, for its reward model
_BUDGET = re.compile(r"(pairs|seconds|bytes)=([0-9.]+)\s*(|k|M|G)B?", re.IGNORECASE)
_SCALE = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Budget:
    """The budget of each route: `pairs` to learn preferences from, `seconds` of training, or `bytes` at its peak."""

    of: Literal["pairs", "seconds", "bytes"]
    amount: float


def parse_budget(text: str | None) -> Budget | None:
    """Raises UsageError for what is none."""
    if text is None:
        return None
    found = _BUDGET.fullmatch(text.strip())
    if found and found[1].lower() == "pairs" and "." in found[2]:
        raise UsageError(f"--budget {text}: the number of pairs must be whole", "write pairs=500")
    amount = float(found[2]) * _SCALE[found[3].lower()] if found and found[2].count(".") < 2 and found[2] != "." else 0
    if not found or amount <= 0:
        raise UsageError(f"--budget {text} is not valid", "write pairs=500, seconds=120 or bytes=8GB")
    return Budget(found[1].lower(), amount)  # type: ignore[arg-type]


def run_both(rm: Any, ppo: Any, dpo: Any, budget: Budget | None, reporter: Reporter) -> tuple[Artifact, Artifact]:
    """(ppo's artifact, dpo's): the configs of the three stages, ppo's without its reward. What is there is reused.

    Raises MemoryShortError: a stage that does not fit into the budget's bytes, however its batch is split.
    """
    if budget is not None and budget.of == "pairs":
        rm, dpo = (dataclasses.replace(config, max_rows=int(budget.amount)) for config in (rm, dpo))
    if budget is not None and budget.of == "seconds":
        rm, ppo, dpo = _in_seconds(rm, ppo, dpo, budget.amount, reporter)
    limit = budget.amount if budget is not None and budget.of == "bytes" else None
    reward = _made(rm, limit, reporter)
    policy = _made(_with_reward(ppo, reward), limit, reporter)
    return policy, _made(dpo, limit, reporter)


def _made(config: Any, limit: float | None, reporter: Reporter) -> Artifact:
    inputs = prepare(config)
    if limit is not None:
        inputs = _fitting(config, inputs, limit)
    return inputs.taken() or made(inputs, reporter)


def _fitting(config: Any, inputs: Inputs, limit: float) -> Inputs:
    """With the batch split into as many parts as it takes."""
    first = smallest = predicted_bytes(inputs)
    parts = config.grad_accum
    while smallest is not None and smallest > limit:
        parts = next((n for n in range(parts + 1, config.batch_size + 1) if config.batch_size % n == 0), 0)
        if not parts:
            raise MemoryShortError(
                f"{inputs.stage.command} needs about {format_bytes(smallest)} (with the whole batch "
                f"{format_bytes(first or 0)}), and --budget gives {format_bytes(int(limit))}",
                "raise it, or set --lora-rank and --gradient-checkpointing of the stages with --set",
            )
        inputs = prepare(dataclasses.replace(config, grad_accum=parts))
        smallest = predicted_bytes(inputs)
    return inputs


def predicted_bytes(inputs: Inputs) -> int | None:
    """The estimate of a run's peak on the device that it will use, or None where the architecture is not known."""
    device = training_device(inputs.config.device)
    size = inputs.architecture.parameters if inputs.architecture else 0
    dtype = str(pick_dtype(inputs.config.dtype, device, size)).removeprefix("torch.")
    run = run_of(inputs, device.type, dtype)
    return None if run is None else peak(run)


def _in_seconds(rm: Any, ppo: Any, dpo: Any, seconds: float, reporter: Reporter) -> tuple[Any, Any, Any]:
    """With the numbers of steps that take so long. They are kept in the store: measured again they would be others, and
    nothing would be resumed or reused."""
    path = _kept_at(rm, ppo, dpo, seconds)
    try:
        numbers = [int(number) for number in json.loads(path.read_text(encoding="utf-8"))]
        rm_steps, ppo_steps, dpo_steps = numbers
    except (OSError, ValueError, TypeError):
        numbers = _measured(rm, ppo, dpo, seconds, reporter)
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(numbers))
    else:
        reporter.notice(
            f"{seconds:g} s for each route, with the steps measured earlier ({path}): {rm_steps} of train-rm and "
            f"{ppo_steps} of ppo, against {dpo_steps} of dpo"
        )
    configs = [dataclasses.replace(config, max_steps=n) for config, n in zip((rm, ppo, dpo), numbers)]
    return configs[0], configs[1], configs[2]


def _kept_at(rm: Any, ppo: Any, dpo: Any, seconds: float) -> Path:
    """The file for this very budget, models, data and options, on this kind of device. ppo's key itself would need its
    reward model."""
    store = Store(ppo.runs)
    models = [text and at_hand(resolve(text, store)).pinned for text in (ppo.model, ppo.reference, ppo.value_init)]
    prompts = read_dataset(ppo.prompts, "prompts", ppo.skip_bad, lazily=True, **read_as(ppo)).digests
    keys = [prepare(rm).key, key_fields(ppo), models, prompts, prepare(dpo).key]
    return store.root / BUDGETS / f"{digest_json([keys, seconds, training_device(rm.device).type])[:32]}.json"


def _measured(rm: Any, ppo: Any, dpo: Any, seconds: float, reporter: Reporter) -> list[int]:
    """Numbers of steps that take so long, by the speed of a few: the reward model's at most half of RLHF's."""
    with tempfile.TemporaryDirectory() as folder:
        probe = {"runs": folder, "max_steps": PROBED, "name": None, "report_to": "none"}

        def timed(config: Any) -> tuple[Artifact, float]:
            config = dataclasses.replace(config, **_by_path(config), **probe)
            artifact = made(prepare(config), reporter)
            return artifact, median(step_seconds(read_log(artifact.path))[1:])

        reward, each_rm = timed(rm)
        _, each_ppo = timed(_with_reward(ppo, reward, str(reward.path)))
        _, each_dpo = timed(dpo)
    wanted = steps(prepare(rm))
    rm_steps = max(1, min(wanted, int(REWARD_SHARE * seconds / each_rm)))
    ppo_steps = max(1, int((seconds - rm_steps * each_rm) / each_ppo))
    dpo_steps = max(1, int(seconds / each_dpo))
    reporter.notice(
        f"{seconds:g} s a route, by the speed of {PROBED} steps: {rm_steps} of train-rm at {each_rm:.2f} s and "
        f"{ppo_steps} of ppo at {each_ppo:.2f} s, against {dpo_steps} of dpo at {each_dpo:.2f} s"
    )
    return [rm_steps, ppo_steps, dpo_steps]


def _by_path(config: Any) -> dict[str, Any]:
    """The models that a config names, by where they are: another store does not know their names."""
    store = Store(config.runs)
    named: dict[str, Any] = {}
    for field in ("model", "reference", "value_init"):
        if text := getattr(config, field, None):
            named[field] = _place(resolve(text, store))
    if texts := getattr(config, "reward", None):
        specs = parse_rewards(texts, store)
        named["reward"] = [
            _named(split_name(text)[0], _place(spec.reference)) + (f"#label={spec.label}" if spec.label else "")
            if spec.reference
            else text
            for text, spec in zip(texts, specs)
        ]
    return named


def _named(name: str | None, what: str) -> str:
    """A name that nobody gave is the same at the path, and need not fit NAME=."""
    return what if name is None else f"{name}={what}"


def _place(reference: Reference) -> str:
    """The path of an artifact, a directory or a GGUF file; the name of the built-in model and of the hub's."""
    path = reference.artifact.path if reference.artifact is not None else reference.path
    return reference.text if path is None or reference.kind == "tiny" else str(path.resolve())


def _with_reward(ppo: Any, reward: Artifact, named: str | None = None) -> Any:
    return dataclasses.replace(ppo, reward=[f"rm={named or reward.ref}"])

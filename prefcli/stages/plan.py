"""The plan of a run, made before it starts: rows, steps, learning rate, memory. No torch here."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from prefcli.artifacts.references import Reference, value_beside
from prefcli.config.ppo import PPOConfig
from prefcli.config.reward import RewardConfig
from prefcli.config.training import DataConfig, PolicyConfig
from prefcli.errors import MemoryShortError
from prefcli.machine import memory_limit
from prefcli.memory.devices import cpu_dtype, found_gpu
from prefcli.memory.estimate import estimate
from prefcli.memory.fit import LOCKSTEP, at_pace, changes
from prefcli.memory.gpus import IMPORTS, Device
from prefcli.memory.references import architecture_of
from prefcli.memory.run import Run
from prefcli.memory.sizes import format_bytes
from prefcli.progress import processes, under_deepspeed
from prefcli.stages.inputs import Inputs
from prefcli.text import counted

ADAPTERS = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA"}

WARNS, STOPS = 0.9, 1.05  # of the device's memory
TEMPLATE_TOKENS = 64


def rollouts(config: PPOConfig, prompts: int) -> int:
    """The number of rollouts of a ppo run."""
    answers = prompts * (config.num_generations or 1)
    return config.max_steps or max(1, math.ceil(config.epochs * answers / config.batch_size))


def steps(inputs: Inputs) -> int:
    """Optimizer steps (rollouts, for ppo), before rows that do not fit are left out."""
    config, rows = inputs.config, len(inputs.data.rows)
    if inputs.stage.samples:
        assert isinstance(config, PPOConfig)
        return rollouts(config, rows)
    if isinstance(config, RewardConfig) and inputs.eval_data is None and config.eval_share and rows > 1:
        rows -= max(1, round(config.eval_share * rows))
    return config.max_steps or math.ceil(config.epochs * math.ceil(rows / config.batch_size))


def summary(inputs: Inputs) -> dict[str, str]:
    """The plan as shown: one short text for each line."""
    config = inputs.config
    gpu = None if config.device in ("cpu", "mps") else found_gpu()
    lines = {"stage": inputs.stage.name}
    for role, reference in inputs.references.items():
        lines[role.replace("_", " ")] = reference.shown
    if inputs.architecture:
        lines["model"] += f" ({inputs.architecture.parameters / 1e6:,.2f}M parameters)"
    for spec in inputs.rewards:
        lines[f"reward {spec.name}"] = spec.reference.shown if spec.reference else spec.text
    for source in inputs.data.sources:
        lines[f"data {source['path']}"] = f"{counted(source['rows'], 'row')} ({source['format']})"
    for source in inputs.eval_data.sources if inputs.eval_data else []:
        lines[f"held-out data {source['path']}"] = f"{counted(source['rows'], 'row')} ({source['format']})"
    if isinstance(config, PPOConfig) and config.generate:
        lines["answers"] = f"by {config.generate}, {config.importance_weights} importance weights"
    if hasattr(config, "in_words"):
        lines["loss"] = config.in_words
    trained = ADAPTERS[config.adapter] + f" rank {config.lora_rank}" if config.lora_rank else "all weights"
    trained += " on a base in 4 bits" if config.load_in_4bit else ""
    if isinstance(config, PolicyConfig) and config.router_loss:
        weight = f"{config.router_loss:g}"
        lines["router loss"] = f"{weight} × the loss that balances the routers, beside the loss (arXiv 2101.03961)"
    trained += f", {config.dtype}" if config.dtype not in ("auto", "float32") else ""
    if config.dtype == "auto" and inputs.architecture and not gpu and not config.device.startswith("cuda"):
        on_cpu = cpu_dtype(inputs.architecture.parameters)
        trained += f", {on_cpu} (--dtype auto)" if on_cpu != "float32" else ""
    unit = "rollout" if inputs.stage.samples else "step"
    lines["training"] = (
        f"{counted(steps(inputs), unit)} of {config.batch_size}, {trained}, {config.optim} at {config.lr:g} "
        f"({config.lr_scheduler}), seed {config.seed}"
    )
    lines["memory"] = memory_line(inputs, gpu)
    lines["artifact"] = str(inputs.store.root / inputs.name)
    return lines


def memory_line(inputs: Inputs, gpu: Device | None) -> str:
    """The estimated peak against what the device has: the GPU that nvidia-smi lists, or this machine's memory."""
    device = "cuda" if gpu or inputs.config.device.startswith("cuda") else "cpu"
    have = gpu.bytes if gpu else memory_limit() if device == "cpu" else None
    auto = gpu is not None and inputs.config.dtype == "auto"
    run = run_of(inputs, device, ("bfloat16" if gpu.bf16 else "float32") if gpu and auto else None, have)
    if run is None:
        return "not estimated: the model's dimensions are not known before it is loaded"
    against = f" of {format_bytes(have)} in this {gpu.name if gpu else 'machine'}" if have else ""
    python = f", {format_bytes(IMPORTS)} of it Python and its libraries" if run.device == "cpu" else ""
    lockstep = f"; {LOCKSTEP}" if run.lockstep else ""
    return f"about {format_bytes(peak(run))}{against}{python}, estimated{lockstep}"


def run_of(inputs: Inputs, device: str, dtype: Any = None, have: int | None = None) -> Run | None:
    """This run as the memory model reads it, or None where the architecture is not known.

    `dtype` is what --dtype auto has become. `have` are the bytes of the device: they decide on lockstep.
    """
    if inputs.architecture is None:
        return None
    config, more = inputs.config, dict[str, Any]()
    if inputs.stage.samples:
        assert isinstance(config, PPOConfig)
        parts, prompt = config.grad_accum * config.minibatches, config.max_prompt_length
        length = prompt + config.max_new_tokens
        more = {"rollout": config.batch_size // processes(), "value_model": config.advantage == "gae"}
        more |= {"sampled": 1} if config.generate else {}  # the servers hold the answers' keys and values
    else:
        parts, prompt, length = config.grad_accum, 0, _longest(inputs)
    if (config.shard or under_deepspeed()) and processes() > 1:
        more |= {"zero": 3, "shards": processes()}
    if under_deepspeed():  # TRL's own steps, on padded rows, all of a batch at once
        more |= {"packed": False, "tokens_per_row": None}
    more["buckets"] = processes() > 1 and not config.shard and not under_deepspeed()
    run = Run.of(
        inputs.stage,
        config if dtype is None else replace(config, dtype=dtype),
        inputs.architecture,
        "cpu" if device == "cpu" else "cuda",
        length,
        prompt,
        batch_size=max(1, config.batch_size // (parts * processes())),
        grad_accum=config.grad_accum,
        cached_reference=inputs.stage.reference and "reference" not in inputs.references,
        **_bases(inputs),
        **more,
    )
    return at_pace(run, WARNS * have - (IMPORTS if device == "cpu" else 0)) if have else run


def peak(run: Run) -> int:
    """The estimate beside a manifest's measured peak: a GPU's tensors, and on a CPU the process around them too."""
    return estimate(run).bytes + (IMPORTS if run.device == "cpu" else 0)


def check_memory(inputs: Inputs, run: Run | None, have: int | None, where: str) -> str | None:
    """The warning about memory, or None. `have` are the bytes of the device.

    Raises MemoryShortError where it is more than the device has, and --force-memory does not say to try.
    """
    if run is None or not have:
        return None
    found = peak(run)
    share = found / have
    if share < WARNS:
        return None
    told = f"the estimated peak is {format_bytes(found)}, {share:.0%} of the {format_bytes(have)} of {where}"
    if share < STOPS:
        return f"{told}: it may run out of memory"
    if inputs.config.force_memory:
        return f"{told}: started anyway (--force-memory)"
    raise MemoryShortError(f"{told} ({by_part(run)})", f"{advice(run, have)}; --force-memory starts it anyway")


def by_part(run: Run) -> str:
    """The estimate's parts, the largest first."""
    found = estimate(run)
    parts = sorted(found.parts.items(), key=lambda part: -part[1])
    return f"{found.phase}: " + ", ".join(f"{name} {format_bytes(size)}" for name, size in parts if size)


def advice(run: Run, have: int) -> str:
    """The options that would make it fit."""
    needed = changes(run, WARNS * have - (peak(run) - estimate(run).bytes))
    if needed is None:
        return "no options make it fit here: use a smaller model or a larger device"
    if not needed:
        return "by the estimate it fits: other programs may hold memory; else use a smaller --tokens-per-row"
    return "it would fit with " + " ".join(change.option for change in needed)


def _longest(inputs: Inputs) -> int:
    """--max-length, or less where all rows are shorter: none has more tokens than bytes, and what a template adds.

    Rows that are read when a step needs them are not read for this.
    """
    assert isinstance(inputs.config, DataConfig)
    if not inputs.data.rows.whole:
        return inputs.config.max_length
    texts = (row.prompt_text + max(row.completion or "", row.chosen or "", row.rejected or "", key=len)
             for row in inputs.data.rows)  # fmt: skip
    most = max((len(text.encode("utf-8", "surrogatepass")) for text in texts), default=0) + TEMPLATE_TOKENS
    return min(inputs.config.max_length, most)


def _bases(inputs: Inputs) -> dict[str, Any]:
    """What shares the base that is trained, as a `Run` has it: dpo's and kto's reference where it is the start, ppo's
    roles as stages/roles.py opens them. A value model that starts from a reward stands on that one's base."""
    config = inputs.config
    if not inputs.stage.samples:
        start = inputs.references.get("reference") == inputs.model
        shared = inputs.stage.reference and config.lora_rank > 0 and start
        return {"shared_base": shared, "own_base": frozenset(() if start else ("reference",))}
    assert isinstance(config, PPOConfig) and inputs.architecture is not None
    rewards = [spec.reference for spec in inputs.rewards if spec.reference is not None]
    apart = [one for one in rewards if not one.is_adapter_on(inputs.model)]
    found: dict[str, Any] = {"shared_base": config.layout == "shared", "separate": inputs.separate}
    found["reward_model"] = bool(rewards)
    if not found["shared_base"]:
        apart = rewards if len(rewards) > 1 else apart  # one that could share is counted as what it would be then
    sizes = (known.scorer_parameters if (known := architecture_of(one)) else None for one in apart)
    found["reward_parameters"] = sum(size or inputs.architecture.scorer_parameters for size in sizes) or None
    reference = inputs.references["reference"]
    apart_from_policy = reference != inputs.model and not reference.shares_base(inputs.model)
    own = {"reference": apart_from_policy, "value": config.advantage == "gae" and _value_apart(inputs, rewards)}
    return found | {"own_base": frozenset(role for role, apart in own.items() if apart)}


def _value_apart(inputs: Inputs, rewards: list[Reference]) -> bool:
    """Whether ppo's value model starts from weights that neither the policy nor a reward model is on."""
    start = inputs.references.get("value_init", inputs.model)
    start = value_beside(start, inputs.store) or start
    if start in (inputs.model, *rewards):
        return False
    return not any(start.is_adapter_on(one) for one in (inputs.model, *(one for one in rewards if not one.is_adapter)))

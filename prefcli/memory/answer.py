"""The answers of `mem-estimate`: one stage, all methods, or PPO against DPO, from its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from prefcli.artifacts.store import Store
from prefcli.config.base import default_of, option, typed_options
from prefcli.config.memory import MemoryConfig, RunConfig
from prefcli.config.stages import BY_COMMAND, Stage
from prefcli.config.training import not_split
from prefcli.errors import SurroundingsError, UsageError
from prefcli.memory.architecture import Architecture
from prefcli.memory.devices import device, found_gpu
from prefcli.memory.fit import RANK, SEVERAL
from prefcli.memory.gpus import Device
from prefcli.memory.methods import Method, Routes, side_by_side, two_routes
from prefcli.memory.model_files import read_architecture
from prefcli.memory.references import config_file
from prefcli.memory.run import of_command
from prefcli.memory.shapes import by_name, typical
from prefcli.memory.sizes import parse_count
from prefcli.progress import SILENT, Reporter

DEFAULT_GPU = "A100-80GB"
# Beyond this --batch-size and --max-length are a slip, and floats would run over.
MOST_TOKENS = 10**12
# Of PPO against DPO, where nothing is said: what both can be compared at.
BATCH, LENGTH = 1, 2048
# All that the comparison of the two routes has a place for.
OF_BOTH = ("batch_size", "max_length", "gradient_checkpointing")
# Options of mem-estimate that stand for others of a stage, or say on how many GPUs it runs.
OF_ESTIMATE = ("max_length", "prompt_length", "shard")


def answer(config: MemoryConfig, reporter: Reporter = SILENT) -> Routes | list[Method]:
    """All methods with `compare`, one with `stage`, else the two routes with all weights trained.

    Raises UsageError for options that do not go together or are not the stage's, ArtifactError for a model that is not
    there.
    """
    if (tokens := (config.batch_size or 1) * (config.max_length or 1)) > MOST_TOKENS:
        raise UsageError(f"--batch-size × --max-length is {tokens} tokens: too many")
    if config.compare and config.stage is not None:
        raise UsageError("--compare covers all methods, and --stage names one", "leave one of them out")
    where, architecture = _device(config.gpu), _architecture(config, reporter)
    if config.compare:
        if config.advantage is not None:
            raise UsageError(
                f"--advantage {config.advantage}: --compare has PPO beside RLOO", "leave it out, or give --stage ppo"
            )
        rows = side_by_side(config.lora_rank, config.num_generations)
        return [_method(*row, config, architecture, where, reporter) for row in rows]
    if config.stage is not None:
        return [_method(config.stage, config.stage, {}, config, architecture, where, reporter)]
    if unread := [field for field in _given(config) if field not in OF_BOTH]:
        raise UsageError(
            f"{option(unread[0])}: PPO against DPO is all weights of both, at one batch and length",
            "give --stage dpo, or --compare for all methods",
        )
    adapter = _method("DPO", "dpo", {"lora_rank": RANK}, config, architecture, where, reporter)
    return two_routes(
        architecture, where, config.batch_size or BATCH, config.max_length or LENGTH,
        config.gradient_checkpointing is not False, adapter,
    )  # fmt: skip


def _device(kind: str | None) -> Device:
    """The kind that is named, or the device that is here. Raises UsageError: unknown."""
    here = found_gpu() if kind is None else None
    return here or device(kind or DEFAULT_GPU)


def _given(config: MemoryConfig) -> dict[str, Any]:
    """Options of the run that say something else than its command does."""
    return {
        field.name: value
        for field in fields(RunConfig)
        if (value := getattr(config, field.name)) not in (None, default_of(field))
    }


def _method(
    name: str,
    command: str,
    more: dict[str, Any],
    config: MemoryConfig,
    architecture: Architecture,
    where: Device,
    reporter: Reporter,
) -> Method:
    """One row of the answer. Raises UsageError for what does not go together."""
    stage = BY_COMMAND[command]
    options = options_of(config, stage, more)
    asked = options.get("batch_size", stage.config().batch_size)
    rows, needed = _shared_evenly(asked, stage, options, config.shard)
    if rows != asked:
        if config.batch_size and not config.compare:
            raise UsageError(f"--batch-size {asked}: {command} needs {needed}", f"use --batch-size {rows}")
        reporter.notice(f"{name}: --batch-size {asked} is rounded up to {rows}")
        options["batch_size"] = rows
    fixed: dict[str, Any] = {"batch_size": rows // config.shard}
    if config.shard > 1:
        if config.load_in_4bit:
            raise UsageError(
                "--load-in-4bit is not counted with --shard: a process makes it whole first", "leave one out"
            )
        if refused := not_split(config.optim, config.dtype or "auto"):
            raise UsageError(f"{refused[0]} does not run with --shard (FSDP)", refused[1])
        fixed |= {"zero": 3, "shards": config.shard}
    if config.prompt_length is not None and not stage.samples:
        fixed["prompt"] = config.prompt_length
    most = config.max_length or (MOST_TOKENS if stage.samples else stage.config().max_length)
    if config.prompt_length is not None and config.prompt_length > most:
        raise UsageError(f"--prompt-length {config.prompt_length} is more than --max-length {most}", "raise that too")
    if "cached_reference" in more:
        fixed["cached_reference"] = True
    run = of_command(stage, options, architecture, where, **fixed)
    return Method(name, run, where, config.model, options)


def _shared_evenly(rows: int, stage: Stage, options: Mapping[str, Any], gpus: int) -> tuple[int, str]:
    """The next --batch-size that the stage takes, and what it asks of one: whole prompts of answers, on each GPU as
    many, kto's two at least."""
    several = SEVERAL if options.get("advantage") in ("rloo", "grpo") else 1
    answers = (options.get("num_generations") or several) if stage.samples else 1
    unit = gpus * answers
    least, needed = {
        "kto": (2 * gpus, "at least 2 rows on each GPU"),
        "ppo": (2, "at least 2 answers per rollout"),
    }.get(stage.command, (1, ""))
    if rows >= least:
        parts = [f"{gpus} GPUs"] * (gpus > 1) + [f"{answers} answers per prompt"] * (answers > 1)
        needed = f"a multiple of {unit} ({' × '.join(parts)})"
    return unit * -(-max(rows, least) // unit), needed


def options_of(config: MemoryConfig, stage: Stage, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The given options as those of the stage's own command, with `more`. Raises UsageError for what does not go
    together."""
    given = _given(config)
    for field in ("load_in_4bit", "layout"):
        if given.get(field) not in (None, "separate") and not given.get("lora_rank"):
            raise UsageError(f"{option(field)} is about adapters, and --lora-rank is 0", "give --lora-rank 16")
    about = {f.name for f in fields(stage.config)}
    other = [field for field in given if field not in (*about, *OF_ESTIMATE)]
    if other and not config.compare:
        raise UsageError(f"{option(other[0])} is not an option of {stage.command}", "leave it out, or give --stage ppo")
    options = {field: value for field, value in (given | dict(more or {})).items() if field in about}
    if stage.samples:
        return options | _lengths(config, stage)
    least = typed_options(stage.config)["max_length"][1].min or 1
    if (config.max_length or least) < least:
        raise UsageError(f"--max-length {config.max_length}: {stage.command} takes {least:g} or more")
    return options


def _lengths(config: MemoryConfig, stage: Stage) -> dict[str, Any]:
    """--max-length and --prompt-length as ppo's own options, which bound the prompt, of a token at least, and the
    answer. Raises UsageError: no token is left for that."""
    if config.max_length is None and config.prompt_length is None:
        return {}
    own, prompt = stage.config(), config.prompt_length
    length = config.max_length or (own.max_prompt_length if prompt is None else prompt) + own.max_new_tokens
    prompt = max(1, min(own.max_prompt_length, length - own.max_new_tokens) if prompt is None else prompt)
    if length <= prompt:
        raise UsageError(
            f"--max-length {length} leaves {stage.command} no token for an answer to a prompt of {prompt}",
            "raise it, or lower --prompt-length",
        )
    return {"max_prompt_length": prompt, "max_new_tokens": length - prompt}


def _architecture(config: MemoryConfig, reporter: Reporter) -> Architecture:
    if (config.params is None) == (config.model is None):
        say = "both were given" if config.params is not None else "neither was given"
        raise UsageError(f"give either --params or --model: {say}", "for example: prefcli mem-estimate --params 7B")
    if config.params is not None:
        return typical(parse_count(config.params))
    assert config.model is not None
    try:
        path, note = config_file(config.model, Store(config.runs))
    except SurroundingsError:  # the hub is not reached
        if (found := by_name(config.model, reporter)) is None:
            raise
        return found
    if note:
        reporter.notice(note)
    return read_architecture(path)

"""What `mem-estimate` answers: one stage, all methods, or PPO against DPO, from its options."""

from __future__ import annotations

from dataclasses import replace

from prefcli.artifacts.store import Store
from prefcli.config.memory import MemoryConfig
from prefcli.config.stages import BY_COMMAND
from prefcli.errors import UsageError
from prefcli.memory.architecture import Architecture
from prefcli.memory.devices import found_gpu
from prefcli.memory.gpus import Gpu, find_gpu
from prefcli.memory.methods import Method, Routes, side_by_side, two_routes
from prefcli.memory.model_files import read_architecture
from prefcli.memory.references import config_file
from prefcli.memory.run import Run
from prefcli.memory.shapes import typical
from prefcli.memory.sizes import parse_count
from prefcli.progress import SILENT, Reporter

DEFAULT_GPU = "A100-80GB"
# Beyond this --batch-size and --max-length are a slip, and floats would run over.
MOST_TOKENS = 10**12


def answer(config: MemoryConfig, reporter: Reporter = SILENT) -> Routes | list[Method]:
    """All methods with `compare`, one with `stage`, else the two routes with all weights trained.

    Raises UsageError for options that do not go together, ArtifactError for a model that is not there.
    """
    if config.batch_size * config.max_length > MOST_TOKENS:
        raise UsageError(f"--batch-size × --max-length is {config.batch_size * config.max_length} tokens: too many")
    if config.compare and config.stage is not None:
        raise UsageError("--compare is of all methods, and --stage names one", "leave one of them out")
    if config.zero and config.gpus == 1:
        raise UsageError(f"--zero {config.zero} splits over GPUs, and --gpus is 1", "give --gpus N")
    gpu, architecture = _gpu(config.gpu), _architecture(config, reporter)
    if config.compare:
        return side_by_side(_run(config, architecture), gpu)
    if config.stage is not None:
        return [Method(config.stage, _run(config, architecture), gpu)]
    plain = MemoryConfig(batch_size=config.batch_size, gradient_checkpointing=config.gradient_checkpointing)
    return two_routes(replace(_run(plain, architecture), max_length=config.max_length), gpu)


def _gpu(kind: str | None) -> Gpu:
    """The kind that is named, or the device that is here. Raises UsageError: unknown."""
    if kind is not None:
        return find_gpu(kind)
    here = found_gpu()
    return find_gpu(DEFAULT_GPU) if here is None else Gpu(here.name, here.bytes, "nvidia-smi, here")


def _run(config: MemoryConfig, architecture: Architecture) -> Run:
    """The options as a run. Raises UsageError for what does not go together."""
    for option, given in (("--load-in-4bit", config.load_in_4bit), ("--layout shared", config.layout == "shared")):
        if given and config.lora_rank == 0:
            raise UsageError(f"{option} is about adapters, and --lora-rank is 0", "give --lora-rank 16")
    if config.prompt_length > config.max_length:
        raise UsageError(f"--prompt-length {config.prompt_length} is more than --max-length {config.max_length}")
    stage, split = BY_COMMAND[config.stage or "ppo"], {"zero": config.zero, "shards": config.gpus}
    return Run.of(stage, config, architecture, "cuda", config.max_length, config.prompt_length, **split)


def _architecture(config: MemoryConfig, reporter: Reporter) -> Architecture:
    if (config.params is None) == (config.model is None):
        say = "both were given" if config.params is not None else "neither was given"
        raise UsageError(f"give either --params or --model: {say}", "for example: prefcli mem-estimate --params 7B")
    if config.params is not None:
        return typical(parse_count(config.params))
    assert config.model is not None
    path, note = config_file(config.model, Store(config.runs))
    if note:
        reporter.notice(note)
    return read_architecture(path)

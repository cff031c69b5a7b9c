"""`prefcli info`: what a bug report needs. No keys, no names of people or machines."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from prefcli import __version__
from prefcli.artifacts.store import Store
from prefcli.cli.stdout import print_result
from prefcli.config.about import InfoConfig
from prefcli.machine import memory_limit

NAME = "prefcli"
# What is set in the environment and changes a run; tokens and keys are not among them.
VARIABLES = ("PREFCLI_RUNS", "HF_HOME", "HF_HUB_OFFLINE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE")
EXTRA = ("bitsandbytes", "deepspeed", "vllm", "tensorboard", "wandb", "mlflow", "trackio")  # where installed


def run(config: InfoConfig) -> None:
    found = facts(config.runs)
    if config.json:
        print_result(json.dumps(found))
        return
    for name, value in found.items():
        lines = [f"{key} {one}" for key, one in value.items()] if isinstance(value, dict) else [str(value)]
        for position, line in enumerate(lines or ["none"]):
            print_result(f"{'' if position else name:12}{line}")


def facts(runs: str | None) -> dict[str, Any]:
    """Name → a text or texts by name. What fails is named in its place: this command runs where others do not."""
    store = Store(runs)
    return {
        "prefcli": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": _versions(),
        "device": _devices(),
        "cpu": f"{os.cpu_count()} cores, {platform.machine()}",
        "memory": "unknown" if (limit := memory_limit()) is None else f"{limit / 1e9:.1f} GB",
        "store": f"{_at_home(store.root.absolute())} ({_count(store)})",
        "environment": {name: _at_home(os.environ[name]) for name in VARIABLES if name in os.environ},
    }


def _versions() -> dict[str, str]:
    """Of the packages that prefcli needs, as installed; without importing any."""
    try:
        needed = [
            re.split(r"[^\w.-]", one)[0] for one in importlib.metadata.requires(NAME) or [] if "extra ==" not in one
        ]
    except importlib.metadata.PackageNotFoundError:  # run from its sources
        needed = ["torch", "transformers", "trl", "peft"]
    found = {}
    for name in [*needed, *EXTRA]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name in needed:
                found[name] = "missing"
    return found


def _devices() -> str:
    try:
        import torch

        if torch.cuda.is_available():
            cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
            shown = ", ".join(f"{card.name} ({card.total_memory / 1e9:.1f} GB)" for card in cards)
            return f"{shown}, CUDA {torch.version.cuda}"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    except Exception as error:  # a torch that cannot be imported, or a driver that does not fit it, is the bug
        return f"torch fails: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _count(store: Store) -> str:
    try:
        return f"{sum(len(store.versions(name)) for name in store.names())} artifacts"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _at_home(path: str | Path) -> str:
    """With ~ for the user's home, whose name is nobody's business."""
    home = os.path.expanduser("~")
    return "~" + str(path)[len(home) :] if len(home) > 1 and f"{path}/".startswith(f"{home}/") else str(path)

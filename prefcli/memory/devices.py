"""This machine's device, without torch: what nvidia-smi lists, or the machine's memory and the limit set on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace

from prefcli.config.training import SMALL_MODEL_PARAMETERS
from prefcli.errors import UsageError
from prefcli.machine import has_bfloat16, memory_limit
from prefcli.memory.gpus import MIB, Device, find_gpu, size_of
from prefcli.memory.sizes import format_bytes

PATIENCE = 20  # seconds for nvidia-smi, which wakes a driver that sleeps
SHARED = {"cpu": "CPU", "none": "CPU", "mps": "mps"}  # what has no memory of its own
LAPTOP = 16 * 10**9  # where the system does not say


def cpu_dtype(parameters: int) -> str:
    """What --dtype auto means on this machine's processor, for a model of this size (docs/packed.md has the gain).

    By what the processor has, not by a measurement: the same command computes the same on a busy machine.
    """
    return "bfloat16" if parameters >= SMALL_MODEL_PARAMETERS and has_bfloat16() else "float32"


def device(kind: str | None, count: int | None = None) -> Device:
    """The one that the options name, or that is here. `cpu` and `mps` have this machine's memory, or that behind their
    name: `mps-36GB`.

    Raises UsageError: an unknown kind, --gpus with a CPU.
    """
    if kind is None and (here := found_gpu()) is not None:
        return replace(here, count=count or here.count)
    if kind is None and count is not None:
        raise UsageError(f"--gpus {count}: no GPU is found here", "name the kind too: --gpu H100")
    name, _, size = (kind or "cpu").strip().lower().replace(" ", "-").replace(":", "-").partition("-")
    if name not in SHARED or (size and size_of(size) is None):
        return replace(find_gpu(str(kind)), count=count or 1)
    if count is not None:
        raise UsageError(f"--gpus {count}: --gpu is {name}", "leave one of them out")
    memory = size_of(size) or memory_limit() or LAPTOP
    return Device(f"{SHARED[name]}, {format_bytes(memory)} of memory", memory, count=0, bf16=False)


def found_gpu() -> Device | None:
    """The GPUs that nvidia-smi lists and CUDA_VISIBLE_DEVICES leaves, as many of the smallest of them; None where
    there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=index,uuid,name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
        found = {}
        for line in filter(str.strip, out.splitlines()):
            index, uuid, about = (cell.strip() for cell in line.split(",", 2))
            name, memory, capability = (cell.strip() for cell in about.rsplit(",", 2))
            found[index, uuid] = (int(memory) * MIB, name, float(capability) >= 8)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    seen = _visible(list(found), os.environ.get("CUDA_VISIBLE_DEVICES"))
    if not seen:
        return None
    size, kind, bf16 = min(found[one] for one in seen)
    return Device(kind, size, len(seen), bf16, "nvidia-smi, here")


def _visible(gpus: list[tuple[str, str]], said: str | None) -> list[tuple[str, str]]:
    """The (index, uuid) that CUDA sees: by index or the beginning of a uuid, up to the first that is unknown (CUDA
    programming guide, environment variables). A slice of a GPU (MIG) is taken for all of it."""
    if said is None or said.strip().startswith("MIG-"):
        return gpus
    seen: list[tuple[str, str]] = []
    for word in map(str.strip, said.split(",")):
        one = next(
            (gpu for gpu in gpus if word == gpu[0] or (word.startswith("GPU-") and gpu[1].startswith(word))), None
        )
        if one is None:
            break
        seen.append(one)
    return seen

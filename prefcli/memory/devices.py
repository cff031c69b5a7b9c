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
    """The GPU that nvidia-smi lists: the smallest of the GPUs that CUDA_VISIBLE_DEVICES leaves."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
        rows = [[cell.strip() for cell in line.rsplit(",", 2)] for line in out.splitlines() if line.strip()]
        found = sorted((int(memory) * MIB, name, float(capability) >= 8) for name, memory, capability in rows)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = len(found) if visible is None else min(len(found), len([v for v in visible.split(",") if v.strip()]))
    return Device(found[0][1], found[0][0], count, found[0][2], "nvidia-smi, here") if count else None

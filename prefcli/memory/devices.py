"""The device at hand without torch: what nvidia-smi lists, or the machine's memory and the limit that is set on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace

from prefcli.errors import UsageError
from prefcli.machine import memory_limit
from prefcli.memory.gpus import MIB, USABLE_SHARE, find_gpu
from prefcli.memory.sizes import format_bytes

NO_BF16 = ("T4", "V100")  # compute capability below 8: `--dtype auto` is float32 there
PATIENCE = 20  # seconds for nvidia-smi, which wakes a driver that sleeps


@dataclass(frozen=True)
class Device:
    """`bytes` are one device's. `count` is 0 for a CPU."""

    name: str
    bytes: int
    count: int
    bf16: bool

    @property
    def usable(self) -> float:
        return self.bytes * USABLE_SHARE

    @property
    def shown(self) -> str:
        return f"{self.count} × {self.name}" if self.count else f"CPU, {format_bytes(self.bytes)} of memory"


def device(kind: str | None, count: int | None) -> Device:
    """The one that the options name, or that is here.

    Raises UsageError: an unknown kind, --gpus with a CPU.
    """
    if kind is None and (here := found_gpu()) is not None:
        return replace(here, count=count or here.count)
    if kind is None and count is not None:
        raise UsageError(f"--gpus {count}: no GPU is found here", "name the kind too: --gpu H100")
    if kind is None or kind.strip().lower() in ("cpu", "none"):
        if count is not None:
            raise UsageError(f"--gpus {count}: --gpu is cpu", "leave one of them out")
        return Device("CPU", memory_limit() or 16 * 10**9, 0, bf16=False)  # not known: a laptop's
    gpu = find_gpu(kind)
    return Device(gpu.name, gpu.bytes, count or 1, bf16=not gpu.name.startswith(NO_BF16))


def found_gpu() -> Device | None:
    """What nvidia-smi lists: the smallest of the GPUs that CUDA_VISIBLE_DEVICES leaves."""
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
    return Device(found[0][1], found[0][0], count, found[0][2]) if count else None

"""The device of a model and its number format."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import torch
import transformers

from prefcli import __version__
from prefcli.errors import UsageError
from prefcli.memory.devices import cpu_dtype


def pick_device(name: str) -> torch.device:
    """The device that a name means; auto is the best there is. Raises UsageError for one that is not there."""
    if name == "auto":
        if torch.cuda.is_available():  # its own for each process of a machine
            return torch.device(f"cuda:{rank}" if (rank := os.environ.get("LOCAL_RANK")) else "cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name}: no such kind of device", "use cpu, cuda, cuda:N, mps or auto") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    there = {"cpu": True, "cuda": count > (device.index or 0), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise UsageError(f"--device {name}: not on this machine", "use --device auto or cpu")
    return device


def training_device(name: str) -> torch.device:
    """`pick_device`, where transformers and accelerate are to run on it. Raises UsageError: not the first GPU that a
    process sees, which they would use whatever was picked."""
    device = pick_device(name)
    if name != "auto" and device.index:
        raise UsageError(
            f"--device {name}: training uses the first visible GPU",
            f"make only that GPU visible: CUDA_VISIBLE_DEVICES={device.index} with --device cuda",
        )
    return device


def pick_dtype(name: str, device: torch.device, parameters: int = 0) -> torch.dtype:
    """auto: bfloat16 on a GPU that has it, `cpu_dtype` of a model with `parameters` on a CPU, else float32."""
    if name == "auto" and device.type == "cpu":
        name = cpu_dtype(parameters)
    elif name == "auto":
        has_bfloat16 = device.type == "cuda" and _computes_in_bfloat16(device)
        return torch.bfloat16 if has_bfloat16 else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def computed_on(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """A JSON object of what decides the last digits of a result beside its inputs, for the key of what is kept of it.

    Threads and processes are not among them: they change a result by rounding alone.
    """
    return {
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "versions": [__version__, torch.__version__, transformers.__version__],
    }


def _computes_in_bfloat16(device: torch.device) -> bool:
    """Whether a GPU does so by itself: older ones (T4, V100) are given it by emulation, which is slow."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


# glibc's mallopt: parameter → value. A value is an int: more than 2³¹ − 1 turns into something else.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_MALLOPT = {_TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**28, _MMAP_THRESHOLD: 2**31 - 1}
_THRIFTY = {_MMAP_THRESHOLD: 2**20}


def prepare_cpu(thrifty: bool = False) -> None:
    """Set the allocator up, and use all cores. Measured in docs/packed.md.

    As it comes glibc gives a large tensor's pages back at every free and has the kernel clear new ones for the next; so
    it is told to keep them. Tensors of many sizes leave holes, though, that hold as much again as what is alive:
    `thrifty` has each large one mapped for itself, which leaves none and is slower.
    `accelerate launch` gives a process on the CPU a single thread where OMP_NUM_THREADS was not set.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        mallopt = None
    if mallopt is not None:
        for parameter, value in (_MALLOPT | (_THRIFTY if thrifty else {})).items():
            mallopt(parameter, value)
    if "ACCELERATE_MIXED_PRECISION" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))

"""Where a model lives and in which number format."""

from __future__ import annotations

import torch

from prefcli.errors import UsageError


def pick_device(name: str) -> torch.device:
    """The device that a name means; auto is the best there is. Raises UsageError for one that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
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


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """auto: float32 on a CPU, bfloat16 on a GPU that has it."""
    if name == "auto":
        has_bfloat16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype

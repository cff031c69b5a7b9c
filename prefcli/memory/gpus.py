"""Kinds of GPU, the memory each has, and how many of one kind an amount of memory takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches

from prefcli.errors import UsageError

# What a training process gets of a GPU. The rest is the CUDA context, the libraries' workspaces and what the
# caching allocator holds in pieces too small to use.
USABLE_SHARE = 0.9

MIB, KIB = 1024**2, 1024

# Totals as the drivers report them, which is a little more or less than the number in the name.
REPORTED = "nvidia-smi, github.com/modal-labs/modal-client/pull/2797"
# Where no report is at hand: the maker's figure in decimal bytes, which is never more than the driver shows.
DATASHEET = "data sheet, decimal"


@dataclass(frozen=True)
class Gpu:
    name: str
    bytes: int
    source: str

    @property
    def usable_bytes(self) -> float:
        return self.bytes * USABLE_SHARE


GPUS = (
    Gpu("A10-24GB", 23_028 * MIB, REPORTED),
    Gpu("A100-40GB", 40_960 * MIB, REPORTED),
    Gpu("A100-80GB", 81_920 * MIB, REPORTED),
    Gpu("A40-48GB", 48 * 10**9, DATASHEET),
    Gpu("B200-180GB", 180 * 10**9, DATASHEET),
    Gpu("H100-80GB", 81_559 * MIB, REPORTED),
    Gpu("H200-141GB", 141 * 10**9, DATASHEET),
    Gpu("L4-24GB", 23_034 * MIB, REPORTED),
    Gpu("L40S-48GB", 46_068 * MIB, REPORTED),
    Gpu("MI300X-192GB", 201_310_208 * KIB, "rocminfo, github.com/ROCm/rocm-examples/issues/187"),
    Gpu("RTX3090-24GB", 24_576 * MIB, "nvidia-smi, github.com/noonghunna/club-3090/issues/1129"),
    Gpu("RTX4090-24GB", 24 * 10**9, DATASHEET),
    Gpu("RTX5090-32GB", 32_607 * MIB, "nvidia-smi, github.com/noonghunna/club-3090/issues/1229"),
    Gpu("T4-16GB", 15_360 * MIB, REPORTED),
    Gpu("V100-16GB", 16 * 10**9, DATASHEET),
    Gpu("V100-32GB", 32 * 10**9, DATASHEET),
)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def find_gpu(name: str) -> Gpu:
    """The kind that a name means, whatever its case and hyphens; `H100` will do where there is only one.

    Raises UsageError: unknown, with the nearest name, or short for several.
    """
    wanted = _plain(name)
    exact = [gpu for gpu in GPUS if _plain(gpu.name) == wanted]
    short = [gpu for gpu in GPUS if _plain(gpu.name.split("-")[0]) == wanted]
    found = exact or short
    if len(found) == 1:
        return found[0]
    names = ", ".join(gpu.name for gpu in GPUS)
    if found:
        raise UsageError(f"--gpu {name} comes in several sizes", f"say {' or '.join(gpu.name for gpu in found)}")
    by_plain = {_plain(gpu.name): gpu.name for gpu in GPUS}
    near = get_close_matches(wanted, list(by_plain), n=1, cutoff=0.4)
    hint = f"did you mean {by_plain[near[0]]}? Known kinds: {names}" if near else f"known kinds: {names}"
    raise UsageError(f"--gpu {name}: unknown kind of GPU", hint)


def gpus_needed(total_bytes: float, gpu: Gpu) -> int:
    """⌈total ÷ usable memory of one⌉: the run split evenly over the GPUs, as FSDP and ZeRO-3 do with the states."""
    return max(1, math.ceil(total_bytes / gpu.usable_bytes))

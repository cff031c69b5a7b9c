"""Kinds of GPU and the memory each has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches

from prefcli.errors import UsageError

# What a training process gets of a device. On a GPU the rest is the CUDA context, the libraries' workspaces and what
# the caching allocator holds in pieces too small to use.
USABLE_SHARE = 0.9
IMPORTS = 454_000_000  # resident before a model is loaded: benchmarks/results/layouts.json

MIB, KIB = 1024**2, 1024

# Totals as the drivers report them, which is a little more or less than the number in the name.
REPORTED = "nvidia-smi, github.com/modal-labs/modal-client/pull/2797"
# Where no report is at hand: the maker's figure in decimal bytes, which is never more than the driver shows.
DATASHEET = "data sheet, decimal"
STATED = "as said"


@dataclass(frozen=True)
class Device:
    """`bytes` are one device's. `count` is 0 for what has no memory of its own: a CPU, mps."""

    name: str
    bytes: int
    count: int = 1
    bf16: bool = True
    source: str = STATED

    @property
    def usable_bytes(self) -> float:
        return self.bytes * USABLE_SHARE - (0 if self.count else IMPORTS)

    @property
    def shown(self) -> str:
        return f"{self.count} × {self.name}" if self.count else self.name


def _gpu(name: str, size: int, source: str = DATASHEET) -> Device:
    return Device(name, size, 1, not name.startswith(NO_BF16), source)


def _sheet(names: str) -> tuple[Device, ...]:
    """Kinds whose size is the one in their name, in decimal bytes."""
    return tuple(_gpu(name, int(name.rpartition("-")[2].removesuffix("GB")) * 10**9) for name in names.split())


# Compute capability below 8: `--dtype auto` is float32 there.
NO_BF16 = ("GTX", "P100", "RTX2", "T4", "TitanRTX", "V100")

GPUS = (
    *_sheet(
        """
        A30-24GB A40-48GB B200-180GB B300-288GB GH200-96GB GTX1080Ti-11GB H200-141GB MI210-64GB MI325X-256GB
        MI355X-288GB P100-16GB RTX2080Ti-11GB RTX3060-12GB RTX3080-10GB RTX3080-12GB RTX3080Ti-12GB
        RTX3090Ti-24GB RTX4060-8GB RTX4060Ti-8GB RTX4060Ti-16GB RTX4070-12GB RTX4070Ti-12GB
        RTX4070TiSuper-16GB RTX4080-16GB RTX4090-24GB RTX5060Ti-8GB RTX5060Ti-16GB RTX5070-12GB RTX5070Ti-16GB
        RTX5080-16GB RTX6000Ada-48GB RTXA4000-16GB RTXA5000-24GB RTXA6000-48GB RTXPRO6000-96GB RX7900XTX-24GB
        TitanRTX-24GB V100-16GB V100-32GB
        RTX3060Laptop-6GB RTX3080Laptop-16GB RTX4060Laptop-8GB RTX4070Laptop-8GB RTX4080Laptop-12GB
        RTX4090Laptop-16GB RTX5070Laptop-8GB RTX5080Laptop-16GB RTX5090Laptop-24GB
        """
    ),
    _gpu("A10-24GB", 23_028 * MIB, REPORTED),
    _gpu("A100-40GB", 40_960 * MIB, REPORTED),
    _gpu("A100-80GB", 81_920 * MIB, REPORTED),
    _gpu("H100-80GB", 81_559 * MIB, REPORTED),
    _gpu("L4-24GB", 23_034 * MIB, REPORTED),
    _gpu("L40S-48GB", 46_068 * MIB, REPORTED),
    _gpu("MI300X-192GB", 201_310_208 * KIB, "rocminfo, github.com/ROCm/rocm-examples/issues/187"),
    _gpu("RTX3090-24GB", 24_576 * MIB, "nvidia-smi, github.com/noonghunna/club-3090/issues/1129"),
    _gpu("RTX5090-32GB", 32_607 * MIB, "nvidia-smi, github.com/noonghunna/club-3090/issues/1229"),
    _gpu("T4-16GB", 15_360 * MIB, REPORTED),
)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(G|GB|GiB)", re.IGNORECASE)


def find_gpu(name: str) -> Device:
    """The kind that a name means, whatever its case and hyphens; `H100` will do where there is only one. `16GB` is any
    GPU of that size.

    Raises UsageError: unknown, with the nearest name, or short for several.
    """
    if (size := size_of(name)) is not None:
        return Device(f"GPU-{size / 1e9:g}GB", size)
    wanted = _plain(name).removeprefix("nvidia").removeprefix("geforce").removeprefix("amd").removeprefix("radeon")
    found = [gpu for gpu in GPUS if _plain(gpu.name) == wanted] or [
        gpu for gpu in GPUS if wanted and wanted in _short(gpu.name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"--gpu {name} comes in several sizes", f"say {' or '.join(gpu.name for gpu in found)}")
    size_instead = "or its memory, as in --gpu 16GB"
    by_plain = {_plain(gpu.name): gpu.name for gpu in GPUS}
    if near := get_close_matches(wanted, list(by_plain), n=1, cutoff=0.4):
        raise UsageError(f"--gpu {name}: unknown kind of GPU", f"did you mean {by_plain[near[0]]}? {size_instead}")
    raise UsageError(
        f"--gpu {name}: unknown kind of GPU", f"known kinds: {', '.join(sorted(by_plain.values()))}; {size_instead}"
    )


def _short(name: str) -> tuple[str, str]:
    """A kind without its size, and without its series: RTX 4090, 4090."""
    plain = _plain(name.rpartition("-")[0])
    return plain, re.sub("^(rtx|gtx|rx)", "", plain)


def size_of(text: str) -> int | None:
    """Bytes of `16GB`, which are decimal, or `16GiB`; None for what is not a size. Raises UsageError: a size of
    nothing."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    size = round(float(found[1]) * (2**30 if "i" in found[2].lower() else 1e9))
    if not 10**8 <= size <= 10**15:
        raise UsageError(f"--gpu {text}: not the memory of a device", "for example: --gpu 16GB")
    return size

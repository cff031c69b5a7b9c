"""Facts of this machine and process: memory, its limits, and processes that the kernel killed for memory."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
# How often a thread of GNU's OpenMP looks for its next work before it sleeps; 300,000 as it comes.
_SPINS = "1000"


def share_cores() -> None:
    """Have OpenMP's threads wait shortly, then sleep, unless the user said how. To be called before torch is imported.

    Where other processes need the cores, a thread that spins for another keeps that one from running: measured in
    docs/packed.md.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


@cache
def has_bfloat16() -> bool:
    """Whether this processor has instructions for products in bfloat16 (x86's AVX512-BF16 or AMX, ARM's bf16)."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    lines = (line.partition(":") for line in text.splitlines())
    flags = next((set(found.split()) for name, _, found in lines if name.strip() in ("flags", "Features")), set())
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def memory_limit() -> int | None:
    """Bytes that this process may use: the machine's, or its control group's where that is less. None: unknown."""
    try:
        limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError, AttributeError):
        limits = []
    for name in ("memory.max", "memory.limit_in_bytes"):
        limits += [int(text) for text in _group_files(name).values() if text.strip().isdigit()]
    return min(limits, default=None)


def resident() -> int | None:
    """Bytes that this process holds. None: unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def boot() -> str | None:
    """An identifier of this boot of the machine. None: unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def oom_kills() -> dict[str, int]:
    """The number of processes that the kernel has killed for memory, by the file that counts them."""
    texts = _group_files("memory.oom_control") | _group_files("memory.events")
    try:
        texts["/proc/vmstat"] = Path("/proc/vmstat").read_text()  # of the whole machine
    except OSError:
        pass
    found = {}
    for counter, text in texts.items():
        for line in text.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.strip().isdigit():
                found[counter] = int(count)
    return found


def _group_files(name: str) -> dict[str, str]:
    """Path → text of a file of this process's memory control groups and those above, of version 1 or 2."""
    try:
        groups = [line.strip().split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return {}
    found = {}
    for _, controllers, group in groups:
        root = _CGROUPS / controllers
        own = root / group.lstrip("/")
        for folder in (own, *own.parents) if controllers in ("", "memory") else ():
            try:
                found[str(folder / name)] = (folder / name).read_text()
            except OSError:
                pass
            if folder == root:
                break
    return found

"""A device's memory: its size, the peak in use, and the message where it ran short."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from prefcli.errors import MemoryShortError, from_foreign
from prefcli.machine import memory_limit
from prefcli.memory.run import Run
from prefcli.memory.sizes import format_bytes
from prefcli.stages.plan import WARNS, advice, by_part, peak

try:
    import resource
except ImportError:  # Windows: a CPU's peak is not measured there
    resource = None  # type: ignore[assignment]


def bytes_of(device: torch.device) -> int | None:
    """All memory that a device has; a CPU's is the machine's, or the limit that is set on it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return memory_limit() if device.type == "cpu" else None


def memory_short(error: Exception, memory: Run | None, have: int | None) -> MemoryShortError | None:
    """For an allocation that failed: with what the estimate says of its parts, and what to change."""
    known = from_foreign(error)
    if not isinstance(known, MemoryShortError) or memory is None or not have:
        return None
    message = f"{known.message.splitlines()[0]} (estimated: {format_bytes(peak(memory))}; {by_part(memory)})"
    # Where the estimate fits, others hold memory or a limit is set: less is needed all the same.
    return MemoryShortError(message, advice(memory, min(have, int(peak(memory) / WARNS * 0.8))))


class PeakMemory:
    """The most memory that was in use while it ran: allocated on a GPU, resident on a CPU.

    On Linux the kernel's own high-water mark is reset first.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self.bytes = device, 0

    def __enter__(self) -> PeakMemory:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        except OSError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        else:
            self.bytes = _resident_peak()


def _resident_peak() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""Peaks of memory by phase: of a GPU by its allocator, of a CPU by counting the bytes of tensors that are alive.

torch's CPU allocator has no counter. Here every storage that an operation reads or writes is counted while it lives,
as `torch.distributed._tools.mem_tracker` does. The profiler's memory events would also show what a kernel takes for
itself, but one by one and afterwards: a step has some 10⁵ of them, and phases would have to be found by their times.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors' storages that are alive, and their peak. Fake tensors count as if they were real, of
    tensors that are split over processes this one's part. FSDP takes and gives memory by resizing storages."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.reserved = 0
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __enter__(self) -> LiveBytes:
        gc.collect()
        for found in gc.get_objects():
            if issubclass(type(found), torch.Tensor):
                self._see(found)
        resize = self._resize = torch.UntypedStorage.resize_

        def resized(storage: Any, size: int) -> Any:
            found = resize(storage, size)
            self._hold(storage)
            return found

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign,assignment]
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented  # it comes again, as the operations on this process's parts
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf)
        return out

    def _see(self, tensor: torch.Tensor) -> None:
        try:
            storage = (tensor._local_tensor if isinstance(tensor, DTensor) else tensor).untyped_storage()
        except (NotImplementedError, RuntimeError):  # sparse, say
            return
        if storage.device.type != "meta":
            self._hold(storage)

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        known = self._known.get(key)
        if known is not None and known[0]() is storage:
            if known[1] == size:
                return
            self.live -= known[1]  # it was resized

        def gone(reference: weakref.ref[Any]) -> None:
            if self._known.get(key, (None,))[0] is reference:
                self.live -= self._known.pop(key)[1]

        self._known[key] = (weakref.ref(storage, gone), size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def reset(self) -> None:
        self.peak = self.live


class Cuda:
    """The same of torch's CUDA allocator, and what it has reserved."""

    def __enter__(self) -> Cuda:
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated()

    @property
    def reserved(self) -> int:
        return torch.cuda.max_memory_reserved()

    @property
    def live(self) -> int:
        return torch.cuda.memory_allocated()

    def reset(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


class Phases:
    """Peaks by phase. A phase within another is taken out of it."""

    def __init__(self, meter: LiveBytes | Cuda) -> None:
        self.meter, self.on = meter, False
        self.peaks: dict[str, int] = {}
        self.before: dict[str, int] = {}  # what was alive when the phase began, the most of it
        self.reserved = 0
        self._open = ["between"]
        self._undo: list[tuple[Any, str, Any]] = []

    def wrap(self, owner: Any, name: str, phase: str) -> None:
        """Measure calls of `owner.name` as `phase`, until `unwrap`."""
        original = getattr(owner, name)
        self._undo.append((owner, name, original))

        @wraps(original)
        def measured(*args: Any, **kwargs: Any) -> Any:
            if not self.on:
                return original(*args, **kwargs)
            self._turn(lambda: self._open.append(phase))
            self.before[phase] = max(self.before.get(phase, 0), self.meter.live)
            try:
                return original(*args, **kwargs)
            finally:
                self._turn(self._open.pop)

        setattr(owner, name, measured)

    def unwrap(self) -> None:
        for owner, name, original in reversed(self._undo):
            setattr(owner, name, original)
        self._undo.clear()

    def start(self) -> None:
        self.meter.reset()
        self.on = True

    def stop(self) -> None:
        self._turn(lambda: None)
        self.on = False

    @property
    def peak(self) -> int:
        return max(self.peaks.values())

    def _turn(self, change: Callable[[], Any]) -> None:
        phase = self._open[-1]
        self.peaks[phase] = max(self.peaks.get(phase, 0), self.meter.peak)
        self.reserved = max(self.reserved, self.meter.reserved)
        self.meter.reset()
        change()

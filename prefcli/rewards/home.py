"""The environment of a reward file's code: its own, which leaves nothing behind in ours.

Its folder is first on `sys.path`, as `python FILE` has it, and the modules beside it are found there, whatever else
of that name is imported (two reward files may each have their `utils`). What it does to the working directory and to
torch's switch of gradients holds while it runs, and is there again at the next call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefcli.models import bitsandbytes
from prefcli.rewards.siblings import home_of, siblings


class Home:
    """The surroundings of one reward file."""

    def __init__(self, file: Path) -> None:
        self._folder = home_of(file)
        self._names = {path.relative_to(self._folder).parts[0].removesuffix(".py") for path in siblings(file)}
        self._modules: dict[str, Any] = {}  # those that it imported from there
        self._here: str | None = None  # its working directory, once it changed it
        self._gradients: bool | None = None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """For as long as code of the file runs. Not for two threads at a time."""
        with bitsandbytes.visible(), self._imports(), self._directory(), self._torch():
            yield

    @contextmanager
    def _imports(self) -> Iterator[None]:
        others = _taken(self._names)
        sys.modules.update(self._modules)
        folder, writes = str(self._folder), sys.dont_write_bytecode
        sys.path.insert(0, folder)
        sys.dont_write_bytecode = True  # a file that changes within a second would be taken for its compiled form
        try:
            yield
        finally:
            sys.dont_write_bytecode = writes
            with suppress(ValueError):  # it may have taken it away itself
                sys.path.remove(folder)
            self._modules = _taken(self._names)
            sys.modules.update(others)

    @contextmanager
    def _directory(self) -> Iterator[None]:
        ours = _directory()
        if self._here is not None:
            os.chdir(self._here)
        try:
            yield
        finally:
            now = _directory()
            self._here = now if now != ours else None
            if ours is not None and now != ours:
                os.chdir(ours)

    @contextmanager
    def _torch(self) -> Iterator[None]:
        """Where torch is first imported by the file, ours is what it begins with: gradients are on."""
        ours = _gradients()
        if self._gradients is not None and "torch" in sys.modules:
            sys.modules["torch"].set_grad_enabled(self._gradients)
        try:
            yield
        finally:
            now = _gradients()
            self._gradients = now if now != ours else None
            if now != ours:
                sys.modules["torch"].set_grad_enabled(ours)


def _taken(names: set[str]) -> dict[str, Any]:
    """The modules of these top-level names, with what is below them, taken out of `sys.modules`."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}


def _directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _gradients() -> bool:
    torch: Any = sys.modules.get("torch")
    # Half imported, it has no such function yet.
    return bool(torch.is_grad_enabled()) if hasattr(torch, "is_grad_enabled") else True

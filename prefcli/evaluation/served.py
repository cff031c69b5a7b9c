"""`--generate` of sample, eval and chat: this process answers for a model, or servers that are given its weights."""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefcli.artifacts.garbage import WEIGHTS
from prefcli.artifacts.unfinished import LOCK, locked
from prefcli.config.shared import addresses
from prefcli.errors import UsageError
from prefcli.evaluation.models import not_finite
from prefcli.models.generation import InProcess, NotFiniteError, Sampler
from prefcli.progress import Reporter


def check(generate: str | None, processes: int = 1, models: int = 1) -> None:
    """Raise UsageError for what is no URL, and for what servers cannot do."""
    if generate is None:
        return
    addresses(generate)
    if processes > 1:
        raise UsageError("--generate works in one process: the servers do the work", "give it several servers")
    if models > 1:
        raise UsageError("--generate serves one model at a time", "chat with one, or leave it out")


def sampler_of(
    model: Any,
    tokenizer: Any,
    generate: str | None,
    root: Path,
    reporter: Reporter,
    at_end: Callable[[Callable[[], None]], Any],
) -> Sampler:
    """The weights go through a folder in the cache of the artifact store at `root`; it is gone when `at_end` has called
    what it is given. Raises SurroundingsError: a server has other weights, or none answers."""
    if generate is None:
        return InProcess(model)
    folder = root / WEIGHTS / secrets.token_hex(16)
    made = [above for above in (folder.parent, folder.parent.parent, root) if not above.is_dir()]
    folder.mkdir(parents=True)
    lock = locked(folder / LOCK, os.O_CREAT)  # against gc
    module: Any = importlib.import_module("prefcli.models.engine")  # httpx, which only this needs
    engine: Sampler = module.Engine(model, tokenizer, generate, folder, reporter)

    def close() -> None:
        engine.close()
        if lock is not None:
            os.close(lock)
        for above in made:
            with suppress(OSError):
                above.rmdir()

    at_end(close)
    try:
        engine.update()
    except NotFiniteError as error:
        raise not_finite() from error
    return engine

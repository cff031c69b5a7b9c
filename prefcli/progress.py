"""Progress reports of library code without printing: through a reporter that it is given."""

from __future__ import annotations

import os
from typing import Any


def is_main_process() -> bool:
    """Whether this is the process that writes and speaks: `accelerate launch` and torchrun number them in RANK."""
    return os.environ.get("RANK", "0") == "0"


def processes() -> int:
    """How many `accelerate launch` or torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def under_deepspeed() -> bool:
    """Whether DeepSpeed splits the weights over processes, by `accelerate launch`; on a CPU nothing is split."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and os.environ.get("ACCELERATE_USE_CPU") != "true"


class Reporter:
    """Does nothing; the command line's reporter draws, a test's records."""

    def notice(self, text: str) -> None:
        """Something that the user should know and need not act on."""

    def plan(self, plan: dict[str, Any]) -> None:
        """Show what is about to be done, before it starts."""

    def begin(self, what: str, total: int | None, unit: str = "steps") -> None:
        """A piece of work of `total` steps, or other units, begins."""

    def advance(self, done: int, metrics: dict[str, float] | None = None) -> None:
        """`done` steps of the work are finished; `metrics` are the newest."""

    def end(self) -> None:
        """The piece of work is over."""


SILENT = Reporter()

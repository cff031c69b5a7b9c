"""A family run in a process of a pool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from scripts.families import kept, matrix


def one(name: str, folder: Path) -> dict[str, Any]:
    """Run a family, and keep what became of it. The libraries' progress bars are thrown away."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        found = matrix.run(name)
    except Exception as error:  # of the building: the cells catch their own
        found = {"family": name, "failed": f"{type(error).__name__}: {error}"}
    kept.keep(folder, name, found)
    return found

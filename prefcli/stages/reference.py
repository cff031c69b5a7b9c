"""The frozen reference's log-probabilities of pairs: computed when first asked for, kept for epochs and re-runs."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefcli.models.logps import token_logps
from prefcli.models.rows import Rows

FOLDER = ".cache/reference-logps"  # below the artifact store


class ReferenceLogps:
    """Σ_t log π_ref of both answers of every pair.

    `file` keeps them between runs; None where the reference cannot be pinned. `run` opens the context in which `model`
    is the reference (its adapter switched off, say), in evaluation mode.
    """

    def __init__(self, pairs: int, file: Path | None) -> None:
        self.file = file
        self.logps = torch.full((pairs, 2), torch.nan)
        self._found = 0
        if file is not None and file.is_file():
            try:
                kept = load_file(file)["logps"]
            except (SafetensorError, OSError, KeyError):
                kept = self.logps  # a broken cache is worth nothing, and costs nothing
            if kept.shape == self.logps.shape:
                self.logps = kept
        self._known = int(self.known)
        self.model: nn.Module | None = None
        self.run: Callable[[], AbstractContextManager[Any]] | None = None

    @property
    def known(self) -> int:
        """Pairs whose figures are there."""
        return int((~self.logps.isnan().any(1)).sum())

    def of(self, pairs: list[int], rows: Rows) -> Tensor:
        """[2b] of the pairs with these numbers, whose `rows` [2b] are chosen, rejected, chosen, rejected, …"""
        known = self.logps[pairs]
        if known.isnan().any():
            assert self.model is not None and self.run is not None
            with torch.no_grad(), self.run():
                known = token_logps(self.model, rows).logps.sum(1).view(-1, 2).cpu()
            self.logps[pairs] = known
        return known.flatten().to(rows.input_ids.device)

    def save(self) -> None:
        """Keep what was computed. Loses nothing that another run kept meanwhile but its time."""
        if self.file is None or self.known == self._known:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        draft = self.file.with_suffix(f".{os.getpid()}")
        save_file({"logps": self.logps}, draft)
        draft.replace(self.file)


def cache_file(root: Path, digest: str | None, dtype: torch.dtype, pairs: list[dict[str, Any]]) -> Path | None:
    """Where the figures of this reference (by digest) on these token ids are kept."""
    if digest is None:
        return None
    key = hashlib.sha256(f"{digest} {dtype}".encode())
    for pair in pairs:
        for name in ("prompt_ids", "chosen_ids", "rejected_ids"):
            key.update(array("q", [len(pair[name]), *pair[name]]).tobytes())
    return root / FOLDER / f"{key.hexdigest()[:32]}.safetensors"

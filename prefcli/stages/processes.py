"""A run in several processes: the one that writes, what the others resume from, and what splits the weights."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from prefcli.artifacts.store import Draft
from prefcli.artifacts.unfinished import LOG, RUN
from prefcli.config.training import FSDP
from prefcli.progress import is_main_process, processes
from prefcli.stages.inputs import Inputs


@contextmanager
def without_accelerates_fsdp() -> Iterator[None]:
    """Accelerate's FSDP takes one model with one optimizer: what its file asks for we do ourselves (`--shard`)."""
    before = os.environ.pop(FSDP, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[FSDP] = before


@contextmanager
def draft_of(inputs: Inputs, device: torch.device) -> Iterator[Draft]:
    """The version to write. Of several processes the first writes it, the others a folder that is thrown away.

    Those resume from the state that the first resumes from.
    """
    if is_main_process():
        with inputs.store.writer(inputs.name, None if inputs.config.force else inputs.key) as draft:
            if processes() > 1:
                _told(device, draft.path if draft.run else None)
            yield draft
        return
    with tempfile.TemporaryDirectory() as folder:
        before = _told(device)
        if before is not None:
            os.symlink((before / "state").resolve(), Path(folder) / "state")
            for name in (RUN, LOG):
                if (before / name).is_file():  # else it is named where the state is checked
                    shutil.copy(before / name, folder)
        yield Draft(Path(folder), 0, None)


def _told(device: torch.device, unfinished: Path | None = None) -> Path | None:
    """The unfinished version that the first process resumes, in all of them."""
    PartialState(cpu=device.type == "cpu")  # makes them a group; whoever comes later finds it made
    said: list[Path | None] = [unfinished]
    broadcast_object_list(said)
    return said[0]

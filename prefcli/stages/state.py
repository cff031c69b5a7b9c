"""A checkpoint on disk: nested Python values with tensors in them, as JSON and safetensors. Nothing is pickled.

training.json               the values; {"tensor": n} stands for the n-th tensor
training-K.safetensors      the tensors, in files of at most PART bytes: what is on a GPU passes through the host's
                            memory one file at a time
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefcli.errors import ArtifactError
from prefcli.models.sharding import whole
from prefcli.models.zero3 import Held
from prefcli.text import first_line

VALUES = "training.json"
PART = 4 << 30


def write_state(folder: Path | None, value: dict[str, Any]) -> None:
    """Write None, bools, numbers, texts and tensors, in dicts, lists and tuples of any depth.

    Where tensors are split over processes all must call it, and those that write nothing have no `folder`: each tensor
    is gathered when it is written.
    """
    tensors: list[Tensor | Held] = []
    encoded = json.dumps(_encoded(value, tensors))
    part: dict[str, Tensor] = {}
    files = size = 0
    seen: set[int] = set()
    for number, held in enumerate(tensors):
        tensor: Tensor = whole(held)
        if folder is None:
            continue
        if part and size + tensor.nbytes > PART:
            save_file(part, folder / f"training-{files}.safetensors")
            part, files, size, seen = {}, files + 1, 0, set()
        if tensor.data_ptr() in seen:  # as tables of bitsandbytes' optimizers: safetensors takes no two of one memory
            tensor = tensor.clone()
        seen.add(tensor.data_ptr())
        part[str(number)] = tensor
        size += tensor.nbytes
    if folder is None:
        return
    save_file(part, folder / f"training-{files}.safetensors")
    (folder / VALUES).write_text(encoded, encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """Read what `write_state` wrote, its tensors on the CPU. Raises ArtifactError where it cannot be read."""
    path = folder
    try:
        tensors: dict[str, Tensor] = {}
        for path in sorted(folder.glob("training-*.safetensors")):
            tensors |= load_file(path)
        path = folder / VALUES
        decoded: dict[str, Any] = _decoded(json.loads(path.read_text(encoding="utf-8")), tensors)
    except Exception as error:
        raise ArtifactError(
            f"{path} cannot be read ({first_line(error)})", f"remove {folder}, or start again with --force"
        ) from error
    return decoded


def random_state() -> dict[str, Any]:
    """The state of every random generator that a step may use, in this process."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def _encoded(value: Any, tensors: list[Tensor | Held]) -> Any:
    """JSON with containers that it has not: a dict is a list of pairs, its keys of any kind."""
    if isinstance(value, np.ndarray):
        return {"array": [str(value.dtype), value.tolist()]}
    if isinstance(value, (Tensor, Held)):
        tensors.append(value if isinstance(value, Held) else value.detach().contiguous())
        return {"tensor": len(tensors) - 1}
    if isinstance(value, dict):
        return {"dict": [[_encoded(key, tensors), _encoded(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encoded(entry, tensors) for entry in value]}
    if isinstance(value, list):
        return [_encoded(entry, tensors) for entry in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be saved")


def _decoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decoded(entry, tensors) for entry in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[str(inner)]
    if kind == "array":
        return np.array(inner[1], dtype=inner[0])
    entries = [_decoded(entry, tensors) for entry in inner]
    return tuple(entries) if kind == "tuple" else {key: entry for key, entry in entries}

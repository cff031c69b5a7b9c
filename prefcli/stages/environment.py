"""The environment of a run (versions, device, threads), which decides its exact result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import peft
import torch
import transformers
import trl

from prefcli import __version__
from prefcli.artifacts.store import Draft
from prefcli.errors import ArtifactError
from prefcli.progress import processes, under_deepspeed


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "prefcli": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "peft": peft.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "processes": processes(),
        **_deepspeed(),
    }


def _deepspeed() -> dict[str, str]:
    if not under_deepspeed():
        return {}
    try:
        return {"deepspeed": version("deepspeed")}
    except PackageNotFoundError:  # accelerate refuses it in its own words
        return {}


def refuse_elsewhere(draft: Draft, under: dict[str, Any]) -> None:
    """Raise ArtifactError where an unfinished run would not end as it would have: other versions, device or threads.

    What is None now may have been anything.
    """
    before = draft.run.get("environment", {})
    changed = [
        f"{name} {before.get(name)}, now {value}"
        for name, value in (dict.fromkeys(before, "none") | under).items()
        if value is not None and before.get(name) != value
    ]
    if changed:
        where = draft.path if draft.version else "the unfinished version"  # another process's folder is thrown away
        raise ArtifactError(
            f"{where} was started under {'; '.join(changed)}",
            "run it under those again, or start again with --force",
        )

"""From a reference to a model to the config.json behind it."""

from __future__ import annotations

import os
from pathlib import Path

from prefcli.artifacts.manifest import NAME
from prefcli.artifacts.references import TINY, resolve
from prefcli.artifacts.store import Store
from prefcli.errors import ArtifactError
from prefcli.memory.model_files import find_config


def config_file(reference: str, store: Store) -> tuple[Path, str | None]:
    """The config.json of an artifact's name, a path, or `tiny`, and what was ambiguous about it.

    A path and `tiny` are read as they are: their weights, which `resolve` asks for, do not matter here.
    Raises ArtifactError: none of these, or nothing that a configuration can be read from.
    """
    path = Path(reference)
    is_name = NAME.fullmatch(reference) is not None and bool(store.versions(reference))
    there = os.path.exists(path)  # False, too, for what no path can be
    if not is_name and not there and reference == "tiny":
        path, there = TINY, True
    if not is_name and there and path.suffix != ".gguf" and (found := find_config(path, store)):
        return found, None
    resolved = resolve(reference, store)
    if resolved.kind == "hub":
        if (cached := _downloaded(reference)) is not None:
            return cached, None
        raise ArtifactError(
            f"--model {reference}: not on this disk, and no hub is asked",
            "name the path of its downloaded config.json, or give the size, as in --params 7B",
        )
    found = find_config(resolved.path, store) if resolved.path and resolved.kind != "gguf" else None
    if found is None:
        raise ArtifactError(f"--model {reference}: its size is not read from a file of this kind", "give --params 7B")
    return found, resolved.note


def _downloaded(name: str) -> Path | None:
    """The newest config.json of a hub id in Hugging Face's cache on this disk."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    repository, _, revision = name.partition("@")
    folder = cache / ("models--" + repository.replace("/", "--")) / "snapshots"
    found = sorted(folder.glob(f"{revision or '*'}/config.json"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None

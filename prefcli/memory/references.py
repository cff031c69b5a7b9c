"""From a reference to a model to the config.json behind it."""

from __future__ import annotations

import os
from pathlib import Path

from prefcli.artifacts.hub import cache, fetch_config
from prefcli.artifacts.manifest import NAME
from prefcli.artifacts.references import TINY, Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.errors import ArtifactError, SurroundingsError
from prefcli.memory.architecture import Architecture
from prefcli.memory.model_files import find_config, read_architecture


def architecture_of(reference: Reference) -> Architecture | None:
    """The model's dimensions, where its config can be read on this disk and its family is known."""
    path = reference.base.path if reference.base is not None else None
    if path is None or not path.is_dir():
        return None
    try:
        config = find_config(path)
        return read_architecture(config) if config else None
    except ArtifactError:
        return None


def parameters_of(reference: Reference) -> int:
    """0 where the dimensions are not known."""
    found = architecture_of(reference)
    return found.parameters if found is not None else 0


def config_file(reference: str, store: Store, *, fetch: bool = True) -> tuple[Path, str | None]:
    """The config.json of an artifact's name, a path, a hub id or `tiny`, and what was ambiguous about it.

    A path and `tiny` are read as they are: their weights, which `resolve` asks for, do not matter here. With `fetch`
    that one file of a hub's model is fetched where it is not in the cache.
    Raises ArtifactError: none of these, or nothing that a configuration can be read from. SurroundingsError: the hub is
    not reached, or the model is gated.
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
        if fetch:
            return _fetched(reference), None
        raise ArtifactError(f"--model {reference} is not on this machine", "give the size, as in --params 7B")
    found = find_config(resolved.path, store) if resolved.path and resolved.kind != "gguf" else None
    if found is None:
        raise ArtifactError(f"--model {reference}: its size is not read from a file of this kind", "give --params 7B")
    return found, resolved.note


def _fetched(name: str) -> Path:
    try:
        return fetch_config(name)
    except (ArtifactError, SurroundingsError) as error:
        raise type(error)(error.message, f"{error.hint}; or give the size, as in --params 7B") from error


def _downloaded(name: str) -> Path | None:
    """The newest config.json of a hub id in Hugging Face's cache on this disk."""
    repository, _, revision = name.partition("@")
    folder = cache() / ("models--" + repository.replace("/", "--")) / "snapshots"
    found = sorted(folder.glob(f"{revision or '*'}/config.json"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None

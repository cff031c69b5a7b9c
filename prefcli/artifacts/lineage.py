"""The lineage of an artifact: everything it was made from, as a tree."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefcli.artifacts.bases import find_base, is_adapter_directory, model_digest
from prefcli.artifacts.manifest import NAME
from prefcli.artifacts.places import TINY, around, directory_digest, home, in_store, noted, own_store, upwards
from prefcli.artifacts.store import Artifact, Store
from prefcli.artifacts.unfinished import VERSION
from prefcli.errors import ArtifactError


@dataclass
class Node:
    """One thing in the tree: its role for its child, and how it stands on disk now (ok, missing, changed).

    `hub`: it is a model of the hub, not of this disk.
    """

    role: str
    ref: str
    state: str
    stage: str | None = None
    hub: bool = False
    parents: list[Node] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "ref": self.ref,
            "state": self.state,
            "stage": self.stage,
            "parents": [parent.as_dict() for parent in self.parents],
        }


def lineage(artifact: Artifact, store: Store) -> Node:
    """The tree above an artifact. A parent that is no longer there, or is another now, is said to be.

    Parents are looked for in the artifact's own store; in `store` where it lies in none. What occurs there twice (a
    start that is the reference too) has its own parents the first time alone: ten rounds of dpo would have a thousand
    branches.
    """
    return _node("", artifact, own_store(artifact, store), {})


def trained_on(artifact: Artifact, store: Store) -> Iterator[tuple[str, str]]:
    """(who, digest) of each file that an artifact and those it was made from were trained on; held-out ones are none
    of them."""
    left, seen = [(artifact, own_store(artifact, store))], set()
    while left:
        one, around_it = left.pop(0)
        if home(one) in seen:
            continue
        seen.add(home(one))
        for digest in own_files(one):
            yield one.ref, digest
        for parent in one.manifest.parents.values():
            with suppress(ArtifactError):
                if found := _artifact(parent, one, around_it):
                    left.append((found, own_store(found, around_it)))


def own_files(artifact: Artifact) -> list[str]:
    """Digests of the files that it was trained on itself; held-out ones are none of them."""
    sources = artifact.manifest.data
    held_out = 1 if artifact.manifest.config.get("eval_data") else 0  # the last source
    return [str(source["digest"]) for source in sources[: len(sources) - held_out]]


def hub_root(node: Node) -> str | None:
    """The hub model that its weights go back to, from model to model; None where they began elsewhere."""
    above: Node | None = node
    while above is not None and not above.hub:
        above = next((parent for parent in above.parents if parent.role == "model"), None)
    return above.ref.partition("@")[0] if above is not None else None


def _node(role: str, artifact: Artifact, store: Store, seen: dict[Path, bool]) -> Node:
    """`seen`: version's directory → whether all that is above it was seen too."""
    node = Node(role, artifact.ref, "ok", artifact.manifest.stage)
    if home(artifact) in seen:
        return node
    seen[home(artifact)] = False
    for parent_role, parent in sorted(artifact.manifest.parents.items()):
        parent_ref = str(parent.get("ref", "?"))
        try:
            found = _artifact(parent, artifact, store)
        except ArtifactError:
            node.parents.append(Node(parent_role, parent_ref, "missing"))
            continue
        if found is None:
            hub = parent["digest"] is None and "://" not in parent_ref
            node.parents.append(Node(parent_role, parent_ref, _state(parent, artifact, store), hub=hub))
            continue
        if seen.get(home(found)) is False:  # only a damaged manifest names its own child
            node.parents.append(Node(parent_role, parent_ref, "changed"))
            continue
        child = _node(parent_role, found, own_store(found, store), seen)
        if found.digest != parent["digest"]:
            child.state = "changed"
        node.parents.append(child)
    seen[home(artifact)] = True
    return node


def _artifact(parent: dict[str, Any], artifact: Artifact, store: Store) -> Artifact | None:
    """A parent that is an artifact; None for a directory, a hub id, tiny. Raises ArtifactError: it is not there."""
    name, _, version = str(parent.get("ref", "?")).partition("@")
    number = VERSION.fullmatch(version)
    if not NAME.fullmatch(name) or number is None:
        return None
    return _elsewhere(parent, artifact) or store.open(name, int(number[1]))


def _elsewhere(parent: dict[str, Any], artifact: Artifact) -> Artifact | None:
    """A parent that was not in the artifact's store."""
    places = list(noted(parent.get("places", []), artifact))
    found = next((place for place in places if place.is_dir()), None)
    above = around(found) if found is not None else None
    if places and above is None:
        raise ArtifactError(f"{parent['ref']} is not there")
    return above


def _state(parent: dict[str, Any], artifact: Artifact, store: Store) -> str:
    """How a directory, a GGUF file, a kept step or tiny stands now; any other parent that is not an artifact is ok."""
    ref, digest = parent["ref"], parent["digest"]
    if digest is None or ref.startswith("python:"):
        return "ok"
    places = parent.get("places")
    if places is not None:
        looked = list(noted(places, artifact))
    elif ref == "tiny":
        looked = [TINY]
    else:
        step = in_store(ref, store)
        looked = list(upwards(home(artifact), ref)) if step is None else [step]
    path = next((place for place in looked if os.path.exists(place)), None)
    if path is None:
        return "missing"
    return "ok" if digest in _digests(path, store) else "changed"


def _digests(path: Path, store: Store) -> set[str]:
    """Those that a manifest may have of a model; of what is none, none."""
    if path.is_file():
        return {store.digests.digest(path)} if path.suffix == ".gguf" else set()
    if not (path / "config.json").is_file() and not is_adapter_directory(path):
        return set()
    try:
        return {directory_digest(path, store), model_digest(path, find_base(path, store), store)}
    except ArtifactError:
        return {directory_digest(path, store)}

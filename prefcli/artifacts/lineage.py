"""What an artifact was made from, all the way down, as a tree."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefcli.artifacts.manifest import FILE, NAME, Manifest
from prefcli.artifacts.store import VERSION, Artifact, Store, open_artifact
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

    What stands there twice (a start that is the reference too) has its own parents the first time alone: ten rounds of
    dpo would have a thousand branches.
    """
    return _node("", artifact.ref, artifact.manifest, store, {})


def changed(node: Node) -> list[Node]:
    """The nodes of a tree that are not what their children were made from."""
    own = [node] if node.state == "changed" else []
    return own + [other for parent in node.parents for other in changed(parent)]


def hub_root(node: Node) -> str | None:
    """The hub model that its weights go back to, from model to model; None where they began elsewhere."""
    above: Node | None = node
    while above is not None and not above.hub:
        above = next((parent for parent in above.parents if parent.role == "model"), None)
    return above.ref.partition("@")[0] if above is not None else None


def around(path: Path) -> Artifact | None:
    """The artifact that a directory of weights is part of: model/, value/, or either of a kept step."""
    place = path.resolve()
    for above in (place.parent, *place.parents[2:3]):
        if (above / FILE).is_file():
            return open_artifact(above)
    return None


def _node(role: str, ref: str, manifest: Manifest, store: Store, seen: dict[str, bool]) -> Node:
    """`seen`: reference → whether all that is above it was seen too."""
    node = Node(role, ref, "ok", manifest.stage)
    if ref in seen:
        return node
    seen[ref] = False
    for parent_role, parent in sorted(manifest.parents.items()):
        parent_ref = str(parent.get("ref", "?"))
        name, _, version = parent_ref.partition("@")
        number = VERSION.fullmatch(version)
        if not NAME.fullmatch(name) or number is None:  # a directory, a hub id, tiny
            hub = parent["digest"] is None and "://" not in parent_ref
            node.parents.append(Node(parent_role, parent_ref, "ok", hub=hub))
            continue
        if seen.get(parent_ref) is False:  # only a damaged manifest names its own child
            node.parents.append(Node(parent_role, parent_ref, "changed"))
            continue
        try:
            found = store.open(name, int(number[1]))
        except ArtifactError:
            node.parents.append(Node(parent_role, parent_ref, "missing"))
            continue
        child = _node(parent_role, parent_ref, found.manifest, store, seen)
        if found.digest != parent["digest"]:
            child.state = "changed"
        node.parents.append(child)
    seen[ref] = True
    return node

"""The facts of some runs together: the artifacts that a report is asked for, and all that they were made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from prefcli.artifacts.facts import Run, run_facts
from prefcli.artifacts.lineage import Node, lineage
from prefcli.artifacts.metrics import read_log
from prefcli.artifacts.references import Reference
from prefcli.artifacts.store import Artifact, Store
from prefcli.errors import ArtifactError


@dataclass(frozen=True)
class Facts:
    """Some artifacts and all that they were made from."""

    asked: list[str]  # the artifacts that were named, in that order
    runs: list[Run]  # they and what they were made from, nothing before its parents
    missing: list[str]  # artifacts that they were made from and that are gone, or damaged
    trees: list[Node]
    outside: list[str]  # models that were named and that no artifact tells of

    def run(self, ref: str) -> Run | None:
        return next((run for run in self.runs if run.ref == ref), None)

    def above(self, ref: str, roles: Collection[str] | None = None) -> list[Run]:
        """A run and all that it was made from; with `roles` what had one of these in a run."""
        refs = {ref}
        for run in reversed(self.runs):
            if run.ref in refs:
                refs |= {parent["ref"] for parent in run.parents if roles is None or parent["role"] in roles}
        return [run for run in self.runs if run.ref in refs]

    def as_dict(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "missing": self.missing,
            "lineage": [tree.as_dict() for tree in self.trees],
            "outside": self.outside,
        }


def gather(references: list[Reference], store: Store) -> Facts:
    """The facts of the artifacts among the references and of all that they were made from.

    What is no longer there of the latter is named, not refused.
    """
    named: dict[str, Artifact] = {}
    outside: list[str] = []
    for reference in references:
        if reference.artifact is not None:
            named.setdefault(reference.artifact.ref, reference.artifact)
        elif reference.shown not in outside:
            outside.append(reference.shown)
    trees = [lineage(artifact, store) for artifact in named.values()]
    runs: dict[str, Run] = {}
    missing: list[str] = []
    for tree in trees:
        _add(tree, named, store, runs, missing)
    return Facts(list(named), list(runs.values()), missing, trees, outside)


def _add(node: Node, named: dict[str, Artifact], store: Store, runs: dict[str, Run], missing: list[str]) -> None:
    """A node's parents, then itself."""
    for parent in node.parents:
        _add(parent, named, store, runs, missing)
    if node.ref in runs or node.ref in missing:
        return
    if node.stage is None:
        if node.state != "ok":
            missing.append(node.ref)
        return
    try:
        name, _, version = node.ref.partition("@v")
        artifact = named.get(node.ref) or store.open(name, int(version))
    except ArtifactError:
        missing.append(node.ref)
        return
    runs[node.ref] = run_facts(artifact.manifest, read_log(artifact.path))

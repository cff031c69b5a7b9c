"""What is known of finished runs, for all who tell of them: the report and the model card draw on these facts alone.

A fact is what a manifest or a metrics log says, with the place where it says so; nothing is worked out here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from prefcli.artifacts.lineage import Node, lineage
from prefcli.artifacts.manifest import Manifest
from prefcli.artifacts.references import Reference
from prefcli.artifacts.store import Artifact, Store
from prefcli.errors import ArtifactError
from prefcli.report.commands import command, options
from prefcli.report.series import Panel, Row, alarms, panels, read_log

TITLES = {
    "sft": "fine-tuned on demonstrations",
    "rm": "reward model",
    "dpo": "trained with DPO",
    "ppo": "trained with PPO",
    "kto": "trained with KTO",
}


@dataclass(frozen=True)
class Figure:
    """One recorded value. `source`: `REF:section.name` of a manifest, `REF:log@STEP.name` of a metrics log, or a path
    into the evaluation or the comparison."""

    source: str
    value: Any
    unit: str = ""  # bytes, seconds, share, tokens a second; nothing for a plain number


@dataclass(frozen=True)
class Run:
    """One artifact. `alarms` are (step, watcher); `rows` the whole log."""

    ref: str
    stage: str
    title: str
    status: str
    created: str
    command: str
    parents: list[dict[str, Any]]  # role, ref, digest
    data: list[dict[str, Any]]  # path, format, rows, digest
    options: dict[str, Any]
    metrics: dict[str, Any]
    resources: dict[str, Any]
    environment: dict[str, Any]
    model: dict[str, Any]
    alarms: list[tuple[int, str]]
    rows: list[Row]

    @property
    def panels(self) -> list[Panel]:
        return panels(self.rows)

    def figure(self, section: str, name: str, unit: str = "") -> Figure:
        """A value of the manifest; None where it does not say."""
        return Figure(f"{self.ref}:{section}.{name}", getattr(self, section).get(name), unit)

    def logged(self, step: int, name: str) -> Figure:
        """A value of the log. Raises StopIteration where that step logged no such metric."""
        return Figure(
            f"{self.ref}:log@{step}.{name}", next(r[name] for r in self.rows if r["step"] == step and name in r)
        )


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

    def above(self, ref: str) -> list[Run]:
        """A run and all that it was made from."""
        refs = {ref}
        for run in reversed(self.runs):
            if run.ref in refs:
                refs |= {parent["ref"] for parent in run.parents}
        return [run for run in self.runs if run.ref in refs]

    def as_dict(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "missing": self.missing,
            "lineage": [tree.as_dict() for tree in self.trees],
            "outside": self.outside,
        }


def run_facts(manifest: Manifest, rows: list[Row]) -> Run:
    """What a manifest and the rows of its metrics log say."""
    return Run(
        ref=f"{manifest.name}@v{manifest.version}",
        stage=manifest.stage,
        title=TITLES[manifest.stage],
        status=manifest.status,
        created=manifest.created,
        command=command(manifest),
        parents=[{"role": role, **parent} for role, parent in sorted(manifest.parents.items())],
        data=manifest.data,
        options=options(manifest),
        metrics=manifest.metrics,
        resources=manifest.resources,
        environment=manifest.environment,
        model=manifest.model,
        alarms=alarms(rows),
        rows=rows,
    )


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

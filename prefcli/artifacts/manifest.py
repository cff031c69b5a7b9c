"""manifest.json: what an artifact is and what it was made from. Checked when written and when read."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from prefcli.config.stages import STAGES
from prefcli.errors import ArtifactError
from prefcli.files import write_atomically

SCHEMA = 1
FILE = "manifest.json"
STATUSES = ("complete", "stopped")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass
class Manifest:
    """One artifact's manifest.

    `parents` maps a role (model, reference, reward/NAME, value) to {"ref", "digest"}, and for what is named by a path
    "places", for a hub model or an adapter on one the "commit"; `data` lists {"path", "format", "rows", "digest"};
    `files` maps a path below the artifact to its sha256. `model` holds `bases` where there are adapters: see `bases`.
    """

    stage: str
    name: str
    version: int
    created: str
    key: str
    parents: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    status: str = "complete"
    schema: int = SCHEMA

    @property
    def scores(self) -> bool:
        """Whether it is a reward model."""
        return STAGES[self.stage].scores

    @property
    def stopped(self) -> bool:
        """Whether a watcher stopped the run before its end."""
        return self.status == "stopped"

    @property
    def bases(self) -> dict[str, dict[str, Any]]:
        """The base of each of its adapters (model, value): {"ref", "digest", "places"}.

        Without places it is `tiny`, or where it has no digest the hub's model `ref`.
        """
        found: dict[str, dict[str, Any]] = self.model.get("bases", {})
        return found

    def check(self, where: str) -> None:
        """Raise ArtifactError where a field has the wrong type or a value that cannot be."""
        kinds = {"str": str, "int": int}
        for entry in fields(self):
            declared = str(entry.type)
            expected = kinds.get(declared) or (dict if declared.startswith("dict") else list)
            value = getattr(self, entry.name)
            if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
                raise ArtifactError(f"{where}: '{entry.name}' must be {declared}, not {type(value).__name__}", DAMAGED)
        if self.stage not in STAGES:
            raise ArtifactError(f"{where}: unknown stage {self.stage!r}", DAMAGED)
        if not NAME.fullmatch(self.name) or self.version < 1:
            raise ArtifactError(f"{where}: no artifact can be called {self.name}@v{self.version}", DAMAGED)
        if self.status not in STATUSES:
            raise ArtifactError(f"{where}: unknown status {self.status!r}", DAMAGED)
        for role, parent in self.parents.items():
            if not isinstance(parent, dict) or not isinstance(parent.get("ref"), str):
                raise ArtifactError(f"{where}: parent {role!r} has no 'ref'", DAMAGED)
            if not isinstance(parent.get("digest", ""), (str, type(None))) or "digest" not in parent:
                raise ArtifactError(f"{where}: parent {role!r} has no 'digest'", DAMAGED)
            if not isinstance(parent.get("commit", ""), str):
                raise ArtifactError(f"{where}: the 'commit' of parent {role!r} must be str", DAMAGED)
            if not _are_places(parent.get("places", [])):
                raise ArtifactError(f"{where}: the 'places' of parent {role!r} must be paths", DAMAGED)
        if not isinstance(self.bases, dict):
            raise ArtifactError(f"{where}: 'bases' must be an object", DAMAGED)
        for part, base in self.bases.items():
            good = isinstance(base, dict) and isinstance(base.get("ref"), str) and _are_places(base.get("places"))
            if not good or not isinstance(base.get("digest", 0), (str, type(None))):
                raise ArtifactError(f"{where}: the base of {part!r} must have ref, digest and places", DAMAGED)
        for source in self.data:
            if not isinstance(source, dict) or not {"path", "format", "rows", "digest"} <= set(source):
                raise ArtifactError(f"{where}: 'data' must hold path, format, rows and digest of each file", DAMAGED)
        for path, digest in self.files.items():
            if path.startswith("/") or ".." in Path(path).parts:
                raise ArtifactError(f"{where}: a file outside the artifact: {path!r}", DAMAGED)
            if not isinstance(digest, str):
                raise ArtifactError(f"{where}: {path!r} has no digest", DAMAGED)


def _are_places(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(place, str) for place in value)


DAMAGED = "the manifest is damaged: make the artifact again (--force), or restore the file"


def is_artifact(directory: Path) -> bool:
    """Whether its manifest.json is one of ours, be it damaged: other programs have files of that name too.

    One that cannot be read is ours where a model/ stands beside it.
    """
    path = directory / FILE
    if not os.path.isfile(path):
        return False
    try:
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return os.path.isdir(directory / "model")
    return isinstance(loaded, dict) and (isinstance(loaded.get("schema"), int) or "stage" in loaded)


def read_manifest(directory: Path) -> Manifest:
    """The manifest of an artifact's directory. Raises ArtifactError: missing, not JSON, another schema, damaged."""
    path = directory / FILE
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{directory} has no {FILE}", "it is not a finished artifact") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not valid JSON", DAMAGED) from error
    if not isinstance(loaded, dict):
        raise ArtifactError(f"{path} is not a JSON object", DAMAGED)
    if loaded.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path} has schema {loaded.get('schema')!r}, this prefcli reads {SCHEMA}", "upgrade prefcli"
        )
    known = {entry.name for entry in fields(Manifest)}
    try:
        manifest = Manifest(**{name: value for name, value in loaded.items() if name in known})
    except TypeError as error:
        raise ArtifactError(f"{path}: {str(error).partition(') ')[2] or error}", DAMAGED) from error
    manifest.check(str(path))
    return manifest


def write_manifest(manifest: Manifest, directory: Path) -> None:
    manifest.check(FILE)
    write_atomically(directory / FILE, json.dumps(asdict(manifest), indent=1, ensure_ascii=False) + "\n")

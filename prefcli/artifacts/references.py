"""From what a user writes (`sft`, `sft@v2`, `ppo@v1:step40`, a directory, `x.gguf`, `tiny`, a hub id) to files."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefcli.artifacts.digests import digest_json
from prefcli.artifacts.lineage import around, changed, lineage
from prefcli.artifacts.manifest import FILE, NAME
from prefcli.artifacts.store import Artifact, Store, open_artifact, refuse_added, saved_steps
from prefcli.errors import ArtifactError

Kind = Literal["artifact", "directory", "gguf", "tiny", "hub"]
TINY = Path(__file__).parent.parent / "models" / "tiny"
_AT_VERSION = re.compile(r"(?P<name>[^@]+)@v(?P<version>[1-9][0-9]{0,99})(:step(?P<step>[1-9][0-9]{0,99}))?")
HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w.-]+)?")
_PARTIAL = re.compile(r"v[0-9]+\.partial")
_ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class Reference:
    """Something a model can be loaded from. `path` is None for a hub id; `note` says what was ambiguous."""

    text: str
    kind: Kind
    path: Path | None
    digest: str | None
    artifact: Artifact | None = None
    note: str | None = None

    @property
    def shown(self) -> str:
        """How it stands in manifests and plans."""
        return self.artifact.ref if self.artifact else self.text


def resolve(text: str, store: Store) -> Reference:
    """What `text` refers to; the order is that of the module's first line.

    Raises ArtifactError: nothing of that name, a version that is not there, a damaged artifact.
    """
    at = _AT_VERSION.fullmatch(text)
    if at and NAME.fullmatch(at["name"]):
        versions = store.versions(at["name"])
        if int(at["version"]) not in versions:
            known = ", ".join(f"v{v}" for v in versions) or "none"
            raise ArtifactError(f"{text}: no such version in {store.root} (there: {known})", "see: prefcli ls")
        versioned = store.open(at["name"], int(at["version"]))
        if at["step"]:
            return _from_step(text, versioned, int(at["step"]), store)
        return _from_artifact(text, versioned, store)
    if "@" not in text and NAME.fullmatch(text):
        artifact = store.newest(text)
        if artifact is not None:
            note = f"{text!r} is both an artifact and a directory; took {artifact.ref}" if os.path.isdir(text) else None
            return _from_artifact(text, artifact, store, note)
    path = Path(text)
    if text and os.path.isdir(text):  # os.path: False for what no path can be (too long, a zero byte)
        note = "'tiny' is a directory here; took it, not the built-in model" if text == "tiny" else None
        return _from_directory(text, path, store, note)
    if text.endswith(".gguf"):
        if not os.path.isfile(text):
            raise ArtifactError(f"{text}: no such GGUF file", "check the path")
        digest = store.digests.digest(path)
        store.digests.save()
        return Reference(text, "gguf", path, digest)
    if text == "tiny":
        return Reference(text, "tiny", TINY, _directory_digest(TINY, store))
    if os.path.isfile(text):
        raise ArtifactError(f"{text} is a file, not a model", "give a directory, a .gguf file or an artifact's name")
    if HUB.fullmatch(text) and "/" in text:
        return Reference(text, "hub", None, None)
    known = ", ".join(store.names()) or "no artifacts yet"
    raise ArtifactError(
        f"{text if len(text) < 200 else text[:200] + '…'}: no artifact, directory or model of that name "
        f"(in {store.root}: {known})",
        "see: prefcli ls; a hub id has the form owner/name",
    )


def expand(text: str, store: Store) -> list[str]:
    """`ppo@v1:steps` as the kept steps of that run, in order, and its final model; any other text as it is.

    Raises ArtifactError: no such artifact, or no step was kept.
    """
    name = text.removesuffix(":steps")
    if name == text or os.path.isdir(text):
        return [text]
    artifact = resolve(name, store).artifact
    steps = saved_steps(artifact.path) if artifact is not None else []
    if artifact is None or not steps:
        raise ArtifactError(f"{text}: no steps were kept", "make it again with --keep-state, and --save-every")
    last = [] if steps[-1] == artifact.manifest.resources.get("steps") else [artifact.ref]
    return [f"{artifact.ref}:step{step}" for step in steps] + last


def default_model(store: Store) -> tuple[str, str]:
    """The starting model where none is named, and the sentence that says so."""
    newest = store.newest("sft")
    if newest is not None:
        return newest.ref, f"no --model given: starting from {newest.ref}, the highest version of sft"
    return "tiny", "no --model given and no sft artifact yet: starting from the built-in tiny"


def _from_artifact(text: str, artifact: Artifact, store: Store, note: str | None = None) -> Reference:
    store.verify(artifact)
    _verify_base(text, artifact.model_path, artifact, store)
    return Reference(text, "artifact", artifact.model_path, artifact.digest, artifact, note)


def _from_step(text: str, artifact: Artifact, step: int, store: Store) -> Reference:
    """A state that was kept beside the final model: opened as the directory that it is."""
    steps = saved_steps(artifact.path)
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none: make it again with --keep-state"
        raise ArtifactError(f"{text}: that step was not kept (kept: {known})", "see: prefcli show " + artifact.ref)
    store.verify(artifact)
    part = f"state/step{step}/model"
    refuse_added(artifact, part)
    path = artifact.path / part
    _verify_base(text, path, artifact, store)
    return Reference(text, "directory", path, _directory_digest(path, store))


def _from_directory(text: str, path: Path, store: Store, note: str | None) -> Reference:
    if any(_PARTIAL.fullmatch(part) for part in path.resolve().parts):
        raise ArtifactError(f"{text} is an unfinished version", "run the same command again to finish it")
    if (path / FILE).is_file():
        return _from_artifact(text, open_artifact(path), store, note)
    artifact = around(path)
    if artifact is not None:
        store.verify(artifact)
        refuse_added(artifact, str(path.resolve().relative_to(artifact.path.resolve())))
    if not ((path / "config.json").is_file() or (path / _ADAPTER).is_file()):
        raise ArtifactError(
            f"{text}: the directory holds no model (no config.json and no adapter_config.json)",
            "give the directory that from_pretrained would open",
        )
    weights = "adapter_model.safetensors" if (path / _ADAPTER).is_file() else "*.safetensors"
    if next(path.glob(weights), None) is None:
        pickled = min(path.glob("*.bin"), default=None)
        raise ArtifactError(
            f"{text}: the directory holds no weights ({weights})"
            + (f"; {pickled.name} is a pickle, which can run code, and is not opened" if pickled else ""),
            "convert it to safetensors where it was made: load it there and save_pretrained it again"
            if pickled
            else "copy the weights beside it",
        )
    _verify_base(text, path, artifact, store)
    return Reference(text, "directory", path, _directory_digest(path, store), note=note)


def adapter_base(path: Path) -> str | None:
    """What the adapter in a directory names as its base: a path or a hub id; None where it is no adapter or names none.

    Raises ArtifactError: its configuration cannot be read.
    """
    file = path / _ADAPTER
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{file} is not valid JSON", "copy the adapter again") from error
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return base if isinstance(base, str) else None


def _verify_base(text: str, path: Path, artifact: Artifact | None, store: Store) -> None:
    """Verify what an adapter stands on like what is named. Raises ArtifactError where it is not what it was trained on.

    One that is not there is told where it is loaded.
    """
    base = adapter_base(path)
    found = around(Path(base)) if base and os.path.isdir(base) else None
    if found is None:
        return
    store.verify(found)
    if artifact is not None and any(node.ref == found.ref for node in changed(lineage(artifact, store))):
        raise ArtifactError(
            f"{text} is an adapter on {base}, and {found.ref} is another than it was trained on",
            "put the base back, or train again",
        )


def _directory_digest(path: Path, store: Store) -> str:
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    found = digest_json({entry.name: store.digests.digest(entry) for entry in files})
    store.digests.save()
    return found

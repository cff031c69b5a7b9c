"""From what a user writes (`sft`, `sft@v2`, `ppo@v1:step40`, a directory, `x.gguf`, `tiny`, a hub id) to files."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefcli.artifacts.bases import HUB, Base, find_base, is_adapter_directory, leaves_base, model_digest
from prefcli.artifacts.manifest import NAME, is_artifact
from prefcli.artifacts.places import AT_VERSION, TINY, around, directory_digest, part_of
from prefcli.artifacts.store import Artifact, Store, open_artifact, refuse_added
from prefcli.artifacts.unfinished import saved_steps
from prefcli.errors import ArtifactError

Kind = Literal["artifact", "directory", "gguf", "tiny", "hub"]
_PARTIAL = re.compile(r"v[0-9]+\.partial")


@dataclass(frozen=True)
class Reference:
    """Something a model can be loaded from. `path` is None for a hub id; `note` says what was ambiguous.

    `commit` is a hub model's, or that of the one below an adapter, once `artifacts.hub.at_hand` has found it: the one
    in the cache, else the hub's.
    `base` are the weights below it: an adapter's base, checked, or its own. None for a GGUF file, and for an
    adapter that names none.
    """

    text: str
    kind: Kind
    path: Path | None
    digest: str | None
    artifact: Artifact | None = None
    note: str | None = None
    base: Base | None = None
    commit: str | None = None

    @property
    def pinned(self) -> str:
        """What the same weights have in common, for a run's key; of a hub model whose commit nobody said, its name."""
        return "@".join(part for part in (self.digest, self.commit) if part) or self.text

    @property
    def shown(self) -> str:
        """Its name in manifests and plans."""
        return self.artifact.ref if self.artifact else self.text

    @property
    def is_adapter(self) -> bool:
        return self.path is not None and is_adapter_directory(self.path)

    @property
    def place(self) -> str | None:
        """Where the weights below it are: of two on one base the same."""
        return None if self.base is None else self.base.hub or self.base.place

    @property
    def leaves_base(self) -> bool:
        """Whether others can be held on the weights below it: these are as their files say, whatever is on them."""
        return self.path is None or not self.is_adapter or leaves_base(self.path)

    def shares_base(self, other: Reference) -> bool:
        """Whether one base in memory does for both."""
        return self.place is not None and self.place == other.place and self.leaves_base and other.leaves_base

    def is_adapter_on(self, other: Reference) -> bool:
        """Whether it is an adapter that can be held on the weights below the other."""
        return self.is_adapter and self.shares_base(other)

    def same_as(self, other: Reference) -> bool:
        """Whether both are one model, whatever the store: by digest, and by name where there is none (of the hub)."""
        return (self.digest or self.text) == (other.digest or other.text)


def is_hub_id(text: str) -> bool:
    """Whether it is OWNER/NAME, with @REVISION or without, by its form."""
    return "/" in text.partition("@")[0] and HUB.fullmatch(text) is not None


def resolve(text: str, store: Store, *, with_base: bool = True) -> Reference:
    """Resolve `text` to a reference; the order is that of the module's first line.

    `with_base` false leaves an adapter's base alone, for who only reads what is told of the artifact.
    Raises ArtifactError: nothing of that name, a version that is not there, a damaged artifact, an adapter whose base
    is not there or is another than it was trained on.
    """
    at = AT_VERSION.fullmatch(text)
    if at and NAME.fullmatch(at["name"]):
        versions = store.versions(at["name"])
        if int(at["version"]) not in versions:
            known = ", ".join(f"v{v}" for v in versions) or "none"
            raise ArtifactError(f"{text}: no such version in {store.root} (there: {known})", "see: prefcli ls")
        versioned = store.open(at["name"], int(at["version"]))
        if at["step"]:
            return _from_step(text, versioned, int(at["step"]), store)
        return _from_artifact(text, versioned, store, with_base=with_base)
    if "@" not in text and NAME.fullmatch(text):
        artifact = store.newest(text)
        if artifact is not None:
            note = f"{text!r} is both an artifact and a directory; took {artifact.ref}" if os.path.isdir(text) else None
            return _from_artifact(text, artifact, store, note, with_base)
    path = Path(text)
    if text and os.path.isdir(text):  # os.path: False for what no path can be (too long, a zero byte)
        note = "'tiny' is a directory here; took it, not the built-in model" if text == "tiny" else None
        return _from_directory(text, path, store, note, with_base)
    if text.endswith(".gguf"):
        if not os.path.isfile(text):
            raise ArtifactError(f"{text}: no such GGUF file", "check the path")
        digest = store.digests.digest(path)
        store.digests.save()
        return Reference(text, "gguf", path, digest)
    if text == "tiny":
        digest = directory_digest(TINY, store)
        return Reference(text, "tiny", TINY, digest, base=Base("tiny", TINY, digest=digest))
    if os.path.isfile(text):
        raise ArtifactError(f"{text} is a file, not a model", "give a directory, a .gguf file or an artifact's name")
    if is_hub_id(text):
        return Reference(text, "hub", None, None, base=Base(text, hub=text))
    known = ", ".join(store.names()) or "no artifacts yet"
    raise ArtifactError(
        f"{text if len(text) < 200 else text[:200] + '…'}: no artifact, directory or model of that name "
        f"(in {store.root}: {known})",
        "see: prefcli ls; a hub id is owner/name",
    )


def kept_steps(version: Path) -> list[int]:
    """Steps of the kept states that hold a model, ascending: one that was saved without --keep-state has none."""
    return [step for step in saved_steps(version) if (version / f"state/step{step}/model").is_dir()]


def expand(text: str, store: Store) -> list[str]:
    """`ppo@v1:steps` as the kept steps of that run, in order, and its final model; `ppo@*` as all versions of that
    name, `ppo@*:steps` each of these with the steps that were kept; any other text as it is.

    Raises ArtifactError: no such artifact, or no step was kept.
    """
    name = text.removesuffix(":steps")
    if name.endswith("@*") and NAME.fullmatch(name[:-2]):
        every = [store.open(name[:-2], version) for version in store.versions(name[:-2])]
        if not every:
            raise ArtifactError(f"{text}: there is no {name[:-2]} in {store.root}", "see: prefcli ls")
        kept = [name != text and bool(kept_steps(one.path)) for one in every]
        return [
            ref
            for one, steps in zip(every, kept)
            for ref in (expand(f"{one.ref}:steps", store) if steps else [one.ref])
        ]
    if name == text or os.path.isdir(text):
        return [text]
    artifact = resolve(name, store).artifact
    steps = kept_steps(artifact.path) if artifact is not None else []
    if artifact is None or not steps:
        raise ArtifactError(f"{text}: no steps were kept", "make it again with --keep-state, --save-every and --force")
    last = [] if steps[-1] == artifact.manifest.resources.get("steps") else [artifact.ref]
    return [f"{artifact.ref}:step{step}" for step in steps] + last


def default_model(store: Store) -> tuple[str, str]:
    """The starting model where none is named, and the sentence that says so."""
    newest = store.newest("sft")
    if newest is not None:
        return newest.ref, f"no --model given: starting from {newest.ref}, the highest version of sft"
    return "tiny", "no --model given and no sft artifact yet: starting from the built-in tiny"


def value_beside(reference: Reference, store: Store) -> Reference | None:
    """The value model that was trained with a policy: of a ppo artifact, or of a kept step of one; None without one.

    Raises ArtifactError: it is an adapter, and its base is not there or is another than it was trained on.
    """
    folder = reference.path.parent / "value" if reference.path is not None else None
    if folder is None or not folder.is_dir():
        return None
    text = f"{reference.shown}'s value model"
    return Reference(text, "directory", folder, reference.digest, base=_base(text, folder, store))


def _base(text: str, path: Path, store: Store, ref: str | None = None) -> Base | None:
    """An adapter's base, or the weights themselves."""
    if is_adapter_directory(path):
        return find_base(path, store, text)
    return Base(ref or text, path, digest=directory_digest(path, store))


def _from_artifact(
    text: str, artifact: Artifact, store: Store, note: str | None = None, with_base: bool = True
) -> Reference:
    store.verify(artifact)
    path = artifact.model_path
    base = _base(text, path, store, artifact.ref) if with_base and path.is_dir() else None
    return Reference(text, "artifact", path, artifact.digest, artifact, note, base)


def _from_step(text: str, artifact: Artifact, step: int, store: Store) -> Reference:
    """A state that was kept beside the final model: opened as the directory that it is."""
    steps = kept_steps(artifact.path)
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none: make it again with --keep-state --force"
        raise ArtifactError(f"{text}: that step was not kept (kept: {known})", "see: prefcli show " + artifact.ref)
    store.verify(artifact)
    part = f"state/step{step}/model"
    refuse_added(artifact, part)
    path = artifact.path / part
    return Reference(text, "directory", path, directory_digest(path, store), base=_base(text, path, store))


def _from_directory(text: str, path: Path, store: Store, note: str | None, with_base: bool) -> Reference:
    if any(_PARTIAL.fullmatch(part) for part in path.resolve().parts):
        raise ArtifactError(f"{text} is an unfinished version", "run the same command again to finish it")
    if is_artifact(path):
        return _from_artifact(text, open_artifact(path), store, note, with_base)
    artifact = around(path)
    if artifact is not None:
        store.verify(artifact)
        refuse_added(artifact, part_of(path, artifact))
    adapter = is_adapter_directory(path)
    if not ((path / "config.json").is_file() or adapter):
        raise ArtifactError(
            f"{text}: the directory holds no model (no config.json and no adapter_config.json)",
            "give the directory that from_pretrained would open",
        )
    weights = "adapter_model.safetensors" if adapter else "*.safetensors"
    if next(path.glob(weights), None) is None:
        pickled = min(path.glob("*.bin"), default=None)
        raise ArtifactError(
            f"{text}: the directory holds no weights ({weights})"
            + (f"; {pickled.name} is a pickle, which can run code, and is not opened" if pickled else ""),
            "convert it to safetensors where it was made: load it there and save_pretrained it again"
            if pickled
            else "copy the weights beside it",
        )
    base = _base(text, path, store)
    note = "; ".join(said for said in (note, base.note if base else None) if said) or None
    return Reference(text, "directory", path, model_digest(path, base, store), note=note, base=base)

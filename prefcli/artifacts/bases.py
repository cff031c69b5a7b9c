"""The one base model of an adapter: found wherever it is opened from, and proven to be what it was trained on.

An artifact's manifest notes, under `model.bases`, for each adapter that it holds (`model`, `value`) the base's
reference, its places (from the artifact's directory, then absolute) and its digest. The first place where something
is counts, and must have that digest. An artifact of before these notes has its base by its parents; an adapter
directory that is not an artifact by the path or hub id in its adapter_config.json. The working directory never counts.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefcli.artifacts.manifest import DAMAGED
from prefcli.artifacts.places import (
    TINY,
    around,
    directory_digest,
    home,
    in_store,
    noted,
    own_store,
    part_of,
    places_of,
    upwards,
)
from prefcli.artifacts.store import SUBSTANCE, Artifact, Store, refuse_added
from prefcli.errors import ArtifactError
from prefcli.files import digest_json

ADAPTER = "adapter_config.json"
HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")
_IN_A_STORE = re.compile(r"(?:.*/)?([^/]+)/v([1-9][0-9]{0,8})/(?:state/step([1-9][0-9]{0,17})/)?(?:model|value)/?")
BACK = "put the base back as it was, or train again"
# peft's initialisations of LoRA that leave the base as it is. Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) take the
# adapter's first values out of the weights below it, each time that one is made there.
_BESIDE = (True, False, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True)
class Base:
    """The weights below a model: those of an adapter's base, or a model's own.

    `path` is a directory on this disk; or `hub` is OWNER/NAME or OWNER/NAME@REVISION, which has no digest. `ref` is how
    it is shown, `note` what was ambiguous about it.
    """

    ref: str
    path: Path | None = None
    hub: str | None = None
    digest: str | None = None
    note: str | None = field(default=None, compare=False)

    @property
    def place(self) -> str:
        """The name for `from_pretrained` and for an adapter's configuration: an absolute path or the hub's name."""
        return str(self.path.resolve()) if self.path is not None else str(self.hub).partition("@")[0]

    @property
    def revision(self) -> str | None:
        """Of a hub model that was pinned."""
        return (self.hub or "").partition("@")[2] or None

    def notes(self, version: Path) -> dict[str, Any]:
        """Its entry in the manifest of the artifact at `version`."""
        if self.hub is not None:
            return {"ref": self.hub, "digest": None, "places": []}
        assert self.path is not None
        if self.path.resolve() == TINY.resolve():  # of whichever prefcli is installed
            return {"ref": "tiny", "digest": self.digest, "places": []}
        return {"ref": self.ref, "digest": self.digest, "places": places_of(self.path, version)}


def is_adapter_directory(path: Path) -> bool:
    return (path / ADAPTER).is_file()


def changes_base(start: Any) -> bool:
    """Whether an adapter with this `init_lora_weights` stands on other weights than those of its base's files."""
    return (start.lower() if isinstance(start, str) else start) not in _BESIDE


def leaves_base(directory: Path) -> bool:
    """Whether the adapter in `directory` can stand on its base beside others: it is LoRA, on the base as it is.

    Raises ArtifactError: the configuration cannot be read.
    """
    config = _configuration(directory)
    return config.get("peft_type") == "LORA" and not changes_base(config.get("init_lora_weights", True))


def find_base(directory: Path, store: Store, text: str | None = None, *, hashed: bool = True) -> Base | None:
    """The base of the adapter in `directory`, checked; None where it is not an adapter, or names no base and is no
    artifact. `text` is how it is shown.

    `hashed` false gives the base of a directory that is not an artifact, whose digest there is nothing to compare with,
    without one: for who reads no weights.
    Raises ArtifactError: the base is not there, is another than it was trained on, is damaged or an adapter itself; or
    nothing says where it is.
    """
    if not is_adapter_directory(directory):
        return None
    text = text or str(directory)
    name, revision = _named(directory)
    artifact = around(directory)
    if artifact is None:
        if not name:
            return None
        base = _of_a_plain_directory(text, directory, name, revision)
        if base.path is None or not hashed:
            return base
        _refuse_damaged(base.path, store)
        _refuse_adapter(text, base.path)
        return Base(base.ref, base.path, digest=directory_digest(base.path, store), note=base.note)
    if not artifact.manifest.bases:
        return _of_an_old_artifact(text, artifact, name, store)
    return _noted(text, artifact, directory, store)


def base_at(place: str, revision: str | None, store: Store) -> Base:
    """What an adapter's configuration names as its base (see `Base.place`), as it is now."""
    if not os.path.isabs(place):
        hub = f"{place}@{revision}" if revision else place
        return Base(hub, hub=hub)
    found = around(Path(place))
    return Base(place if found is None else found.ref, Path(place), digest=directory_digest(Path(place), store))


def named_base(directory: Path) -> str | None:
    """The base that an adapter's configuration names, whatever is there; None where it is no adapter or names none.

    Raises ArtifactError: the configuration cannot be read.
    """
    return _named(directory)[0] if is_adapter_directory(directory) else None


def noted_bases(artifact: Artifact) -> Iterator[Path]:
    """Every place on this disk that an artifact's manifest notes of its bases, whatever is there."""
    for note in artifact.manifest.bases.values():
        yield from noted(note["places"], artifact)


def model_digest(path: Path, base: Base | None, store: Store) -> str:
    """Digest of a directory of weights. An adapter's that is not an artifact holds its base's: no manifest does."""
    own = directory_digest(path, store)
    if base is None or base.digest is None or not is_adapter_directory(path) or around(path) is not None:
        return own
    return digest_json({"adapter": own, "base": base.digest})


# An artifact that notes its base


def _noted(text: str, artifact: Artifact, directory: Path, store: Store) -> Base:
    notes = artifact.manifest.bases
    note = notes.get(directory.name) or notes.get(directory.resolve().name)
    if note is None:
        raise ArtifactError(f"{text}: the manifest of {artifact.ref} does not say what it is an adapter on", DAMAGED)
    if note["digest"] is None:
        return _on_hub(text, note["ref"])
    looked = list(noted(note["places"], artifact)) or [TINY]
    path = next((place for place in looked if os.path.isdir(place)), None)
    if path is None:
        raise _missing(text, note["ref"], looked)
    _refuse_damaged(path, store)
    if directory_digest(path, store) != note["digest"]:
        raise _another(text, note["ref"], path)
    return Base(note["ref"], path, digest=note["digest"])


# An artifact of before these notes


def _of_an_old_artifact(text: str, artifact: Artifact, name: str | None, store: Store) -> Base:
    """By the name in its configuration, which may be of any working directory, and what it was made from."""
    told = list(_made_from(artifact, own_store(artifact, store)))
    hub = next((ref for ref, digest in told if digest is None and ref.partition("@")[0] == name), None)
    if hub is not None:
        return _on_hub(text, hub)
    refs = {name}
    looked = [Path(name)] if name and os.path.isabs(name) else []
    if name and (match := _IN_A_STORE.fullmatch(name)):
        looked.insert(0, own_store(artifact, store).root / Path(*Path(name).parts[-(5 if match[3] else 3) :]))
        refs.add(f"{match[1]}@v{match[2]}" + (f":step{match[3]}" if match[3] else ""))
    elif name and name.endswith(os.path.join("models", "tiny")) and any(ref == "tiny" for ref, _ in told):
        looked, refs = [TINY], {"tiny"}
    elif name and not looked:
        looked = list(upwards(home(artifact), name))
    expected = {digest for ref, digest in told if ref in refs and digest is not None}
    there = [path for path in looked if os.path.isdir(path)]
    if not there:
        raise _missing(text, str(name), looked)
    for path in there:
        if expected & _digests(path, store):
            _refuse_damaged(path, store)
            return Base(next(ref for ref, digest in told if ref in refs), path, digest=directory_digest(path, store))
    raise _another(text, str(name), there[0])


def _made_from(artifact: Artifact, store: Store) -> Iterator[tuple[str, str | None]]:
    """(reference, digest) of all that an artifact was made from, as far up as the artifacts are what they were."""
    left, seen = [artifact], {artifact.ref}
    while left:
        for parent in left.pop().manifest.parents.values():
            ref, digest = parent["ref"], parent["digest"]
            yield ref, digest
            place = in_store(ref, store)
            above = around(place) if place is not None and ref not in seen else None
            seen.add(ref)
            if above is not None and above.digest == digest:
                left.append(above)


def _digests(path: Path, store: Store) -> set[str]:
    """Those that a manifest may have of a directory: its own, and that of the version that it is part of."""
    artifact = around(path)
    if artifact is not None:
        store.verify(artifact)
        return {directory_digest(path, store), artifact.digest}
    version = path.parent
    files = {
        str(file.relative_to(version)): store.digests.digest(file)
        for part in SUBSTANCE
        for file in sorted((version / part).rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }
    return {directory_digest(path, store), digest_json(files)}


# A directory that is not an artifact


def _of_a_plain_directory(text: str, directory: Path, name: str, revision: str | None) -> Base:
    say = f"write its absolute path into base_model_name_or_path of {directory / ADAPTER}"
    if os.path.isabs(name):
        if not os.path.isdir(name):
            raise ArtifactError(f"{text} is an adapter on {name}, which is not there", f"put it back, or {say}")
        return Base(name, Path(name))
    found = next((path for path in upwards(directory.resolve(), name) if (path / "config.json").is_file()), None)
    if found is not None:
        return Base(str(found), found, note=f"{text} is an adapter on {name!r}: taken to be {found}")
    if HUB.fullmatch(name) and "@" not in name and name.count("/") < 2:
        return _on_hub(text, f"{name}@{revision}" if revision else name, say)
    raise ArtifactError(
        f"{text} is an adapter on {name!r}, a path that is neither in its own directory nor in one above it", say
    )


# What all have in common


def _configuration(directory: Path) -> dict[str, Any]:
    file = directory / ADAPTER
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{file} is not valid JSON", "copy the adapter again") from error
    return config if isinstance(config, dict) else {}


def _named(directory: Path) -> tuple[str | None, str | None]:
    config = _configuration(directory)
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    good = isinstance(name, str) and "\0" not in name
    return name if good else None, revision if isinstance(revision, str) and revision else None


def _on_hub(text: str, hub: str, hint: str = "run it in another directory, or rename that one") -> Base:
    """Raises ArtifactError where transformers would open a directory of that name in the working directory instead."""
    name = hub.partition("@")[0]
    if os.path.exists(name):
        raise ArtifactError(
            f"{text} is an adapter on {name!r}, which may be the hub's model or the directory of that name here; the "
            "adapter does not say which",
            hint,
        )
    return Base(hub, hub=hub)


def _refuse_damaged(path: Path, store: Store) -> None:
    found = around(path)
    if found is not None:
        store.verify(found)
        refuse_added(found, part_of(path, found))


def _refuse_adapter(text: str, path: Path) -> None:
    if is_adapter_directory(path):
        raise ArtifactError(
            f"{text} is an adapter on {path}, which is an adapter itself",
            "merge that one first: prefcli export, and name the directory that it writes",
        )


def _another(text: str, ref: str, path: Path) -> ArtifactError:
    return ArtifactError(f"{text} is an adapter on {ref}, and {path} is not the base that it was trained on", BACK)


def _missing(text: str, ref: str, looked: list[Path]) -> ArtifactError:
    where = f" (looked for: {', '.join(dict.fromkeys(map(str, looked)))})" if looked else ""
    return ArtifactError(
        f"{text} is an adapter on {ref}, which is not there{where}",
        "put the base back, or a copy of it, or train again",
    )

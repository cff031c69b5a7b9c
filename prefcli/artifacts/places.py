"""Where things lie: the artifact around a directory, the store that it is part of, and places that survive a move.

Nothing here looks at the working directory, but to make an absolute path of one that was typed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from prefcli.artifacts.manifest import is_artifact
from prefcli.artifacts.store import Artifact, Store, open_artifact
from prefcli.errors import ArtifactError
from prefcli.files import digest_json

TINY = Path(__file__).parent.parent / "models" / "tiny"
_PART = re.compile(r"(state/step[1-9][0-9]*/)?(model|value)")
AT_VERSION = re.compile(r"(?P<name>[^@]+)@v(?P<version>[1-9][0-9]{0,99})(:step(?P<step>[1-9][0-9]{0,99}))?")


def around(path: Path) -> Artifact | None:
    """The artifact that a directory of weights is part of: it is its model/ or value/, or either of a kept step.

    Raises ArtifactError: its manifest is damaged.
    """
    # As it is written first: a version that is a link to a larger disk still stands in its store.
    written = [] if ".." in path.parts else [Path(os.path.abspath(path))]
    for place in (*written, path.resolve()):
        for above in (place.parent, *place.parents[2:3]):
            if _PART.fullmatch(place.relative_to(above).as_posix()) and is_artifact(above):
                return open_artifact(above)
    return None


def home(artifact: Artifact) -> Path:
    """Its directory, absolute: as its store names it, be the store's entry or what was typed a link."""
    written, real = Path(os.path.abspath(artifact.path)), artifact.path.resolve()
    return real if not _in_store(written, artifact) and _in_store(real, artifact) else written


def own_store(artifact: Artifact, otherwise: Store) -> Store:
    """The store that an artifact lies in; `otherwise` for one that was copied out of its store, or is being written."""
    place = home(artifact)
    if not _in_store(place, artifact):
        return otherwise
    root = place.parent.parent
    return otherwise if os.path.abspath(otherwise.root) == str(root) else Store(root)


def refuse_elsewhere(text: str, artifact: Artifact, store: Store) -> None:
    """Raise ArtifactError for an artifact that does not lie in `store`: by its name another one would be found there.

    `text` is how it was named.
    """
    own = store.root / artifact.manifest.name / f"v{artifact.manifest.version}"
    if artifact.path.resolve() != own.resolve():
        raise ArtifactError(
            f"{text} is {artifact.ref} of another artifact store, not of {store.root}",
            "name artifacts of one store, and say which with --runs DIR",
        )


def part_of(path: Path, artifact: Artifact) -> str:
    """The path of a directory of an artifact's weights below it: model, state/step2/value."""
    written, place = Path(os.path.abspath(path)), Path(os.path.abspath(artifact.path))
    if place not in written.parents:
        written, place = path.resolve(), artifact.path.resolve()
    return str(written.relative_to(place))


def places_of(path: Path, version: Path) -> list[str]:
    """Places of a path for a manifest: the path from the version's directory, and the absolute one."""
    place, start = os.path.abspath(path), os.path.abspath(version)
    return [os.path.relpath(place, start), place]


def noted(places: Sequence[str], artifact: Artifact) -> Iterator[Path]:
    """The places that a manifest notes, in the order in which they count, seen from where the artifact lies now.

    What was in the artifact's own store is looked for in that alone: a copy does not stand on what it was copied from.
    """
    here = home(artifact)
    for place in places:
        found = Path(os.path.normpath(here / place))
        yield found
        if _in_store(here, artifact) and here.parent.parent in found.parents:
            return


def upwards(directory: Path, name: str) -> Iterator[Path]:
    """A path that is relative to nobody knows where, seen from a directory and from each above it."""
    for above in (directory, *directory.parents):
        yield Path(os.path.normpath(above / name))


def in_store(ref: str, store: Store) -> Path | None:
    """The directory of weights that `NAME@vN` or `NAME@vN:stepK` names in a store; None for another kind of text."""
    match = AT_VERSION.fullmatch(ref)
    if match is None:
        return None
    version = store.root / match["name"] / f"v{match['version']}"
    return version / "state" / f"step{match['step']}" / "model" if match["step"] else version / "model"


def directory_digest(path: Path, store: Store) -> str:
    """Digest of a directory: the names and contents of its files, hidden ones left out."""
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith("."))
    found = digest_json({entry.name: store.digests.digest(entry) for entry in files})
    store.digests.save()
    return found


def _in_store(place: Path, artifact: Artifact) -> bool:
    manifest = artifact.manifest
    return (place.parent.name, place.name) == (manifest.name, f"v{manifest.version}")

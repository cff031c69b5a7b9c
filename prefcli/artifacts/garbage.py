"""Unneeded files of a store: leftovers, caches, and, if asked, unfinished runs and old versions."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from prefcli.artifacts.manifest import NAME, read_manifest
from prefcli.artifacts.parts import held
from prefcli.artifacts.removing import Version, all_versions, delete, remove, size, users
from prefcli.artifacts.store import Store
from prefcli.artifacts.unfinished import hold, is_ours, saved_steps
from prefcli.errors import ArtifactError

CACHES = ("reference-logps", "scores", "evaluations", "weights", "budgets")  # below RUNS/.cache: what commands keep
WEIGHTS = ".cache/weights"  # below an artifact store: on their way to servers
_CACHED = re.compile(r"[0-9a-f]{32}|[0-9a-f]{32}\.(safetensors|json|[0-9]+)|\.[0-9a-f]{32}\.json\..+")
_REMOVED = re.compile(r"\.v[1-9][0-9]{0,8}(\.partial)?\.[0-9a-f]{8}\.removed")
_DRAFT = re.compile(r"\.\.(digests\.json|highest)\.[0-9a-f]{8}")  # see files.written_whole
DRAFT_SECONDS = 3600.0  # no process takes so long for a small file
DAY = 86400.0


@dataclass
class Garbage:
    """The files that `gc` would remove."""

    versions: list[Version] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)  # what killed processes left (folders too), and caches
    digests: list[str] = field(default_factory=list)  # of files that are gone

    @property
    def bytes(self) -> int:
        return sum(size(path) for path in (*(version.path for version in self.versions), *self.files))


def garbage(store: Store, *, keep: int | None, unfinished: bool, days: float) -> Garbage:
    """Find what nobody needs: unfinished versions that nobody writes and that hold no checkpoint (with `unfinished`
    also those that do), leftovers, caches; with `keep`, of every name the complete versions below the `keep` highest
    that nothing was made from. Nothing that changed in the last `days`, nothing behind a link, and nothing that is not
    provably the store's.
    """
    everything = all_versions(store)
    made_from = users(everything, store)
    before = time.time() - days * DAY
    ours = {version for version in everything if _is_the_stores(version)}
    going = {v for v in ours if not v.complete and (unfinished or not saved_steps(v.path))}
    going = {v for v in going if _changed(v.path) <= before and not _held(v)}
    if keep is not None:
        numbers: dict[str, list[int]] = {}
        for version in everything:
            if version.complete:
                numbers.setdefault(version.name, []).append(version.number)
        old = {v for v in ours if v.complete and v.number not in sorted(numbers[v.name])[-keep:]}
        old = {version for version in old if _changed(version.path) <= before}
        while free := {version for version in old if not made_from.get(version.path, set()) - going}:
            going |= free
            old -= free
    files = [path for path in _leftovers(store.root) if _changed(path) <= before and _removable(path)]
    return Garbage(sorted(going, key=lambda v: (v.name, v.number)), files, store.digests.gone() if not days else [])


def collect(found: Garbage, store: Store) -> int:
    """Remove it, and return the bytes that this frees; a folder that a process has taken up meanwhile is left out.

    Raises ArtifactError as `remove` does, where something changed meanwhile.
    """
    freed = remove(found.versions, store)
    found.files = [path for path in found.files if not held(path)]
    for path in found.files:
        freed += size(path)
        delete(path)
    store.digests.forget(found.digests)
    return freed


def _is_the_stores(version: Version) -> bool:
    """Whether it lies in the store itself, is what a writer of ours made or is about to make, and can be removed."""
    if version.path.is_symlink() or version.path.parent.is_symlink() or not _removable(version.path):
        return False
    if not version.complete:
        return is_ours(version.path)
    try:
        manifest = read_manifest(version.path)
    except (ArtifactError, OSError):
        return False
    return (manifest.name, manifest.version) == (version.name, version.number)


def _removable(path: Path) -> bool:
    """Whether this user may: in a shared store it may be another one's."""
    return all(os.access(folder, os.W_OK) for folder in (path.parent, path) if folder.is_dir())


def _leftovers(root: Path) -> Iterator[Path]:
    for folder in [root, *(entry for entry in _entries(root) if NAME.fullmatch(entry.name))]:
        for entry in _entries(folder) if folder == root or not folder.is_symlink() else []:
            old = time.time() - _changed(entry) > DRAFT_SECONDS
            if _REMOVED.fullmatch(entry.name) or (_DRAFT.fullmatch(entry.name) and old):
                yield entry
    for cache in CACHES:
        folder = root / ".cache" / cache
        if not (folder.is_symlink() or folder.parent.is_symlink()):
            yield from (entry for entry in _entries(folder) if _CACHED.fullmatch(entry.name) and not held(entry))


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _changed(path: Path) -> float:
    """When something in it was last changed."""
    try:
        inside = [path, *path.glob("*"), *path.glob("state/*")] if path.is_dir() else [path]
        return max(entry.lstat().st_mtime for entry in inside)
    except FileNotFoundError:  # it is just being written, or removed
        return time.time()


def _held(version: Version) -> bool:
    with hold(version.path) as free:
        return not free

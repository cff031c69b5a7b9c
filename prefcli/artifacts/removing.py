"""Taking versions out of the store: never what another was made from, each whole or gone, no number used twice.

    remember the number ─► rename vN to .vN.<random>.removed ─► delete that

Who uses a version: every complete and unfinished one whose manifest (run.json) names it as a parent, and every adapter
that is on its weights.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefcli.artifacts.bases import named_base, noted_bases
from prefcli.artifacts.manifest import FILE, NAME
from prefcli.artifacts.store import Store, open_artifact
from prefcli.artifacts.unfinished import HIGHEST, LOCK, RUN, VERSION, highest_ever, hold, one_at_a_time
from prefcli.errors import ArtifactError
from prefcli.files import write_atomically

PARTIAL = ".partial"
_MENTION = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})@v([1-9][0-9]{0,8})(?![0-9])")


@dataclass(frozen=True)
class Version:
    """A version's place, complete or not."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.parent.name

    @property
    def number(self) -> int:
        return int(self.path.name.removesuffix(PARTIAL)[1:])

    @property
    def complete(self) -> bool:
        return not self.path.name.endswith(PARTIAL)

    @property
    def ref(self) -> str:
        return f"{self.name}@v{self.number}" + ("" if self.complete else " (unfinished)")


def all_versions(store: Store) -> list[Version]:
    """Every version in the store, unfinished and damaged ones too."""
    found = []
    for folder in sorted(store.root.iterdir()) if store.root.is_dir() else []:
        if NAME.fullmatch(folder.name) and folder.is_dir():
            found += [Version(entry) for entry in folder.iterdir() if _is_version(entry)]
    return sorted(found, key=lambda v: (v.name, v.number, not v.complete))


def _is_version(entry: Path) -> bool:
    if not VERSION.fullmatch(entry.name.removesuffix(PARTIAL)) or not entry.is_dir():
        return False
    return (entry / FILE).is_file() or (
        entry.name.endswith(PARTIAL) and ((entry / LOCK).is_file() or (entry / RUN).is_file())
    )


def named(text: str, store: Store) -> Version:
    """The version that `NAME@vN` or its directory names. Raises ArtifactError: none, or not exactly one."""
    for version in all_versions(store):
        if text in (version.ref, version.ref.removesuffix(" (unfinished)")) or _same(text, version.path):
            return version
    there = ", ".join(version.ref for version in all_versions(store) if version.name == text)
    if there:
        raise ArtifactError(f"{text}: say which version", f"there: {there}")
    raise ArtifactError(
        f"{text[:200]}: no such version in {store.root}", "give NAME@vN or its directory; see: prefcli ls"
    )


def _same(text: str, path: Path) -> bool:
    return os.path.isdir(text) and os.path.samefile(text, path)


def users(versions: Iterable[Version], store: Store) -> dict[Path, set[Version]]:
    """Place of a version → the versions that were made from it."""
    found: dict[Path, set[Version]] = {}
    for version in versions:
        for parent in _parents(version, store):
            if parent != version.path:
                found.setdefault(parent, set()).add(version)
    return found


def remove(wanted: Iterable[Version], store: Store, *, dry_run: bool = False) -> int:
    """Remove versions, those first that were made from others of them. Returns the bytes that this frees.

    Raises ArtifactError, and removes nothing: another one was made from one of them, or one is being written.
    """
    going = list(dict.fromkeys(wanted))
    made_from = users(all_versions(store), store)
    for version in going:
        if left := sorted(user.ref for user in made_from.get(version.path, set()).difference(going)):
            raise ArtifactError(
                f"{version.ref}: {', '.join(left)} {'was' if len(left) == 1 else 'were'} made from it",
                "remove them too, in the same command, or leave it",
            )
    freed = sum(size(version.path) for version in going) if dry_run else 0
    with ExitStack() as held:
        for folder in sorted({version.path.parent for version in going}):
            held.enter_context(one_at_a_time(folder))
        for version in going:
            if not version.complete and not held.enter_context(hold(version.path)):
                raise ArtifactError(f"{version.ref} is being written by another process", "stop that process first")
        while going and not dry_run:
            free = [version for version in going if not made_from.get(version.path, set()).intersection(going)]
            for version in free or going[:1]:  # a circle is in damaged manifests alone
                freed += _take_away(version)
                going.remove(version)
    return freed


def _take_away(version: Version) -> int:
    """Returns the bytes that this frees; none where another process was faster."""
    folder = version.path.parent
    if version.complete and version.number > highest_ever(folder):  # a reference must not come to name another thing
        write_atomically(folder / HIGHEST, str(version.number))
    aside = folder / f".{version.path.name}.{uuid.uuid4().hex[:8]}.removed"
    try:
        os.rename(version.path, aside)
    except FileNotFoundError:
        return 0
    freed = size(aside)
    delete(aside)
    return freed


def delete(path: Path) -> None:
    """A file, a link or a folder; no link is followed, and what is gone already is fine."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:  # another process was faster
        pass


def size(path: Path) -> int:
    """Bytes of a file or of all files below a folder, links as themselves; what another process took away has none."""
    if path.is_symlink() or not path.is_dir():
        return _bytes(path)
    return sum(_bytes(Path(folder, file)) for folder, _, files in os.walk(path) for file in files)


def _bytes(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _parents(version: Version, store: Store) -> set[Path]:
    """Places of the versions of this store that one was made from."""
    file = version.path / (FILE if version.complete else RUN)
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    try:
        told: Any = json.loads(text)["parents"].values()
        # What has places was not found by its name, which may be another's in this store.
        refs = [ref for parent in told for ref in _places(parent, version) or [parent["ref"]]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        refs = [mention[0] for mention in _MENTION.finditer(text)]  # damaged: whatever it may be made from
    found = {place for ref in refs if isinstance(ref, str) and (place := _place(ref, store)) is not None}
    for config in version.path.glob("**/adapter_config.json"):
        try:
            base = named_base(config.parent)
        except ArtifactError:
            continue
        if base is not None and (place := _place(base, store)) is not None:
            found.add(place)
    try:
        bases = [str(base) for base in noted_bases(open_artifact(version.path))]  # in a store that was moved too
    except ArtifactError:
        bases = []
    return found | {place for base in bases if (place := _place(base, store)) is not None}


def _places(parent: dict[str, Any], version: Version) -> list[str]:
    return [os.path.abspath(os.path.join(version.path, place)) for place in parent.get("places", [])]


def _place(ref: str, store: Store) -> Path | None:
    """The version that a reference or a path leads to, as it is written or by links; None for what is not of this
    store."""
    mention = _MENTION.match(ref)
    if mention is not None:
        return store.root / mention[1] / f"v{mention[2]}"
    for path in (ref, os.path.join(store.root.parent, ref)):  # relative to where the store lies, most often
        for seen in (os.path.abspath, os.path.realpath) if os.path.isdir(path) else ():
            place, root = Path(seen(path)), Path(seen(store.root))
            if root in place.parents and len(parts := place.relative_to(root).parts) >= 2:
                return store.root / parts[0] / parts[1]
    return None

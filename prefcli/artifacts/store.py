"""The artifact store: `runs/NAME/vN/`. Versions appear whole, by rename, or not at all.

    writer:  mkdir vN.partial ─► lock it ─► write everything ─► rename to vN ─► unlock
    reader:  looks at vN only

Two writers of one name get two versions, because `mkdir` succeeds for one of them only. A partial version that holds a
saved state outlives its writer, and the next writer with the same key continues in it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefcli.artifacts import alive
from prefcli.artifacts.manifest import FILE, NAME, Manifest, read_manifest, write_manifest
from prefcli.artifacts.unfinished import (
    DIGESTS,
    LOCK,
    LOG,
    RUN,
    VERSION,
    at_work,
    candidates,
    claim,
    clear_abandoned,
    clear_half_written,
    digests_below,
    is_ours,
    locked,
    one_at_a_time,
    open_to_readers,
    run_of,
    saved_steps,
    sync,
)
from prefcli.errors import ArtifactError, SurroundingsError, UsageError
from prefcli.files import DigestCache, digest_file, digest_json, write_atomically

CURVES = "report/curves.png"  # drawn from the metrics when a version is there
SAMPLES = "samples.json"  # the newest answers of a rollout
STOP = "stop"  # marks a state that was written because of a signal: one more than the options ask for
RUNS_HINT = "put the runs elsewhere with --runs DIR (or PREFCLI_RUNS)"
# What counts as the artifact's substance: metrics, plots and the card do not change what it is.
SUBSTANCE = ("model/", "value/")


@dataclass(frozen=True)
class Artifact:
    """A finished version on disk."""

    path: Path
    manifest: Manifest

    def __fspath__(self) -> str:
        """Its directory, which every option that takes a model takes too."""
        return str(self.path)

    @property
    def ref(self) -> str:
        return f"{self.manifest.name}@v{self.manifest.version}"

    @property
    def model_path(self) -> Path:
        return self.path / "model"

    @property
    def digest(self) -> str:
        """Digest of what the artifact is: the digests of its models' files, and of what its adapters stand on."""
        files = {p: d for p, d in self.manifest.files.items() if p.startswith(SUBSTANCE)}
        bases = {f"base of {part}": base["digest"] or base["ref"] for part, base in self.manifest.bases.items()}
        return digest_json(files | bases)


def check_name(name: str) -> str:
    """Raises UsageError for a name that could leave the store or be mistaken for another kind of reference."""
    if not NAME.fullmatch(name) or name == "tiny" or name.endswith((".partial", ".gguf")):
        raise UsageError(
            f"--name {name!r}: use letters, digits, '.', '_' and '-' only, starting with a letter or digit",
            "slashes belong to --runs DIR, versions are counted by the store, and 'tiny' is the built-in model",
        )
    return name


class Store:
    """All artifacts below one directory."""

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or os.environ.get("PREFCLI_RUNS") or "runs")
        try:
            os.stat(self.root)
        except OSError:
            pass  # not there yet, most often
        except ValueError as error:  # a zero byte, or half of a character, from a file of options
            raise UsageError(f"--runs {str(self.root)!r}: no directory can have that name") from error
        self.digests = DigestCache(self.root / ".digests.json")

    def names(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if entry.is_dir() and self.versions(entry.name))

    def versions(self, name: str) -> list[int]:
        """Numbers of the complete versions, ascending."""
        folder = self.root / name
        if not NAME.fullmatch(name) or not folder.is_dir():
            return []
        found = (VERSION.fullmatch(entry.name) for entry in folder.iterdir())
        return sorted(int(m.group(1)) for m in found if m and (folder / m.group(0) / FILE).is_file())

    def open(self, name: str, version: int) -> Artifact:
        """Raises ArtifactError: not there, damaged, or a manifest that is another version's."""
        if not NAME.fullmatch(name):
            raise ArtifactError(f"{name}@v{version}: no artifact can have that name")
        artifact = open_artifact(self.root / name / f"v{version}")
        if (artifact.manifest.name, artifact.manifest.version) != (name, version):
            raise ArtifactError(
                f"{artifact.path / FILE} is the manifest of {artifact.ref}", "copied versions are opened by their path"
            )
        return artifact

    def newest(self, name: str) -> Artifact | None:
        """The complete version with the highest number; never chosen by time."""
        versions = self.versions(name)
        return self.open(name, versions[-1]) if versions else None

    def find(self, name: str, key: str) -> Artifact | None:
        """The newest complete version of `name` with this key, checked.

        Raises ArtifactError naming a file of it that is missing or was changed: it is not handed out.
        """
        artifact = self.finished(name, key)
        if artifact is not None:
            self.verify(artifact)
            _clear_unlisted(artifact)
        return artifact

    def finished(self, name: str, key: str) -> Artifact | None:
        """The same, unchecked. A damaged manifest costs a recompute, not an error."""
        for version in reversed(self.versions(name)):
            try:
                artifact = self.open(name, version)
            except ArtifactError:
                continue
            if artifact.manifest.key == key and artifact.manifest.status == "complete":
                return artifact
        return None

    def verify(self, artifact: Artifact, *, read_all: bool = False) -> None:
        """Check every file against the manifest. Raises ArtifactError naming the first that is missing, changed or new.

        A file that is new counts in model/ and value/ alone, where a library would find and open it.
        """
        for part in SUBSTANCE:
            refuse_added(artifact, part)
        for name, expected in sorted(artifact.manifest.files.items()):
            path = artifact.path / name
            if not os.path.isfile(path):  # False, too, for what no path can be
                raise ArtifactError(
                    f"{artifact.ref}: {path} is missing", "make the artifact again with --force, or restore the file"
                )
            if (digest_file(path) if read_all else self.digests.digest(path)) != expected:
                raise ArtifactError(
                    f"{artifact.ref}: {path} was changed after it was written",
                    "make the artifact again with --force, or restore the file",
                )
        self.digests.save()

    @contextmanager
    def writer(self, name: str, key: str | None = None) -> Iterator[Draft]:
        """A version being written: the unfinished one with this key, or a new one.

        On any exception, Ctrl-C included, what has no saved state is removed. Raises UsageError: the disk takes the
        name for another one, in other case, whose versions would have manifests of two names.
        """
        folder = self.root / check_name(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise SurroundingsError(f"{error.filename} is in the way: it is not a directory", RUNS_HINT) from error
        for entry in self.root.iterdir():
            if entry.name != name and entry.name.casefold() == name.casefold() and entry.samefile(folder):
                raise UsageError(
                    f"--name {name}: on this disk it is the directory of {entry.name}",
                    f"use --name {entry.name}, or a name that differs in more than case",
                )
        for path in candidates(folder, key):
            alive.await_silence(path)
        with one_at_a_time(folder):
            killed = clear_abandoned(folder)
            draft = _unfinished(folder, key) or Draft(*claim(folder))
            draft.before = draft.before or killed.get(key or "") or at_work(folder, key)
        try:
            draft.live()
            yield draft
        except BaseException:
            if not draft.finished:
                draft.abandon()
            raise
        if not draft.finished:
            draft.abandon()


class Draft:
    """A version while it is written, in `vN.partial/` under a lock."""

    def __init__(self, path: Path, version: int, lock: int | None) -> None:
        self.path, self.version, self._lock = path, version, lock
        self.finished = False
        self.before: str | None = None  # what became of a run of the same key that was killed
        self._sign: alive.Sign | None = None

    @property
    def steps(self) -> list[int]:
        """Steps of the saved states, ascending."""
        return saved_steps(self.path)

    def state(self, step: int) -> Path:
        return self.path / "state" / f"step{step}"

    @property
    def run(self) -> dict[str, Any]:
        """The notes of the first writer; empty in a new version."""
        return run_of(self.path)

    def note(self, run: dict[str, Any]) -> None:
        write_atomically(self.path / RUN, json.dumps(run))

    @contextmanager
    def save(self, step: int, *, keep: bool) -> Iterator[Path]:
        """A folder to write a state to; it counts when all of it is there. The older ones go, unless `keep`."""
        aside = self.path / "state" / f"step{step}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            yield aside
            open_to_readers(aside)
            write_atomically(aside / DIGESTS, json.dumps(digests_below(aside)))
            for path in aside.rglob("*"):
                sync(path)
        except BaseException:  # on a full disk what is left of it would be in the way
            shutil.rmtree(aside, ignore_errors=True)
            raise
        older = [number for number in self.steps if number != step and (not keep or self.for_a_stop(number))]
        replaced = aside.with_name(f"step{step}.replaced.partial")
        if step in self.steps:
            os.rename(self.state(step), replaced)
        os.rename(aside, self.state(step))
        sync(aside.parent)
        shutil.rmtree(replaced, ignore_errors=True)
        for number in older:
            self.forget(number)

    def for_a_stop(self, step: int) -> bool:
        """Whether a saved state is there because of a signal alone."""
        return (self.state(step) / STOP).exists()

    def forget(self, step: int) -> None:
        """Remove a saved state, renamed first: no half of it is taken for one."""
        aside = self.path / "state" / f"step{step}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(self.state(step), aside)
        shutil.rmtree(aside, ignore_errors=True)

    def check(self, step: int) -> None:
        """Raise ArtifactError naming what is missing or was changed of a saved state, and a log that is missing."""
        state, hint = self.state(step), "restore the file, or start again with --force"
        try:
            expected: dict[str, str] = json.loads((state / DIGESTS).read_text(encoding="utf-8"))
            files = sorted(expected.items())
        except (OSError, ValueError, RecursionError, AttributeError) as error:
            raise ArtifactError(
                f"{state / DIGESTS} is missing or damaged, so the state cannot be checked", hint
            ) from error
        for path in (state / name for name, _ in files):
            if not path.is_file():
                raise ArtifactError(f"{path} is missing", hint)
        for name, digest in files:
            if digest_file(state / name) != digest:
                raise ArtifactError(f"{state / name} was changed after it was saved", hint)
        if not (self.path / LOG).is_file():
            raise ArtifactError(f"{self.path / LOG} is missing", hint)

    def finish(self, manifest: Manifest, *, keep_state: bool = False) -> Artifact:
        """Write the manifest, with the digests of all files, and let the version appear under its own name.

        Until it has appeared the saved states stay: a run that is killed here resumes from the last one.
        """
        open_to_readers(self.path)
        kept = [path for path in sorted(self.path.rglob("*")) if path.is_file() and path.name not in alive.FILES]
        going = (
            [self.state(step) for step in self.steps if self.for_a_stop(step)] if keep_state else [self.path / "state"]
        )
        kept = [path for path in kept if not any(folder in path.parents for folder in going)]
        manifest.files = {
            str(path.relative_to(self.path)): digest_file(path) for path in kept if path.name not in (LOCK, FILE, RUN)
        }
        for path in kept:  # a state was, as it was saved
            sync(path)
        write_manifest(manifest, self.path)
        self._end_sign()  # until now another machine would have taken the version for a dead one's
        final = self.path.with_name(f"v{self.version}")
        os.rename(self.path, final)
        self.finished = True
        sync(final.parent)
        artifact = Artifact(final, manifest)
        _clear_unlisted(artifact)
        self._unlock()
        return artifact

    def is_gone(self) -> bool:
        """Whether the folder was removed or moved since it was claimed. One of its name may be another writer's."""
        try:
            there = os.stat(self.path / LOCK)
        except FileNotFoundError:
            return self._lock is not None or not self.path.is_dir()
        return self._lock is not None and not os.path.samestat(there, os.fstat(self._lock))

    def claim_anew(self) -> None:
        """Write to a new version from here on."""
        folder = self.path.parent
        self._end_sign()
        self._unlock()
        folder.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(folder):
            self.path, self.version, self._lock = claim(folder)
        self.live()

    def live(self) -> None:
        """Leave a sign of life, from now to the end."""
        self._sign = alive.Sign(self.path)

    def _end_sign(self) -> None:
        if self._sign is not None:
            self._sign.end()
            self._sign = None

    def abandon(self) -> None:
        """Keep what the same command resumes from; without a saved state that is nothing."""
        self._end_sign()
        if self.is_gone():
            pass  # what has its name now is another's
        elif self.steps:
            clear_half_written(self.path)
        else:
            shutil.rmtree(self.path, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def open_artifact(path: Path) -> Artifact:
    return Artifact(path, read_manifest(path))


def refuse_added(artifact: Artifact, part: str) -> None:
    """Raise ArtifactError for a file below `part` (model/, say) that the manifest does not list.

    Hidden ones are passed over: no library opens them, and file managers leave them everywhere.
    """
    for folder, folders, files in os.walk(artifact.path / part):
        linked = [name for name in folders if os.path.islink(os.path.join(folder, name))]  # os.walk passes these over
        for name in sorted([*files, *linked]):
            path = Path(folder, name)
            if str(path.relative_to(artifact.path)) not in artifact.manifest.files and not name.startswith("."):
                raise ArtifactError(
                    f"{artifact.ref}: {path} was added after it was written", "remove it, or make it again: --force"
                )


def _unfinished(folder: Path, key: str | None) -> Draft | None:
    """The unfinished version with this key and a saved state that nobody writes any more, taken over."""
    for path in candidates(folder, key):
        if alive.elsewhere(path) is not None or not is_ours(path):
            continue
        final = path.with_suffix("")
        lock = locked(path / LOCK)
        if lock is not None and not final.exists():
            draft = Draft(path, int(final.name[1:]), lock)
            draft.before = alive.last_words(path)
            clear_half_written(path)
            return draft
    return None


def _clear_unlisted(artifact: Artifact) -> None:
    """Remove what only an unfinished version needs; a writer that was killed as it finished left it there."""
    for name in (LOCK, RUN):
        with suppress(OSError):  # a version on a read-only disk is as good
            (artifact.path / name).unlink(missing_ok=True)
    listed = {name.split("/")[1] for name in artifact.manifest.files if name.startswith("state/")}
    gone = [step for step in (f"step{number}" for number in saved_steps(artifact.path)) if step not in listed]
    for part in gone if listed else [""]:
        shutil.rmtree(artifact.path / "state" / part, ignore_errors=True)

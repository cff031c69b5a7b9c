"""What there is to see of runs: all of a store with their states, one of them closely, and what is new in its log."""

from __future__ import annotations

import functools
import json
import os
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prefcli.artifacts import alive
from prefcli.artifacts.commands import command
from prefcli.artifacts.facts import in_a_line
from prefcli.artifacts.lineage import lineage
from prefcli.artifacts.manifest import FILE, NAME
from prefcli.artifacts.metrics import Row, alarms, row_of
from prefcli.artifacts.store import SAMPLES, Artifact, Store
from prefcli.artifacts.unfinished import LOG, VERSION, is_ours, saved_steps
from prefcli.config.stages import STAGES
from prefcli.errors import ArtifactError, PrefcliError, UsageError, without_secrets
from prefcli.files import digest_json
from prefcli.report import lineage_chart
from prefcli.report.mark import is_ours as is_report
from prefcli.report.text import short
from prefcli.stages.series import panels

ROWS = 50_000  # of a log that is drawn: the newest
END = 1 << 16  # bytes in which a log's last row is looked for
REPORTS = 100
PARTIAL = ".partial"


@dataclass(frozen=True)
class Run:
    """One version, finished or not, as the list shows it."""

    name: str
    version: int
    state: str  # running, complete, stopped, interrupted, damaged
    stage: str
    made: str
    origin: str
    result: str
    artifact: Artifact | None = None

    @property
    def ref(self) -> str:
        return f"{self.name}@v{self.version}"


def runs(store: Store) -> list[Run]:
    """All versions: those that run first, then the newest first."""
    found = [run for folder in _folders(store) for run in _of(store, folder)]
    return sorted(sorted(found, key=lambda run: run.made, reverse=True), key=lambda run: run.state != "running")


def _folders(store: Store) -> list[Path]:
    try:
        return sorted(entry for entry in store.root.iterdir() if NAME.fullmatch(entry.name) and entry.is_dir())
    except OSError:
        return []


def _of(store: Store, folder: Path) -> Iterator[Run]:
    for entry in sorted(folder.iterdir()):
        number = VERSION.fullmatch(entry.name.removesuffix(PARTIAL))
        if number is None or not entry.is_dir():
            continue
        if not entry.name.endswith(PARTIAL):
            yield _finished(store, folder.name, int(number[1]))
        elif is_ours(entry):
            yield _unfinished(entry, folder.name, int(number[1]))


def _finished(store: Store, name: str, version: int) -> Run:
    try:
        found = os.stat(store.root / name / f"v{version}" / FILE)
    except OSError:
        return Run(name, version, "damaged", "", "", "", "it has no manifest")
    return _read(store, name, version, (found.st_ino, found.st_size, found.st_mtime_ns))


@functools.lru_cache(4096)
def _read(store: Store, name: str, version: int, mark: tuple[int, int, int]) -> Run:
    """What a manifest says: it is read once, as the list is asked for every few seconds. `mark`: which file it is."""
    try:
        artifact = store.open(name, version)
    except ArtifactError as error:
        return Run(name, version, "damaged", "", "", "", error.message)
    manifest = artifact.manifest
    parents = {f"{role} {parent['ref']}" for role, parent in manifest.parents.items() if role != "reference"}
    return Run(
        name, version, manifest.status, manifest.stage, manifest.created, ", ".join(sorted(parents)),
        in_a_line(manifest, 2, 3), artifact,
    )  # fmt: skip


def _unfinished(path: Path, name: str, version: int) -> Run:
    try:
        noted = json.loads((path / "run.json").read_text(encoding="utf-8"))
        parents = ", ".join(sorted(f"{role} {parent['ref']}" for role, parent in noted["parents"].items()
                                   if role != "reference"))  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        parents = ""
    stage = name if name in STAGES else ""
    elsewhere = alive.elsewhere(path)
    if alive.process(path) is not None or elsewhere is not None:
        last = newest(path / LOG)
        told = f"step {last['step']}" if last else "starting"
        state, told = "running", told + (f" on {elsewhere}" if elsewhere else "")
    else:
        steps = saved_steps(path)
        state = "interrupted"
        told = f"kept up to step {steps[-1]}; the same command resumes" if steps else alive.last_words(path) or ""
    return Run(name, version, state, stage, _time(path), parents, told)


def _time(path: Path) -> str:
    """When a folder was made, in the manifests' notation; "" where it is gone."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(path.stat().st_mtime))
    except OSError:
        return ""


def place(store: Store, name: str, version: str) -> Path:
    """The directory of a version, finished or not. Raises ArtifactError: there is none."""
    if NAME.fullmatch(name) and VERSION.fullmatch(version):
        whole = store.root / name / version
        for found in (whole, whole.with_name(version + PARTIAL), whole):  # it may be renamed between two looks
            if found.is_dir():
                return found
    raise ArtifactError(f"there is no run {name[:100]}@{version[:20]}")


def run_of(store: Store, name: str, version: str) -> Run:
    """One version as the list shows it. Raises ArtifactError: there is none."""
    path = place(store, name, version)
    number = int(version[1:])
    return _unfinished(path, name, number) if path.name.endswith(PARTIAL) else _finished(store, name, number)


def drawing(store: Store, run: Run) -> Markup:
    """The lineage of a finished run as SVG; nothing of an unfinished one."""
    if run.artifact is None:
        return Markup("")
    try:
        return lineage_chart.draw([lineage(run.artifact, store)], [run.ref])[0]
    except (PrefcliError, OSError):
        return Markup("")


def command_of(store: Store, run: Run) -> str:
    """The command line that made a run, or makes it now; "" where that is not known."""
    if run.artifact is not None:
        return command(run.artifact.manifest)
    number = alive.process(place(store, run.name, f"v{run.version}"))
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
    except OSError:
        return ""
    stages = [place for place, word in enumerate(words) if word in {stage.command for stage in STAGES.values()}]
    return without_secrets("prefcli " + shlex.join(words[stages[0] :])) if stages else ""


def tail(log: Path, start: int) -> tuple[list[Row], int]:
    """The rows of a metrics log after byte `start`, and where the next begin; a line that is half there waits."""
    try:
        with log.open("rb") as file:
            file.seek(start)
            whole, newline, _ = file.read().rpartition(b"\n")
    except OSError:
        return [], start
    rows = [row_of(line) for line in whole.decode("utf-8", "replace").splitlines()]
    return [row for row in rows if row is not None][-ROWS:], start + len(whole) + len(newline)


def newest(log: Path) -> Row:
    """The last whole row of a metrics log, from its end; {} where there is none."""
    try:
        start = max(0, log.stat().st_size - END)
    except OSError:
        return {}
    rows, _ = tail(log, start)
    return rows[-1] if rows else {}


@dataclass
class Log:
    """The metrics log of a version as it grows: `changed` reads what is new."""

    rows: list[Row] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)
    _at: int = 0
    _file: int = -1

    def changed(self, path: Path) -> bool:
        """Read on, at `path`: a version that is finished is renamed, a log that was cut back is another file."""
        try:
            file = path.stat().st_ino
        except OSError:
            return False
        if file != self._file:
            self.rows, self._at, self._file = [], 0, file
        new, self._at = tail(path, self._at)
        self.rows = (self.rows + new)[-ROWS:]
        if new:
            self.samples = _samples(path.with_name(SAMPLES))
        return bool(new)

    def told(self) -> dict[str, Any]:
        """What a page draws: {"panels": [{"title", "series": [{"name", "points": [[step, value], …]}]}], "alarms":
        [[step, watcher], …], "log": the newest rows, "samples": the last rollout's}."""
        found = [{"title": panel.title, "series": [{"name": short(s.name), "points": thinned(s.steps, s.values)}
                                                   for s in panel.series]} for panel in panels(self.rows)]  # fmt: skip
        return {"panels": found, "alarms": alarms(self.rows)[-200:], "log": self.rows[-20:],
                "samples": self.samples}  # fmt: skip


def _samples(path: Path) -> dict[str, Any]:
    """What a rollout left beside its log; {} where there is nothing that can be shown."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        samples = [{"prompt": str(one["prompt"]), "completion": str(one["completion"]), "score": float(one["score"])}
                   for one in found["samples"]]  # fmt: skip
        return {"step": int(found["step"]), "samples": samples}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def thinned(steps: list[int], values: list[float], most: int = 400) -> list[tuple[int, float]]:
    """The points of a curve; of very many the lowest and the highest of each stretch, and the last: no peak is lost."""
    points = list(zip(steps, values))
    if len(points) <= most:
        return points
    stretch = -(-2 * len(points) // most)
    kept = {len(points) - 1}
    for start in range(0, len(points), stretch):
        part = range(start, min(start + stretch, len(points)))
        kept |= {min(part, key=values.__getitem__), max(part, key=values.__getitem__)}
    return [points[place] for place in sorted(kept)]


def stop(store: Store, name: str, version: str) -> int:
    """Send a run what Ctrl-C sends it: it ends its step, keeps its state, and the same command resumes.

    Raises UsageError: it does not run on this machine, or is somebody else's; or on Windows, where it would be killed.
    """
    if os.name == "nt":
        raise UsageError("on Windows a run is stopped with Ctrl-C where it was started: from here it would be killed")
    number = alive.process(place(store, name, version))
    if number is None:
        raise UsageError(f"{name}@{version} does not run on this machine")
    try:
        os.kill(number, signal.SIGINT)
    except OSError as error:
        raise UsageError(f"{name}@{version} could not be stopped: {error.strerror}") from error
    return number


def reports(store: Store) -> dict[str, Path]:
    """Pages that `prefcli report` wrote, in the working directory and the store's, by the last part of their address.

    That is of the path: a place in the list would be another page's when one is added.
    """
    folders = dict.fromkeys(folder.resolve() for folder in (Path(), store.root, store.root.parent) if folder.is_dir())
    found = [path for folder in folders for path in sorted(folder.glob("*.html"))]
    ours = [path for path in found if path.is_file() and is_report(path)][:REPORTS]
    return {digest_json(str(path))[:16]: path for path in ours}

"""What all tests share: a folder and a store of their own, the command line in this process, artifacts in one call."""

from __future__ import annotations

import functools
import gc
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub's library is imported: no test waits for a network

# Read when torch is imported. Two threads on models this small wait for each other, and workers have a core each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from chain import chain, trained  # noqa: F401  fixtures for all tests
from forked import Server
from report_page import written  # noqa: F401
from typer.testing import CliRunner

from prefcli.artifacts.manifest import STAGES, Manifest
from prefcli.artifacts.places import TINY
from prefcli.artifacts.store import Artifact, Store
from prefcli.cli.main import app
from prefcli.data.dataset import Dataset
from prefcli.data.row import Row
from prefcli.data.rows import Rows, Source

PAIR = {"prompt": "Where is the cup?", "chosen": "On the shelf.", "rejected": "I do not know."}
DEMO = {"prompt": "Where is the cup?", "completion": "On the shelf."}


# Begun first: a file of twenty seconds that began last would have the other worker wait for it.
LONG = ("processes", "sharded", "engine", "families", "signals", "shared", "resume", "resume_stages", "export",
        "adapter_base", "adapters", "parts", "api", "hybrids", "option_effects", "extending", "lockstep", "ui_browser",
        "starts", "not_opened", "lora_targets", "router_loss", "stdout", "wheel")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)


def pytest_collection_finish() -> None:
    """What is imported stays. Trainers have all garbage collected when they end, which took longer than their steps."""
    gc.collect()
    gc.freeze()


class Blank:
    """In place of the figure of a run's curves, whose drawing takes longer than the run: see test_curves.py."""

    def __init__(self, **_: Any) -> None:
        pass

    def suptitle(self, *_: Any, **__: Any) -> None:
        pass

    def subplots(self, *_: Any, **__: Any) -> Any:
        return SimpleNamespace(flat=[])

    def savefig(self, file: Any, **_: Any) -> None:
        file.write(b"\x89PNG")


@pytest.fixture(scope="session", autouse=True)
def nothing_drawn() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefcli.stages.curves.Figure", Blank)
        yield


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """No test touches another's artifacts, or the user's: the store and the working directory are the test's own."""
    monkeypatch.setenv("PREFCLI_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("prefcli.memory.devices.has_bfloat16", lambda: False)  # the same on every processor
    monkeypatch.setattr("prefcli.cli.command.LISTEN", 0.0)  # no test waits for another process to speak
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no test outlives a power cut, and waiting for disks is slow
    return tmp_path


@pytest.fixture
def prefcli(own_folder) -> Callable[..., Any]:
    """`prefcli("dpo", "--data", path)` runs the command in this process: exit_code, stdout, stderr."""

    def run(*args: Any, env: dict[str, str] | None = None) -> Any:
        return CliRunner().invoke(app, [str(arg) for arg in args], env=env, prog_name="prefcli")

    return run


@pytest.fixture(scope="session")
def forked(tmp_path_factory: Any) -> Iterator[Server]:
    """`forked.start(code, *words)` is a process of its own, without the seconds of a start."""
    server = Server(str(tmp_path_factory.mktemp("f")))
    yield server
    server.end()


@pytest.fixture
def store(own_folder) -> Store:
    return Store()


@pytest.fixture
def make_artifact(store) -> Callable[..., Artifact]:
    """`make_artifact("sft")` is a finished artifact of the test's store: see `artifact_in`."""
    return functools.partial(artifact_in, store)


@pytest.fixture
def jsonl(own_folder) -> Callable[..., Path]:
    """`jsonl("pairs.jsonl", PAIR, PAIR)` writes rows and returns the path."""

    def make(name: str, *rows: Any) -> Path:
        return write(own_folder / name, "".join(json.dumps(row) + "\n" for row in rows))

    return make


class Scanned(list):
    """Rows that are there, in place of a scan of a file."""

    in_halves, purpose, hint = False, "pairs", ""

    def __init__(self, path: str, rows: Sequence[Row]) -> None:
        super().__init__(rows)
        self.path = path

    def row(self, position: int) -> Row:
        return self[position]

    def place(self, position: int) -> str:
        return f"row {position + 1}"


def data_of(**files: Sequence[Row]) -> Dataset:
    """The rows of several files, without the files."""
    source: Any = Source([Scanned(*file) for file in files.items()], skip_bad=False, whole=True)
    sources = [{"path": name, "rows": len(rows), "digest": ""} for name, rows in files.items()]
    return Dataset(Rows(source, range(source.starts[-1])), sources, [])


def artifact_in(
    store: Store,
    name: str = "sft",
    *,
    stage: str | None = None,
    key: str = "key",
    files: dict[str, str] | None = None,
    parents: dict[str, Any] | None = None,
    **more: Any,
) -> Artifact:
    """A finished artifact with files that no library could load; no torch. `more` are fields of its manifest. A parent
    is an artifact, or as the manifest has it."""
    if files is None:
        files = {"model/config.json": "{}", "model/model.safetensors": "weights", "metrics.jsonl": '{"step": 1}\n'}
    with store.writer(name) as draft:
        for path, text in files.items():
            write(draft.path / path, text)
        return draft.finish(
            Manifest(
                stage=stage or (name if name in STAGES else "sft"),
                name=name,
                version=draft.version,
                created="2026-01-01T00:00:00+00:00",
                key=key,
                parents={
                    role: one if isinstance(one, dict) else {"ref": one.ref, "digest": one.digest}
                    for role, one in (parents or {}).items()
                },
                **more,
            )
        )


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")
    return path


def cached(root: Path) -> Path:
    """`tiny` as owner/name in a cache of the hub's."""
    repository = root / "models--owner--name"
    write(repository / "refs" / "main", "c0ffee")
    shutil.copytree(TINY, repository / "snapshots" / "c0ffee")
    return repository / "snapshots" / "c0ffee"


def versions_below(root: Path) -> list[str]:
    """Every version directory, partial ones too: what a failed command must not leave."""
    return sorted(str(p.relative_to(root)) for p in root.glob("runs/*/v*")) if root.is_dir() else []

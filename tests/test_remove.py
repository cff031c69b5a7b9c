"""rm and gc: what others were made from stays, what goes goes whole, and no number names two things."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from conftest import artifact_in, versions_below, write

from prefcli.artifacts import garbage, parts, removing
from prefcli.artifacts.garbage import CACHES
from prefcli.artifacts.manifest import write_manifest
from prefcli.artifacts.places import places_of
from prefcli.artifacts.store import Store
from prefcli.cli import gc as command
from prefcli.files import written_whole

PACKAGE = Path(__file__).parent.parent / "prefcli"


@pytest.fixture
def family(make_artifact):
    """sft@v1 ─► dpo@v1, and sft@v2, of which nothing was made."""
    sft = make_artifact("sft")
    return sft, make_artifact("dpo", parents={"model": sft}), make_artifact("sft")


@pytest.fixture
def unfinished(store):
    """`unfinished("dpo", "sft@v1")` is an unfinished version with a saved state, made from that."""

    def make(name, *parents):
        with pytest.raises(RuntimeError), store.writer(name, "key") as draft:
            draft.note({"key": "key", "parents": {str(n): {"ref": ref, "digest": ""} for n, ref in enumerate(parents)}})
            with draft.save(1, keep=False) as state:
                write(state / "x", "x" * 1000)
            raise RuntimeError
        return draft.path

    return make


def listed(result):
    assert result.exit_code == 0, result.stderr
    return result.stdout.split()


def refused(result, *parts):
    assert result.exit_code == 4 and result.stdout == "", (result.exit_code, result.stdout, result.stderr)
    for part in parts:
        assert part in result.stderr


# rm


def test_a_version_is_removed_and_the_reference_is_printed(prefcli, own_folder, family):
    assert listed(prefcli("rm", "sft@v2")) == ["sft@v2"]
    assert versions_below(own_folder) == ["runs/dpo/v1", "runs/sft/v1"]
    assert not list((own_folder / "runs/sft").glob(".v*"))


def test_what_another_was_made_from_stays_unless_that_goes_too(prefcli, own_folder, family, make_artifact):
    ppo = make_artifact("ppo", parents={"model": family[1], "reference": family[0]})
    for refs, child in ([["sft@v1"], "dpo@v1, ppo@v1"], [["sft@v1", "dpo@v1"], "ppo@v1"], [["dpo@v1"], "ppo@v1"]):
        refused(prefcli("rm", *refs), child)
    assert ppo.path.is_dir() and len(versions_below(own_folder)) == 4
    assert listed(prefcli("rm", "sft@v1", "ppo@v1", "dpo@v1")) == ["dpo@v1", "ppo@v1", "sft@v1"]
    assert versions_below(own_folder) == ["runs/sft/v2"]


def test_an_unfinished_version_is_a_child_too(prefcli, family, unfinished):
    unfinished("ppo", "sft@v2")
    refused(prefcli("rm", "sft@v2"), "ppo@v1 (unfinished)")
    assert listed(prefcli("rm", "ppo@v1", "sft@v2"))


@pytest.mark.parametrize("parent", ["sft@v1:step4", "{path}", "{path}/model", "runs/sft/v1/value"])
def test_a_parent_may_be_named_by_a_step_or_a_path(prefcli, family, make_artifact, parent):
    (family[0].path / "value").mkdir()
    child = make_artifact("ppo")
    loaded = json.loads((child.path / "manifest.json").read_text())
    loaded["parents"] = {"model": {"ref": parent.format(path=family[0].path), "digest": "x"}}
    write(child.path / "manifest.json", json.dumps(loaded))
    refused(prefcli("rm", "sft@v1", "dpo@v1"), "ppo@v1")


def made_from(child, path, ref):
    """Note that a version was made from what lies at a path, as training notes it."""
    child.manifest.parents = {"model": {"ref": ref, "digest": "x", "places": places_of(path, child.path)}}
    write_manifest(child.manifest, child.path)


def test_a_parent_in_another_store_is_not_the_version_of_its_name_here(prefcli, own_folder, make_artifact):
    make_artifact("sft")
    made_from(make_artifact("ppo"), artifact_in(Store(own_folder / "other"), "sft").model_path, "sft@v1")
    assert listed(prefcli("rm", "sft@v1")) == ["sft@v1"]


@pytest.mark.parametrize("linked", ["sft/v1", "ppo/v1", None])
def test_a_parent_with_a_place_in_this_store_stays_be_it_or_its_child_a_link(
    prefcli, own_folder, make_artifact, linked
):
    sft, ppo = make_artifact("sft"), make_artifact("ppo")
    made_from(ppo, sft.model_path, "sft@v1:step4")
    if linked:
        shutil.move(own_folder / "runs" / linked, own_folder / "big/of/it")
        (own_folder / "runs" / linked).symlink_to(own_folder / "big/of/it")
    refused(prefcli("rm", "sft@v1"), "ppo@v1 was made from it")


def test_an_adapters_base_is_its_parent(prefcli, family, make_artifact):
    config = json.dumps({"base_model_name_or_path": str(family[2].path / "model")})
    make_artifact("ppo", files={"model/adapter_config.json": config})
    refused(prefcli("rm", "sft@v2"), "ppo@v1")


def test_a_damaged_manifest_is_taken_to_need_all_that_it_mentions_and_can_be_removed(prefcli, family):
    manifest = family[1].path / "manifest.json"
    write(manifest, manifest.read_text()[:-40])
    refused(prefcli("rm", "sft@v1"), "dpo@v1")
    assert listed(prefcli("rm", "dpo@v1")) == ["dpo@v1"]


def test_a_number_that_was_removed_is_never_used_again(prefcli, family, make_artifact):
    listed(prefcli("rm", "sft@v2", "sft@v1", "dpo@v1"))
    assert make_artifact("sft").ref == "sft@v3"
    listed(prefcli("rm", "sft@v3"))
    assert make_artifact("sft").ref == "sft@v4" and make_artifact("dpo").ref == "dpo@v2"
    assert prefcli("show", "sft@v2").exit_code == 4


def test_a_live_writers_version_stays(prefcli, store, family):
    with store.writer("dpo") as draft:
        refused(prefcli("rm", str(draft.path)), "being written")
        assert listed(prefcli("gc", "--yes")) == [] and draft.path.is_dir()


@pytest.mark.parametrize(
    "ref", ["sft", "sft@v9", "sft@v-1", "../sft@v1", "/etc", "..", ".", "runs", "runs/sft", "sft@v1:step1", "x" * 999]
)
def test_what_is_no_version_of_the_store_is_refused(prefcli, own_folder, family, ref):
    refused(prefcli("rm", "sft@v2", "--", ref))
    assert len(versions_below(own_folder)) == 3  # nothing went, the good one neither


def test_a_linked_version_goes_and_what_it_leads_to_stays(prefcli, own_folder, family):
    elsewhere = own_folder / "big"
    shutil.move(family[2].path, elsewhere)
    family[2].path.symlink_to(elsewhere)
    assert listed(prefcli("rm", "sft@v2")) == ["sft@v2"]
    assert (elsewhere / "manifest.json").is_file() and not family[2].path.is_symlink()


def test_a_dry_run_removes_nothing_and_says_what_would_be_freed(prefcli, own_folder, family):
    result = prefcli("rm", "sft@v2", "--dry-run", "--json")
    told = json.loads(result.stdout)
    files = [path for path in family[2].path.rglob("*") if path.is_file()]
    assert told == {"removed": ["sft@v2"], "bytes": sum(path.stat().st_size for path in files), "dry_run": True}
    assert len(versions_below(own_folder)) == 3


def interrupted_at(monkeypatch, name):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(removing, name, stop) if name == "delete" else monkeypatch.setattr(os, name, stop)


@pytest.mark.parametrize("moment, left", [("rename", True), ("delete", False)])
def test_an_interrupt_leaves_it_whole_or_gone(prefcli, own_folder, store, family, monkeypatch, moment, left):
    with monkeypatch.context() as patch:
        interrupted_at(patch, moment)
        assert prefcli("rm", "sft@v2").exit_code == 130
    assert store.versions("sft") == ([1, 2] if left else [1])
    if left:
        store.verify(store.open("sft", 2), read_all=True)
    listed(prefcli("gc", "--yes"))
    assert not list((own_folder / "runs/sft").glob(".v*"))


def test_children_go_before_their_parents(prefcli, store, family, monkeypatch):
    gone = []
    monkeypatch.setattr(removing, "_take_away", lambda version: gone.append(version.ref) or 0)
    listed(prefcli("rm", "sft@v1", "sft@v2", "dpo@v1"))
    assert gone.index("dpo@v1") < gone.index("sft@v1")


# gc


def killed(root):
    with Store(root).writer("dpo") as draft:
        write(draft.path / "model" / "half", "x" * 5000)
        os.kill(os.getpid(), signal.SIGKILL)


def test_gc_frees_what_killed_processes_left_caches_and_digests_and_keeps_the_rest(prefcli, own_folder, family):
    process = multiprocessing.get_context("fork").Process(target=killed, args=(own_folder / "runs",))
    process.start()
    process.join()
    prefcli("show", "sft@v2", env={})
    write(own_folder / "runs/.cache/reference-logps" / ("a" * 32 + ".safetensors"), "x")
    write(own_folder / "runs/.cache/scores" / ("b" * 32 + ".json"), "x")
    mine = [
        write(own_folder / path, "x") for path in ("runs/.cache/pip/x", "runs/.cache/scores/notes", "runs/notes.txt")
    ]
    with pytest.raises(RuntimeError), written_whole(own_folder / "runs/.digests.json") as file:
        (half,) = (own_folder / "runs").glob("*digests.json.*")  # as a writer that is killed here leaves it
        name = half.name
        raise RuntimeError(file)
    os.utime(write(half.with_name(name), "x"), (0, 0))
    write(own_folder / "runs/.digests.json", json.dumps({"/gone": [1, 2, 3, 4, "d"]}))
    dry = prefcli("gc", "--dry-run", "--json")
    assert len(versions_below(own_folder)) == 4 and json.loads(dry.stdout)["dry_run"]
    told = json.loads(prefcli("gc", "--json", "--yes").stdout)
    assert told == json.loads(dry.stdout) | {"dry_run": False}
    assert told["versions"] == ["dpo@v2 (unfinished)"] and len(told["files"]) == 3 and told["bytes"] > 5000
    assert versions_below(own_folder) == ["runs/dpo/v1", "runs/sft/v1", "runs/sft/v2"]
    assert all(path.is_file() for path in mine) and "/gone" not in (own_folder / "runs/.digests.json").read_text()
    assert listed(prefcli("gc", "--yes")) == []


def test_gc_keeps_the_newest_and_what_others_were_made_from(prefcli, store, make_artifact, unfinished):
    sft = [make_artifact("sft") for _ in range(5)]
    dpo = make_artifact("dpo", parents={"model": sft[0]})
    make_artifact("dpo", parents={"model": sft[1]})
    assert listed(prefcli("gc", "--keep", "2", "--yes")) == ["sft@v3"]  # v1 and v2 are parents, v4 and v5 the newest
    assert listed(prefcli("gc", "--keep", "1", "--yes")) == [
        "dpo@v1",
        "sft@v1",
        "sft@v4",
    ]  # v1's only child goes as well
    assert store.versions("sft") == [2, 5] and store.versions("dpo") == [2] and not dpo.path.exists()
    assert listed(prefcli("gc", "--keep", "1", "--yes")) == []


def test_gc_older_than_leaves_what_is_younger(prefcli, own_folder, family, unfinished, make_artifact):
    partial = unfinished("dpo", "sft@v1")
    make_artifact("sft")
    assert listed(prefcli("gc", "--keep", "1", "--older-than", "1", "--yes")) == []
    for path in [*family[2].path.rglob("*"), family[2].path, *partial.rglob("*"), partial]:
        os.utime(path, (0, 0))
    assert prefcli("gc", "--keep", "1", "--older-than", "1", "--yes").stdout == "sft@v2\n"
    assert prefcli("gc", "--unfinished", "--older-than", "1", "--yes").stdout == "dpo@v2 (unfinished)\n"


def test_gc_asks_on_a_terminal_and_removes_nothing_in_a_pipe_without_yes(
    prefcli, own_folder, family, make_artifact, monkeypatch
):
    make_artifact("sft")
    monkeypatch.setattr(command, "_terminal", lambda: True)
    result = prefcli("gc", "--keep", "1")
    assert result.exit_code == 0 and result.stdout == "" and "sft@v2" in result.stderr and "[y/N]" in result.stderr
    assert len(versions_below(own_folder)) == 4
    monkeypatch.setattr(command, "_terminal", lambda: False)
    result = prefcli("gc", "--keep", "1")
    assert (result.exit_code, result.stdout) == (2, "") and "sft@v2" in result.stderr and "--yes" in result.stderr
    assert len(versions_below(own_folder)) == 4
    assert listed(prefcli("gc", "--keep", "1", "--yes")) == ["sft@v2"]


def test_gc_of_no_store_is_nothing_and_of_a_home_folder_takes_nothing_of_it(prefcli, own_folder):
    assert listed(prefcli("gc", "--runs", own_folder / "nowhere")) == []
    kept = [write(own_folder / path, "x") for path in (".cache/thing", "src/v1.partial/x", "lib/v2/manifest")]
    assert listed(prefcli("gc", "--keep", "1", "--yes", "--runs", own_folder)) == []
    assert all(path.is_file() for path in kept)


@pytest.mark.parametrize("files", [
    {"v7.partial/run.json": '{"run_id": 7}'}, {"v7.partial/run.json": "{}"}, {"v7.partial/.lock": ""},
    {"v7.partial/.lock": "4711"}, {"v1/manifest.json": "{}", "v2/manifest.json": '{"schema": 1}'},
])  # fmt: skip
def test_gc_takes_nothing_of_another_programs_folders(prefcli, own_folder, files):
    for name, text in files.items():
        write(own_folder / "app" / name, text)
        write((own_folder / "app" / name).with_name("precious"), "x")
    before = {path: path.read_bytes() for path in own_folder.rglob("*") if path.is_file()}
    assert listed(prefcli("gc", "--keep", "1", "--unfinished", "--yes", "--runs", own_folder)) == []
    assert {path: path.read_bytes() for path in own_folder.rglob("*") if path.is_file()} == before


def test_a_lock_is_seen_on_a_file_system_that_locks_only_what_is_open_for_writing(own_folder, monkeypatch):
    """As NFS on Linux does; flock there may say EACCES of a lock that another one holds."""
    write(own_folder / ".lock", "")
    for said in (BlockingIOError(errno.EAGAIN, ""), PermissionError(errno.EACCES, "")):

        def flock(file, _, said=said):
            raise said if file.writable() else OSError(errno.EBADF, "")

        monkeypatch.setattr(parts.fcntl, "flock", flock)
        assert parts.held(own_folder)


def test_what_is_taken_up_while_gc_asks_stays_and_is_not_counted(prefcli, store, own_folder):
    folder = own_folder / "runs/.cache/evaluations"
    taken, free = (write(folder / (letter * 32) / "rows-00000000.part", "x" * 10).parent for letter in "ab")
    for path in (taken, free):
        write(path / ".lock", "")
    found = garbage.garbage(store, keep=None, unfinished=False, days=0)
    assert found.files == [taken, free] and found.bytes == 20
    with (taken / ".lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert garbage.collect(found, store) == 10
    assert found.files == [free] and taken.is_dir() and not free.exists()


def test_what_another_gc_takes_away_first_has_no_bytes_and_stops_nothing(family, store, own_folder, monkeypatch):
    assert removing.size(own_folder / "gone") == 0
    monkeypatch.setattr(removing, "highest_ever", lambda folder: shutil.rmtree(family[2].path) or 0)
    assert removing.remove([removing.named("sft@v2", store)], store) == 0 and store.versions("sft") == [1]


def test_gc_passes_over_what_only_another_user_may_remove(prefcli, own_folder, store, make_artifact, monkeypatch):
    for name in ("sft", "sft", "theirs", "theirs"):
        make_artifact(name)
    draft = write(own_folder / "runs/theirs/.v9.0a1b2c3d.removed", "x")
    monkeypatch.setattr(garbage.os, "access", lambda path, _: "theirs" not in str(path.name))
    assert listed(prefcli("gc", "--keep", "1", "--yes")) == ["sft@v1"]
    assert draft.is_file() and store.versions("theirs") == [1, 2]


def test_gc_follows_no_link(prefcli, own_folder, make_artifact, unfinished):
    """A name, or a cache, that leads to another place is not the store's to clear."""
    for _ in range(3):
        make_artifact("sft")
    unfinished("sft")
    write(own_folder / "runs/.cache/scores" / ("b" * 32 + ".json"), "x")
    write(own_folder / "runs/sft/.v9.0a1b2c3d.removed", "x")
    os.rename(own_folder / "runs", own_folder / "far")
    (own_folder / "runs").mkdir()
    for name in ("sft", ".cache"):
        (own_folder / "runs" / name).symlink_to(own_folder / "far" / name)
    before = sorted(own_folder.rglob("far/**/*"))
    assert listed(prefcli("gc", "--keep", "1", "--unfinished", "--yes")) == []
    assert sorted(own_folder.rglob("far/**/*")) == before
    found = listed(prefcli("gc", "--keep", "1", "--unfinished", "--yes", "--runs", own_folder / "far"))
    assert found[:4] == ["sft@v1", "sft@v2", "sft@v4", "(unfinished)"] and len(found) == 6  # there they are the store's


def test_every_cache_of_the_store_is_one_that_gc_knows():
    found = [
        match[1]
        for path in PACKAGE.rglob("*.py")
        for match in re.finditer(r'"\.cache/([\w-]+)"', path.read_text(encoding="utf-8"))
    ]
    assert sorted(found) == sorted(CACHES)

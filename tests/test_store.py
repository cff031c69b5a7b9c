"""The artifact store: versions, writers, readers, references, digests, lineage, and a disk that fails."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import versions_below, write

from prefcli.artifacts import references, unfinished
from prefcli.artifacts import store as store_module
from prefcli.artifacts.lineage import lineage
from prefcli.artifacts.manifest import Manifest, read_manifest, write_manifest
from prefcli.artifacts.references import default_model, expand, resolve
from prefcli.artifacts.store import STOP, Draft, Store, check_name, open_artifact
from prefcli.errors import ArtifactError, SurroundingsError, UsageError
from prefcli.files import DigestCache, digest_file, digest_json, write_atomically

MODEL = {"config.json": "{}", "model.safetensors": "weights"}


def manifest(version: int = 1, **changed) -> Manifest:
    known = {"stage": "sft", "name": "sft", "version": version, "created": "2026-01-01T00:00:00+00:00", "key": "k"}
    return Manifest(**(known | changed))


def age(*paths: Path) -> None:
    """Make files old enough to be remembered by the digest cache."""
    for path in paths:
        os.utime(path, (1_700_000_000, 1_700_000_000))


def say(error) -> str:
    return f"{error.value.message} / {error.value.hint}"


# Versions


def test_versions_are_counted_and_the_newest_is_the_highest_number_whatever_the_times_say(store, make_artifact):
    made = [make_artifact("sft") for _ in range(11)]
    assert [artifact.manifest.version for artifact in made] == list(range(1, 12))
    assert store.versions("sft") == list(range(1, 12))  # v10 after v9
    for artifact in made:
        age(artifact.path, artifact.path / "manifest.json")
    os.utime(made[2].path)
    assert store.newest("sft").ref == "sft@v11"


def test_a_removed_version_s_number_is_used_again_only_at_the_end(store, make_artifact):
    made = [make_artifact("sft") for _ in range(3)]
    os.rename(made[1].path, made[1].path.parent / "old")
    assert make_artifact("sft").ref == "sft@v4"
    assert store.versions("sft") == [1, 3, 4]


def test_what_is_no_version_is_not_seen(store, make_artifact):
    make_artifact("sft")
    for name in ("v0", "v01", "v-1", "v2.bak", "x", "v3.partial", "V4", "v5"):
        (store.root / "sft" / name).mkdir()
    write(store.root / "sft" / "v9", "a file")
    write(store.root / "notes.txt", "a file")
    (store.root / "empty").mkdir()
    assert store.versions("sft") == [1]
    assert store.names() == ["sft"]
    # The number of a version that is broken or being written is not taken again.
    assert make_artifact("sft").ref == "sft@v10"


def test_the_manifest_is_what_was_given_and_lists_every_file_with_its_digest(store, make_artifact):
    parent = make_artifact("sft")
    made = make_artifact("dpo", parents={"model": parent}, config={"lr": 1e-5}, metrics={"loss": 0.5}, key="abc")
    read = store.open("dpo", 1).manifest
    assert read == made.manifest
    assert read.parents == {"model": {"ref": "sft@v1", "digest": parent.digest}}
    assert set(read.files) == {"model/config.json", "model/model.safetensors", "metrics.jsonl"}
    assert all(digest == digest_file(made.path / path) for path, digest in read.files.items())


def test_a_run_is_found_by_its_key_the_newest_complete_first(store, make_artifact):
    make_artifact("sft", key="a")
    second = make_artifact("sft", key="a")
    make_artifact("sft", key="b")
    make_artifact("sft", key="a", status="stopped")
    assert store.find("sft", "a") == second
    assert store.find("sft", "c") is None and store.find("nothing", "a") is None
    write(second.path / "manifest.json", "{broken")
    assert store.find("sft", "a").ref == "sft@v1"  # a damaged one costs a recompute, not an error


def test_a_damaged_version_is_not_handed_out_again(store, make_artifact):
    artifact = make_artifact("sft", key="a")
    weights = artifact.model_path / "model.safetensors"
    for spoil, word in ((lambda: write(weights, "Weights"), "changed"), (weights.unlink, "missing")):
        spoil()
        with pytest.raises(ArtifactError) as error:
            store.find("sft", "a")
        assert str(weights) in say(error) and word in say(error) and "--force" in say(error)
    write(weights, "weights")
    assert store.find("sft", "a") == artifact


@pytest.mark.parametrize(
    "name",
    ["", " ", "a/b", "/a", "..", ".", ".a", "-a", "a b", "a@v1", "a\n", "a\0", "a\\b", "é", "x" * 101]
    + ["tiny", "a.partial", "a.gguf"],
)  # fmt: skip
def test_names_that_would_leave_the_store_or_be_something_else_are_refused(store, name):
    with pytest.raises(UsageError):
        check_name(name)
    with pytest.raises(UsageError), store.writer(name):
        raise AssertionError("not reached")
    assert versions_below(store.root.parent) == []


@pytest.mark.parametrize("name", ["a", "A1", "sft-2.1_b", "v1", "x" * 100, "tiny2"])
def test_names_that_are_fine(store, make_artifact, name):
    assert make_artifact(name, stage="sft").ref == f"{name}@v1"


def test_a_name_in_another_case_is_refused_where_the_disk_takes_both_for_one(store, make_artifact):
    made = make_artifact("sft")
    assert make_artifact("Sft", stage="sft").ref == "Sft@v1"  # another directory: fine
    (store.root / "SFT").symlink_to("sft")  # as a disk that does not tell case apart shows it
    with pytest.raises(UsageError, match="--name SFT: on this disk it is the directory of sft"), store.writer("SFT"):
        raise AssertionError("not reached")
    assert store.newest("sft") == made


# Writers


def test_an_exception_or_an_interrupt_leaves_nothing(store, own_folder):
    for error in (ValueError, KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(error), store.writer("sft") as draft:
            write(draft.path / "model" / "model.safetensors", "half")
            raise error
        assert versions_below(own_folder) == []
    with store.writer("sft") as draft:
        pass  # a writer that never finishes its draft
    assert versions_below(own_folder) == []
    assert store.names() == []


def test_a_failure_while_finishing_leaves_nothing(store, own_folder, monkeypatch):
    for step in ("write_manifest", "sync", "digest_file"):
        with monkeypatch.context() as patch:
            patch.setattr(store_module, step, lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            with pytest.raises(OSError), store.writer("sft") as draft:
                write(draft.path / "model" / "x", "x")
                draft.finish(manifest(draft.version))
        assert versions_below(own_folder) == []


def test_nothing_is_seen_before_it_is_whole(store):
    with store.writer("sft") as draft:
        for path, text in MODEL.items():
            write(draft.path / "model" / path, text)
        write_manifest(manifest(), draft.path)
        assert store.versions("sft") == [] and store.newest("sft") is None and store.names() == []
        for inside in (draft.path, draft.path / "model"):
            with pytest.raises(ArtifactError, match="unfinished"):
                resolve(str(inside), store)
        (draft.path / "manifest.json").unlink()
        artifact = draft.finish(manifest())
        assert store.versions("sft") == [1]
    assert store.versions("sft") == [1]
    assert not (artifact.path / ".lock").exists()
    assert "manifest.json" not in artifact.manifest.files and ".lock" not in artifact.manifest.files


def one_version(root: str) -> int:
    with Store(root).writer("sft") as draft:
        write(draft.path / "model" / "model.safetensors", str(draft.version))
        time.sleep(0.02)
        return draft.finish(manifest(draft.version)).manifest.version


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_eight_writers_at_once_make_eight_versions(store, kind):
    root = str(store.root)
    if kind == "threads":
        with ThreadPoolExecutor(8) as pool:
            numbers = list(pool.map(one_version, [root] * 8))
    else:
        with multiprocessing.get_context("fork").Pool(8) as pool:
            numbers = pool.map(one_version, [root] * 8, chunksize=1)
    assert sorted(numbers) == store.versions("sft") == list(range(1, 9))
    for number in numbers:
        artifact = store.open("sft", number)
        assert (artifact.model_path / "model.safetensors").read_text() == str(number)
        store.verify(artifact, read_all=True)
    assert not list(store.root.glob("sft/*.partial"))


def test_a_writer_whose_folder_was_removed_leaves_another_ones_alone(store):
    with store.writer("sft") as first:
        shutil.rmtree(first.path)
        with store.writer("sft") as second:
            write(second.path / "model" / "model.safetensors", "theirs")
            assert first.path == second.path and first.is_gone() and not second.is_gone()
            first.abandon()
            assert second.finish(manifest()).path.name == "v1"
    assert store.versions("sft") == [1]


def test_two_drafts_of_one_process_get_two_numbers(store):
    with store.writer("sft") as first, store.writer("sft") as second:
        assert (first.version, second.version) == (1, 2)
        assert second.finish(manifest(2)).ref == "sft@v2"
        assert first.finish(manifest(1)).ref == "sft@v1"
    assert store.versions("sft") == [1, 2]


def test_a_killed_writer_s_remains_are_cleared_by_the_next_and_a_live_one_s_are_not(store, make_artifact):
    code = (
        "import sys, time\nfrom prefcli.artifacts.store import Store\n"
        "with Store(sys.argv[1]).writer('sft') as draft:\n"
        "    (draft.path / 'half').write_text('x')\n    print(draft.path.name, flush=True)\n    time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(store.root)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        names = [writer.stdout.readline().strip() for writer in writers]
        assert set(names) == {"v1.partial", "v2.partial"}
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        assert (store.root / "sft" / names[0] / "half").exists()
        assert make_artifact("sft").manifest.version == 3 or names[0] == "v2.partial"
        assert not (store.root / "sft" / names[0]).exists()
        assert (store.root / "sft" / names[1] / "half").exists()
        writers[1].send_signal(signal.SIGINT)  # Ctrl-C clears by itself
        writers[1].wait(10)
        assert not list(store.root.glob("sft/*.partial"))
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            writer.stdout.close()


@pytest.mark.parametrize("files", [
    {"precious": "x"}, {"precious": "x", ".lock": ""}, {"precious": "x", ".lock": "123"},
    {"run.json": '{"id": 3, "key": "k"}'}, {"run.json": "[]", "precious": "x"},
])  # fmt: skip
def test_a_folder_of_another_program_is_not_taken_for_an_abandoned_version(store, make_artifact, files):
    foreign = store.root / "sft/v1.partial"
    for name, text in files.items():
        write(foreign / name, text)
    assert make_artifact("sft").ref == "sft@v2"
    assert {path.name: path.read_text() for path in foreign.iterdir()} == files


def test_a_link_is_not_taken_for_an_abandoned_version(store, make_artifact, own_folder):
    with store.writer("dpo") as draft:
        write(draft.path / "model/half", "x")
        os.rename(draft.path, own_folder / "elsewhere")
    (store.root / "sft").mkdir()
    (store.root / "sft/v1.partial").symlink_to(own_folder / "elsewhere")
    make_artifact("sft")
    assert (own_folder / "elsewhere/model/half").read_text() == "x"


def test_the_files_of_a_version_keep_the_umask(store, umask):
    umask(0o027)
    with store.writer("sft") as draft:
        write(draft.path / "model/model.safetensors", "x").chmod(0o600)  # as safetensors leaves it
        path = draft.finish(manifest()).path
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.rglob("*") if file.is_file()}
    assert set(modes) == {"model.safetensors", "manifest.json"} and set(modes.values()) == {0o640}


def test_clearing_never_takes_a_version_from_a_writer_that_is_finishing(store, monkeypatch):
    """A partial version has its lock file, and the lock on it, for as long as it has its name."""
    rename = os.rename

    def watched(source, target):
        assert (Path(source) / ".lock").exists() and unfinished.locked(Path(source) / ".lock") is None
        unfinished.clear_abandoned(store.root / "sft")
        rename(source, target)
        unfinished.clear_abandoned(store.root / "sft")

    monkeypatch.setattr(os, "rename", watched)
    assert one_version(str(store.root)) == 1
    store.verify(store.open("sft", 1), read_all=True)


def test_clearing_and_claiming_is_one_writer_s_at_a_time(store, monkeypatch):
    """Else a version that was made and not yet locked would be cleared by the next writer."""
    claim, held = store_module.claim, []

    def watched(folder):
        held.append(unfinished.locked(folder / ".lock") is None)
        return claim(folder)

    monkeypatch.setattr(store_module, "claim", watched)
    one_version(str(store.root))
    assert held == [True]


def test_a_number_that_another_takes_first_is_left_to_it(store, monkeypatch):
    """mkdir is what decides, also where there are no locks."""
    mkdir = Path.mkdir

    def overtaken(self, *args, **more):
        if self.name == "v1.partial" and not self.exists():
            mkdir(self)
        return mkdir(self, *args, **more)

    monkeypatch.setattr(Path, "mkdir", overtaken)
    assert one_version(str(store.root)) == 2


def test_looking_for_a_lock_makes_none(store, own_folder):
    """A lock file made by the one who looks would be unlocked, and the version beside it would look abandoned."""
    assert unfinished.locked(own_folder / ".lock") is None
    assert os.listdir(own_folder) == []


def test_a_file_system_without_locks_still_makes_versions(store, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(unfinished.fcntl, "flock", no_locks)
    with store.writer("sft") as live:
        assert one_version(str(store.root)) == 2
        assert live.path.is_dir()  # nothing is cleared where nobody can tell who lives
        live.finish(manifest(1))
    assert store.versions("sft") == [1, 2]
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(one_version, [str(store.root)] * 8)) == list(range(3, 11))


# References


def test_a_name_is_its_newest_version_and_a_version_is_itself(store, make_artifact):
    first, second = make_artifact("sft"), make_artifact("sft")
    assert resolve("sft", store).artifact == second
    assert resolve("sft@v1", store).artifact == first
    for text, shown in (("sft", "sft@v2"), ("sft@v1", "sft@v1"), (str(first.path), "sft@v1")):
        found = resolve(text, store)
        assert (found.kind, found.shown, found.note) == ("artifact", shown, None)
        assert found.path == found.artifact.path / "model" and found.digest == found.artifact.digest


def test_a_directory_that_from_pretrained_would_open(store, own_folder):
    for path, text in MODEL.items():
        write(own_folder / "my" / path, text)
    found = resolve("my", store)
    assert (found.kind, found.path, found.shown, found.artifact) == ("directory", Path("my"), "my", None)
    write(own_folder / "my" / "model.safetensors", "weightz")
    assert resolve("my", store).digest != found.digest
    for path, text in {"adapter_config.json": "{}", "adapter_model.safetensors": "x"}.items():
        write(own_folder / "adapter" / path, text)
    assert resolve("./adapter", store).kind == "directory"


@pytest.mark.parametrize("text", ['{"name": "app", "icons": []}', "{}"])
@pytest.mark.parametrize("place", ["manifest.json", "my/manifest.json"])
def test_another_programs_manifest_makes_no_artifact(store, own_folder, text, place):
    for path, content in MODEL.items():
        write(own_folder / "my" / path, content)
    write(own_folder / place, text)
    assert resolve("./my", store).kind == "directory"
    write(own_folder / place, "{")  # beside no directory that is called as an artifact's weights
    assert resolve("./my", store).kind == "directory"
    if place == "manifest.json":
        (own_folder / "my").rename(own_folder / "model")
        with pytest.raises(ArtifactError, match="not valid JSON"):
            resolve("./model", store)


def test_a_finished_run_on_a_read_only_disk_is_handed_back(store, make_artifact, monkeypatch):
    def unlink(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    made = make_artifact("sft", key="one")
    monkeypatch.setattr(Path, "unlink", unlink)
    assert store.find("sft", "one") == made


def test_a_gguf_file_tiny_and_a_hub_id(store, own_folder, monkeypatch):
    write(own_folder / "some" / "model.gguf", "GGUF")
    found = resolve("some/model.gguf", store)
    assert (found.kind, found.digest) == ("gguf", digest_file(own_folder / "some" / "model.gguf"))
    monkeypatch.setattr(references, "TINY", write(own_folder / "t" / "config.json", "{}").parent)
    assert (resolve("tiny", store).kind, resolve("tiny", store).path) == ("tiny", own_folder / "t")
    for text in ("owner/name", "owner/name@main", "owner/name@refs/pr/3", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        assert (resolve(text, store).kind, resolve(text, store).digest) == ("hub", None)


def test_the_order_is_artifact_then_directory_then_the_rest_and_what_is_ambiguous_is_said(
    store, own_folder, make_artifact
):
    for name in ("sft", "tiny"):
        for path, text in MODEL.items():
            write(own_folder / name / path, text)
    assert resolve("sft", store).kind == "directory"
    make_artifact("sft")
    found = resolve("sft", store)
    assert found.kind == "artifact" and "both" in found.note and "sft@v1" in found.note
    assert resolve("./sft", store).kind == "directory"
    found = resolve("tiny", store)
    assert found.kind == "directory" and "built-in" in found.note
    make_artifact("owner")
    (own_folder / "owner").mkdir()
    assert resolve("owner/name", store).kind == "hub"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("nothing", "no artifact, directory or model"),
        ("sft@v3", "no such version"),
        ("sft@v3", "there: v1, v2"),
        ("rm@v1", "there: none"),
        ("sft@v0", "no artifact"),
        ("sft@2", "no artifact"),
        ("sft@latest", "no artifact"),
        ("sft@v1@v2", "no artifact"),
        ("sft@v-1", "no artifact"),
        ("sft@v99999999999999999999", "no such version"),
        ("", "no artifact"),
        ("runs/sft", "holds no model"),
        ("../runs/sft", "no artifact"),
        ("../../etc/passwd", "no artifact"),
        ("../../etc@v1", "no artifact"),
        ("..@v1", "no artifact"),
        ("/etc/hostname", "is a file, not a model"),
        ("/", "holds no model"),
        ("no/such.gguf", "no such GGUF file"),
        ("a/b/c", "no artifact"),
        ("x" * 5000, "no artifact"),
        ("x" * 5000 + ".gguf", "no such GGUF file"),
        ("\0", "no artifact"),
        ("a\nb", "no artifact"),
        ("owner/..", "no artifact"),
        ("sft@main/model", "no artifact"),
        ("runs/sft/v1.partial", "unfinished"),
        ("runs/sft/v7", "no artifact"),
        ("empty", "no config.json"),
        ("weightless", "no weights"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(store, own_folder, make_artifact, text, part):
    make_artifact("sft"), make_artifact("sft")
    (store.root / "sft" / "v1.partial").mkdir()
    (own_folder / "empty").mkdir()
    write(own_folder / "weightless" / "config.json", "{}")
    with pytest.raises(ArtifactError) as error:
        resolve(text, store)
    assert part in say(error)
    assert len(say(error)) < 6000 and error.value.hint


def test_without_a_model_the_newest_sft_is_taken_else_tiny_and_either_is_said(store, make_artifact):
    text, note = default_model(store)
    assert text == "tiny" and "tiny" in note
    make_artifact("sft"), make_artifact("sft")
    text, note = default_model(store)
    assert text == "sft@v2" and "sft@v2" in note


# Damage


def test_a_missing_or_changed_file_is_named(store, make_artifact, prefcli):
    artifact = make_artifact("sft")
    weights = artifact.model_path / "model.safetensors"
    write(weights, "Weights")  # as long as before
    for error in (refused(store, "sft"), refused(store, "sft@v1"), refused(store, str(artifact.path))):
        assert str(weights) in error and "changed" in error
    weights.unlink()
    assert str(weights) in refused(store, "sft") and "missing" in refused(store, "sft")
    result = prefcli("show", "sft")
    assert (result.exit_code, result.stdout) == (4, "")
    assert str(weights) in result.stderr and "--force" in result.stderr


def refused(store, text) -> str:
    with pytest.raises(ArtifactError) as error:
        resolve(text, store)
    return say(error)


def test_verify_reads_every_byte_again_whatever_the_cache_believes(store, make_artifact, prefcli):
    artifact = make_artifact("sft")
    weights = artifact.model_path / "model.safetensors"
    assert prefcli("show", "sft", "--verify").exit_code == 0
    write(weights, "Weights")
    now = weights.stat()
    lie = {str(weights.resolve()): [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino,
                                    artifact.manifest.files["model/model.safetensors"]]}  # fmt: skip
    write(store.root / ".digests.json", json.dumps(lie))
    assert prefcli("show", "sft").exit_code == 0  # this is what a cache is
    result = prefcli("show", "sft", "--verify")
    assert result.exit_code == 4 and str(weights) in result.stderr


def test_the_digest_cache_sees_a_change_of_the_same_size_even_with_the_time_set_back(own_folder):
    path, cache = write(own_folder / "w", "aaaa"), own_folder / "c.json"
    age(path)
    settle(path)
    first = DigestCache(cache)
    assert first.digest(path) == digest_file(path)
    first.save()
    before = path.stat()
    write(path, "bbbb")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert DigestCache(cache).digest(path) == first.digest(path) == digest_file(path)


def settle(path: Path) -> None:
    """Wait, on paper, until the cache would remember the file."""
    from prefcli import files as digests

    digests.SETTLED = 0
    time.sleep(0.02)


@pytest.fixture(autouse=True)
def settled_again(monkeypatch):
    from prefcli import files as digests

    monkeypatch.setattr(digests, "SETTLED", digests.SETTLED)


def test_the_digest_cache_reads_an_unchanged_file_once(own_folder, monkeypatch):
    from prefcli import files as digests

    reads = []
    monkeypatch.setattr(digests, "digest_file", lambda path: reads.append(path) or "d")
    path, cache = write(own_folder / "w", "aaaa"), own_folder / "c.json"
    for _ in range(3):  # just written: it may be written again within one tick of the clock
        one = DigestCache(cache)
        one.digest(path)
        one.save()
    assert len(reads) == 3
    settle(path)
    for _ in range(3):
        one = DigestCache(cache)
        one.digest(path), one.digest(path)
        one.save()
    assert len(reads) == 4
    for rubbish in ("", "[]", "{", '{"x": 1}', "\0", "[" * 5000, json.dumps({str(path.resolve()): 7})):
        write(cache, rubbish)
        assert DigestCache(cache).digest(path) == "d"  # costs a read, never an error


def test_a_json_digest_does_not_depend_on_the_order_of_keys_and_takes_any_text():
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1})
    assert (
        len({digest_json(v) for v in ({"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [1], [[1]], None, "\udcff", "é")}) == 9
    )


# The manifest


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"schema": 2}, "schema 2"),
        ({"schema": None}, "schema"),
        ({"stage": "sftt"}, "stage"),
        ({"stage": 1}, "'stage' must be str"),
        ({"name": "../x"}, "no artifact can be called"),
        ({"name": ""}, "no artifact can be called"),
        ({"version": "1"}, "'version' must be int"),
        ({"version": True}, "'version' must be int"),
        ({"version": 0}, "no artifact can be called"),
        ({"status": "odd"}, "status"),
        ({"files": []}, "'files' must be dict"),
        ({"files": {"../../x": "d"}}, "outside the artifact"),
        ({"files": {"/etc/passwd": "d"}}, "outside the artifact"),
        ({"files": {"model/../../x": "d"}}, "outside the artifact"),
        ({"files": {"model/x": 1}}, "no digest"),
        ({"parents": {"model": {}}}, "no 'ref'"),
        ({"parents": {"model": {"ref": "a@v1"}}}, "no 'digest'"),
        ({"parents": {"model": {"ref": "a@v1", "digest": 3}}}, "no 'digest'"),
        ({"parents": {"model": "sft@v1"}}, "no 'ref'"),
        ({"parents": {"model": {"ref": "a/b", "digest": None, "commit": 3}}}, "'commit'"),
        ({"data": {}}, "'data' must be list"),
        ({"data": [{"path": "x"}]}, "path, format, rows and digest"),
        ({"metrics": None}, "'metrics' must be dict"),
        ({"key": ...}, "'key'"),
    ],
)
def test_a_damaged_manifest_is_refused_when_read_and_when_written(store, make_artifact, prefcli, change, part):
    artifact = make_artifact("sft")
    loaded = json.loads((artifact.path / "manifest.json").read_text()) | change
    write(artifact.path / "manifest.json", json.dumps({k: v for k, v in loaded.items() if v is not ...}))
    for text in ("sft", "sft@v1", str(artifact.path)):
        result = prefcli("show", text)
        assert (result.exit_code, result.stdout) == (4, "")
        assert part in result.stderr and "manifest.json" in result.stderr
    assert "damaged" in prefcli("ls").stdout
    assert "damaged" in json.loads(prefcli("ls", "--json").stdout)[0]
    if not {"schema", "key"} & set(change):
        with pytest.raises(ArtifactError), store.writer("sft") as draft:
            write_manifest(Manifest(**(vars(manifest(draft.version)) | change)), draft.path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ufeff{}", "[" * 5000, '{"schema": 1}', b"\xff\xfe{}"])
def test_a_manifest_that_is_no_manifest(store, make_artifact, text):
    artifact = make_artifact("sft")
    write(artifact.path / "manifest.json", text)
    assert "manifest.json" in refused(store, "sft")


def test_a_field_of_a_later_prefcli_is_passed_over(store, make_artifact):
    artifact = make_artifact("sft")
    loaded = json.loads((artifact.path / "manifest.json").read_text())
    write(artifact.path / "manifest.json", json.dumps(loaded | {"new": 1}))
    assert read_manifest(artifact.path) == artifact.manifest


def test_a_version_that_was_copied_to_another_number_is_not_taken_for_it(store, make_artifact):
    artifact = make_artifact("sft")
    os.rename(artifact.path, artifact.path.with_name("v2"))
    assert "manifest of sft@v1" in refused(store, "sft@v2")
    assert resolve(str(artifact.path.with_name("v2")), store).artifact.ref == "sft@v1"
    with pytest.raises(ArtifactError):
        store.open("../" + store.root.name + "/sft", 2)


def test_text_that_no_encoding_has_survives_the_manifest(store, make_artifact):
    odd = os.fsdecode(b"data/\xff.jsonl")
    source = {"path": odd, "format": "text", "rows": 1, "digest": "d"}
    artifact = make_artifact("sft", data=[source], config={"runs": odd, "name": "é"})
    read = open_artifact(artifact.path).manifest
    assert read.data[0]["path"] == odd and read.config == {"runs": odd, "name": "é"}
    assert "é" in (artifact.path / "manifest.json").read_text(encoding="utf-8")


def test_an_atomic_write_is_all_or_nothing(own_folder, monkeypatch):
    path = write(own_folder / "f", "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError):
        write_atomically(path, "new")
    assert path.read_text() == "old" and os.listdir(own_folder) == ["f"]


@pytest.fixture
def umask():
    """Sets the umask, which is put back."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(("mask", "before", "after"), [
    (0o077, None, 0o600), (0o022, None, 0o644), (0o002, None, 0o664), (0o022, 0o600, 0o600), (0o077, 0o664, 0o664),
])  # fmt: skip
def test_a_written_file_has_the_mode_that_it_had_else_what_the_umask_says(own_folder, umask, mask, before, after):
    path = own_folder / "f"
    if before is not None:
        write(path, "old").chmod(before)
    umask(mask)
    write_atomically(path, "new")
    assert path.read_text() == "new" and stat.S_IMODE(path.stat().st_mode) == after
    assert os.listdir(own_folder) == ["f"]


def test_a_link_stays_and_what_it_leads_to_is_written(own_folder):
    target = write(own_folder / "far/rows", "old")
    target.chmod(0o600)
    for name, leads in (("link", "far/rows"), ("again", "link"), ("new", "far/none")):
        (own_folder / name).symlink_to(leads)
        write_atomically(own_folder / name, name)
        assert os.readlink(own_folder / name) == leads and (own_folder / name).read_text() == name
    assert target.read_text() == "again" and stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(os.listdir(own_folder / "far")) == ["none", "rows"]


def test_what_is_no_file_is_written_to_and_stays(own_folder):
    os.mkfifo(own_folder / "pipe")
    reader = os.open(own_folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(own_folder / "pipe", "text")
        assert os.read(reader, 10) == b"text" and os.listdir(own_folder) == ["pipe"]
    finally:
        os.close(reader)


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.json", "out.csv", "out.parquet"])
def test_converted_rows_keep_the_umask(own_folder, prefcli, umask, name):
    write(own_folder / "in.jsonl", json.dumps({"prompt": "q", "completion": "a"}) + "\n")
    umask(0o077)
    result = prefcli("data", "convert", "in.jsonl", name)
    assert result.exit_code == 0, result.stderr
    assert stat.S_IMODE((own_folder / name).stat().st_mode) == 0o600


# Lineage


def test_the_lineage_is_the_whole_tree_and_says_what_is_missing_or_changed(store, make_artifact, prefcli):
    sft = make_artifact("sft")
    rm = make_artifact("rm", parents={"model": sft})
    hub = {"ref": "owner/name@v2", "digest": None}
    ppo = make_artifact("ppo", parents={"model": sft, "reward/rm": rm})
    ppo.manifest.parents["reference"] = hub
    write_manifest(ppo.manifest, ppo.path)
    tree = lineage(ppo, store)
    assert [(p.role, p.ref, p.state) for p in tree.parents] == [
        ("model", "sft@v1", "ok"), ("reference", "owner/name@v2", "ok"), ("reward/rm", "rm@v1", "ok")
    ]  # fmt: skip
    assert [(p.role, p.ref) for p in tree.parents[2].parents] == [("model", "sft@v1")]
    # another model in the same place
    write(sft.model_path / "model.safetensors", "others")
    sft.manifest.files["model/model.safetensors"] = digest_file(sft.model_path / "model.safetensors")
    write_manifest(sft.manifest, sft.path)
    os.rename(rm.path, store.root / "gone")
    assert [p.state for p in lineage(ppo, store).parents] == ["changed", "ok", "missing"]
    shown = prefcli("show", "ppo").stdout
    assert "model: sft@v1 (changed)" in shown and "reward/rm: rm@v1 (missing)" in shown
    assert json.loads(prefcli("show", "ppo", "--json").stdout)["lineage"]["parents"][0]["state"] == "changed"


def test_a_lineage_in_a_circle_ends(store, make_artifact):
    sft = make_artifact("sft")
    sft.manifest.parents = {"model": {"ref": "sft@v1", "digest": sft.digest}}
    write_manifest(sft.manifest, sft.path)
    assert lineage(store.open("sft", 1), store).parents[0].state == "changed"


def test_the_digest_of_an_artifact_is_of_its_models_alone(make_artifact):
    base = {"model/a": "1", "value/b": "2", "metrics.jsonl": "3", "report/x.png": "4"}
    first = make_artifact("sft", files=base)
    assert make_artifact("sft", files=base | {"metrics.jsonl": "other", "README.md": "new"}).digest == first.digest
    assert make_artifact("sft", files=base | {"value/b": "other"}).digest != first.digest
    assert make_artifact("sft", files=base | {"model/c": "other"}).digest != first.digest


# A disk that fails


def test_a_full_disk_ends_with_exit_7_and_leaves_nothing(prefcli, own_folder, monkeypatch):
    def full(self, manifest):
        raise OSError(errno.ENOSPC, "No space left on device", str(self.path / "model"))

    monkeypatch.setattr(Draft, "finish", full)
    monkeypatch.setattr("prefcli.cli.ls.run", lambda config: one_version(str(own_folder / "runs")))
    result = prefcli("ls")
    assert result.exit_code == 7 and "No space left" in result.stderr and "--runs" in result.stderr
    assert versions_below(own_folder) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.EACCES, errno.ENOTSUP, errno.EIO])
def test_a_disk_that_keeps_no_directory_at_once_makes_versions_and_one_that_fails_none(store, monkeypatch, number):
    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode) or broken:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    for broken in (False, True):
        fails = broken or number == errno.EIO
        with pytest.raises(OSError) if fails else nullcontext(), store.writer("sft") as draft:
            with draft.save(1, keep=False) as folder:
                write(folder / "model" / "weights", "x")
            draft.finish(manifest(draft.version))
    assert store.versions("sft") == ([] if number == errno.EIO else [1])


def test_a_file_is_kept_at_once_on_windows_which_asks_for_one_that_can_be_written(own_folder, monkeypatch):
    file, synced = write(own_folder / "weights", "x"), []

    def fsync(handle):
        if not fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_RDWR:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        synced.append(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        unfinished.sync(file)
    assert len(synced) == 1


def test_a_file_size_limit_is_an_error_of_the_surroundings(own_folder):
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "import prefcli.cli.ls as ls\nfrom prefcli.artifacts.store import Store\n"
        "def run(config):\n"
        "    with Store(config.runs).writer('sft') as draft:\n"
        "        (draft.path / 'weights').write_bytes(bytes(5000))\n"
        "ls.run = run\n"
        "from prefcli.cli.main import app\napp(['ls'])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (7, ""), ended.stderr
    assert "File too large" in ended.stderr and "Traceback" not in ended.stderr
    assert versions_below(own_folder) == []


@pytest.mark.parametrize("where", ["runs", "runs/sft", "runs/sub"])
def test_a_file_in_the_way_of_the_store_is_named(own_folder, where):
    write(own_folder / where, "a file")
    root = own_folder / ("runs/sub" if where == "runs/sub" else "runs")
    with pytest.raises(SurroundingsError) as error, Store(root).writer("sft"):
        raise AssertionError("not reached")
    assert where in say(error) and "--runs" in say(error)
    assert Store(root).names() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_store_that_cannot_be_written(own_folder):
    (own_folder / "runs").mkdir(mode=0o500)
    with pytest.raises(PermissionError), Store().writer("sft"):
        raise AssertionError("not reached")


def test_the_root_is_the_option_then_the_environment_then_runs(monkeypatch):
    assert Store("elsewhere").root == Path("elsewhere")
    assert Store().root == Path(os.environ["PREFCLI_RUNS"])
    monkeypatch.delenv("PREFCLI_RUNS")
    assert Store().root == Path("runs")


def test_an_adapter_on_another_base_is_another_artifact(make_artifact):
    """Its files are the same: by the base's digest, or by its name where it has none."""

    def on(**base):
        artifact = make_artifact(
            "sft", model={"bases": {"model": {"ref": "sft@v1", "digest": None, "places": []} | base}}
        )
        return artifact.digest

    found = [make_artifact("sft").digest, on(), on(ref="sft@v2"), on(digest="d1"), on(digest="d2")]
    assert len(set(found)) == 5
    assert on(digest="d1", ref="another") == on(digest="d1", places=["elsewhere"]) == found[3]


def test_a_state_of_a_stop_goes_with_the_next_and_one_that_is_kept_stays(store):
    with store.writer("sft", "key") as draft:
        for step, stop in ((1, False), (2, True), (3, False)):
            with draft.save(step, keep=True) as folder:
                (folder / "weights").write_text(str(step))
                if stop:
                    (folder / STOP).touch()
            assert draft.for_a_stop(step) == stop
        assert draft.steps == [1, 3]
        with draft.save(4, keep=False) as folder:
            (folder / "weights").write_text("4")
        assert draft.steps == [4]


def test_a_state_that_goes_or_is_replaced_is_renamed_before_it_is_removed(store, monkeypatch):
    """A kill while it is removed leaves no half of it under a step's name."""
    rmtree, removed = shutil.rmtree, []
    monkeypatch.setattr(shutil, "rmtree", lambda path, **more: (removed.append(Path(path).name), rmtree(path, **more)))
    with store.writer("sft", "key") as draft:
        for number, step in enumerate((1, 1, 2)):
            with draft.save(step, keep=False) as folder:
                (folder / "weights").write_text(str(number))
            assert draft.steps == [step] and (draft.state(step) / "weights").read_text() == str(number)
            assert [path.name for path in (draft.path / "state").iterdir()] == [f"step{step}"]
        assert removed and not [name for name in removed if unfinished.STEP.fullmatch(name)]


def test_a_finished_version_keeps_no_state_of_a_stop_and_a_state_without_a_model_is_no_kept_step(store):
    """One that was saved before --keep-state was given has no model."""
    with store.writer("sft") as draft:
        for step, part in ((1, "training.json"), (2, "model/config.json"), (3, STOP)):
            with draft.save(step, keep=True) as folder:
                write(folder / part, "{}")
        write(draft.path / "model/config.json", "{}")
        artifact = draft.finish(manifest(resources={"steps": 3}), keep_state=True)
    assert sorted(path.name for path in (artifact.path / "state").iterdir()) == ["step1", "step2"]
    assert not [name for name in artifact.manifest.files if "step3" in name]
    store.verify(artifact, read_all=True)
    assert expand("sft:steps", store) == ["sft@v1:step2", "sft@v1"] == expand("sft@*:steps", store)
    with pytest.raises(ArtifactError, match="that step was not kept \\(kept: 2\\)"):
        resolve("sft@v1:step1", store)


def test_where_no_step_was_kept_the_command_that_keeps_them_makes_the_run_again(store, make_artifact):
    """Without --force it would find the run done."""
    make_artifact("sft")
    for find, text in ((resolve, "sft@v1:step1"), (expand, "sft:steps")):
        with pytest.raises(ArtifactError) as error:
            find(text, store)
        assert "--keep-state" in say(error) and "--force" in say(error)

"""What the next start says of a run that was killed; how fast a command leaves when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from test_store import manifest

from prefcli import machine
from prefcli.artifacts import alive, unfinished
from prefcli.artifacts.alive import FILE, Sign, last_words

COUNTER = "/sys/fs/cgroup/memory.events"


@pytest.fixture
def killed(store, monkeypatch):
    """The partial version of a writer that had no last word, and what its sign says; `again()` is the next writer."""
    monkeypatch.setattr(machine, "oom_kills", lambda: {COUNTER: 3})
    monkeypatch.setattr(machine, "boot", lambda: "this boot")
    monkeypatch.setattr(machine, "resident", lambda: 23 << 30)
    monkeypatch.setattr(machine, "memory_limit", lambda: 24 << 30)
    path = store.root / "sft/v1.partial"
    path.mkdir(parents=True)
    (path / "run.json").write_text('{"key": "key"}')
    (path / ".lock").touch()
    alive._write(path)
    return path


def said(store, key="key"):
    with store.writer("sft", key) as draft:
        return draft.before


@pytest.mark.parametrize("kept", [False, True])
def test_after_the_out_of_memory_killer_the_next_start_of_the_same_run_says_so(store, killed, monkeypatch, kept):
    if kept:
        (killed / "state/step4").mkdir(parents=True)
    monkeypatch.setattr(machine, "oom_kills", lambda: {COUNTER: 4})
    words = said(store)
    assert f"process {os.getpid()}" in words and "23.0 of 24.0 GiB" in words
    assert "out-of-memory killer" in words and "--batch-size" in words
    assert said(store) is None  # once


def test_a_kill_from_outside_and_a_restart_are_not_taken_for_the_memory(store, killed, monkeypatch):
    assert last_words(killed).endswith("was killed from outside, using 23.0 of 24.0 GiB")
    monkeypatch.setattr(machine, "boot", lambda: "another boot")
    os.utime(killed / FILE, (time.time() - 100,) * 2)
    assert "restart of the machine" in said(store)


@pytest.fixture
def elsewhere(store, killed, monkeypatch):
    """The version of a run on another machine, with a fresh sign and a state, on a disk whose locks are local."""
    monkeypatch.setattr(alive, "SECONDS", 0.05)
    (killed / "state/step4").mkdir(parents=True)
    sign = json.loads((killed / FILE).read_text()) | {"host": "node7", "boot": "another boot"}
    (killed / FILE).write_text(json.dumps(sign))
    return killed, sign


def test_the_live_version_of_another_machine_is_left_alone_and_it_is_said(store, elsewhere, monkeypatch):
    path, sign = elsewhere
    sleep = time.sleep

    def renewed(seconds):
        (path / FILE).write_text(json.dumps(sign | {"time": time.time()}))
        sleep(seconds)

    monkeypatch.setattr(alive.time, "sleep", renewed)
    with store.writer("sft", "key") as draft:
        assert draft.version == 2 and "node7" in draft.before
    with store.writer("sft", "another key") as draft:
        assert draft.version == 2
    (path / "run.json").unlink()  # nor is it cleared where it has nothing yet to resume
    with store.writer("sft", "key") as draft:
        assert draft.version == 2
    with unfinished.hold(path) as free:
        assert not free
    assert (path / "state/step4").is_dir()


def test_a_run_that_died_on_another_machine_is_taken_up_once_its_sign_is_old(store, elsewhere, monkeypatch):
    path, _ = elsewhere
    monkeypatch.setattr(alive, "FRESH", 0.5)
    began = time.monotonic()
    with store.writer("sft", "key") as draft:
        assert draft.version == 1 and draft.steps == [4] and draft.before.endswith("on node7, for an unknown reason")
    assert time.monotonic() - began < 5


def test_a_version_shows_that_it_lives_until_it_appears(store, monkeypatch):
    seen = []
    monkeypatch.setattr("prefcli.artifacts.store.write_manifest", lambda _, path: seen.append((path / FILE).exists()))
    with store.writer("sft") as draft:
        draft.finish(manifest())
    assert seen == [True] and not (store.root / "sft/v1" / FILE).exists()


def test_another_run_of_that_name_hears_nothing_of_it(store, killed):
    assert said(store, "another key") is None


@pytest.mark.parametrize("sign", ["", "[]", "{", '{"memory": "much"}'])
def test_a_damaged_sign_says_nothing(store, killed, sign):
    (killed / FILE).write_text(sign)
    assert said(store) is None


def test_a_run_that_ends_takes_its_sign_away_and_a_full_disk_does_not_end_it(store, make_artifact, tmp_path):
    with store.writer("sft") as draft:
        deadline = time.monotonic() + 10
        while not (draft.path / FILE).exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        sign = json.loads((draft.path / FILE).read_text())
        assert sign["process"] == os.getpid() and sign["memory"] > 1 << 20
    assert not (store.root / "sft/v1.partial").exists()
    assert FILE not in make_artifact("sft").manifest.files
    Sign(tmp_path / "no folder").end()


START = "from prefcli.cli.main import main\nimport prefcli.cli.ls as ls, prefcli.cli.interrupts as interrupts, time\n"


# What Windows has not: Python below 3.12 sets no pipe to non-blocking there, and select takes sockets alone.
WINDOWS = """
import os, select, socket
del os.set_blocking
plain = select.select
def of_sockets(ears, *more):
    assert all(isinstance(ear, socket.socket) for ear in ears)
    return plain(ears, *more)
select.select = of_sockets
"""


def leave(body, *signals, first=""):
    """(exit code, stderr, seconds) of `prefcli ls` with `body` for its work, sent the signals once it has begun."""
    code = f"{first}{START}def run(config):{body}\nls.run = run\nmain()"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code, "ls"], text=True, stdout=pipe, stderr=pipe, env=env)
    assert process.stdout.readline() == "there\n"
    began = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors, time.monotonic() - began


CLEANING = """
    try:
        ls.print_result("there")
        time.sleep(60)
    finally:
        time.sleep(0.5)
        print("cleaned up", file=__import__("sys").stderr)
"""
STUCK = """
    interrupts.GRACE = 0.5
    __import__("threading").Thread(target=time.sleep, args=(60,)).start()
    try:
        ls.print_result("there")
        time.sleep(60)
    finally:  # what no signal breaks off
        __import__("threading").enumerate()[-1].join()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_and_sigterm_leave_with_130_and_a_second_one_does_not_disturb_the_clean_up(number):
    code, errors, seconds = leave(CLEANING, number, signal.SIGINT)
    assert code == 130 and "cleaned up" in errors and "interrupted" in errors and "Traceback" not in errors
    assert seconds < 10


@pytest.mark.parametrize("first", ["", WINDOWS], ids=["here", "as on Windows"])
def test_what_does_not_come_to_an_end_is_ended(first):
    code, errors, seconds = leave(STUCK, signal.SIGTERM, first=first)
    assert code == 130 and "was ended" in errors and seconds < 10


@pytest.mark.parametrize(("text", "expected"), [("1048576\n", 2**20), ("max\n", None), (str(2**62), None)])
def test_a_control_groups_limit_counts_where_it_is_less(monkeypatch, text, expected):
    monkeypatch.setattr(machine, "_group_files", lambda name: {f"/group/{name}": text})
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.memory_limit() == (expected or whole)

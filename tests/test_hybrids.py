"""The scripts of docs/hybrids.md and docs/online.md in small: bash runs them, each `prefcli` runs in this process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from itertools import islice

import pytest
from chain import SAMPLE_DATA
from conftest import write
from typer.testing import CliRunner

from prefcli.artifacts.store import Store
from prefcli.cli.main import app

ROWS = 12
LESS = {"ppo": ["--max-steps", "1", "--batch-size", "8"]}  # after a script's own options
# Its words go over a socket, and what comes back is the exit code and what was printed: no imports, no seconds.
CLIENT = f"""#!{sys.executable} -SE
import socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect("link")
    link.sendall("\\0".join(sys.argv[1:]).encode())
    link.shutdown(socket.SHUT_WR)
    said = b"".join(iter(lambda: link.recv(65536), b"")).decode().split("\\0")
sys.stdout.write(said[1])
sys.stderr.write(said[2])
sys.exit(int(said[0]))
"""


@pytest.fixture
def script(own_folder, monkeypatch):
    """`script(name, **env)` runs sample_data/NAME.sh on a few rows: what it printed, and the commands it gave."""
    for name in ("demos", "pairs", "prompts", "held_out_prompts"):
        with (SAMPLE_DATA / f"{name}.jsonl").open() as file:
            write(own_folder / f"data/{name}.jsonl", "".join(islice(file, ROWS)))
    shutil.copy(SAMPLE_DATA / "gold.py", own_folder / "data")
    write(own_folder / "bin/prefcli", CLIENT).chmod(0o755)
    monkeypatch.setenv("PREFCLI_RUNS", "runs")

    def run(name, **env):
        given = []

        def serve(listener):
            while True:
                link, _ = listener.accept()
                with link:
                    words = b"".join(iter(lambda: link.recv(65536), b"")).decode()  # noqa: B023
                    if words == "leave":
                        return
                    given.append(words.split("\0"))
                    result = CliRunner().invoke(app, [*given[-1], *LESS.get(given[-1][0], [])])
                    link.sendall("\0".join([str(result.exit_code), result.stdout, result.stderr]).encode())

        (own_folder / "link").unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("link")
            listener.listen()
            thread = threading.Thread(target=serve, args=(listener,))
            thread.start()
            told = {"DATA": "data", "PATH": f"{own_folder / 'bin'}:{os.environ['PATH']}", "PER_ROUND": "4", **env}
            try:
                ended = subprocess.run(
                    ["bash", str(SAMPLE_DATA / f"{name}.sh")], capture_output=True, text=True, env=os.environ | told
                )
            finally:
                with socket.socket(socket.AF_UNIX) as link:
                    link.connect("link")
                    link.sendall(b"leave")
                thread.join()
        assert ended.returncode == 0, ended.stderr
        return ended, [words[0] for words in given]

    return run


def rows(path):
    return len(path.read_text().splitlines())


def test_the_hybrids_train_on_what_was_labelled_from_the_same_start(script, own_folder):
    """One store: the second and the third script find sft and the reward model made."""
    start = ["sft", "train-rm"]
    ended, given = script("iterative_dpo", BY="python:data/gold.py:score")
    assert given == [*start, *["sample", "label", "dpo"] * 3, "eval"] and "dpo@v3" in ended.stdout
    for round_, model in ((1, "sft@v1"), (2, "dpo@v1"), (3, "dpo@v2")):
        parents = Store("runs").open("dpo", round_).manifest.parents
        assert (parents["model"]["ref"], parents["reference"]["ref"]) == (model, "sft@v1")
        assert rows(own_folder / f"runs/rows/prompts{round_}.jsonl") == 4

    ended, given = script("rlaif")
    assert given == [*start, "sample", "label", "dpo", "eval"] and ended.stderr.count("nothing to do") == 2
    manifest = Store("runs").open("dpo", 4).manifest
    assert manifest.data[0]["rows"] == rows(own_folder / "runs/rows/pairs.jsonl") > 0
    assert manifest.parents["model"]["ref"] == "sft@v1" and "dpo@v4" in ended.stdout

    ended, given = script("rejection_sampling")
    assert given == [*start, "sample", "label", "sft", "eval"] and ended.stderr.count("nothing to do") == 2
    manifest = Store("runs").open("rejection", 1).manifest
    assert manifest.data[0]["rows"] == rows(own_folder / "runs/rows/best.jsonl") == ROWS
    assert manifest.parents["model"]["ref"] == "sft@v1" and "rejection@v1" in ended.stdout


def test_the_online_rounds_go_on_in_policy_and_reward_model_and_keep_their_reference(script, own_folder):
    ended, given = script("online")
    assert given == ["sft", "train-rm", *["sample", "label", "train-rm", "ppo"] * 3, "eval"]
    assert "ppo@v3" in ended.stdout
    store = Store("runs")
    for round_, model in ((1, "sft@v1"), (2, "ppo@v1"), (3, "ppo@v2")):
        parents = {role: parent["ref"] for role, parent in store.open("ppo", round_).manifest.parents.items()}
        assert (parents["model"], parents["reference"]) == (model, "sft@v1")
        assert parents["reward/rm"] == f"rm@v{round_ + 1}"
        assert store.open("rm", round_ + 1).manifest.parents["model"]["ref"] == f"rm@v{round_}"
        assert rows(own_folder / f"runs/rows/prompts{round_}.jsonl") == 4

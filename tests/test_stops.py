"""What happens when a run is stopped from outside: SIGTERM and a full disk, on real processes."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest
from forked import PREFCLI


@pytest.fixture
def start(chain, forked):
    """`start(stage, *options)` is a stage in a process of its own, its stderr in a file that can be watched."""

    def started(stage, *options, first=""):
        log, words = chain.folder / "stderr", [*chain.args(stage), "--force", *options]
        with log.open("w") as file:
            env = {"PREFCLI_RUNS": str(chain.runs)}
            return forked.start(first + PREFCLI, *words, env=env, stdout=subprocess.PIPE, stderr=file), log

    return started


def left(chain, stage):
    return sorted(p.name for p in (chain.runs / stage).iterdir() if not p.name.startswith("."))


def test_sigterm_leaves_within_ten_seconds_with_130_and_keeps_the_last_state(chain, start):
    process, log = start("sft", "--max-steps", "100000", "--save-every", "2", "--quiet")
    states = chain.runs / "sft" / "v2.partial" / "state"
    deadline = time.monotonic() + 60
    while not (states / "step4").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    stdout, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and stdout == "" and time.monotonic() - began < 10
    assert "interrupted" in log.read_text() and "Traceback" not in log.read_text()
    assert left(chain, "sft") == ["v1", "v2.partial"]
    assert max(int(path.name.removeprefix("step")) for path in states.iterdir()) >= 4


def test_a_disk_that_cannot_take_the_model_is_7_and_nothing_is_left(chain, start):
    """A limit on the size of files stands for the full disk: writing the weights fails as it does there."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
    process, log = start("sft", first=limit)
    stdout, _ = process.communicate(timeout=100)
    assert process.returncode == 7, log.read_text()
    assert stdout == "" and "Traceback" not in log.read_text() and "hint:" in log.read_text()
    assert left(chain, "sft") == ["v1"]

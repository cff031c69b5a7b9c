"""What happens when a run is stopped from outside: SIGTERM and a full disk, on real processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

import pytest


def start(chain, stage, *options, limit=None):
    """A stage in a process of its own, its stderr in a file that can be watched."""
    log = chain.folder / "stderr"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefcli", *chain.args(stage), "--force", *options], stdout=subprocess.PIPE,
            stderr=file, env={**os.environ, "PREFCLI_RUNS": str(chain.runs), "OMP_NUM_THREADS": "1"},
            preexec_fn=limit,
        )  # fmt: skip
    return process, log


def left(chain, stage):
    return sorted(p.name for p in (chain.runs / stage).iterdir() if not p.name.startswith("."))


def test_sigterm_leaves_within_ten_seconds_with_130_and_keeps_the_last_state(chain):
    process, log = start(chain, "sft", "--max-steps", "100000", "--save-every", "2", "--quiet")
    states = chain.runs / "sft" / "v2.partial" / "state"
    deadline = time.monotonic() + 60
    while not (states / "step4").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    stdout, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and stdout == b"" and time.monotonic() - began < 10
    assert "interrupted" in log.read_text() and "Traceback" not in log.read_text()
    assert left(chain, "sft") == ["v1", "v2.partial"]
    assert max(int(path.name.removeprefix("step")) for path in states.iterdir()) >= 4


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on file sizes")
def test_a_disk_that_cannot_take_the_model_is_7_and_nothing_is_left(chain):
    """A limit on the size of files stands for the full disk: writing the weights fails as it does there."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    process, log = start(chain, "sft", limit=limit)
    stdout, _ = process.communicate(timeout=100)
    assert process.returncode == 7, log.read_text()
    assert stdout == b"" and "Traceback" not in log.read_text() and "hint:" in log.read_text()
    assert left(chain, "sft") == ["v1"]

"""The first signal saves: real processes of all stages, stopped at a random step, and the same command resumes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from test_resume import check_same

# Imports everything once and forks a process for each command: on two cores the imports take longer than the training.
SERVER = """
import json, os, sys, time
from prefcli.cli import interrupts, main
from prefcli.rl.ppo import PPO
from prefcli.stages import dpo, kto, ppo, reward, sft
from prefcli.stages.steps import Steps
slow = {"step": (Steps, "training_step"), "updates": (PPO, "_update"), "rollout": (PPO, "_collect"),
        "measuring": (Steps, "prediction_step"), "ppo": (PPO, "step")}
def run(words, step, pause, where, env, log):
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.environ.update(env)
    os.fsync, interrupts.STEP = lambda _: None, step
    plain = getattr(*slow[where])
    def paused(*args, **more):
        found = plain(*args, **more)
        time.sleep(pause)
        return found
    setattr(*slow[where], paused)
    sys.argv = ["prefcli", *words]
    main.main()
for line in sys.stdin:
    process = os.fork()
    if process == 0:
        code = 1
        try:
            run(*json.loads(line))
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            os._exit(code)
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def server():
    pipe = subprocess.PIPE
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, text=True, env=env)
    yield process
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


COMMON = ["--model", "tiny", "--batch-size", "4", "--max-rows", "8", "--max-steps", "8", "--epochs", "9"]
STAGES = {
    "sft": ["--data", "demos", "--eval-data", "demos", "--eval-every", "3"],
    "train-rm": ["--data", "pairs", "--lora-rank", "2", "--grad-accum", "2"],
    "dpo": ["--data", "pairs", "--eval-data", "held_out_pairs", "--eval-every", "2"],
    "kto": ["--data", "pairs", "--grad-accum", "2"],
    "ppo": ["--prompts", "prompts", "--reward", "rm@v1", "--max-new-tokens", "4", "--ppo-epochs", "2",
            "--kl-target", "1.0"],
}  # fmt: skip


def command(chain, stage, name):
    files = {"demos", "pairs", "held_out_pairs", "prompts"}
    words = [chain.data(word) if word in files else word for word in STAGES[stage]]
    return [stage, *COMMON, *words, "--name", name]


@pytest.fixture
def stop(chain, server):
    """(exit code, stderr) of a command, sent the signal once its log has so many lines, and perhaps once more."""

    def stopped(
        words, number, *, lines, name="cut", step=10.0, pause=0.1, where="step", wait=0.0, again=None, env=None
    ):
        log, metrics = chain.runs / f"{name}.stderr", chain.runs / name / "v1.partial/metrics.jsonl"
        all_env = {"PREFCLI_RUNS": str(chain.runs), **(env or {})}
        print(json.dumps([[*words, "--quiet"], step, pause, where, all_env, str(log)]), file=server.stdin, flush=True)
        process, deadline = int(server.stdout.readline()), time.monotonic() + 60
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
            if time.monotonic() > deadline:
                os.kill(process, signal.SIGKILL)
                server.stdout.readline()
                pytest.fail(log.read_text())
            time.sleep(0.005)
        time.sleep(wait)
        assert process > 1
        os.kill(process, number)
        if again is not None:
            time.sleep(1.3)  # sooner it would be the first one's echo
            os.kill(process, again)
        code, text = int(server.stdout.readline()), log.read_text()
        assert "Traceback" not in text, text
        return code, text

    return stopped


def kept(text):
    return int(re.search(r"interrupted.*: kept up to step (\d+); the same command resumes", text).group(1))


@pytest.mark.parametrize(
    ("stage", "number", "code"),
    [
        ("sft", signal.SIGTERM, 130),
        ("train-rm", signal.SIGUSR1, 75),
    ],
)
def test_a_run_stopped_at_a_random_step_resumes_bit_for_bit(chain, prefcli, stop, stage, number, code):
    slurm = {"SLURM_JOB_ID": "1"} if number == signal.SIGTERM and code == 75 else {}
    lines, wait = random.Random(os.urandom(4)).randint(1, 5), random.uniform(0, 0.1)
    where = "ppo" if stage == "ppo" else "step"
    found, text = stop(command(chain, stage, "cut"), number, lines=lines, wait=wait, where=where, env=slurm)
    assert found == code, text
    step = kept(text)
    assert [path.name for path in (chain.runs / "cut/v1.partial/state").iterdir()] == [f"step{step}"]
    assert not (chain.runs / "cut/v1.partial/alive.json").exists()
    resumed = prefcli(*command(chain, stage, "cut"))
    assert f"going on from step {step}" in resumed.stderr
    check_same(chain.path_of(resumed), chain.path_of(prefcli(*command(chain, stage, "whole"))))

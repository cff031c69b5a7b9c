"""The first signal saves: runs stopped by each signal at each kind of place, and resumed.

Where the start-up is not what is tested the commands run in this process, with the command line's own handlers, and
the signal is raised from where it is to come. A second signal ends the process: those have one of their own.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import write
from forked import ACCELERATE, SCRIPT, TORCHRUN
from test_resume import check_same
from typer.main import get_command

from prefcli import stopping
from prefcli.cli import interrupts, train
from prefcli.cli.main import app
from prefcli.rl.ppo import PPO
from prefcli.stages import curves, resuming
from prefcli.stages import ppo as ppo_stage
from prefcli.stages import session as session_module
from prefcli.stages import sft as sft_stage
from prefcli.stages.session import MetricsLog, Session
from prefcli.stages.steps import Steps
from prefcli.stopping import Phase

INT, TERM, USR1 = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1
CODES = {INT: 130, TERM: 130, USR1: 75}

# Two signals from two places, the second once the first one's echo is over.
SECOND = """
import json, os, signal, sys, time
from prefcli.cli import interrupts, main
from prefcli.rl.ppo import PPO
from prefcli.stages import resuming
from prefcli.stages.steps import Steps
places = {"step": (Steps, "training_step"), "rollout": (PPO, "_collect"), "state": (resuming, "write_state")}
def signalled(where, call, number, pause, then):
    (owner, name), calls = places[where], []
    plain = getattr(owner, name)
    def place(*args, **more):
        found = plain(*args, **more)
        calls.append(1)
        if len(calls) == call:
            time.sleep(pause)
            signal.raise_signal(number)
            time.sleep(then)
        return found
    setattr(owner, name, place)
interrupts.ECHO = 0.3
first, second = json.loads(sys.argv.pop(1))
signalled(*first, 0, 0)
signalled(*second, 0.6, 20)
main.main()
"""


COMMON = ["--model", "tiny", "--batch-size", "4", "--max-steps", "6", "--epochs", "9"]
STAGES = {
    "sft": ["--max-rows", "8", "--data", "demos", "--eval-data", "demos", "--eval-every", "3"],
    "train-rm": ["--max-rows", "8", "--data", "pairs", "--lora-rank", "2", "--grad-accum", "2"],
    "dpo": ["--max-rows", "8", "--data", "pairs", "--eval-data", "held_out_pairs", "--eval-every", "2"],
    "kto": ["--max-rows", "8", "--data", "pairs", "--grad-accum", "2"],
    "ppo": ["--prompts", "prompts", "--reward", "rm@v1", "--max-new-tokens", "4", "--ppo-epochs", "2",
            "--minibatches", "1", "--kl-target", "1.0"],
}  # fmt: skip


def command(chain, stage, name="cut", *more):
    files = {"demos", "pairs", "held_out_pairs", "prompts"}
    words = [chain.data(word) if word in files else word for word in STAGES[stage]]
    return [stage, *COMMON, *words, "--name", name, *more]


@pytest.fixture(scope="module")
def whole(trained):
    """Runs that nothing disturbs, each made once."""
    made = {}

    def of(stage, *more):
        if (stage, *more) not in made:
            made[stage, *more] = trained.run(*command(trained, stage, f"whole{len(made)}", *more))
        return made[stage, *more]

    return of


def states(chain, name="cut"):
    folder = chain.runs / name / "v1.partial/state"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def promised(text):
    """The step that the last message says is kept; None where it promises none."""
    (line,) = [line for line in text.splitlines() if line.startswith("interrupted")]
    found = re.search(r": kept up to step (\d+); the same command resumes$", line)
    assert found or "kept up to" not in line, line
    return int(found.group(1)) if found else None


# --- in this process -------------------------------------------------------------------------------------------------


@pytest.fixture
def run(prefcli, capfd):
    """A command under the command line's handlers: its exit code, stdout, and all that it says on stderr."""
    handlers = dict.fromkeys(stopping.SIGNALS, interrupts._interrupt) | {signal.SIGALRM: interrupts._time_is_up}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def ran(*words):
        capfd.readouterr()
        result = prefcli(*words)
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert (stopping.phase, stopping.kept) == (Phase.IDLE, None)
        stopping.forget()  # the process would have left
        text = result.stderr + capfd.readouterr().err
        assert "Traceback" not in text, text
        return result.exit_code, result.stdout, text

    yield ran
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)
    stopping.forget()


@contextmanager
def sent(number, owner, name, call=1, seconds=0.0, *, stuck=False):
    """At that call of the function, once it has done its work, the signal comes, and it takes so long to end."""
    plain, calls = getattr(owner, name), []

    def signalled(*args, **more):
        found = plain(*args, **more)
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(number)
            time.sleep(20 if stuck else seconds)
            assert not stuck, "it was not dropped"
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, signalled)
        yield
    assert len(calls) >= call, "the signal was not sent"


def resumes(chain, run, words, expected, step):
    """The same command, from the state of that step alone, or from nothing, ends as a run that was left alone."""
    assert [name for name in states(chain) if "partial" not in name] == ([f"step{step}"] if step else [])
    assert not list(chain.runs.glob("cut/*/alive.json"))
    code, out, text = run(*words)
    assert code == 0 and (f"resuming from step {step} of an unfinished run" in text) == (step is not None), text
    assert "was killed" not in text
    check_same(Path(out.strip()), expected)


# The places of three signals, one after the other, each to the run that resumes after the one before.
PLACES = {
    "sft": [(Steps, "training_step", 2), (Steps, "prediction_step", 1), (MetricsLog, "write", 1)],
    "kto": [(Session, "enter", 2), (Steps, "training_step", 2), (Steps, "training_step", 3)],
    "ppo": [(PPO, "_collect", 2), (PPO, "_update", 1), (PPO, "estimate", 2)],  # in a rollout, between its epochs
}


# The other stages make the steps of kto (stages/steps.py); all of them in `make torture`.
@pytest.mark.parametrize("stage", PLACES)
def test_each_signal_saves_the_step_that_runs_and_the_same_command_resumes(chain, run, whole, stage):
    step = 0
    for number, place in zip(random.Random(stage).sample(list(CODES), 3), PLACES[stage]):
        with sent(number, *place):
            code, out, text = run(*command(chain, stage))
        assert (code, out) == (CODES[number], ""), text
        when = "when this step has ended" + ("" if number == USR1 else ", in 10 s at most")
        if place[0] in (Session, MetricsLog):  # an optimizer step, or what comes after it
            when = "as soon as the current write or step is complete"
        assert [line for line in text.splitlines() if line.startswith("stopping")] == [
            f"stopping {when}; a second signal leaves at once"
        ]
        before, step = step, promised(text)
        assert before < step < 6 and states(chain) == [f"step{step}"]
    resumes(chain, run, command(chain, stage), whole(stage), step)


TOO_LONG = {
    "sft": [(INT, Steps, "training_step", 3, 2), (TERM, Steps, "prediction_step", 2, 3)],
    "train-rm": [(USR1, Steps, "training_step", 4, 1)],  # the second part of a batch
    "dpo": [(TERM, Steps, "prediction_step", 1, 2)],
    "kto": [(USR1, Steps, "training_step", 5, 2)],
    "ppo": [(TERM, PPO, "_collect", 3, 2), (USR1, PPO, "estimate", 2, 1)],
}


@pytest.mark.parametrize(
    ("stage", "number", "owner", "name", "call", "step"),
    [pytest.param(stage, *place, id=f"{stage}-{place[2]}") for stage, places in TOO_LONG.items() for place in places],
)
def test_a_step_that_takes_too_long_is_dropped(chain, run, whole, monkeypatch, stage, number, owner, name, call, step):
    monkeypatch.setattr(interrupts, "STEP", 0.05)
    began = time.monotonic()
    with sent(number, owner, name, call, stuck=True):
        code, _, text = run(*command(chain, stage))
    assert (code, promised(text)) == (CODES[number], step) and time.monotonic() - began < 15
    resumes(chain, run, command(chain, stage), whole(stage), step)


def test_a_measurement_after_the_last_step_that_takes_too_long_is_made_up_for(chain, run, whole, monkeypatch):
    monkeypatch.setattr(interrupts, "STEP", 0.05)
    words = ["--max-steps", "2"]  # the held-out rows would be measured at step 3
    with sent(TERM, Steps, "prediction_step", 1, stuck=True):
        code, _, text = run(*command(chain, "sft", "cut", *words))
    assert (code, promised(text)) == (130, 2)
    resumes(chain, run, command(chain, "sft", "cut", *words), whole("sft", *words), 2)


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_a_first_step_that_is_dropped_leaves_nothing_and_promises_nothing(chain, run, monkeypatch, stage):
    monkeypatch.setattr(interrupts, "STEP", 0.05)
    place = (PPO, "_update") if stage == "ppo" else (Steps, "training_step")
    with sent(INT, *place, stuck=True):
        code, out, text = run(*command(chain, stage))
    assert (code, out) == (130, "") and "interrupted before the first step ended: nothing was kept\n" in text
    assert promised(text) is None and not list(chain.runs.glob("cut/v*"))


def test_updates_that_take_too_long_keep_the_last_saved_state_and_the_message_says_so(chain, run, whole, monkeypatch):
    """ppo's weights have changed by then. A scheduler's SIGUSR1 comes long before the end: they go on."""
    monkeypatch.setattr(interrupts, "STEP", 0.05)
    words = ["--save-every", "2"]
    with sent(TERM, PPO, "_update", 7, stuck=True):  # the first of the fourth rollout
        code, _, text = run(*command(chain, "ppo", "cut", *words))
    assert code == 130 and promised(text) == 2
    assert "interrupted in the middle of step 4, too late to drop it: kept up to step 2;" in text
    with sent(USR1, PPO, "_update", 3, seconds=0.3):
        code, _, text = run(*command(chain, "ppo", "cut", *words))
    assert (code, promised(text)) == (75, 4)
    resumes(chain, run, command(chain, "ppo", "cut", *words), whole("ppo"), 4)


@pytest.mark.parametrize(("stage", "module"), [("kto", resuming), ("ppo", ppo_stage)])
def test_a_signal_while_a_state_is_written_lets_it_be_written(chain, run, whole, monkeypatch, stage, module):
    monkeypatch.setattr(interrupts, "STEP", 0.05)
    words = ["--save-every", "2"]
    with sent(USR1, module, "write_state", seconds=0.2):
        code, _, text = run(*command(chain, stage, "cut", *words))
    assert (code, promised(text)) == (75, 2) and "stopping as soon as" in text
    resumes(chain, run, command(chain, stage, "cut", *words), whole(stage), 2)


def test_a_signal_while_nothing_is_trained_leaves_at_once_and_promises_only_what_is_there(chain, run, whole):
    for number, (owner, name) in {INT: (train, "prepare"), TERM: (sft_stage, "open_policy")}.items():
        with sent(number, owner, name, stuck=True):
            code, out, text = run(*command(chain, "sft"))
        assert (code, out, promised(text)) == (130, "", None) and not list(chain.runs.glob("cut/v*"))
        assert ("no incomplete files were left" in text) == (owner is train)
        assert ("before the first step ended: nothing was kept" in text) == (owner is sft_stage)
    with sent(INT, Steps, "training_step", 2):
        run(*command(chain, "sft"))
    with sent(USR1, sft_stage, "open_policy", stuck=True):
        code, _, text = run(*command(chain, "sft"))
    assert (code, promised(text)) == (75, 2)
    resumes(chain, run, command(chain, "sft"), whole("sft"), 2)


@pytest.mark.parametrize("stage", ["dpo", "ppo"])
def test_a_signal_while_the_model_is_written_lets_it_be_finished(chain, run, whole, stage):
    with sent(TERM, session_module, "save_model"):
        code, out, text = run(*command(chain, stage))
    assert (code, out) == (130, "") and "interrupted as it ended: cut@v1 is finished\n" in text
    check_same(chain.runs / "cut/v1", whole(stage))
    code, out, text = run(*command(chain, stage))
    assert code == 0 and out.strip() == str(chain.runs / "cut/v1") and "nothing to do" in text


def test_a_signal_while_a_command_is_imported_says_so_and_has_its_exit_code(run):
    with sent(USR1, type(get_command(app)), "get_command", stuck=True):
        assert run("sft") == (75, "", "interrupted\n")


def test_a_signal_while_the_curves_are_drawn_says_that_the_run_is_finished(chain, run):
    with sent(TERM, curves, "draw"):
        code, out, text = run(*command(chain, "sft"))
    assert (code, out) == (130, "") and "interrupted as it ended: cut@v1 is finished\n" in text
    shutil.rmtree(chain.runs / "cut/v1/report")
    code, out, text = run(*command(chain, "sft"))
    assert code == 0 and "nothing to do" in text and (chain.runs / "cut/v1/report/curves.png").is_file()


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_keep_state_keeps_after_a_stop_what_it_keeps_without_one(chain, run, whole, stage):
    words = ["--keep-state", "--save-every", "2"]
    place = (PPO, "_collect", 3) if stage == "ppo" else (Steps, "training_step", 3)
    with sent(TERM, *place):
        code, _, text = run(*command(chain, stage, "cut", *words))
    assert (code, promised(text)) == (130, 3) and states(chain) == ["step2", "step3"]
    code, out, text = run(*command(chain, stage, "cut", *words))
    assert code == 0 and "resuming from step 3" in text
    found, expected = Path(out.strip()), whole(stage, *words)
    check_same(found, expected)
    files = [{str(f.relative_to(path)) for f in path.rglob("*") if f.is_file()} for path in (found, expected)]
    assert files[0] == files[1] and "state/step4/model/model.safetensors" in files[0]
    assert not [name for name in files[0] if "step3" in name]
    for step in (2, 4, 6):
        mine, theirs = (path / f"state/step{step}/model/model.safetensors" for path in (found, expected))
        assert mine.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize(("number", "code"), [(TERM, 75), (USR1, 75), (INT, 130)])
def test_under_slurm_sigterm_asks_for_another_start_too(chain, run, monkeypatch, number, code):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with sent(number, Steps, "training_step", 2):
        found, _, text = run(*command(chain, "sft"))
    assert (found, promised(text)) == (code, 2)


# --- processes of their own ------------------------------------------------------------------------------------------


LEFT = "interrupted: left at once"
# In a step, and in a rollout; in the state that the first signal asks for. With a state before that, and without.
PLACES_OF_TWO = [
    ("sft", ["--save-every", "2"], ("step", 3, TERM), ("step", 3, INT), 2),
    ("ppo", [], ("rollout", 2, USR1), ("rollout", 2, TERM), None),
    ("kto", ["--save-every", "2"], ("step", 6, INT), ("state", 2, INT), 2),
    ("dpo", [], ("step", 2, TERM), ("state", 1, TERM), None),
]


@pytest.mark.parametrize(
    ("stage", "words", "first", "second", "step"), PLACES_OF_TWO, ids=[one[0] for one in PLACES_OF_TWO]
)
def test_a_second_signal_leaves_at_once_with_what_was_saved(
    chain, run, whole, forked, stage, words, first, second, step
):
    two, full = json.dumps([first, second]), [*command(chain, stage, "cut", *words), "--quiet"]
    process = forked.start(SECOND, two, *full, env={"PREFCLI_RUNS": str(chain.runs)}, stderr=subprocess.PIPE)
    text, code = process.communicate()[1], process.returncode
    assert "Traceback" not in text, text
    assert code == CODES[first[2]] and "stopping when this step has ended" in text
    last = text.splitlines()[-1]
    assert last == (LEFT if step is None else f"{LEFT}; kept up to step {step}: the same command resumes there")
    half = [f"step{3 if step else 2}.partial"] if second[0] == "state" else []
    assert states(chain) == ([f"step{step}"] if step else []) + half
    resumes(chain, run, command(chain, stage, "cut", *words), whole(stage), step)


# Steps that are long enough to meet, or other commands before the one, in the same processes.
LAUNCHED = """
import json, sys, time
from typer.testing import CliRunner
from prefcli.cli import main
from prefcli.stages.steps import Steps
plain = Steps.training_step
def slow(*args, **more):
    time.sleep(0.1)
    return plain(*args, **more)
first, *others = json.loads(sys.argv[1])
if not others:
    Steps.training_step = slow
for words in others:
    result = CliRunner().invoke(main.app, words)
    assert result.exit_code == 0, result.stderr
sys.argv[1:] = first
main.main()
"""
UNDER_TORCHRUN = [TORCHRUN, "--standalone", "--nproc-per-node", "2"]
UNDER_ACCELERATE = [ACCELERATE, "launch", "--multi_gpu", "--num_machines", "1", "--num_processes", "2",
                    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip


def test_two_processes_of_a_launcher_stop_at_the_same_step_and_the_same_command_resumes(chain, forked):
    """It passes SIGTERM on to them. Stopped under torchrun, and resumed under accelerate."""
    cut, pipe = chain.runs / "cut/v1.partial", subprocess.PIPE

    def launch(launcher, *names):
        words = [[*command(chain, "dpo", name), "--max-steps", "12", "--eval-every", "5"] for name in names]
        env = {"PREFCLI_RUNS": str(chain.runs), "ACCELERATE_USE_CPU": "true"}
        return forked.start(*launcher, SCRIPT, LAUNCHED, json.dumps(words), env=env, stdout=pipe, stderr=pipe)

    process, log, deadline = launch(UNDER_TORCHRUN, "cut"), cut / "metrics.jsonl", time.monotonic() + 120
    while process.poll() is None:
        steps = [json.loads(line)["step"] for line in log.read_text().split("\n")[:-1]] if log.exists() else []
        if (steps and steps[-1] > 1) or time.monotonic() > deadline:
            process.terminate()
            break
        time.sleep(0.01)
    out, text = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, ""), text  # the launcher's own
    step = promised(text)
    assert 0 < step < 12 and states(chain) == [f"step{step}"] and not (cut / "alive.json").exists()
    assert len(json.loads((cut / f"state/step{step}/training.json").read_text())["dict"]) > 1
    assert len(re.findall("^stopping ", text, re.M)) == 1 and "report it" not in text  # one speaks
    process = launch(UNDER_ACCELERATE, "cut", "launched")
    out, text = process.communicate(timeout=120)
    assert process.returncode == 0 and f"resuming from step {step}" in text, text
    check_same(chain.runs / "cut/v1", chain.runs / "launched/v1")


SBATCH = Path(__file__).parent.parent / "docs/slurm/train.sbatch"
ASKED = "trap 'sleep 0.2; exit {}' USR1; echo there; for ((i = 0; i < 500; i++)); do sleep 0.02; done"


@pytest.mark.parametrize(
    ("job", "asked", "code", "requeued"),
    [(ASKED.format(75), True, 75, True), (ASKED.format(1), True, 1, True),  # a launcher's own code
     ("echo there; exit 75", False, 75, True), ("echo there; exit 3", False, 3, False),
     (ASKED.format(0), True, 0, False), ("echo there; exit 0", False, 0, False)],
    ids=["stopped", "a launcher", "not asked", "failed", "finished all the same", "finished"],
)  # fmt: skip
def test_the_sbatch_file_passes_its_signal_on_and_requeues_what_was_asked_to_stop(
    own_folder, job, asked, code, requeued
):
    for name, body in {"python": f'echo "$@" > words\n{job}', "scontrol": 'echo "$@" > requeued'}.items():
        write(own_folder / "bin" / name, f"#!/bin/bash\n{body}\n").chmod(0o755)
    env = {**os.environ, "PATH": f"{own_folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    process = subprocess.Popen(
        ["bash", SBATCH, "dpo", "--data", "my pairs"], env=env, text=True, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == "there\n"
    if asked:
        process.send_signal(USR1)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert (own_folder / "words").read_text() == "-m prefcli dpo --data my pairs\n"
    assert (own_folder / "requeued").exists() == requeued
    assert not requeued or (own_folder / "requeued").read_text() == "requeue 17\n"

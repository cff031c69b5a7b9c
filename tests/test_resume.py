"""A ppo run that was stopped, by an error, Ctrl-C or kill -9, goes on and ends where an uninterrupted one does."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import time
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import artifact_in
from forked import PREFCLI
from safetensors.torch import load_file

from prefcli import stopping
from prefcli.artifacts.store import Store
from prefcli.rl.ppo import PPO
from prefcli.stages.metrics_log import MetricsLog
from prefcli.stages.ppo import States
from prefcli.stages.processes import draft_of
from prefcli.stages.state import random_state

OPTIONS = ["--max-steps", "5", "--save-every", "2", "--ppo-epochs", "2", "--kl-target", "1.0"]


def tensors(path):
    return {
        f"{part}/{name}": tensor
        for part in ("model", "value")
        for file in sorted((path / part).glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def metrics(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def check_same(found, expected):
    assert metrics(found) == metrics(expected)
    mine, theirs = tensors(found), tensors(expected)
    assert mine.keys() == theirs.keys()
    assert all((mine[name] == theirs[name]).all() for name in mine)


def remember(patch, states):
    """Have every rollout that has ended leave behind what a state must bring back."""
    end = States.end

    def ended(self, position, due):
        state = (self._ppo.state_dict(), self._watchers.state_dict(), random_state())
        states.append((position.step, copy.deepcopy(state)))
        end(self, position, due)

    patch.setattr(States, "end", ended)


@pytest.fixture(scope="module")
def states():
    """The state after each rollout of the uninterrupted run."""
    return []


@pytest.fixture(scope="module")
def whole(trained, states):
    """The uninterrupted run, once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        remember(patch, states)
        return trained.extra("ppo", *OPTIONS, "--name", "whole")


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool((one == other).all()) if hasattr(one, "shape") else one == other


STOPS = {KeyboardInterrupt: 130, MemoryError: 5}  # with what exit code; of other errors in test_resume_stages.py


@pytest.mark.parametrize(("stop_in", "error"), [(3, KeyboardInterrupt), (5, MemoryError)])
def test_the_same_command_goes_on(chain, prefcli, monkeypatch, whole, states, stop_in, error):
    step, calls, ends = PPO.step, [], []
    remember(monkeypatch, ends)
    monkeypatch.setattr("prefcli.stages.ppo.TAIL", 2)  # rollouts that the manifest's figures are the means of

    def stopping(self, prompts, progress=None):
        calls.append(self.rollouts + 1)
        if calls[-1] == stop_in and len(calls) <= stop_in:
            raise error("stopped")
        return step(self, prompts, progress)

    monkeypatch.setattr(PPO, "step", stopping)
    command = [*chain.args("ppo"), *OPTIONS, "--name", "cut"]
    random.seed(5), np.random.seed(5)  # what a process has drawn before decides nothing
    first = prefcli(*command)
    assert first.exit_code == STOPS[error]
    kept = (stop_in - 1) // 2 * 2
    assert f"kept up to step {kept}" in first.stderr
    assert sorted(p.name for p in (chain.runs / "cut").iterdir() if p.name[0] != ".") == ["v1.partial"]
    assert [p.name for p in (chain.runs / "cut/v1.partial/state").iterdir()] == [f"step{kept}"]
    second = prefcli(*command)
    assert f"resuming from step {kept}" in second.stderr
    assert calls == [*range(1, stop_in + 1), *range(kept + 1, 6)]
    check_same(chain.path_of(second), whole)
    assert not (chain.runs / "cut/v1/state").exists() and not (chain.runs / "cut/v1/run.json").exists()
    assert ends[-1][0] == states[-1][0] == 5
    names = ("ppo", "watchers", "random")
    assert [name for name, mine, theirs in zip(names, ends[-1][1], states[-1][1]) if not same(mine, theirs)] == []
    found, last = json.loads((chain.runs / "cut/v1/manifest.json").read_text())["metrics"], metrics(whole)[-2:]
    for name in ("objective/scores", "objective/kl", "val/ratio"):
        assert found[name] == pytest.approx((last[0][name] + last[1][name]) / 2)


@pytest.mark.parametrize("keep", [[], ["--keep-state"]])
def test_a_stop_while_the_version_is_finished_loses_nothing(chain, prefcli, monkeypatch, whole, keep):
    command = [*chain.args("ppo"), *OPTIONS, "--name", "cut", *keep]
    with monkeypatch.context() as patch:
        patch.setattr("prefcli.artifacts.store.write_manifest", lambda *_: 1 / 0)  # all but the manifest is there
        assert prefcli(*command).exit_code == 1
    second = prefcli(*command)
    assert f"resuming from step {5 if keep else 4}" in second.stderr
    check_same(chain.path_of(second), whole)
    assert (chain.runs / "cut/v1/state").exists() == bool(keep)


def test_what_a_kill_right_after_the_end_leaves_is_made_good_by_the_same_command(chain, prefcli):
    path = chain.path("ppo")
    (path / "run.json").write_text("{}")
    (path / ".lock").write_text("")
    (path / "state/step1").mkdir(parents=True)
    (path / "report/curves.png").unlink()
    assert chain.path_of(prefcli(*chain.args("ppo"))) == path
    assert not any((path / name).exists() for name in ("run.json", ".lock", "state"))
    assert (path / "report/curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_log_of_a_resumed_run_has_its_lines_from_the_first_moment(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0})
    MetricsLog(tmp_path / "metrics.jsonl", 2)  # not closed: the process may be killed now
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_every_process_goes_on_with_the_state_and_the_metrics_so_far(partial, monkeypatch):
    monkeypatch.setattr("prefcli.stages.processes.is_main_process", lambda: False)
    monkeypatch.setattr("prefcli.stages.processes._told", lambda device, unfinished=None: partial)
    with draft_of(SimpleNamespace(), None) as draft:
        assert draft.path != partial and draft.steps == [2]
        assert len(MetricsLog(draft.path / "metrics.jsonl", draft.steps[-1]).rows) == 2
    assert partial.is_dir()


def test_an_empty_folder_of_a_killed_writer_goes(chain, prefcli):
    (chain.runs / "ppo/v2.partial").mkdir()
    assert chain.path_of(prefcli(*chain.args("ppo"), "--seed", "5")).name == "v2"


def test_a_stop_before_anything_was_saved_leaves_nothing(chain, prefcli, monkeypatch):
    monkeypatch.setattr(PPO, "step", lambda self, prompts, progress=None: 1 / 0)
    assert prefcli(*chain.args("ppo"), *OPTIONS, "--name", "cut").exit_code == 1
    assert not [p for p in (chain.runs / "cut").iterdir() if p.name[0] != "."]


@pytest.fixture(scope="module")
def stopped_run(trained):
    """The partial version of a run that was stopped after its second step, of which tests have a copy each."""
    with pytest.MonkeyPatch.context() as patch:
        step = PPO.step
        patch.setattr(PPO, "step", lambda self, *a: 1 / 0 if self.rollouts == 2 else step(self, *a))
        with pytest.raises(AssertionError):
            trained.extra("ppo", *OPTIONS, "--name", "stopped")
    return trained.runs / "stopped/v1.partial"


@pytest.fixture
def partial(chain, stopped_run):
    """An unfinished run with a state of step 2, of the name "cut"."""
    return shutil.copytree(stopped_run, chain.runs / "cut/v1.partial")


def test_another_run_starts_anew_and_leaves_the_unfinished_one_alone(chain, prefcli, partial):
    before = {file: file.read_bytes() for file in partial.rglob("*") if file.is_file()}
    other = prefcli(*chain.args("ppo"), *OPTIONS, "--name", "cut", "--seed", "3", "--max-steps", "1")
    assert chain.path_of(other).name == "v2" and "resuming" not in other.stderr
    forced = prefcli(*chain.args("ppo"), *OPTIONS, "--name", "cut", "--force")
    assert chain.path_of(forced).name == "v3" and "resuming" not in forced.stderr
    assert before == {file: file.read_bytes() for file in partial.rglob("*") if file.is_file()}


@pytest.mark.parametrize("finished", [False, True])
def test_what_force_leaves_is_resumed_without_it(chain, prefcli, monkeypatch, partial, whole, finished):
    command = [*chain.args("ppo"), *OPTIONS, "--name", "cut"]
    if finished:
        key = json.loads((partial / "run.json").read_text())["key"]
        shutil.rmtree(partial)
        artifact_in(Store(chain.runs), "cut", stage="ppo", key=key)
    with monkeypatch.context() as patch:
        step = PPO.step
        patch.setattr(PPO, "step", lambda self, *a: 1 / 0 if self.rollouts == 2 else step(self, *a))
        forced = prefcli(*command, "--force")
    once = "once cut@v1 is removed, " if finished else ""
    assert f"kept up to step 2: {once}the same command without --force resumes there" in forced.stderr
    assert stopping.again == stopping.RESUMES
    if finished:
        assert chain.path_of(prefcli(*command)).name == "v1"
        assert prefcli("rm", "cut@v1").exit_code == 0
    second = prefcli(*command)
    assert "resuming from step 2" in second.stderr and chain.path_of(second).name == "v2"
    check_same(chain.path_of(second), whole)


def test_a_resume_under_something_else_is_refused_with_the_reason(chain, prefcli, partial):
    run = json.loads((partial / "run.json").read_text())
    run["environment"]["torch"] = "1.0"
    (partial / "run.json").write_text(json.dumps(run))
    result = prefcli(*chain.args("ppo"), *OPTIONS, "--name", "cut")
    assert result.exit_code == 4 and "torch 1.0, now 2" in result.stderr and "--force" in result.stderr
    assert partial.is_dir()


def flip(path):
    """One bit of the last number's mantissa."""
    content = bytearray(path.read_bytes())
    content[-4] ^= 1
    path.write_bytes(bytes(content))


DAMAGES = {
    "a bit of a weight": ("state/step2/training-0.safetensors", flip, "was changed"),
    "half a file": ("state/step2/training-0.safetensors", lambda path: path.write_bytes(b"half"), "was changed"),
    "no weights": ("state/step2/training-0.safetensors", lambda path: path.unlink(), "is missing"),
    "a value": ("state/step2/training.json", lambda path: path.write_text("{}"), "was changed"),
    "no digests": ("state/step2/digests.json", lambda path: path.unlink(), "is missing"),
    "other digests": ("state/step2/digests.json", lambda path: path.write_text("[]"), "damaged"),
    "no log": ("metrics.jsonl", lambda path: path.unlink(), "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_named_and_not_trained_on(chain, prefcli, partial, damage):
    name, spoil, word = DAMAGES[damage]
    spoil(partial / name)
    result = prefcli(*chain.args("ppo"), *OPTIONS, "--name", "cut")
    assert result.exit_code == 4, result.stderr
    assert f"{partial / name} {word}" in result.stderr or (word == "damaged" and name in result.stderr)
    assert "--force" in result.stderr and "Traceback" not in result.stderr
    assert partial.is_dir()


def test_kept_steps_are_models_and_references(chain, prefcli):
    path = chain.path_of(prefcli(*chain.args("ppo"), *OPTIONS, "--name", "kept", "--keep-state"))
    assert sorted(p.name for p in (path / "state").iterdir()) == ["step2", "step4", "step5"]
    common = ["eval", "--prompts", chain.data("held_out_prompts"), "--max-new-tokens", "4", "--json"]
    result = prefcli(*common, "--model", "kept@v1:step2", "--model", "kept@v1")
    assert result.exit_code == 0, result.stderr
    assert [m["ref"] for m in json.loads(result.stdout)["models"]] == ["kept@v1:step2", "kept@v1"]
    missing = prefcli(*common, "--model", "kept@v1:step3")
    assert missing.exit_code == 4 and "kept: 2, 4, 5" in missing.stderr


def test_a_run_that_an_alarm_stopped_is_a_usable_version(chain, prefcli, jsonl):
    source = chain.folder / "bad.py"
    source.write_text(
        "calls = []\n"
        "def score(prompts, completions, **columns):\n"
        "    calls.append(1)\n"
        "    return [1e30 if len(calls) == 4 else 0.1 * len(c) for c in completions]\n"
    )
    command = [*chain.args("ppo"), "--reward", f"python:{source}:score", "--max-steps", "5", "--name", "alarmed"]
    result = prefcli(*command)
    assert result.exit_code == 6 and "alarmed@v1" in result.stderr
    manifest = json.loads((chain.runs / "alarmed/v1/manifest.json").read_text())
    assert manifest["status"] == "stopped" and manifest["resources"]["steps"] == 2
    assert len(metrics(chain.runs / "alarmed/v1")) == 2


# It waits before its last write: no kill comes too late.
UNENDING = (
    "import time\nfrom prefcli.artifacts import store\nstore.write_manifest = lambda *_: time.sleep(60)\n" + PREFCLI
)


def test_kill_9_at_random_points(chain, prefcli, whole, forked):
    """A real process, killed somewhere between its first or third metrics line and its end; then left alone."""
    command = [*chain.args("ppo"), *OPTIONS, "--name", "killed"]
    print("seed", seed := int.from_bytes(os.urandom(4)))  # shown where this fails
    dice, codes = random.Random(seed), []
    log = chain.runs / "killed/v1.partial/metrics.jsonl"
    for lines in (1, 3):
        process = forked.start(UNENDING, *command, env={"PREFCLI_RUNS": str(chain.runs)}, stderr=subprocess.PIPE)
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < lines):
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.3))
        process.kill()
        process.communicate()  # until nobody has its stderr any more
        codes.append(process.returncode)
    last = prefcli(*command)
    assert codes == [-9, -9] and "resuming from step" in last.stderr, (codes, last.stderr)
    check_same(chain.path_of(last), whole)


@pytest.mark.parametrize("how", ["removed", "moved", "taken"])
def test_a_version_that_is_taken_away_while_it_is_written_becomes_a_new_one(chain, prefcli, store, monkeypatch, how):
    """At the end, or, where another writer has its number by then, at the next state."""
    name, write, others = chain.runs / "cut", MetricsLog.write, []

    def taken_away(log, step, row):
        write(log, step, row)
        if step == 1:
            name.rename(chain.folder / "elsewhere") if how == "moved" else shutil.rmtree(name)
            others.append(store.writer("cut") if how == "taken" else nullcontext())
            others.append(others[0].__enter__())

    monkeypatch.setattr(MetricsLog, "write", taken_away)
    result = prefcli(*chain.args("sft"), "--name", "cut", *(["--save-every", "1"] if how == "taken" else []))
    found = chain.path_of(result)
    assert found.name == ("v2" if how == "taken" else "v1") and "was removed or moved" in result.stderr
    check_same(found, chain.path("sft"))
    assert json.loads((found / "manifest.json").read_text())["version"] == int(found.name[1:])
    if how == "taken":
        assert {file.name for file in others[1].path.iterdir()} <= {".lock", "alive.json", ".alive.json"}
    others[0].__exit__(None, None, None)

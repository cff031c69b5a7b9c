"""sft, train-rm, dpo, kto and orpo runs that were stopped go on and end where uninterrupted ones do, as ppo's do."""

from __future__ import annotations

import copy
import errno
import functools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_resume import check_same

from prefcli.artifacts.manifest import read_manifest
from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.stages import resuming, trl_trainer
from prefcli.stages.session import Session
from prefcli.stages.state import random_state, read_state, write_state
from prefcli.stages.trl_trainer import _Progress

COMMON = ["--model", "tiny", "--batch-size", "4", "--max-rows", "8", "--epochs", "2", "--save-every", "1"]
STAGES = {  # several passes, rows measured in passing, parts of a batch, adapters, padded rows
    "sft": ["--data", "demos", "--no-packed", "--eval-data", "demos", "--eval-every", "3"],
    "train-rm": ["--data", "pairs", "--lora-rank", "2", "--grad-accum", "2", "--lora-dropout", "0.2"],
    "dpo": ["--data", "pairs", "--eval-data", "held_out_pairs", "--eval-every", "2"],
    "kto": ["--data", "pairs", "--grad-accum", "2", "--optim", "adamw-8bit"],
    "orpo": ["--data", "pairs", "--lora-rank", "2"],
}


def command(chain, stage, name):
    files = {"demos", "pairs", "held_out_pairs"}
    words = [chain.data(word) if word in files else word for word in STAGES[stage]]
    return [stage, *COMMON, *words, "--name", name]


def stop_at(monkeypatch, number, error):
    """The step `number` is broken off: its tensors are changed, and nothing of it is logged or saved."""
    logged = _Progress.on_log

    def stopping(self, args, state, control, **more):
        if state.global_step == number:
            raise error("stopped")
        return logged(self, args, state, control, **more)

    monkeypatch.setattr(_Progress, "on_log", stopping)


def state_of(trainer):
    """All that a run has at its end but its weights: what a state must bring back."""
    return copy.deepcopy(
        {
            "each": trainer.own_state(),
            "watchers": trainer.watchers.state_dict(),
            "tokens": trainer._total_train_tokens,
            "optimizer": trainer.optimizer.state_dict(),
            "scheduler": trainer.lr_scheduler.state_dict(),
            "position": (trainer.state.global_step, trainer.state.epoch),
        }
    )


def remember(patch, states):
    """Have each run that trains to its end leave its state behind."""
    to_the_end = trl_trainer._to_the_end

    def ended(session, trainer):
        to_the_end(session, trainer)
        states.append(state_of(trainer))

    patch.setattr(trl_trainer, "_to_the_end", ended)


@pytest.fixture(scope="module")
def states():
    """stage → the state at the end of its uninterrupted run"""
    return {}


@pytest.fixture(scope="module")
def wholes(trained, states):
    """The path of a stage's uninterrupted run, made once."""

    @functools.cache
    def whole(stage):
        with pytest.MonkeyPatch.context() as patch:
            remember(patch, found := [])
            path = trained.run(*command(trained, stage, f"whole-{stage}"))
        (states[stage],) = found
        return path

    return whole


def differing(one, other, where=""):
    """Where two nested states differ."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        return [place for key in one for place in differing(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        return [place for i, pair in enumerate(zip(one, other)) for place in differing(*pair, f"{where}/{i}")]
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)) else [where]
    if isinstance(one, np.ndarray):
        return [] if (one == other).all() else [where]
    return [] if one == other else [where]


@pytest.mark.parametrize(
    ("stage", "error"),
    [("sft", KeyboardInterrupt), ("train-rm", RuntimeError), ("kto", OSError), ("orpo", RuntimeError)],
)
def test_the_same_command_goes_on_and_ends_bit_for_bit_as_if_not_stopped(
    chain, prefcli, monkeypatch, wholes, states, stage, error
):
    with monkeypatch.context() as patch:
        stop_at(patch, 4, error)  # of the second pass
        patch.setattr(Session, "seconds", property(lambda _: 1000.0))
        result = prefcli(*command(chain, stage, "cut"))
    assert result.exit_code == (130 if error is KeyboardInterrupt else 1), result.stderr
    assert "kept up to step 3" in result.stderr
    assert [path.name for path in (chain.runs / "cut/v1.partial/state").iterdir()] == ["step3"]
    with monkeypatch.context() as patch:
        remember(patch, found := [])
        result = prefcli(*command(chain, stage, "cut"))
    assert "resuming from step 3" in result.stderr
    check_same(chain.path_of(result), wholes(stage))
    assert differing(found[0], states[stage]) == []
    assert 1000 < read_manifest(chain.runs / "cut/v1").resources["train_seconds"] < 2000  # with what came before
    files = [{path.relative_to(run) for path in run.rglob("*")} for run in (chain.runs / "cut/v1", wholes(stage))]
    assert files[0] == files[1]


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_is_full_at_any_write_ends_with_7_and_loses_no_step(chain, prefcli, monkeypatch, wholes):
    cut = command(chain, "dpo", "cut")
    writes = [
        ("prefcli.artifacts.store.write_atomically", 0),  # run.json
        ("prefcli.stages.metrics_log.MetricsLog.write", 0),
        ("prefcli.stages.state.save_file", 0),
        ("prefcli.stages.session.save_model", 3),
        ("prefcli.artifacts.store.write_manifest", 3),
        ("prefcli.artifacts.store.os.rename", 3),
    ]
    for target, kept in writes:
        with monkeypatch.context() as patch:
            patch.setattr(target, full)
            result = prefcli(*cut)
        assert result.exit_code == 7 and "hint: free some space" in result.stderr, target
        left = [path.name for path in (chain.runs / "cut").iterdir() if path.name[0] != "."]
        assert left == (["v1.partial"] if kept else []), target
        if kept:
            assert not [
                path for path in (chain.runs / "cut/v1.partial").iterdir() if path.name in ("model", "README.md")
            ]
            assert f"kept up to step {kept}" in result.stderr
    check_same(chain.path_of(prefcli(*cut)), wholes("dpo"))


def test_a_run_that_was_stopped_after_its_last_kept_state_trains_no_further(chain, prefcli, monkeypatch, wholes):
    words = [*command(chain, "sft", "kept"), "--keep-state"]
    with monkeypatch.context() as patch:
        patch.setattr("prefcli.artifacts.store.write_manifest", full)
        assert prefcli(*words).exit_code == 7
    result = prefcli(*words)
    assert "resuming from step 4" in result.stderr
    path = chain.path_of(result)
    check_same(path, wholes("sft"))
    assert sorted(p.name for p in (path / "state").iterdir()) == ["step1", "step2", "step3", "step4"]
    assert not [p for p in path.rglob("*") if p.suffix in (".pt", ".pth", ".bin", ".pkl")]
    assert resolve("kept@v1:step2", Store(chain.runs)).path == path / "state/step2/model"
    last = load_file(path / "state/step4/model/model.safetensors")
    assert all(torch.equal(tensor, last[name]) for name, tensor in load_file(path / "model/model.safetensors").items())


def test_a_step_at_which_an_alarm_stops_the_run_is_not_saved(chain, prefcli, monkeypatch):
    alarmed = resuming.Resuming._save_checkpoint

    def alarm(self, model, trial):
        self.run.alarm = object()
        alarmed(self, model, trial)
        raise RuntimeError("stopped")

    monkeypatch.setattr(resuming.Resuming, "_save_checkpoint", alarm)
    assert prefcli(*command(chain, "kto", "cut")).exit_code == 1
    assert not [path for path in (chain.runs / "cut").iterdir() if path.name[0] != "."]


def drawn():
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_the_random_state_of_every_generator_comes_back_and_of_several_processes_each_its_own(tmp_path):
    states, draws = [], []
    for seed in (1, 2):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        states.append(random_state())
        draws.append(drawn())
    assert not set(draws[0]) & set(draws[1])
    write_state(tmp_path, {"each": [{"random": state} for state in states], "owes": False})
    for process in (1, 0):
        run = SimpleNamespace(saved=read_state(tmp_path))
        stub = SimpleNamespace(run=run, accelerator=SimpleNamespace(process_index=process))
        resuming.Resuming._load_rng_state(stub, "a folder")
        assert drawn() == draws[process]


def test_a_state_is_read_as_it_was_written_whatever_is_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr("prefcli.stages.state.PART", 100)  # bytes of a file
    value = {
        "tensors": [torch.randn(7, 3), torch.arange(3).bfloat16(), torch.tensor(1.5), torch.zeros(0), torch.ones(4)],
        "not contiguous": torch.randn(4, 5).T,
        "numbers": [0.1, float("inf"), -(2**70), True, None],
        "by number": {0: "a", 1: {"betas": (0.9, 0.999)}},
        "empty": [{}, [], ()],
    }
    value["of one memory"] = [value["tensors"][0]] * 2  # as the tables of bitsandbytes' optimizers
    write_state(tmp_path, value)
    found = read_state(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    one, other = (torch.utils._pytree.tree_flatten(state) for state in (value, found))
    assert one[1] == other[1]
    same = [torch.equal(a, b) and a.dtype == b.dtype if isinstance(a, torch.Tensor) else a == b
            for a, b in zip(one[0], other[0])]  # fmt: skip
    assert all(same)
    with pytest.raises(TypeError):
        write_state(tmp_path, {"function": functools.partial(print)})

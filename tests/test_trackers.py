"""`--report-to`: what a tracker gets is what metrics.jsonl has, and no tracker can spoil a run."""

from __future__ import annotations

import json
import sys
import types

import pytest
from conftest import versions_below

from prefcli.errors import SurroundingsError
from prefcli.progress import Reporter
from prefcli.stages.trackers import TRACKERS, open_tracker

LINEAGE = {"stage": "dpo", "name": "dpo", "key": "k" * 80, "model": "sft@v1"}


class Told(Reporter):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def opened(name, root, **more):
    about = {"ref": "dpo@v1", "config": {"beta": 0.1, "data": ["a"]}, "lineage": LINEAGE, "resumed_at": 0,
             "reporter": Told()}  # fmt: skip
    return open_tracker(name, root=root, **about | more)


def events(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return found


@pytest.mark.parametrize("command", [["dpo", "--no-packed"], ["ppo"]])
def test_tensorboard_has_every_metric_at_its_step_the_options_and_the_lineage(chain, prefcli, command):
    pytest.importorskip("tensorboard")
    stage, *more = command
    result = prefcli(*chain.args(stage), *more, "--force", "--report-to", "tensorboard")
    path = chain.path_of(result)
    found = events(chain.runs / "tensorboard" / f"{stage}@v2")
    logged = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for row in logged:
        for name, value in row.items():
            if name != "step" and isinstance(value, float):
                at = {event.step: event.value for event in found.Scalars(name)}
                assert at[row["step"]] == pytest.approx(value, rel=1e-5, abs=1e-12), name
    manifest = json.loads((path / "manifest.json").read_text())
    assert {t for t in found.Tags()["scalars"] if t.startswith("final/")} == {f"final/{m}" for m in manifest["metrics"]}

    def text(tag):
        (event,) = found.Tensors(f"{tag}/text_summary")
        return json.loads(event.tensor_proto.string_val[0])

    config = json.loads(json.dumps(manifest["config"]))
    assert text("config") == config
    assert text("lineage")["model"] == "sft@v1" and text("lineage")["key"] == manifest["key"]
    assert not [name for name in manifest["files"] if "events" in name]  # it lies outside the artifact
    assert prefcli("show", f"{stage}@v2", "--verify").exit_code == 0
    assert [entry["ref"] for entry in json.loads(prefcli("ls", "--json").stdout) if "tensorboard" in entry["ref"]] == []


def test_a_new_run_of_a_number_replaces_what_a_lost_one_left_and_one_that_goes_on_does_not(own_folder):
    pytest.importorskip("tensorboard")
    for resumed_at, steps in ((0, (1, 2)), (0, (1, 2, 3)), (2, (3, 4))):
        tracker = opened("tensorboard", own_folder, resumed_at=resumed_at)
        for step in steps:
            tracker.log(step, {"loss": 10.0 * resumed_at + step, "wild": float("nan")})
        tracker.close(well=True)
    found = events(own_folder / "tensorboard" / "dpo@v1")
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 1), (2, 2), (3, 23), (4, 24)]
    assert "wild" not in found.Tags()["scalars"]


@pytest.mark.parametrize("stage", ["sft", "train-rm", "dpo", "kto", "ppo"])
def test_a_package_that_is_missing_is_said_with_its_command_before_anything_is_read(prefcli, monkeypatch, stage):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = prefcli(stage, "--data", "nowhere.jsonl", "--report-to", "wandb")
    assert result.exit_code == 2 and "pip install wandb" in result.stderr and "nowhere" not in result.stderr


class Recorder(types.ModuleType):
    """Stands for a tracker's package: notes every call."""

    def __init__(self, name):
        super().__init__(name)
        self.calls, self.id = [], "the-id"
        self.info = types.SimpleNamespace(run_id="the-id")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: print("* hello") or self.calls.append((name, args, kwargs)) or self


@pytest.mark.parametrize(("name", "send"), [("wandb", "log"), ("mlflow", "log_metrics"), ("trackio", "log")])
def test_the_other_trackers_are_told_name_options_lineage_metrics_and_end(own_folder, monkeypatch, capsys, name, send):
    for variable in ("MLFLOW_TRACKING_URI", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TRACKIO_DIR", "x")
    package = Recorder(name)
    monkeypatch.setitem(sys.modules, name, package)
    tracker = opened(name, own_folder)
    tracker.log(3, {"loss": 0.5, "wild": float("inf")})
    tracker.close(well=True)
    assert capsys.readouterr().out == ""  # stdout is the result's
    told = repr(package.calls)
    assert all(part in told for part in ("dpo@v1", "'prefcli'", "beta", "sft@v1"))
    (call,) = [call for call in package.calls if call[0] == send]
    assert call[1:] == (({"loss": 0.5},), {"step": 3})
    assert package.calls[-1][0] in ("finish", "end_run")
    package.calls.clear()
    opened(name, own_folder, resumed_at=3)
    if name != "trackio":  # it goes by the run's name
        assert "the-id" in repr(package.calls)
    assert "log_params" not in [call[0] for call in package.calls]  # mlflow takes no other value of one


def test_a_tracker_that_fails_on_the_way_is_left_out_and_told_once(own_folder, monkeypatch):
    def broken(*_):
        from prefcli.stages.trackers import Tracker

        def send(metrics, step):
            raise ConnectionError("the server left")

        return Tracker("broken", send, lambda well: 1 / 0)

    monkeypatch.setitem(TRACKERS, "broken", broken)
    told = Told()
    tracker = opened("broken", own_folder, reporter=told)
    tracker.log(1, {"a": 1.0})
    tracker.log(2, {"a": 1.0})
    tracker.close(well=False)
    assert told.notices == ["--report-to broken failed and is left out now: the server left"]


def test_a_tracker_that_does_not_start_stops_the_run_before_it_trains(chain, prefcli, monkeypatch):
    def broken(*_):
        raise ValueError("no API key")

    monkeypatch.setitem(TRACKERS, "tensorboard", broken)
    monkeypatch.setattr("prefcli.stages.inputs.require", lambda name: None)
    before = versions_below(chain.folder)
    result = prefcli(*chain.args("dpo"), "--force", "--report-to", "tensorboard")
    assert result.exit_code == SurroundingsError.exit_code and "no API key" in result.stderr
    assert "Traceback" not in result.stderr and versions_below(chain.folder) == before

"""`prefcli sweep`: its words, its points, the loop that goes on after failures and interruptions, what it says."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from unittest.mock import patch

import pytest
from conftest import PAIR
from rich.console import Console

from prefcli.artifacts.manifest import Manifest
from prefcli.artifacts.store import Store
from prefcli.cli.out import draw_picture
from prefcli.cli.passing_on import split
from prefcli.cli.sweep_table import tables
from prefcli.config.base import typed_options
from prefcli.config.stages import STAGES
from prefcli.config.sweep import SweepConfig
from prefcli.errors import AlarmError, SurroundingsError
from prefcli.experiments.points import Point, plan, points_of
from prefcli.experiments.scores import Figure, Score, recorded_score
from prefcli.experiments.summary import summarise
from prefcli.experiments.sweep import Outcome, run
from prefcli.progress import SILENT

DPO = STAGES["dpo"]


@pytest.fixture
def start(make_artifact, jsonl):
    """Arguments of a dpo sweep on data and a model that are there."""
    make_artifact("sft")
    return ["dpo", "--model", "sft", "--data", str(jsonl("pairs.jsonl", *[PAIR] * 8))]


def points(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)["points"]


# Words


def test_what_is_no_option_of_sweep_is_one_of_the_stage_wherever_it_stands():
    words = "dpo --seeds 2 --lr 0.1 --grid beta=1,2 --no-packed --data a --prompts held -q --learning_rate=0.2".split()
    own = typed_options(SweepConfig)
    assert split(words, own) == [
        "--seeds", "2", "--grid", "beta=1,2", "--prompts", "held", "-q", "--",
        "dpo", "--lr", "0.1", "--no-packed", "--data", "a", "--learning_rate=0.2",
    ]  # fmt: skip


def test_a_switch_of_sweep_takes_true_and_false():
    words = "--dry-run=True dpo --json false --quiet true --seeds 2".split()
    assert split(words, typed_options(SweepConfig)) == [
        "--dry-run", "--no-json", "--quiet", "--seeds", "2", "--", "dpo"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["dpoo"], ["no such stage: dpoo", "did you mean dpo?"]),
        (["dpo", "--betta", "1"], ["--betta", "did you mean --beta?"]),
        (["dpo", "--seds", "1"], ["--seds", "did you mean --seed"]),
        (["--beta", "1", "dpo"], ["after its name"]),
        (["dpo", "stray"], ["unexpected argument 'stray' (no option before it)"]),
        ([], ["STAGE"]),
        (["dpo", "--lr", "fast", "--data", "x", "--seeds", "2"], ["--lr", "fast"]),
        (["dpo", "--data", "x"], ["no values to sweep"]),
        (["dpo", "--seeds", "2"], ["missing"]),
        (["ppo", "--prompts", "x", "--seeds", "2"], ["--data here"]),
        (["dpo", "--data", "x", "--grid", "beta"], ["NAME=VALUE"]),
        (["dpo", "--data", "x", "--grid", "beta=,1"], ["NAME=VALUE"]),
        (["dpo", "--data", "x", "--grid", "betta=1"], ["did you mean beta?"]),
        (["dpo", "--data", "x", "--grid", "beta=0"], ["--beta"]),
        (["dpo", "--data", "x", "--grid", "beta=nan"], ["--beta"]),
        (["dpo", "--data", "x", "--grid", "beta=0.1,0.10"], ["twice"]),
        (["dpo", "--data", "x", "--grid", "beta=1", "--grid", "beta=2"], ["twice"]),
        (["dpo", "--data", "x", "--grid", "packed=maybe"], ["neither true nor false"]),
        (["dpo", "--data", "x", "--grid", "seed=1,2"], ["--seeds"]),
        (["dpo", "--data", "x", "--grid", "max_rows=1,2"], ["--rows"]),
        (["dpo", "--data", "x", "--grid", "name=a,b"], ["changes no result"]),
        (["dpo", "--data", "x", "--rows", "0,5"], ["N,N"]),
        (["dpo", "--data", "x", "--rows", "5,5"], ["twice"]),
        (["dpo", "--data", "x", "--seeds", "2", "--force"], ["--force"]),
        (["dpo", "--data", "x", "--seeds", "2", "--score", "a=python:x.py:f"], ["--prompts is missing"]),
        (
            ["dpo", "--data", "x", "--seeds", "2", "--max-prompts", "9"],
            ["--max-prompts is about the prompts of --score"],
        ),
        (["train-rm", "--data", "x", "--seeds", "2", "--score", "a"], ["--pairs"]),
        (["dpo", "--data", "x", "--seeds", "2", "--pairs", "a"], ["--score"]),
        (["dpo", "--data", "x", "--seeds", "2", "--plot", "a.txt"], ["--plot", ".svg"]),
        (["dpo", "--data", "x", "--seeds", "2", "--plot", "no/a.png"], ["--plot", "mkdir"]),
    ],
)
def test_wrong_words_are_refused_before_anything_is_read(prefcli, words, parts):
    result = prefcli("sweep", *words)
    assert (result.exit_code, result.stdout) == (2, ""), result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def test_a_dry_run_lists_the_product_in_order_with_its_typed_values(prefcli, start):
    found = points(prefcli("sweep", *start, "--grid", "learning_rate=1e-4,1e-3", "--grid", "packed=true,false",
                           "--seeds", 2, "--seed", 5, "--rows", "4,2", "--dry-run", "--json"))  # fmt: skip
    assert [(p["options"]["lr"], p["options"]["packed"], p["rows"], p["seed"]) for p in found] == [
        (lr, packed, rows, seed) 
        for lr in (1e-4, 1e-3) for packed in (True, False) for rows in (2, 4) for seed in (5, 6)
    ]  # fmt: skip
    assert {p["status"] for p in found} == {"missing"}


def test_options_of_the_stage_may_come_from_its_file(prefcli, start, own_folder):
    (own_folder / "c.yaml").write_text("beta: 0.7\nquiet: true\ndata: pairs.jsonl\n")
    result = prefcli("sweep", "dpo", "--config", "c.yaml", "--model", "sft", "--seeds", 2, "--dry-run", "--json")
    assert len(points(result)) == 2


def test_quiet_is_of_the_stage_s_file_too(prefcli, start, own_folder, capsys):
    (own_folder / "c.yaml").write_text("logging_steps: 5\n")
    words = ["sweep", *start, "--config", "c.yaml", "--seeds", 2, "--dry-run", "--json"]
    assert "logging_steps" in prefcli(*words).stderr and prefcli(*words, "-q").stderr == ""
    draw_picture("--plot", own_folder / "a.png", lambda _: None, quiet=True)
    assert capsys.readouterr().err == ""


def test_more_rows_than_there_are_is_refused(prefcli, start):
    result = prefcli("sweep", *start, "--rows", "4,9")
    assert result.exit_code == 2 and "there are 8 rows" in result.stderr


def test_points_that_would_become_their_own_start_are_refused(prefcli, jsonl, make_artifact):
    data = jsonl("demos.jsonl", {"prompt": "a", "completion": "b"})
    for more in ([], ["--model", "sft"]):
        result = prefcli("sweep", "sft", "--data", data, "--seeds", 2, *more, "--dry-run")
        assert result.exit_code == (2 if not more else 4), result.stderr  # no sft yet
    make_artifact("sft")
    result = prefcli("sweep", "sft", "--data", data, "--seeds", 2, "--model", "sft", "--dry-run")
    assert result.exit_code == 2 and "sft@v1" in result.stderr
    assert prefcli("sweep", "sft", "--data", data, "--seeds", 2, "--model", "sft@v1", "--dry-run").exit_code == 0


# The loop


class Maker:
    """Makes artifacts without training them; counts what it makes, and fails where it is told to."""

    def __init__(self, fail=None):
        self.made, self.fail = [], fail or {}

    def __call__(self, inputs, reporter=SILENT):
        stage = inputs.stage
        at = (inputs.config.beta, inputs.config.seed)
        if at in self.fail:
            raise self.fail[at]
        self.made.append(at)
        with inputs.store.writer(inputs.name) as draft:
            return draft.finish(
                Manifest(stage.name, inputs.name, draft.version, "2026-01-01", inputs.key,
                         config=dataclasses.asdict(inputs.config), metrics={"rewards/accuracies": at[0] + at[1]})
            )  # fmt: skip


def measure(artifact):
    return Figure(artifact.manifest.metrics["rewards/accuracies"])


def made_by(maker, points, measure=measure):
    with patch("prefcli.experiments.sweep.made", maker):
        return run(points, measure, SILENT)


def dpo_points(prefcli, start, betas=(0.1, 0.3), seeds=2):
    from prefcli.config.dpo import DPOConfig

    base = DPOConfig(model="sft@v1", data=[start[-1]])
    return points_of(DPO, base, {"beta": list(betas)}, seeds, [])


def test_an_interrupted_sweep_goes_on_and_ends_with_the_same_table(prefcli, start, monkeypatch, own_folder):
    todo = dpo_points(prefcli, start)
    score = Score("accuracy", "test")
    first = Maker(fail={(0.3, 0): KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        made_by(first, todo)
    second = Maker()
    resumed = summarise("dpo", score, made_by(second, todo))
    assert first.made == [(0.1, 0), (0.1, 1)] and second.made == [(0.3, 0), (0.3, 1)]
    again = Maker()
    assert summarise("dpo", score, made_by(again, todo)) == resumed and again.made == []
    monkeypatch.setenv("PREFCLI_RUNS", str(own_folder / "other"))
    import shutil

    shutil.copytree(own_folder / "runs" / "sft", own_folder / "other" / "sft")
    assert summarise("dpo", score, made_by(Maker(), todo)) == resumed


def test_ctrl_c_leaves_without_planning_again(prefcli, start, monkeypatch):
    planned = []
    monkeypatch.setattr("prefcli.cli.sweep.plan", lambda point: planned.append(point) or plan(point))
    monkeypatch.setattr("prefcli.experiments.sweep.made", Maker(fail={(0.3, 0): KeyboardInterrupt()}))
    words = ["sweep", *start, "--grid", "beta=0.1,0.3", "--seeds", 2]
    for _ in range(2):  # trained now, and there already
        result = prefcli(*words)
        assert result.exit_code == 130 and "2 of 4 points are finished" in result.stderr
    assert len(planned) == 8


def test_a_point_that_fails_is_told_and_the_others_are_made(prefcli, start):
    maker = Maker(fail={(0.1, 1): AlarmError("the loss is not a number at step 1"), (0.3, 0): MemoryError()})
    outcomes = made_by(maker, dpo_points(prefcli, start))
    assert [outcome.reason for outcome in outcomes] == [
        None, "the loss is not a number at step 1", "out of memory", None
    ]  # fmt: skip
    found = summarise("dpo", Score("accuracy", "test"), outcomes)
    assert [point["status"] for point in found["points"]] == ["complete", "failed", "failed", "complete"]
    assert [(s["seeds"], s["failed"]) for s in found["settings"]] == [([0], [1]), ([1], [0])]


def test_a_score_that_is_no_number_is_a_failure(prefcli, start):
    found = made_by(Maker(), dpo_points(prefcli, start), lambda artifact: Figure(math.nan))
    assert {outcome.reason for outcome in found} == {"its score is not a number"}
    assert json.dumps(summarise("dpo", Score("s", ""), found), allow_nan=False)


def test_held_out_files_are_read_before_anything_is_trained(prefcli, start, monkeypatch, own_folder):
    monkeypatch.setattr("prefcli.experiments.sweep.made", lambda *_: pytest.fail("trained"))
    (own_folder / "s.py").write_text("def f(prompts, completions, **columns):\n    return [0.0] * len(prompts)\n")
    result = prefcli("sweep", *start, "--seeds", 2, "--score", "a=python:s.py:f", "--prompts", "nowhere.jsonl")
    assert result.exit_code == 3 and "nowhere.jsonl" in result.stderr


@pytest.mark.parametrize("error", [SurroundingsError("disk full"), OSError(28, "No space left"), ZeroDivisionError()])
def test_what_would_stop_every_point_stops_the_sweep(prefcli, start, error):
    with pytest.raises(type(error)):
        made_by(Maker(fail={(0.1, 1): error}), dpo_points(prefcli, start))


def test_the_exit_code_is_6_where_all_points_failed_and_0_where_one_came_through(prefcli, start, monkeypatch):
    for wrong, code in (([0, 1], 6), ([1], 0)):
        maker = Maker(fail={(0.1, seed): AlarmError("not a number") for seed in wrong})
        monkeypatch.setattr("prefcli.experiments.sweep.made", maker)
        result = prefcli("sweep", *start, "--beta", 0.1, "--seeds", 2)
        assert result.exit_code == code and "failed: seed 1: not a number" in result.stdout
        assert ("best: " in result.stdout) == (code == 0)


# What it says


def outcomes(score_of, options, seeds=(0, 1), rows=(None,), make=None):
    found = []
    for option in options:
        for n in rows:
            for seed in seeds:
                value = score_of(option, n, seed)
                artifact = None if value is None else make(option, n, seed)
                point = Point(DPO, option, n, seed, None)
                found.append(Outcome(point, artifact, None if value is None else Figure(value), "why"))
    return found


@pytest.fixture
def made(make_artifact):
    one = make_artifact("dpo", resources={"train_seconds": 2.0}, config={"beta": 0.3, "data": ["a b.jsonl"]})
    return lambda *_: one


def test_sensitivity_is_the_slope_within_each_seed_whatever_the_seeds_differ_by(made):
    grid = [{"beta": b, "loss": loss} for b in (0.1, 0.3, 0.9) for loss in ("ipo", "hinge")]

    def score(option, _, seed):
        tripled = math.log(option["beta"] / 0.1, 3)
        return 10 * seed + (0.5 + 0.1 * seed) * tripled + (2 if option["loss"] == "ipo" else 0)

    found = summarise("dpo", Score("s", ""), outcomes(score, grid, make=made))["sensitivity"]
    assert found["beta"]["per_factor_of_3"] == pytest.approx(0.55)
    half = math.tan(0.95 * math.pi / 2) * 0.05  # t of one degree · (0.1/√2)/√2
    assert found["beta"]["ci95"] == pytest.approx([0.55 - half, 0.55 + half])
    assert found["beta"]["range"] == pytest.approx(1.1)
    assert found["loss"]["range"] == pytest.approx(2) and "per_factor_of_3" not in found["loss"]


def test_a_lost_run_takes_its_whole_comparison_with_it(made):
    """Without the pairing the value that seed 1 lost would look 100 lower."""
    grid = [{"beta": b} for b in (0.1, 0.3)]
    lost = outcomes(lambda o, _, seed: None if (o["beta"], seed) == (0.3, 1) else 100.0 * seed, grid, make=made)
    entry = summarise("dpo", Score("s", ""), lost)["sensitivity"]["beta"]
    assert (entry["per_factor_of_3"], entry["range"], entry["ci95"]) == (0, 0, None)


def test_zero_has_no_logarithm_and_is_compared_by_means(made):
    grid = [{"sft_weight": w} for w in (0.0, 1.0)]
    found = summarise("dpo", Score("s", ""), outcomes(lambda o, *_: o["sft_weight"], grid, make=made))
    assert found["sensitivity"]["sft_weight"] == {"means": {"0": 0.0, "1": 1.0}, "range": 1.0}


def test_the_best_has_the_best_mean_in_the_score_s_own_sense_and_lost_no_seed(made):
    grid = [{"beta": b} for b in (0.1, 0.3, 0.9)]

    def score(option, _, seed):
        return None if option["beta"] == 0.9 and seed else option["beta"]

    found = outcomes(score, grid, make=made)
    assert summarise("dpo", Score("s", ""), found)["best"]["options"] == {"beta": 0.3}
    best = summarise("dpo", Score("s", "", "lower"), found)["best"]
    assert best["options"] == {"beta": 0.1} and best["score"] == pytest.approx(0.1)
    assert best["command"] == "prefcli dpo --data 'a b.jsonl' --beta 0.3"


def test_the_best_says_from_which_settings_it_is_not_told_apart(made):
    """By the settings' own intervals: 0.9 lies within that of 0.3, 0.1 far below both."""
    grid = [{"beta": b} for b in (0.1, 0.3, 0.9)]
    scores = {0.1: 0.0, 0.3: 0.50, 0.9: 0.51}
    found = summarise(
        "dpo", Score("s", ""), outcomes(lambda o, _, seed: scores[o["beta"]] + 0.01 * seed, grid, make=made)
    )
    assert found["best"]["options"] == {"beta": 0.9}
    assert [entry["options"] for entry in found["best"]["not_above"]] == [{"beta": 0.3}]
    console = Console(file=io.StringIO(), width=200)
    tables(console, found)
    assert "no difference shown from beta 0.3 (" in console.file.getvalue()


def test_none_is_named_best_among_equals(made):
    """An accuracy on few rows has few values: a grid's first entry is not better for standing first."""
    grid = [{"beta": b} for b in (0.1, 0.3, 0.9)]
    scores = {0.1: 0.1 + 0.2, 0.3: 0.3, 0.9: 0.2}  # equal but for rounding
    found = summarise("dpo", Score("s", ""), outcomes(lambda o, *_: scores[o["beta"]], grid, make=made))
    assert found["best"] is None and [entry["options"] for entry in found["equal"]] == [{"beta": 0.1}, {"beta": 0.3}]
    console = Console(file=io.StringIO(), width=200)
    tables(console, found)
    assert "no best: beta 0.1; beta 0.3 have the same score" in console.file.getvalue()
    alone = summarise("dpo", Score("s", "", "lower"), outcomes(lambda o, *_: scores[o["beta"]], grid, make=made))
    assert alone["best"]["options"] == {"beta": 0.9} and alone["equal"] == []


def test_the_area_over_rows_is_that_of_each_seed_and_its_spread(made):
    found = summarise(
        "dpo", Score("s", ""), outcomes(lambda _, n, seed: math.log10(n) + seed, [{}], rows=(10, 1000), make=made)
    )
    (area,) = found["areas"]
    assert (area["mean"], area["min"], area["max"], area["seeds"]) == pytest.approx((2.5, 2.0, 3.0, 2))
    assert [s["rows"] for s in found["settings"]] == [10, 1000] and found["sensitivity"] == {}


def test_a_loss_is_better_where_it_is_lower_and_held_out_rows_are_preferred():
    config = DPO.config()
    assert recorded_score(STAGES["sft"], config).name == "loss"
    assert recorded_score(STAGES["sft"], dataclasses.replace(config, eval_data="x")).name == "eval_loss"
    assert recorded_score(STAGES["sft"], config).better == "lower"
    assert recorded_score(DPO, config).name == "rewards/accuracies"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture_has_a_dot_for_every_run(made, own_folder, suffix):
    from prefcli.report.sweep_chart import draw

    grid = [{"beta": b, "loss": loss} for b in (0.1, 0.3) for loss in ("ipo", "hinge")]
    found = summarise("dpo", Score("s", ""), outcomes(lambda o, n, s: n * o["beta"] + s, grid, rows=(5, 9), make=made))
    path = own_folder / f"a.{suffix}"
    assert draw(found, path) and path.stat().st_size > 5000
    one = summarise("dpo", Score("s", ""), outcomes(lambda *_: 1.0, [{"beta": 0.1}], make=made))
    assert not draw(one, own_folder / "b.png") and not (own_folder / "b.png").exists()


# With training


def test_a_ppo_sweep_over_rows_trains_the_reward_model_again_and_its_points_are_ordinary(chain, prefcli, own_folder):
    """The figures are those of eval; the best point is the plain run of its command."""
    scorer = own_folder / "s.py"
    scorer.write_text("def score(prompts, completions, **columns):\n    return [len(c) for c in completions]\n")
    held_out = ["--prompts", chain.data("held_out_prompts")]
    args = ["sweep", "ppo", "--model", "sft", "--reward", "rm", "--data", chain.data("prompts"), "--max-steps", 1,
            "--batch-size", 4, "--max-new-tokens", 2, "--rows", 16, "--seed", 1,
            "--score", f"len=python:{scorer}:score", *held_out, "--max-prompts", 4]  # fmt: skip
    first = prefcli(*args, "--json")
    found = json.loads(first.stdout)
    assert [point["ref"] for point in found["points"]] == ["ppo@v2"]  # v1 is the chain's own
    rm = Store().open("rm-rows", 1).manifest
    mine = Store().open("rm", 1).manifest
    changed = {name for name in rm.config if rm.config[name] != mine.config.get(name)}
    assert changed <= {"max_rows", "seed", "name", "quiet"} and {"max_rows", "seed"} <= changed
    assert (rm.config["max_rows"], rm.config["seed"], rm.data[0]["rows"]) == (16, 1, 16)
    assert Store().open("ppo", 2).manifest.parents["reward/rm"]["ref"] == "rm-rows@v1"
    measured = prefcli("eval", "--model", "ppo@v2", *held_out, "--max-prompts", 4, "--reward",
                       f"len=python:{scorer}:score", "--json")  # fmt: skip
    (entry,) = json.loads(measured.stdout)["models"]
    assert found["points"][0]["score"] == entry["reward"]["len"]["mean"]
    assert found["points"][0]["ci95"] == entry["reward"]["len"]["ci95"]
    again = json.loads(prefcli(*args, "--json").stdout)
    assert again == found and Store().versions("ppo") == [1, 2] and Store().versions("rm-rows") == [1]
    plain = prefcli(*found["best"]["command"].split()[1:])
    assert plain.exit_code == 0 and "nothing to do" in plain.stderr

"""`prefcli frontier`: hulls by brute force, verdicts on simulated frontiers, the command on the small chain."""

from __future__ import annotations

import json
import random
import shutil
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import write
from matplotlib.figure import Figure
from test_eval_command import keep_steps

from prefcli.artifacts.manifest import write_manifest
from prefcli.artifacts.references import expand
from prefcli.artifacts.store import Store
from prefcli.comparison.frontier import _points
from prefcli.errors import ArtifactError
from prefcli.files import digest_file
from prefcli.progress import SILENT
from prefcli.statistics import hulls
from prefcli.statistics.hulls import Draws, compare, hull, interval
from prefcli.statistics.intervals import mean_interval


def best_mixture(kl, reward, most):
    """Over all pairs of points and the shares at which the mixture's KL is within `most`."""
    found = []
    for i in range(len(kl)):
        for j in range(len(kl)):
            at = [(most - kl[j]) / (kl[i] - kl[j])] if kl[i] != kl[j] else []
            for share in (0, 1, *(x for x in at if 0 < x < 1)):
                if share * kl[i] + (1 - share) * kl[j] <= most + 1e-12:
                    found.append(share * reward[i] + (1 - share) * reward[j])
    return max(found)


def test_a_hull_is_the_best_mixture_of_two_points_within_a_kl():
    draw = random.Random(0)
    for _ in range(200):
        n = draw.randrange(1, 8)
        kl = [0.0, *(draw.choice([0.0, 1.0, 3 * draw.random()]) for _ in range(n))]
        reward = [0.0, *(draw.choice([0.0, 0.5, draw.gauss(0, 1)]) for _ in range(n))]
        at = [0.01, 0.3, 1.0, 1.7, 3.5]
        for k, weights in zip(at, hull(kl, reward, at)):
            assert weights.sum() == pytest.approx(1) and (weights >= 0).all() and weights @ kl <= k + 1e-9
            assert weights @ reward == pytest.approx(best_mixture(kl, reward, k))


class World:
    """Methods whose true reward at a KL is known: prompts of their own ease, seeds of their own luck, noise."""

    def __init__(self, seed, prompts=48, luck=0.05):
        self.dice, self.luck = np.random.default_rng(seed), luck
        self.ease = self.dice.normal(0, 0.5, prompts)

    def method(self, curve, points, seeds=3, kept=1):
        """Of every run `kept` steps, which share its luck."""
        found = []
        for number, k in enumerate(np.linspace(0.2, 4, points)):
            kl = k + self.dice.normal(0, 0.05, (seeds, len(self.ease)))
            if number % kept == 0:
                luck = self.dice.normal(0, self.luck, (seeds, 1))
            runs = [f"{number // kept}-{seed}" for seed in range(seeds)]
            found.append((kl, curve(k) + luck + self.ease + self.dice.normal(0, 0.5, kl.shape), runs))
        return found

    def compared(self, **methods):
        start = self.ease + self.dice.normal(0, 0.5, len(self.ease))
        return compare(Draws(start, methods), list(methods))


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(hulls, "RESAMPLES", 100)


def test_no_difference_is_shown_of_equal_methods_though_one_has_many_more_points(few):
    """A maximum over ten points is higher than one over two by chance alone."""
    shown = []
    for seed in range(12):
        world = World(seed, luck=0.0)
        flat = lambda k: 0.0  # noqa: E731
        found = world.compared(many=world.method(flat, 10, 1), two=world.method(flat, 2, 1))
        shown.append(bool(found["differences"][0]["where"]))
    assert sum(shown) <= 2


def test_where_one_method_lies_above_the_other_is_found(few):
    """b is as good up to a KL of 1, and then worse: its hull stays where it was highest."""
    world = World(1, 150)
    found = world.compared(a=world.method(lambda k: 0.6 * k, 8), b=world.method(lambda k: 0.6 * min(k, 1.0), 8))
    (difference,) = found["differences"]
    (where,) = difference["where"]
    assert where["above"] == "a" and 1.0 < where["from"] < 2.2 and where["to"] == pytest.approx(4, abs=0.05)
    assert [one["method"] for one in found["hulls"]] == ["a", "b"] and found["range"][1] == where["to"]
    for place, k in enumerate(found["hulls"][0]["kl"]):
        assert found["hulls"][0]["low"][place] < found["hulls"][0]["reward"][place] < found["hulls"][0]["high"][place]
        assert difference["low"][place] <= difference["mean"][place] <= difference["high"][place]
        truth = 0.6 * k - 0.6 * min(k, 1.0)
        assert difference["low"][place] - 0.05 <= truth <= difference["high"][place] + 0.05


def test_a_band_holds_the_difference_at_all_places_at_once_in_95_of_100_resamples(few):
    world = World(5)
    start, curve = world.ease, lambda k: 0.4 * k**0.5
    draws = Draws(start, {"a": world.method(curve, 5), "b": world.method(curve, 4)})
    (found,) = compare(draws, ["a", "b"])["differences"]
    gap = draws.hulls("a", np.array(found["kl"])) - draws.hulls("b", np.array(found["kl"]))
    assert gap[0] == pytest.approx(found["mean"])
    inside = ((gap[1:] > np.array(found["low"])) & (gap[1:] < np.array(found["high"]))).all(1)
    assert inside.mean() == pytest.approx(0.95, abs=0.011)


def test_a_point_is_the_mean_over_seeds_and_its_interval_has_their_spread():
    dice = np.random.default_rng(0)
    rewards = np.array([[0.0], [1.0], [2.0], [3.0]]) + dice.normal(0, 0.01, (4, 40))
    draws = Draws(np.zeros(40), {"m": [(np.ones((4, 40)), rewards, list("abcd"))]})
    found = draws.whole(draws.reward, "m")[:, 1]
    assert found[0] == pytest.approx(rewards.mean())
    low, high = mean_interval([0, 1, 2, 3])
    assert interval(found) == pytest.approx([low, high], abs=0.08 * (high - low))
    values = dice.normal(0, 2, (1, 40))
    alone = Draws(np.zeros(40), {"m": [(np.ones((1, 40)), values, "a")]})
    low, high = interval(alone.whole(alone.reward, "m")[:, 1])
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 40**0.5, rel=0.1)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_where_seeds_differ_an_interval_holds_the_truth_in_95_cases_of_100(few, seeds):
    held = []
    for seed in range(300):
        world = World(seed, prompts=20, luck=2.0)
        draws = Draws(world.ease, {"m": world.method(lambda k: 7.0, 1, seeds)})
        low, high = interval(draws.whole(draws.reward, "m")[:, 1])
        held.append(low < 7 < high)
    assert 0.92 < fmean(held) < 0.98


def test_seeds_luck_alone_puts_no_method_above_an_equal_one(few, monkeypatch):
    monkeypatch.setattr(hulls, "GRID", 6)
    shown = []
    for seed in range(16):
        world = World(seed, 20, luck=2.0)
        found = world.compared(a=world.method(lambda k: 0.0, 4, 2, kept=4), b=world.method(lambda k: 0.0, 4, 2, kept=4))
        shown.append(bool(found["differences"][0]["where"]))
    assert sum(shown) <= 2


def test_the_kept_steps_of_a_run_share_its_luck_and_other_runs_have_their_own():
    world = World(0, 20, luck=2.0)
    draws = Draws(world.ease, {"m": world.method(lambda k: 0.0, 4, 2, kept=2)})
    alike = np.corrcoef(draws.whole(draws.reward, "m")[1:, 1:].T)
    assert abs(alike[0, 1]) > 0.95 and abs(alike[2, 3]) > 0.95 and abs(alike[0, 2]) < 0.3


def test_few_prompts_are_as_uncertain_as_they_are():
    """Two in a half: resamples of them spread as half the variance."""
    rewards = np.array([[0.0, 0.0, 1.0, 1.0]])
    draws = Draws(np.zeros(4), {"m": [(np.ones((1, 4)), rewards, "a")]})
    assert draws.whole(draws.reward, "m")[1:, 1].std() == pytest.approx(np.std(rewards, ddof=0) * 2**0.5 / 2, rel=0.08)


def test_runs_of_other_seeds_are_one_point_and_those_stopped_or_made_again_are_left_out(store, make_artifact):
    def run(seed, status="complete", **options):
        return make_artifact("dpo", config={"seed": seed, **options}, status=status, key=f"{seed} {options}").ref

    refs = [run(0, "stopped"), run(0), run(1), run(1), run(0, beta=0.7)]
    said = []
    (points,) = _points(refs, store, SimpleNamespace(notice=said.append)).values()
    assert [point.refs for point in points] == [refs[1:3], refs[4:]]
    assert said == ["dpo@v1 was stopped before its end: left out", "dpo@v4 is dpo@v3, run again: left out"]
    with pytest.raises(ArtifactError, match="stopped before"):
        _points(refs[:1], store, SILENT)


def test_the_last_kept_step_and_the_final_model_are_one_run(store, make_artifact):
    ppo = make_artifact("ppo", resources={"steps": 2})
    for step in (1, 2):
        model = f"state/step{step}/model"
        shutil.copytree(ppo.model_path, ppo.path / model)
        ppo.manifest.files |= {f"{model}/{path.name}": digest_file(path) for path in ppo.model_path.iterdir()}
    write_manifest(ppo.manifest, ppo.path)
    for refs in (["ppo@v1", "ppo@v1:step1", "ppo@v1:step2"], ["ppo@v1:step1", "ppo@v1:step2", "ppo@v1"]):
        (points,) = _points(refs, store, SILENT).values()
        assert sorted(len(point.runs) for point in points) == [1, 1]


@pytest.fixture
def runs(chain, prefcli, own_folder):
    """Two seeds of dpo, and ppo with two kept steps."""
    keep_steps(chain, step1="sft", step2="dpo")
    chain.run(*chain.args("dpo"), "--seed", "1")
    write(
        own_folder / "n.py", "def score(prompts, completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )

    def run(*refs):
        return prefcli("frontier", *refs, "--against", "sft", "--prompts", chain.data("held_out_prompts"),
                       "--max-prompts", "10", "--max-new-tokens", "6", "--reward", "length=python:n.py:score",
                       "--reward", "rm")  # fmt: skip

    return run


def test_the_points_are_what_eval_measures_and_seeds_are_one_point(chain, prefcli, runs, own_folder, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **more: (figures.append(self), save(self, *a, **more)))
    monkeypatch.setattr(hulls, "RESAMPLES", 50)
    result = runs("dpo@*", "ppo@*:steps", "--plot", "f.svg", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["start"], found["prompts"]) == ("sft@v1", 10)
    lengths, by_rm = found["frontiers"]
    points = {point["setting"]: point for point in lengths["points"] if point["method"] == "ppo"}
    assert list(points) == ["step 1", "step 2"] and points["step 2"]["refs"] == ["ppo@v1:step2"]
    (both,) = [point for point in lengths["points"] if point["method"] == "dpo"]
    assert both["refs"] == ["dpo@v1", "dpo@v2"]
    told = json.loads(prefcli("eval", "--model", "dpo@v1", "--model", "dpo@v2", "--model", "ppo@v1:step1", "--against",
                              "sft", "--prompts", chain.data("held_out_prompts"), "--max-prompts", "10",
                              "--max-new-tokens", "6", "--reward", "rm", "--json").stdout)  # fmt: skip
    sft, one, two, step = told["models"]
    (point,) = [point for point in by_rm["points"] if point["method"] == "dpo"]
    assert point["kl"] == pytest.approx(fmean([one["kl"], two["kl"]]))
    assert point["reward"] == pytest.approx(fmean(m["reward"]["rm"]["mean"] for m in (one, two)))
    assert by_rm["start"] == pytest.approx(sft["reward"]["rm"]["mean"])
    assert by_rm["points"][1]["kl"] == pytest.approx(step["kl"], abs=1e-6)
    assert all(one["verdict"] for one in lengths["differences"]) and "<svg" in (own_folder / "f.svg").read_text()
    assert [axes.get_title(loc="left") for axes in figures[0].axes] == ["length against KL", "rm against KL"]


def test_the_tables_have_points_hulls_and_verdicts(runs, monkeypatch):
    monkeypatch.setattr(hulls, "RESAMPLES", 50)
    shown = runs("dpo@*", "ppo@*:steps").stdout
    for piece in ("length against KL to sft@v1", "best length for a KL", "KL ≤", "dpo, ppo: ", "95 % intervals"):
        assert piece in shown, piece


def test_all_versions_and_their_kept_steps_are_named_by_a_star(chain):
    keep_steps(chain, step1="sft", step2="dpo")
    store = Store(chain.runs)
    assert expand("dpo@*", store) == expand("dpo@*:steps", store) == ["dpo@v1"]
    assert expand("ppo@*:steps", store) == ["ppo@v1:step1", "ppo@v1:step2"] and expand("ppo@*", store) == ["ppo@v1"]


@pytest.mark.parametrize(
    ("args", "code", "piece"),
    [
        ((), 2, "--against"),
        (("dpo", "--against", "sft", "--prompts", "{p}"), 2, "--reward"),
        (("rm", "--against", "sft", "--prompts", "{p}", "--reward", "rm"), 4, "is a reward model"),
        (("tiny", "--against", "sft", "--prompts", "{p}", "--reward", "rm"), 4, "not an artifact in this store"),
        (("dpo", "--against", "sft", "--prompts", "{p}", "--reward", "rm", "--max-prompts", "9"), 2, "10 prompts"),
        (("none@*", "--against", "sft", "--prompts", "{p}", "--reward", "rm"), 4, "there is no none"),
    ],
)
def test_it_is_refused_with_what_is_missing(chain, prefcli, args, code, piece):
    result = prefcli("frontier", *[arg.format(p=chain.data("held_out_prompts")) for arg in args])
    assert result.exit_code == code and piece in result.stderr, result.stderr

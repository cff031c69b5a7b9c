"""Each criterion of `compare` with known numbers, both ways round: who is ahead, by how much, and whether it counts."""

from __future__ import annotations

import json
import shlex
from statistics import fmean
from types import SimpleNamespace

import pytest
from conftest import artifact_in, write

from prefcli.artifacts.manifest import write_manifest
from prefcli.artifacts.references import resolve
from prefcli.comparison import run as comparing
from prefcli.comparison.figures import welch_interval
from prefcli.comparison.flexibility import again_commands, changes, flexibility, pairs_of
from prefcli.comparison.hyperparameters import hyperparameters
from prefcli.comparison.memory import memory
from prefcli.comparison.reward_hacking import gap, reward_hacking
from prefcli.comparison.routes import read_routes
from prefcli.comparison.sample_efficiency import sample_efficiency
from prefcli.comparison.scores import Scored, open_scores
from prefcli.comparison.simplicity import models_of, simplicity
from prefcli.comparison.stability import outliers, stability
from prefcli.comparison.training_time import training_time
from prefcli.config.compare import CompareConfig
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT

PAIRS = [{"path": "pairs", "format": "pairs", "rows": 81, "digest": "d1"}]
OTHER_PAIRS = [{"path": "new", "format": "pairs", "rows": 81, "digest": "d2"}]
BOTH = ("ppo@v1", "dpo@v1")


class World:
    """sft, and from it runs of both routes without weights. What a run took and logged is said when it is made."""

    def __init__(self, store):
        self.store = store
        self.sft = artifact_in(store, "sft")
        self.pairs = PAIRS

    def rm(self, log=(), model=None, data=None, **resources):
        config = {"data": ["pairs"]} | {n: resources.pop(n) for n in ("seed", "max_rows") if n in resources}
        pairs = data or [self.pairs[0] | {"rows": config.get("max_rows", 81)}]
        return self._made("rm", log, {"model": model or self.sft}, config, resources, data=pairs)

    def ppo(self, rm, log=(), model=None, parents=None, **more):
        config, resources = self._split(more, kl_coef=0.05, lr=1e-5, batch_size=8)
        start = model or self.sft
        own = {"model": start, "reference": start} | ({"reward/rm": rm} if rm else {}) | (parents or {})
        return self._made("ppo", log, own, config, resources)

    def dpo(self, log=(), model=None, data=None, **more):
        config, resources = self._split(more, beta=0.1, lr=1e-5, batch_size=8)
        config = {"data": ["pairs"], **config}
        start = model or self.sft
        pairs = data or [self.pairs[0] | {"rows": config.get("max_rows", 81)}]
        return self._made("dpo", log, {"model": start, "reference": start}, config, resources, data=pairs)

    def routes(self, *refs):
        return read_routes(list(refs or BOTH), self.store)

    def _split(self, more, **config):
        named = ("train_seconds", "measured_peak_bytes", "predicted_peak_bytes", "steps")
        return config | {n: v for n, v in more.items() if n not in named}, {n: more[n] for n in named if n in more}

    def _made(self, stage, log, parents, config, resources, data=()):
        self.made = getattr(self, "made", 0) + 1
        files = {
            "model/config.json": "{}",
            "model/model.safetensors": f"{stage} {self.made}",
            "metrics.jsonl": "".join(json.dumps({"step": i} | step) + "\n" for i, step in enumerate(log, 1)),
        }
        return artifact_in(self.store, stage, files=files, parents=parents, config=config, resources=resources,
                           data=list(data), key=f"{self.made}")  # fmt: skip


@pytest.fixture
def world(store):
    return World(store)


class Told:
    """Scores by a table: (ref, source) → one value a prompt. gold is trusted; rm is ppo's own."""

    store = None

    def __init__(self, values, prompts=30, independent=True, kl=None, sources=("gold", "rm")):
        self._values, self._prompts, self._kl = values, prompts, kl or {}
        self.independent, self.own = independent, frozenset({"rm"})
        self.specs = [SimpleNamespace(name=name, text=name, digest=None, function=None) for name in sources]
        self.rows = [None] * prompts

    trusted = "gold"

    def values(self, model, source=None):
        """Of a function of the prompt's number or a number; every prompt has a little of its own."""
        found = self._values.get((shown(model), source or self.trusted), 0.0)
        return [found(i) if callable(found) else found + 0.01 * (i % 7) for i in range(self._prompts)]

    def mean(self, model):
        return fmean(self.values(model))

    def of(self, model):
        scores = {spec.name: self.values(model, spec.name) for spec in self.specs}
        return SimpleNamespace(scores=scores, kl=self._kl.get(shown(model)), completions=[], measures={"length": 3.0})


def shown(model):
    return getattr(model, "shown", None) or model.ref


def swapped(values):
    """ppo's for dpo's and the other way round."""
    other = {"ppo@v1": "dpo@v1", "dpo@v1": "ppo@v1"}
    return {(other.get(ref, ref), source): value for (ref, source), value in values.items()}


def by_name(criterion):
    return {measure.measure: measure for measure in criterion.measures}


# Simplicity


@pytest.mark.parametrize(
    ("stage", "config", "rewards", "models"),
    [
        ("sft", {}, 0, 1),
        ("rm", {}, 0, 1),
        ("dpo", {}, 0, 2),
        ("kto", {}, 0, 2),
        ("dpo", {"reference_free": True}, 0, 1),
        ("ppo", {}, 1, 4),
        ("ppo", {"advantage": "gae"}, 1, 4),
        ("ppo", {"advantage": "rloo"}, 1, 3),
        ("ppo", {"advantage": "grpo"}, 2, 4),
        ("ppo", {}, 3, 6),
        ("dpo", {}, 1, 2),  # one after the other, before the training
        ("ppo", {}, ("python:g.py:score",), 3),
        ("ppo", {}, ("http://a.b/score", "rm@v1"), 4),
    ],
)
def test_models_at_once_are_counted_by_what_the_run_held(stage, config, rewards, models):
    refs = rewards if isinstance(rewards, tuple) else ["rm@v1"] * rewards
    parents = {f"reward/{n}": {"ref": ref} for n, ref in enumerate(refs)} | {"model": {}, "reference": {}}
    assert models_of(SimpleNamespace(stage=stage, config=config, parents=parents)) == models


def test_simplicity_counts_stages_models_and_artifacts_and_the_fewer_are_ahead(world):
    world.ppo(world.rm())
    world.dpo(data=PAIRS)
    found = by_name(simplicity(world.routes(), None))
    figures = {name: {ref: f.value for ref, f in m.figures.items()} for name, m in found.items()}
    assert figures == {
        "stages": {"ppo@v1": 2.0, "dpo@v1": 1.0},
        "models at once": {"ppo@v1": 4.0, "dpo@v1": 2.0},
        "artifacts": {"ppo@v1": 2.0, "dpo@v1": 1.0},
    }
    assert {m.winner for m in found.values()} == {"dpo@v1"}
    longer = world.dpo(model=world.dpo(model=world.sft))  # dpo twice: a stage, and an artifact more
    other = world.ppo(None, parents={"reward/judge": world.sft}, advantage="rloo")
    found = by_name(simplicity(world.routes(other.ref, longer.ref), None))
    assert [found["stages"].winner, found["artifacts"].winner, found["models at once"].winner] == [
        None, other.ref, longer.ref,
    ]  # fmt: skip


# Memory and time


@pytest.mark.parametrize("more", BOTH)
def test_memory_is_the_highest_peak_of_a_routes_stages_and_the_lower_is_ahead(world, more):
    large, small = (9_000, 5_000) if more == "ppo@v1" else (1_000, 5_000)
    world.ppo(world.rm(measured_peak_bytes=large, predicted_peak_bytes=2 * large), measured_peak_bytes=900,
              predicted_peak_bytes=1_800)  # fmt: skip
    world.dpo(measured_peak_bytes=small, predicted_peak_bytes=2 * small)
    found = by_name(memory(world.routes(), None))
    for name, times in (("measured peak", 1), ("predicted peak", 2)):
        values = {ref: figure.value for ref, figure in found[name].figures.items()}
        assert values == {"ppo@v1": times * large, "dpo@v1": times * small}
        assert found[name].winner == next(ref for ref in BOTH if ref != more)
    assert found["measured peak"].of_single_runs and not found["predicted peak"].of_single_runs


@pytest.mark.parametrize("more", BOTH)
def test_memory_over_seeds_is_compared_by_each_runs_highest_stage(world, more):
    for seed in range(3):
        high, low = 9_000 + 10 * seed, 5_000 + 10 * seed
        rm, dpo = (high, low) if more == "ppo@v1" else (low, high)
        world.ppo(world.rm(measured_peak_bytes=rm, seed=seed), measured_peak_bytes=90, seed=seed)
        world.dpo(measured_peak_bytes=dpo, seed=seed)
    world.dpo(measured_peak_bytes=None, seed=3)  # resumed after its last step: it counts as none
    found = by_name(memory(world.routes(), None))["measured peak"]
    assert {ref: f.value for ref, f in found.figures.items()}[more] == 9_010
    assert found.winner == next(ref for ref in BOTH if ref != more) and not found.of_single_runs


@pytest.mark.parametrize("slower", BOTH)
def test_time_is_that_of_all_stages_and_the_faster_is_ahead(world, slower):
    """Of single runs by the steps' times, which is said; over seeds by the runs."""
    each = {"rm": 2.0, "ppo": 1.0, "dpo": 1.0} if slower == "ppo@v1" else {"rm": 0.5, "ppo": 0.25, "dpo": 3.0}

    def steps(stage):
        return [{"time/step": each[stage] * (1 + 0.01 * (i % 3))} for i in range(20)]

    total = {stage: 20 * second for stage, second in each.items()}
    generating = [{"time/generate": 0.5, **step} for step in steps("ppo")]
    world.ppo(world.rm(steps("rm"), train_seconds=total["rm"], steps=20), generating, train_seconds=total["ppo"],
              steps=20)  # fmt: skip
    world.dpo(steps("dpo"), train_seconds=total["dpo"], steps=30)
    faster = next(ref for ref in BOTH if ref != slower)
    once = training_time(world.routes(), None)
    seconds, sampling, samples = once.measures
    assert seconds.figures["ppo@v1"].value == pytest.approx(total["rm"] + total["ppo"])
    assert seconds.figures["dpo@v1"].value == pytest.approx(total["dpo"])
    assert seconds.winner == faster and seconds.of_single_runs and once.verdict == f"{faster}, of these two runs"
    assert sampling.figures["ppo@v1"].value == 10.0 and sampling.figures["dpo@v1"] is None and sampling.better is None
    assert samples.figures["dpo@v1"].value == 30 * 8 and samples.figures["ppo@v1"].value == 20 * 8
    for seed in (1, 2):
        longer = 1 + 0.01 * seed
        world.ppo(world.rm(train_seconds=total["rm"] * longer, seed=seed), train_seconds=total["ppo"], seed=seed)
        world.dpo(train_seconds=total["dpo"] * longer, seed=seed)
    seeds = training_time(world.routes(), None)
    assert seeds.winner == faster == seeds.verdict and not seeds.measure_with
    mean = fmean(total["rm"] * (1 + 0.01 * seed) + total["ppo"] for seed in range(3))
    assert seeds.measures[0].figures["ppo@v1"].value == pytest.approx(mean)


# Stability


def calm(n=40):
    return [{"grad_norm": 1.0 + 0.1 * (i % 5)} for i in range(n)]


def alarmed(share, n=40):
    """The first steps of so large a share have an alarm, the very first among them; one has two."""
    found = calm(n)
    for i in range(round(share * n)):
        found[i]["alarm/loss"] = 1.0
    found[0].update({"alarm/pairs": 1.0} if share else {})
    return found


def leaping(n=40):
    return [step | ({"grad_norm": 200.0} if 10 <= i < 26 else {}) for i, step in enumerate(calm(n))]


@pytest.mark.parametrize("worse", BOTH)
@pytest.mark.parametrize(("name", "bad", "share"), [
    ("steps with an alarm", alarmed(0.5), 0.5), ("gradients that leapt", leaping(), 0.4),
])  # fmt: skip
def test_fewer_alarms_and_leaps_are_ahead_of_single_runs_and_over_seeds(world, worse, name, bad, share):
    logs = {"ppo@v1": calm(), "dpo@v1": calm()} | {worse: bad}
    better = next(ref for ref in BOTH if ref != worse)
    for seed in range(4):
        world.ppo(world.rm(seed=seed), logs["ppo@v1"], seed=seed)
        world.dpo(logs["dpo@v1"][seed:], seed=seed)
        if seed == 0:
            once = by_name(stability(world.routes(), None))[name]
            values = {ref: figure.value for ref, figure in once.figures.items()}
            assert values == pytest.approx({worse: share, better: 0.0})
            assert once.winner == better and once.of_single_runs
        elif seed < 3:  # all runs of a route alike, and too few of them to tell anything by that
            assert by_name(stability(world.routes(), None))[name].winner is None
    seeds = by_name(stability(world.routes(), None))[name]
    assert seeds.winner == better and not seeds.of_single_runs and "4 runs" in seeds.figures[better].source


def test_steps_with_an_alarm_are_of_all_steps_however_often_held_out_rows_were_measured(world):
    steps = [{"step": 1}, {"step": 2, "alarm/loss": 1.0}, {"step": 3}, {"step": 4}]
    measured = [row for step in steps for row in (step, {"step": step["step"], "eval_loss": 1.0})]
    world.ppo(world.rm(), steps)
    world.dpo(measured)
    found = by_name(stability(world.routes(), None))["steps with an alarm"]
    assert found.figures["dpo@v1"].value == 0.25


def test_a_repetition_counts_with_all_that_it_was_made_from(world):
    """A reward model that starts from a model of its own: that one too, of every seed."""
    own = world._made("sft", (), {"model": world.sft}, {}, {"train_seconds": 5.0})
    for seed in range(2):
        world.ppo(world.rm(model=own, seed=seed, train_seconds=2.0), seed=seed, train_seconds=1.0)
        world.dpo(seed=seed, train_seconds=1.0)
    found = [[artifact.ref for artifact in run] for run in world.routes().repetitions["ppo@v1"]]
    assert found == [[own.ref, f"rm@v{n}", f"ppo@v{n}"] for n in (1, 2)]
    assert training_time(world.routes(), None).measures[0].figures["ppo@v1"].value == pytest.approx(8.0)


def test_time_without_a_finished_run_is_of_single_runs(world):
    rm = world.rm(train_seconds=1.0)
    artifact_in(world.store, "ppo", parents={"model": world.sft, "reward/rm": rm}, status="stopped",
                resources={"train_seconds": 1.0})  # fmt: skip
    world.dpo(train_seconds=1.0)
    assert training_time(world.routes(), None).measures[0].of_single_runs


@pytest.mark.parametrize("wide", BOTH)
def test_the_route_whose_seeds_lie_closer_is_ahead(world, wide):
    values = {}
    for seed in range(6):
        made = {"ppo@v1": world.ppo(world.rm(seed=seed), calm(), seed=seed), "dpo@v1": world.dpo(calm(), seed=seed)}
        for ref, run in made.items():
            values[run.ref, "gold"] = (1.0 if ref == wide else 0.01) * (-1) ** seed * (1 + 0.1 * seed)
    found = stability(world.routes(), Told(values)).measures[2]
    assert found.winner == next(ref for ref in BOTH if ref != wide)
    assert found.figures[wide].value > 50 * found.figures[found.winner].value


# Sample efficiency


@pytest.mark.parametrize("better", BOTH)
def test_the_route_with_more_score_from_few_pairs_is_ahead(world, better):
    """Of one seed over prompts, of these runs; over seeds it counts. The area is the middle of a line in log pairs."""
    values = {}
    for seed in range(3):
        for number in (81, 27, 9):
            less = {} if number == 81 else {"max_rows": number}
            made = {"ppo@v1": world.ppo(world.rm(seed=seed, **less), seed=seed),
                    "dpo@v1": world.dpo(seed=seed, **less)}  # fmt: skip
            for ref, run in made.items():
                values[run.ref, "gold"] = (1.0 if ref == better else 0.5) + {81: 0.2, 27: 0.0, 9: -0.2}[number]
                values[run.ref, "gold"] += 0.001 * seed
        if seed == 0:
            once = sample_efficiency(world.routes(), Told(values))
            assert once.measures[0].winner == better and once.verdict == f"{better}, of these two runs"
            assert once.measures[0].figures[better].value == pytest.approx(1.0 + 0.03, abs=0.01)
    seeds = sample_efficiency(world.routes(), Told(values))
    assert seeds.winner == better == seeds.verdict
    other = next(ref for ref in BOTH if ref != better)
    areas = {ref: figure.value for ref, figure in seeds.measures[0].figures.items()}
    assert areas[better] - areas[other] == pytest.approx(0.5)


@pytest.mark.parametrize(("of_81", "measured"), [([0, 1], True), ([0], False)])
def test_a_curve_is_of_one_seed_throughout(world, of_81, measured):
    """A run of another seed on some numbers only is in neither the figure nor what is told."""
    values = {}
    for number, seeds in ((81, of_81), (27, [1])):
        less = {} if number == 81 else {"max_rows": number}
        for seed in seeds:
            for run in (world.ppo(world.rm(seed=seed, **less), seed=seed), world.dpo(seed=seed, **less)):
                values[run.ref, "gold"] = 1.0 if seed == 1 else 9.0
    found = sample_efficiency(world.routes(), Told(values))
    figures = list(found.measures[0].figures.values())
    if measured:
        assert [figure.value for figure in figures] == pytest.approx([1.03, 1.03], abs=0.01)
        assert figures[0].source == "runs on 27, 81 pairs, 1 seed" and "27: 1.03  81: 1.03" in found.why
    else:
        assert figures == [None, None] and "of a seed that all of these have" in found.why and found.measure_with


# Flexibility


@pytest.mark.parametrize("slower", BOTH)
def test_flexibility_is_the_time_from_new_pairs_to_a_policy_and_the_faster_is_ahead(world, slower):
    seconds = {"ppo": 60.0, "dpo": 20.0} if slower == "ppo@v1" else {"ppo": 20.0, "dpo": 60.0}
    world.ppo(world.rm(train_seconds=1.0), train_seconds=1.0)
    first = world.dpo(train_seconds=1.0)

    def again(seed, longer):
        rm = world.rm(train_seconds=longer * seconds["ppo"] / 2, data=OTHER_PAIRS, seed=seed)
        return (world.ppo(rm, train_seconds=longer * seconds["ppo"] / 2, seed=seed),
                world.dpo(train_seconds=longer * seconds["dpo"], data=OTHER_PAIRS, seed=seed))  # fmt: skip

    ppo, dpo = again(5, 1.0)
    faster = next(ref for ref in BOTH if ref != slower)
    told = Told({(ppo.ref, "gold"): 0.5, (dpo.ref, "gold"): 0.75, (first.ref, "gold"): 1.0})
    once = flexibility(world.routes(), told)
    assert {ref: f.value for ref, f in once.measures[0].figures.items()} == {
        "ppo@v1": seconds["ppo"], "dpo@v1": seconds["dpo"],
    }  # fmt: skip
    assert (
        once.winner is None
        and once.measures[0].of_single_runs
        and "rm@v2, ppo@v2" in once.measures[0].figures["ppo@v1"].source
    )
    assert "ppo@v2 against ppo@v1: gold +0.50" in once.why and "dpo@v2 against dpo@v1: gold -0.25" in once.why
    again(6, 1.01)
    again(7, 1.02)
    seeds = flexibility(world.routes(), None)
    assert seeds.winner == faster == seeds.verdict and not seeds.measures[0].of_single_runs


def test_of_several_changes_the_newest_is_taken(world):
    world.ppo(world.rm())
    world.dpo()
    for number, day in enumerate(("2026-03-01", "2026-01-01")):
        rm = world.rm(data=OTHER_PAIRS, seed=number, train_seconds=1.0)
        runs = (world.ppo(rm, seed=number, train_seconds=10.0 * (1 + number)),
                world.dpo(data=OTHER_PAIRS, seed=number, train_seconds=5.0))  # fmt: skip
        for run in runs:
            path = run.path / "manifest.json"
            path.write_text(path.read_text().replace("2026-01-01T", f"{day}T"))
    routes = world.routes()
    assert [change.final.ref for route in routes for change in changes(route, routes).values()] == ["ppo@v2", "dpo@v2"]


@pytest.mark.parametrize("stage", ["rm", "ppo", "dpo"])
def test_a_change_of_which_a_run_was_stopped_is_none(world, stage):
    world.ppo(world.rm()), world.dpo()
    rm = world.rm(data=OTHER_PAIRS, train_seconds=1.0)
    runs = {"rm": rm, "ppo": world.ppo(rm), "dpo": world.dpo(data=OTHER_PAIRS)}
    routes = world.routes()
    assert [len(changes(route, routes)) for route in routes] == [1, 1]
    stop(runs[stage])
    assert [len(changes(route, routes)) for route in routes] == ([1, 0] if stage == "dpo" else [0, 1])


def stop(artifact):
    artifact.manifest.status = "stopped"
    write_manifest(artifact.manifest, artifact.path)


def test_a_route_that_was_stopped_is_compared_alone_and_said_to_be_stopped(world, prefcli):
    for seed in range(2):
        rm = world.rm(seed=seed, train_seconds=1.0)
        world.ppo(rm, seed=seed, train_seconds=10.0), world.dpo(seed=seed, train_seconds=5.0)
    stop(world.ppo(rm, train_seconds=2.0))
    result = prefcli("compare", "ppo@v3", "dpo@v1", "--json")
    found = json.loads(result.stdout)
    assert [route["stopped"] for route in found["routes"]] == [["ppo@v3"], []]
    assert "ppo@v3 was stopped before its end" in result.stderr
    seconds = {c["criterion"]: c for c in found["criteria"]}["training time"]["measures"][0]
    assert seconds["figures"]["ppo@v3"]["value"] == 3.0 and seconds["of_single_runs"]
    assert "rm@v2 → ppo@v3 (stopped)" in prefcli("compare", "ppo@v3", "dpo@v1").stdout
    assert "stopped" not in prefcli("compare", "ppo@v2", "dpo@v1").stdout


def test_files_that_were_held_out_are_no_pairs_that_preferences_were_learnt_from(world):
    held_out = [{"path": "held", "format": "pairs", "rows": 9, "digest": "d9"}]
    plain, measured = world.rm(), world.rm(data=PAIRS + held_out)
    measured.manifest.config["eval_data"] = "held"
    assert pairs_of(plain, [plain]) == pairs_of(measured, [measured]) == ["d1"]


def test_the_commands_for_new_pairs_change_the_reward_model_in_all_its_places_and_nothing_else(world):
    rm = world.rm()
    ppo = world.ppo(None, parents={"value_init": rm, "reward/judge": world.sft, "reward/r": rm}, value_init="rm",
                    reward=["judge=sft", "r=rm"])  # fmt: skip
    world.dpo()
    route = world.routes(ppo.ref, "dpo@v1").routes[0]
    trains, runs = again_commands(route, world.store)
    assert trains == "RM=$(prefcli train-rm --data NEW_PAIRS.jsonl --model rm@v1)"
    words = shlex.split(runs)
    given = {word: words[i + 1] for i, word in enumerate(words) if word.startswith("--")}
    assert words.count("--value-init") == 1 and (given["--value-init"], given["--reward"]) == ("$RM", "r=$RM")
    assert words.count("--reward") == 2 and "judge=sft@v1" in words and "rm@v1" not in words


# Hyperparameters


def test_the_options_to_choose_are_counted_and_the_fewer_are_ahead(world):
    world.ppo(world.rm())
    world.dpo()
    assert hyperparameters(world.routes(), None).measures[0].winner == "dpo@v1"
    rloo = world.ppo(world.rm(seed=1), advantage="rloo")
    found = hyperparameters(world.routes("ppo@v1", rloo.ref), None).measures[0]
    # without a value model there are no clip_range_value, vf_coef, gamma, lam to choose
    assert found.figures["ppo@v1"].value - found.figures[rloo.ref].value == 4 and found.winner == rloo.ref
    twice = world.dpo(model=world.dpo())
    assert hyperparameters(world.routes("dpo@v1", twice.ref), None).measures[0].winner == "dpo@v1"


def moved(by, spread, ref):
    """By so much, and in each prompt by a little more or less, which adds up to nothing over 44."""
    step = 7 if ref == "ppo@v1" else 3
    return lambda i: by + spread * ((i * step) % 11 - 5) / 5 + 0.1 * (i % 3)


@pytest.mark.parametrize(
    ("moves", "winner"),
    [({"ppo@v1": 0.7, "dpo@v1": -0.2}, "dpo@v1"), ({"ppo@v1": 0.2, "dpo@v1": -0.7}, "ppo@v1"),
     ({"ppo@v1": 0.30, "dpo@v1": 0.31}, None)],
)  # fmt: skip
def test_the_route_that_moves_less_when_its_tie_is_tripled_is_ahead_where_prompts_show_it(world, moves, winner):
    runs = {("ppo@v1", 0): world.ppo(world.rm()), ("dpo@v1", 0): world.dpo()}
    rm = world.store.open("rm", 1)
    runs |= {("ppo@v1", 1): world.ppo(rm, kl_coef=0.15), ("dpo@v1", 1): world.dpo(beta=0.3)}
    values = {(run.ref, "gold"): moved(moves[ref] * times, 0.2 * times, ref) for (ref, times), run in runs.items()}
    found = hyperparameters(world.routes(), Told(values, prompts=44)).measures[1]
    assert "tie to the reference" in found.measure
    assert {ref: f.value for ref, f in found.figures.items()} == pytest.approx(
        {ref: abs(move) for ref, move in moves.items()}, abs=1e-6
    )
    assert found.winner == winner and found.of_single_runs


# Reward hacking

# Two standard deviations of the proxy up, half a one of gold.
HACKED = {("sft@v1", "rm"): lambda i: 10.0 * (-1) ** i, ("sft@v1", "gold"): lambda i: 0.1 * (-1) ** (i // 2)}


def rises(ref, proxy, gold):
    """In deviations of the start's scores, which are 10 and 0.1."""
    return {
        (ref, "rm"): lambda i: 10.0 * (-1) ** i + 10.0 * proxy,
        (ref, "gold"): lambda i: 0.1 * (-1) ** (i // 2) + 0.1 * gold + 1e-4 * (i % 3),
    }


def test_the_gap_is_the_proxys_rise_less_the_trusted_ones_in_deviations_of_the_start(world):
    final = world.ppo(world.rm())
    world.dpo()
    told = Told(HACKED | rises("ppo@v1", 2.0, 0.5), prompts=40)
    found = gap(final, world.routes(), told, "rm", {"rm": 10.0, "gold": 0.1})
    assert found == pytest.approx([1.5] * 40, abs=0.01)
    down = Told(HACKED | rises("ppo@v1", -1.0, 0.5), prompts=40)
    assert gap(final, world.routes(), down, "rm", {"rm": 10.0, "gold": 0.1}) == pytest.approx([-1.5] * 40, abs=0.01)


@pytest.mark.parametrize("hacks", BOTH)
def test_the_route_that_hacks_less_is_ahead(world, hacks):
    less = next(ref for ref in BOTH if ref != hacks)
    values = dict(HACKED)
    for seed in range(3):
        made = {"ppo@v1": world.ppo(world.rm(seed=seed), seed=seed), "dpo@v1": world.dpo(seed=seed)}
        for ref, run in made.items():
            values |= rises(run.ref, *((2.0, 0.5 + 0.02 * seed) if ref == hacks else (1.0, 0.9 - 0.02 * seed)))
        if seed == 0:
            once = reward_hacking(world.routes(), Told(values, prompts=40))
            gaps = {ref: figure.value for ref, figure in once.measures[0].figures.items()}
            assert gaps == pytest.approx({hacks: 1.5, less: 0.1}, abs=0.01)  # whatever the two scales
            assert once.measures[0].winner == less and once.winner is None
    seeds = reward_hacking(world.routes(), Told(values, prompts=40))
    assert seeds.winner == less
    gaps = {ref: figure.value for ref, figure in seeds.measures[0].figures.items()}
    assert gaps == pytest.approx({hacks: 1.48, less: 0.12}, abs=0.01)


def test_each_route_is_measured_on_the_reward_that_it_was_trained_against(world):
    """Of two RLHF routes the second has its own; a route without any is measured on the first one's."""
    models = [world.rm(), world.rm(seed=1)]
    world.ppo(models[0]), world.ppo(models[1], kl_coef=0.2), world.dpo()
    refs = ("ppo@v1", "ppo@v2", "dpo@v1")
    values = HACKED | {("sft@v1", "rm2"): HACKED["sft@v1", "rm"]}
    for ref, (first, second) in zip(refs, ((2.0, 0.0), (0.0, 3.0), (1.0, 0.0))):
        values |= rises(ref, first, 0.0) | {(ref, "rm2"): rises(ref, second, 0.0)[ref, "rm"]}
    told = Told(values, prompts=40, sources=("gold", "rm", "rm2"))
    for spec, model in zip(told.specs[1:], models):
        spec.digest = model.digest
    found = reward_hacking(world.routes(*refs), told).measures[0].figures
    assert {ref: figure.value for ref, figure in found.items()} == pytest.approx(dict(zip(refs, (2, 3, 1))), abs=0.01)
    assert [figure.source.split()[0] for figure in found.values()] == ["rm", "rm2", "rm"]


# All together


@pytest.mark.parametrize("independent", [True, False])
def test_a_reward_that_a_route_was_trained_against_decides_nothing_and_is_shown(world, monkeypatch, independent):
    values = {}
    for seed in range(3):
        made = (world.ppo(world.rm(seed=seed), seed=seed), world.dpo(seed=seed))
        for run, gold, own in zip(made, (1.0, 2.0), (5.0, 3.0)):
            values |= {(run.ref, "gold"): gold + 0.01 * seed, (run.ref, "rm"): own}
    told = Told(values, independent=independent, kl={"sft@v1": [0.0] * 30, "ppo@v1": [2.0] * 30})
    monkeypatch.setattr(comparing, "open_scores", lambda *_, **__: told)
    found = comparing.compare(CompareConfig(refs=list(BOTH), prompts=["p"], reward=["gold"]), SILENT)
    criteria = {criterion["criterion"]: criterion for criterion in found["criteria"]}
    spread = {m["measure"]: m for m in criteria["training stability"]["measures"]}["spread over seeds"]
    assert all((figure is not None) == independent for figure in spread["figures"].values())
    hacking = criteria["reward-hacking risk"]["measures"][0]["figures"]
    assert all((figure is not None) == independent for figure in hacking.values())
    # quality shows it either way, each route's under its own name
    frontier = {entry["ref"]: entry for entry in found["quality"]["frontier"]}
    assert list(frontier) == ["sft@v1", "ppo@v1", "dpo@v1"]
    assert frontier["ppo@v1"]["kl"] == 2.0 and frontier["dpo@v1"]["kl"] is None
    means = {ref: entry["reward"]["gold"]["mean"] for ref, entry in frontier.items() if ref != "sft@v1"}
    assert means == pytest.approx({"ppo@v1": 1.03, "dpo@v1": 2.03}, abs=0.01)
    (head,) = found["quality"]["win_rate"]
    assert (head["a"], head["b"], head["win_rate"]) == ("dpo@v1", "ppo@v1", 1.0)  # gold's winner, not rm's
    difference = {d["reward"]: d["mean"] for d in found["quality"]["differences"] if {d["a"], d["b"]} == set(BOTH)}
    sign = 1 if found["quality"]["differences"][0]["a"] == "dpo@v1" else -1
    assert sign * difference["gold"] == pytest.approx(1.0) and sign * difference["rm"] == pytest.approx(-2.0)


def test_the_first_source_is_trusted_and_what_a_route_was_trained_against_is_known(
    store, own_folder, jsonl, monkeypatch
):
    """Two functions of one file, a reward model of a route, and one that is none of theirs."""
    write(
        own_folder / "g.py",
        "def one(prompts, completions, **_):\n    return [1.0 for _ in completions]\n\n\ntwo = one\n",
    )
    rm, other = (artifact_in(store, name, stage="rm", files={"model/config.json": name}) for name in ("rm", "other"))
    prompts = str(jsonl("prompts.jsonl", {"prompt": "Where?"}, {"prompt": "Who?"}))
    start = resolve("tiny", store)
    tokenizer = load_tokenizer(start, SILENT)  # the two reward models have none
    monkeypatch.setattr("prefcli.evaluation.prompts.load_tokenizer", lambda *_: tokenizer)

    def opened(*rewards, against=()):
        config = CompareConfig(prompts=[prompts], reward=list(rewards))
        return open_scores(config, store, start, [rm], SILENT, against)

    one, two, more = "one=python:g.py:one", "two=python:g.py:two", "more=other"
    digest = opened(one).specs[0].digest
    found = opened(one, two, more, against={(digest, "two")})
    assert [spec.name for spec in found.specs] == ["one", "two", "more", "rm@v1"] and found.own == {"two", "rm@v1"}
    assert found.trusted == "one" and found.independent and len(found.rows) == 2
    assert not opened(two, one, against={(digest, "two")}).independent
    assert opened(two, one, against={(digest, "one")}).independent
    assert not opened("mine=rm", one).independent and opened("mine=rm", one).own == {"mine"}  # asked once
    assert opened(more, "mine=rm").independent and other.ref == "other@v1"
    found._kept["m"] = Scored({"one": [1.0, 2.0], "two": [5.0, 7.0]}, None, [], {})
    model = SimpleNamespace(shown="m")
    assert (found.values(model), found.values(model, "two"), found.mean(model)) == ([1.0, 2.0], [5.0, 7.0], 1.5)


def test_what_the_budget_gave_both_is_told_and_decides_nothing(world, monkeypatch):
    for seed in range(2):
        world.ppo(world.rm(train_seconds=50.0 + seed, seed=seed), train_seconds=50.0, seed=seed)
        world.dpo(train_seconds=10.0 + 0.1 * seed, seed=seed)
    monkeypatch.setattr(comparing, "open_scores", lambda *_, **__: None)
    free = comparing.compare(CompareConfig(refs=list(BOTH)), SILENT)
    held = comparing.compare(CompareConfig(refs=list(BOTH), data=["p"], budget="seconds=60"), SILENT)
    verdicts = [{c["criterion"]: c["verdict"] for c in found["criteria"]}["training time"] for found in (free, held)]
    assert verdicts == ["dpo@v1", "not measured"]
    assert free["score"]["dpo@v1"] == held["score"]["dpo@v1"] + 1


@pytest.mark.parametrize("counts", [(2, 2), (2, 5), (5, 2)])
def test_welchs_interval_has_the_smaller_samples_degrees_of_freedom(counts):
    """By hand: with two values t is 12.706, whatever the other sample has; and its sign is that of a − b."""
    a, b = [1.0, 3.0, 1.5, 2.5, 2.0][: counts[0]], [7.0, 9.0, 8.0, 8.5, 7.5][: counts[1]]
    variances = [sum((x - fmean(v)) ** 2 for x in v) / (len(v) - 1) / len(v) for v in (a, b)]
    low, high = welch_interval(a, b)
    assert (low + high) / 2 == pytest.approx(fmean(a) - fmean(b)) and low < high
    assert (high - low) / 2 == pytest.approx(12.7062 * sum(variances) ** 0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("norms", "leaps"),
    [
        ([1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 9.0], 1),
        ([1.0, 0.2, 1.8, 0.2, 1.8, 1.0, 6.0], 0),  # six medians, in a run whose norms lie far apart
        ([1.0, 1.01, 0.99, 1.0, 1.01, 0.99, 3.0], 0),  # many deviations of a run that is very even, and three medians
        ([9.0, 9.1, 8.9, 9.0, 9.1, 8.9, 0.1], 0),  # far below
        ([1.0, 1.1, 0.9, 1.0, 1.1, 30.0, 40.0], 2),
        ([], 0),
    ],
)
def test_a_leap_is_beyond_five_medians_and_ten_deviations(norms, leaps):
    assert outliers(norms) == leaps

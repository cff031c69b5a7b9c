"""Which route won: figures, verdicts, and the command on runs that are there already."""

from __future__ import annotations

import json
import math
import random
import shutil
from dataclasses import replace
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest

from prefcli.artifacts.metrics import read_log
from prefcli.comparison import (
    figures,
    frontier,
    hyperparameters,
    reward_hacking,
    sample_efficiency,
    scores,
    stability,
)
from prefcli.comparison.figures import Criterion, Measure, Samples, counted, over_prompts, over_runs
from prefcli.comparison.flexibility import changes
from prefcli.comparison.reward_hacking import proxy_of
from prefcli.comparison.routes import Route, read_routes
from prefcli.comparison.run import CRITERIA, tally
from prefcli.comparison.simplicity import simplicity
from prefcli.comparison.training_time import by_steps
from prefcli.errors import ArtifactError, UsageError
from prefcli.evaluation import models
from prefcli.progress import SILENT
from prefcli.rewards.grammar import parse_rewards


def test_counts_are_compared_as_they_are_and_a_tie_has_no_winner():
    found = counted("stages", "stages", {"a": (2.0, ""), "b": (1.0, ""), "c": (3.0, "")}, "lower")
    assert found.winner == "b"
    assert counted("stages", "stages", {"a": (1.0, ""), "b": (1.0, "")}, "lower").winner is None


def test_what_seeds_or_prompts_change_needs_an_interval_that_leaves_0_out():
    far = Samples({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.1, 1.9]})
    assert over_runs("seconds", "seconds", far, "lower").winner == "a"
    assert over_runs("seconds", "seconds", far, "higher").winner == "b"
    near = Samples({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 4.0]})
    assert over_runs("seconds", "seconds", near, "lower").winner is None
    once = Samples({"a": [1.0], "b": [9.0]})
    assert over_runs("seconds", "seconds", once, "lower").winner is None
    # Prompts are paired: a small difference that every prompt shows is shown, whatever the prompts' own spread.
    draw = random.Random(0)
    base = [draw.gauss(0, 5) for _ in range(60)]
    paired = Samples({"a": base, "b": [value + 0.1 + 0.01 * draw.gauss(0, 1) for value in base]})
    assert over_prompts("score", "gold", paired, "higher").winner == "b"


@pytest.mark.parametrize(("prompts", "winner"), [(1, None), (5, None), (6, "b")])
def test_a_few_prompts_that_lean_one_way_show_nothing(prompts, winner):
    one_way = Samples({"a": [0.0] * prompts, "b": [1.0 + 0.1 * i for i in range(prompts)]})
    assert over_prompts("score", "gold", one_way, "higher").winner == winner


def test_welchs_interval_holds_the_true_difference_as_often_as_it_says():
    draw = random.Random(1)
    held = 0
    for _ in range(1000):
        a, b = [draw.gauss(1, 2) for _ in range(5)], [draw.gauss(0, 1) for _ in range(5)]
        low, high = figures.welch_interval(a, b)
        held += low <= 1 <= high
    assert 940 <= held <= 995  # at least 95 %: it errs on the safe side


def measure(*ahead, better="lower", measured=True):
    one = figures.Figure(1.0, "")
    return Measure("m", "u", {"a": one, "b": one if measured else None}, better, ahead)


@pytest.mark.parametrize(
    ("measures", "verdict"),
    [
        ((measure(("a", "b")), measure()), "a"),
        ((measure(("a", "b")), measure(("b", "a"))), "the measures disagree"),
        ((measure(), measure()), "no difference shown"),
        ((measure(("a", "b"), measured=False),), "not measured"),
        ((measure(("b", "a"), better=None), measure(("a", "b"))), "a"),  # what is only told decides nothing
    ],
)
def test_a_criterion_is_won_by_who_is_ahead_somewhere_and_behind_nowhere(measures, verdict):
    assert Criterion("c", "DPO", measures).verdict == verdict


def rows(*times):
    return "".join(json.dumps({"step": i, "time/step": t}) + "\n" for i, t in enumerate(times, 1))


def test_the_steps_times_give_the_total_and_its_standard_error(make_artifact):
    times = [9.0, 1.0, 1.4, 0.6, 1.2, 0.8]
    artifact = make_artifact("dpo", files={"metrics.jsonl": rows(*times)}, resources={"train_seconds": 14.0})
    found = by_steps(Route(artifact, (artifact,)))
    assert fmean(found) == pytest.approx(14.0)
    steps = times[1:]  # the first step warms up
    centred = [t - fmean(steps) for t in steps]
    assert stdev(found) / math.sqrt(len(found)) == pytest.approx(math.sqrt(len(steps)) * stdev(centred))
    untimed = make_artifact("dpo", resources={"train_seconds": 14.0})
    assert by_steps(Route(untimed, (untimed,))) == [14.0]


@pytest.fixture
def two(make_artifact):
    """sft → rm → ppo and sft → dpo, without weights."""
    sft = make_artifact("sft")
    pairs = [{"path": "pairs", "format": "pairs", "rows": 9, "digest": "d1"}]
    rm = make_artifact("rm", parents={"model": sft}, data=pairs, config={"data": ["pairs"]})
    ppo = make_artifact("ppo", parents={"model": sft, "reference": sft, "reward/rm": rm}, config={"kl_coef": 0.05})
    beta = {"data": ["pairs"], "beta": 0.1}
    dpo = make_artifact("dpo", parents={"model": sft, "reference": sft}, data=pairs, config=beta)
    return {"sft": sft, "rm": rm, "ppo": ppo, "dpo": dpo, "pairs": pairs}


def test_a_route_is_what_was_made_after_the_common_ancestor(two, store):
    rlhf, dpo = read_routes(["ppo", "dpo"], store)
    assert [a.ref for a in rlhf.artifacts] == ["rm@v1", "ppo@v1"] and [a.ref for a in dpo.artifacts] == ["dpo@v1"]
    assert read_routes(["ppo", "dpo"], store).start.shown == "sft@v1"
    assert simplicity(read_routes(["ppo", "dpo"], store), None).winner == "dpo@v1"


def test_routes_that_cannot_be_compared_are_refused_with_the_reason(two, store, make_artifact):
    with pytest.raises(UsageError, match="two different artifacts"):
        read_routes(["dpo", "dpo"], store)
    with pytest.raises(ArtifactError, match="reward model"):
        read_routes(["dpo", "rm"], store)
    with pytest.raises(ArtifactError, match="one was made from the other"):
        read_routes(["dpo", "sft"], store)
    other = make_artifact("sft", files={"model/config.json": "{}", "model/model.safetensors": "others"})
    make_artifact("dpo", parents={"model": other, "reference": other})
    with pytest.raises(ArtifactError, match="no common ancestor"):
        read_routes(["ppo@v1", "dpo@v2"], store)


@pytest.mark.parametrize("name", ["b/dpo/v1", "copy"])
def test_an_artifact_of_another_store_is_not_taken_for_the_one_of_its_name(two, store, own_folder, name):
    """By its name the answers would be those of this store's dpo@v1."""
    shutil.copytree(two["dpo"].path, own_folder / name)
    for read in (lambda refs: read_routes(refs, store), lambda refs: frontier._points(refs, store, SILENT)):
        with pytest.raises(ArtifactError, match="is dpo@v1 of another artifact store") as refused:
            read([str(own_folder / name), "ppo"])
        assert "--runs" in refused.value.hint
    (own_folder / "link").symlink_to(two["dpo"].path.resolve())
    assert read_routes(["ppo", str(own_folder / "link")], store).refs == ["ppo@v1", "dpo@v1"]


def test_a_route_whose_reward_model_is_gone_is_refused_and_not_made_shorter(two, store):
    shutil.rmtree(two["rm"].path)
    with pytest.raises(ArtifactError, match="rm@v1, which is not in the store"):
        read_routes(["ppo", "dpo"], store)


def test_two_starts_of_one_name_are_no_common_ancestor(two, store, make_artifact):
    shutil.rmtree(two["sft"].path)  # its number is free again
    other = make_artifact("sft", files={"model/config.json": "{}", "model/model.safetensors": "others"})
    assert other.ref == two["sft"].ref
    make_artifact("dpo", parents={"model": other, "reference": other})
    with pytest.raises(ArtifactError, match="no common ancestor"):
        read_routes(["ppo@v1", "dpo@v2"], store)
    with pytest.raises(ArtifactError, match="changed since"):
        read_routes(["ppo@v1", "dpo@v1"], store)


def test_a_changed_preference_is_the_newest_run_of_the_same_route_on_other_pairs(two, store, make_artifact):
    routes = read_routes(["ppo", "dpo"], store)
    assert [changes(route, routes) for route in routes] == [{}, {}]
    new = [{"path": "new", "format": "pairs", "rows": 3, "digest": "d2"}]
    rm2 = make_artifact("rm", parents={"model": two["rm"]}, data=new, config={"data": ["new"]})
    rlhf_parents = {"model": two["sft"], "reference": two["sft"], "reward/rm": rm2}
    make_artifact("ppo", parents=rlhf_parents, config={"kl_coef": 0.05, "seed": 7})
    make_artifact("ppo", parents=rlhf_parents, config={"kl_coef": 0.05, "max_steps": 1})  # a trial, and no such run
    dpo_parents = {"model": two["dpo"], "reference": two["dpo"]}
    make_artifact("dpo", parents=dpo_parents, data=new, config={"data": ["new"], "beta": 0.1})
    make_artifact("dpo", parents={"model": two["sft"], "reference": two["sft"]}, data=two["pairs"], config={"seed": 1})
    found = [changes(route, read_routes(["ppo@v1", "dpo@v1"], store)) for route in routes]
    assert list(found[0]) == list(found[1]) == [("d2",)]
    (rlhf,), (dpo,) = (list(runs.values()) for runs in found)
    assert [a.ref for a in rlhf.artifacts] == ["rm@v2", "ppo@v2"] and [a.ref for a in dpo.artifacts] == ["dpo@v2"]


def test_another_seed_against_the_same_reward_model_is_no_changed_preference(two, store, make_artifact):
    prompts = [{"path": "prompts", "format": "prompt", "rows": 9, "digest": "p1"}]
    parents = {"model": two["sft"], "reference": two["sft"], "reward/rm": two["rm"]}
    make_artifact("ppo", parents=parents, data=prompts, config={"seed": 1})
    python = {"model": two["sft"], "reference": two["sft"]}  # a reward in Python has no pairs behind it
    make_artifact("ppo", parents=python, data=prompts, config={"seed": 2})
    routes = read_routes(["ppo@v1", "dpo@v1"], store)
    assert [changes(route, routes) for route in routes] == [{}, {}]


def test_an_unrelated_artifact_that_is_damaged_stops_no_comparison(two, store, make_artifact):
    damaged = make_artifact("other", stage="dpo")
    (damaged.path / "manifest.json").write_text("{")
    routes = read_routes(["ppo", "dpo"], store)
    assert [changes(route, routes) for route in routes] == [{}, {}]


def args(chain):
    gold = f"gold=python:{chain.sample_data / 'gold.py'}:score"
    return ["compare", "ppo", "dpo", "--prompts", chain.data("held_out_prompts"), "--reward", gold, "--max-prompts",
            "6", "--max-new-tokens", "6"]  # fmt: skip


def test_compare_measures_what_is_there_and_names_the_commands_for_the_rest(chain, prefcli):
    result = json.loads(prefcli(*args(chain), "--json").stdout)
    found = {criterion["criterion"]: criterion for criterion in result["criteria"]}
    assert len(found) == len(CRITERIA) == 8
    assert found["simplicity"]["winner"] == "dpo@v1"
    manifests = {r: json.loads((chain.path(r) / "manifest.json").read_text()) for r in ("rm", "ppo", "dpo")}
    peaks = {r: m["resources"]["measured_peak_bytes"] for r, m in manifests.items()}
    shown = {ref: f["value"] for ref, f in found["memory"]["measures"][0]["figures"].items()}
    assert shown == {"ppo@v1": max(peaks["rm"], peaks["ppo"]), "dpo@v1": peaks["dpo"]}
    seconds = {ref: f["value"] for ref, f in found["training time"]["measures"][0]["figures"].items()}
    spent = {r: m["resources"]["train_seconds"] for r, m in manifests.items()}
    assert seconds == pytest.approx({"ppo@v1": spent["rm"] + spent["ppo"], "dpo@v1": spent["dpo"]})
    for name in ("sample efficiency", "flexibility"):
        assert found[name]["verdict"] == "not measured" and found[name]["measure_with"]
    assert sum(result["score"].values()) == 8
    assert [entry["ref"] for entry in result["quality"]["frontier"]] == ["sft@v1", "ppo@v1", "dpo@v1"]
    assert result["quality"]["frontier"][0]["kl"] == 0


def test_a_program_that_a_route_was_trained_against_is_not_independent(two, store, make_artifact, own_folder):
    (own_folder / "gold.py").write_text("def score(prompts, completions): ...\ndef other(prompts, completions): ...\n")
    gold = parse_rewards(["gold=python:gold.py:score", "rm", "more=python:gold.py:other"], store)
    routes = read_routes(["ppo", "dpo"], store)
    parent = {"ref": gold[0].text, "digest": gold[0].digest}
    routes.routes[0].final.manifest.parents["reward/gold"] = parent
    found = scores.causes(routes)
    assert [(spec.digest, spec.function) in found for spec in gold] == [True, True, False]


def test_the_proxy_is_the_routes_own_reward_wherever_it_stands():
    specs = [SimpleNamespace(name=name) for name in ("gold", "rm", "more")]
    known = SimpleNamespace(specs=specs, own=frozenset({"rm"}), independent=True)
    assert proxy_of(known) == "rm"
    known.own = frozenset()
    assert proxy_of(known) == "rm"
    known.own = frozenset({"more"})
    assert proxy_of(known) == "more"


def test_a_second_look_samples_nothing(chain, prefcli, monkeypatch):
    first = prefcli(*args(chain), "--json").stdout
    monkeypatch.setattr(models, "answer", lambda *a, **k: pytest.fail("sampled again"))
    assert json.loads(prefcli(*args(chain), "--json").stdout) == json.loads(first)
    shown = prefcli(*args(chain)).stdout
    assert "of 8; " in shown and "prefcli sweep dpo" in shown and "claimed" in shown


class Known:
    """Scores that follow a formula: `score(config)` is every prompt's, give or take the same small amounts."""

    trusted, independent, specs = "gold", True, ()

    def __init__(self, score):
        self._score = score
        self.prompts = range(-10, 11)

    def values(self, artifact, source=None):
        return [self._score(artifact.manifest) + 0.001 * i for i in self.prompts]

    def mean(self, artifact):
        return fmean(self.values(artifact))


def of(stage, make_artifact, two, rows=9, **config):
    """One more run of a route: of RLHF with a reward model of its own."""
    pairs = [two["pairs"][0] | {"rows": rows}]
    config |= {"max_rows": rows} if rows != 9 else {}
    sft = {"model": two["sft"], "reference": two["sft"]}
    if stage == "dpo":
        return make_artifact("dpo", parents=sft, data=pairs, config=two["dpo"].manifest.config | config)
    own = {name: config[name] for name in ("seed", "max_rows") if name in config}
    files = {"model/config.json": "{}", "model/model.safetensors": f"{rows} {own}"}
    rm = make_artifact("rm", parents={"model": two["sft"]}, data=pairs, config={"data": ["pairs"], **own}, files=files)
    config.pop("max_rows", None)
    return make_artifact("ppo", parents=sft | {"reward/rm": rm}, config=two["ppo"].manifest.config | config)


def test_sample_efficiency_is_the_area_over_log_pairs_of_the_seeds_that_both_have(two, store, make_artifact):
    for stage in ("dpo", "ppo"):
        for seed in (0, 1):
            for rows in (9, 3, 1):
                if (seed, rows) != (0, 9):
                    of(stage, make_artifact, two, rows, seed=seed)
    slope = {"dpo": 2.0, "ppo": 0.5}
    rows_of = {}
    for name in ("dpo", "ppo"):
        for version in store.versions(name):
            run = store.open(name, version)
            rows_of[run.ref] = sample_efficiency.rows_of(run, store)
    known = Known(
        lambda m: slope[m.stage] * math.log(rows_of[f"{m.name}@v{m.version}"], 3) + 0.1 * m.config.get("seed", 0)
    )
    found = sample_efficiency.sample_efficiency(read_routes(["ppo@v1", "dpo@v1"], store), known)
    areas = {ref: figure.value for ref, figure in found.measures[0].figures.items()}
    assert areas == pytest.approx({"ppo@v1": 0.5 + 0.05, "dpo@v1": 2.0 + 0.05})  # the middle of a straight line
    assert found.verdict == "dpo@v1"


def test_sensitivity_is_the_slope_a_factor_of_three_of_what_moves_the_score_most(two, store, make_artifact):
    for beta in (0.3, 0.9):  # tripled, and again
        of("dpo", make_artifact, two, beta=beta)
    of("dpo", make_artifact, two, lr=1e-4)
    of("ppo", make_artifact, two, kl_coef=0.15)
    score = {
        "dpo": lambda c: -0.2 * math.log(c["beta"] / 0.1, 3),
        "ppo": lambda c: 0.7 * math.log(c["kl_coef"] / 0.05, 3),
    }
    known = Known(lambda m: score[m.stage](m.config))
    found = hyperparameters.hyperparameters(read_routes(["ppo@v1", "dpo@v1"], store), known)
    moves = {ref: figure for ref, figure in found.measures[1].figures.items()}
    assert moves["ppo@v1"].value == pytest.approx(0.7) and "kl_coef" in moves["ppo@v1"].source
    assert found.measures[1].winner == "dpo@v1"
    assert found.measures[0].figures["ppo@v1"].value > 10 and found.measures[0].figures["dpo@v1"].value == 3


def test_sweeping_more_makes_the_hyperparameter_row_no_worse(two, store, make_artifact):
    """What both routes have is compared; an option that one of them was swept over besides decides nothing."""
    for stage, options in (("dpo", {"beta": 0.3}), ("ppo", {"kl_coef": 0.15})):
        of(stage, make_artifact, two, **options)
    score = {"dpo": lambda c: 0.0, "ppo": lambda c: 0.0}
    score["dpo"] = lambda c: -0.2 * math.log(c["beta"] / 0.1, 3) - 3.0 * math.log(c.get("sft_weight", 1.0) or 1.0, 3)
    score["ppo"] = lambda c: 0.7 * math.log(c["kl_coef"] / 0.05, 3)
    known = Known(lambda m: score[m.stage](m.config))

    def row():
        found = hyperparameters.hyperparameters(read_routes(["ppo@v1", "dpo@v1"], store), known)
        return [(m.measure, m.winner, {ref: f.value for ref, f in m.figures.items()}) for m in found.measures]

    before = row()
    assert [name for name, *_ in before] == ["to be chosen", f"{hyperparameters.MOVE}: tie to the reference"]
    for weight in (3.0, 9.0):  # it moves the score by 3 a factor of three
        of("dpo", make_artifact, two, sft_weight=weight)
    for rate in (1e-4, 3e-4):  # ppo was not swept over its rate
        of("dpo", make_artifact, two, lr=rate)
    assert row() == before
    for rate in (1e-4, 3e-4):
        of("ppo", make_artifact, two, lr=rate)
    assert [name for name, *_ in row()][1:] == [f"{hyperparameters.MOVE}: {axis}"
                                                for axis in ("learning rate", "tie to the reference")]  # fmt: skip


def test_a_verdict_of_single_runs_says_so_and_never_counts(two, store, make_artifact):
    """The same gap: of one run a route, and over seeds."""
    rising = {"ppo": 3.0, "dpo": 0.5}

    class Hacked(Known):
        specs = [SimpleNamespace(name=name, text=name, digest=None, function=None) for name in ("gold", "rm")]
        own, store = frozenset({"rm"}), None

        def values(self, model, source=None):
            manifest = getattr(model, "manifest", None)
            up = rising[manifest.stage] + 0.05 * (manifest.config.get("seed") or 0) if manifest else 0.0
            return [(up if source == "rm" else 0.0) + 0.1 * i for i in self.prompts]

        def of(self, model):
            return SimpleNamespace(kl=None)

    once = reward_hacking.reward_hacking(read_routes(["ppo@v1", "dpo@v1"], store), Hacked(None))
    assert once.measures[0].winner == "dpo@v1" and once.measures[0].of_single_runs
    assert (once.winner, once.of_these_runs, once.verdict) == (None, "dpo@v1", "dpo@v1, of these two runs")
    told = once.as_dict()
    assert (told["winner"], told["of_these_runs"], told["measures"][0]["of_single_runs"]) == (None, "dpo@v1", True)
    score = tally([once], ["ppo@v1", "dpo@v1"])
    assert score["dpo@v1"] == 0 and score["of single runs"] == 1 == sum(score.values())
    for stage in ("dpo", "ppo"):
        for seed in (1, 2):
            of(stage, make_artifact, two, seed=seed)
    seeds = reward_hacking.reward_hacking(read_routes(["ppo@v1", "dpo@v1"], store), Hacked(None))
    assert seeds.winner == "dpo@v1" == seeds.verdict and seeds.of_these_runs is None
    assert "3 runs that differ in the seed" in seeds.measures[0].figures["dpo@v1"].source


def test_a_single_run_may_contradict_and_not_decide():
    counted_one = measure(("a", "b"))
    single = replace(measure(("b", "a")), of_single_runs=True)
    assert Criterion("c", "DPO", (counted_one, single)).verdict == "the measures disagree"
    assert Criterion("c", "DPO", (counted_one, replace(measure(("a", "b")), of_single_runs=True))).verdict == "a"
    assert Criterion("c", "DPO", (measure(), single)).verdict == "b, of these two runs"


def test_stability_counts_alarms_and_compares_the_spread_over_seeds(two, store, make_artifact):
    for seed in range(1, 8):
        of("dpo", make_artifact, two, seed=seed)
        of("ppo", make_artifact, two, seed=seed)
    wide = {"dpo": 0.01, "ppo": 1.0}
    known = Known(lambda m: wide[m.stage] * (-1) ** m.config.get("seed", 0) * (1 + 0.1 * m.config.get("seed", 0)))
    found = stability.stability(read_routes(["ppo@v1", "dpo@v1"], store), known)
    assert found.measures[2].winner == "dpo@v1" == found.verdict and not found.measure_with


def test_gradients_that_leapt_are_told_from_a_rough_run(make_artifact):
    def leaps(*norms):
        text = "".join(json.dumps({"step": i, "grad_norm": n}) + "\n" for i, n in enumerate(norms, 1))
        artifact = make_artifact("dpo", files={"metrics.jsonl": text})
        return stability.outliers(stability.norms_of(read_log(artifact.path)))

    assert leaps(1.0, 1.2, 0.9, 1.1, 60.0, 1.0) == 1
    assert leaps(1.0, 4.0, 0.3, 6.0, 2.0, 5.0) == 0
    assert leaps(1.0, 60.0) == 0  # two steps tell nothing


def test_a_share_is_ahead_only_where_wilsons_intervals_lie_apart():
    few = figures.shares("alarms", "share", {"a": (1, 2, ""), "b": (0, 20, "")}, "lower")
    assert few.winner is None and few.figures["a"].value == 0.5
    many = figures.shares("alarms", "share", {"a": (20, 40, ""), "b": (0, 40, "")}, "lower")
    assert many.winner == "b"
    assert figures.shares("alarms", "share", {"a": (0, 0, ""), "b": (0, 40, "")}, "lower").figures["a"] is None


def test_a_look_without_prompts_or_with_what_is_no_route_ends_well(chain, prefcli):
    bare = prefcli("compare", "ppo", "dpo", "--json")
    assert bare.exit_code == 0 and json.loads(bare.stdout)["quality"] is None
    assert prefcli("compare", "ppo").exit_code == 2
    assert prefcli("compare").exit_code == 2
    assert prefcli("compare", "ppo", "nothing").exit_code == 4
    assert prefcli("compare", "ppo", "rm").exit_code == 4
    assert prefcli("compare", "ppo", "dpo", "--prompts", "missing.jsonl", "--reward", "rm").exit_code == 3

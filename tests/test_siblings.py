"""Which runs belong together: found by what made them, whatever they are called."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from conftest import PAIR, artifact_in

from prefcli.artifacts.commands import command, options
from prefcli.artifacts.manifest import write_manifest
from prefcli.artifacts.store import Store
from prefcli.config.ppo import PPOConfig
from prefcli.config.stages import STAGES
from prefcli.data.dataset import read_dataset
from prefcli.errors import UsageError
from prefcli.experiments.points import Point, pinned_reward, reward_inputs
from prefcli.experiments.retrained import on_reward_model, retrained
from prefcli.experiments.scores import recorded_score
from prefcli.experiments.siblings import parent_of, rows_of, seed_of, setting, siblings, varied
from prefcli.rewards.grammar import parse_rewards

FILE = {"path": "pairs.jsonl", "format": "pairs", "rows": 100, "digest": "d1"}


@pytest.fixture
def made(make_artifact):
    """`made("dpo", "name", beta=0.1)` is an artifact with those options; what it weighs is its name's and options'."""

    def make(stage, name=None, *, parents=None, data=(FILE,), status="complete", **options):
        files = {"model/model.safetensors": f"{name} {sorted(options.items())}"}
        options = {"data": ["pairs.jsonl"], "lr": 1e-4, **options}
        return make_artifact(
            name or stage, stage=stage, parents=parents, files=files, config=options, data=list(data),
            status=status, key=f"{name} {sorted(options.items())}",
        )  # fmt: skip

    return make


def refs(artifacts):
    return [artifact.ref for artifact in artifacts]


def test_seeds_of_one_run_are_found_under_any_name_and_in_their_order(made, store):
    sft = made("sft")
    third = made("dpo", "later", seed=2, parents={"model": sft})
    first = made("dpo", "dpo", parents={"model": sft})  # no seed recorded: the default
    second = made("dpo", "dpo", seed=1, parents={"model": sft})
    assert len({setting(artifact, store) for artifact in (first, second, third)}) == 1
    for artifact in (first, second, third):
        assert refs(siblings(artifact, store, "seed")) == [first.ref, second.ref, third.ref]
    assert [seed_of(item) for item in siblings(first, store, "seed")] == [0, 1, 2]


@pytest.mark.parametrize(
    "other",
    [
        {"beta": 0.5},
        {"lr": 1e-5},
        {"max_rows": 10},
        {"data": [{**FILE, "digest": "d2"}]},
        {"status": "stopped"},
        {"stage": "kto"},
    ],
)
def test_what_differs_in_any_cause_but_the_seed_is_no_sibling(made, store, other):
    one = made("dpo", seed=0)
    made(**{"stage": "dpo", "name": "other", "seed": 1, **other})
    assert refs(siblings(one, store, "seed")) == [one.ref]


def test_another_parent_makes_no_sibling(made, store):
    one = made("dpo", parents={"model": made("sft", "a")})
    made("dpo", "other", seed=1, parents={"model": made("sft", "b")})
    made("dpo", "third", seed=1)
    assert refs(siblings(one, store, "seed")) == [one.ref]


def test_what_another_commit_of_a_hub_model_was_made_into_is_no_repetition(made, store):
    runs = []
    for seed, commit in enumerate(("c0ffee", "c0ffee", "decade")):
        for stage, ref, digest in (("dpo", "owner/name", None), ("kto", "adapter@v1", "d")):
            parents = {"model": {"ref": ref, "digest": digest, "commit": commit}}
            runs.append(made(stage, f"{stage}{seed}", seed=seed, parents=parents))
        scorer = {"ref": "rm@v1", "digest": made("rm").digest, "commit": commit}
        runs.append(made("ppo", f"ppo{seed}", seed=seed, parents={"reward/rm": scorer}))
    for kind in range(3):
        first, second, other = runs[kind::3]
        assert refs(siblings(first, store, "seed")) == refs([first, second])
        assert setting(first, store) == setting(second, store) != setting(other, store)


def test_a_run_that_was_stopped_is_like_no_other(made, store):
    stopped, one = made("dpo", status="stopped"), made("dpo", "again")
    made("dpo", "other", beta=0.5), made("dpo", "seed", seed=1)
    assert siblings(stopped, store, "seed") == [stopped] and varied(stopped, store) == {}
    assert siblings(one, store, "seed")[0] == one and varied(one, store).keys() == {"beta"}


def test_a_policy_on_a_reward_model_that_was_stopped_repeats_none_on_a_finished_one(made, store):
    rms = [made("rm", f"rm{seed}", seed=seed, status="complete" if seed else "stopped") for seed in range(3)]
    ppo = [made("ppo", f"p{seed}", seed=seed, parents={"reward/rm": rm}) for seed, rm in enumerate(rms)]
    again = made("ppo", "again", seed=7, parents={"reward/rm": rms[0]})  # on the very same one
    assert siblings(ppo[0], store, "seed") == [ppo[0], again] and siblings(ppo[1], store, "seed") == ppo[1:]
    assert setting(ppo[0], store) == setting(again, store) != setting(ppo[1], store) == setting(ppo[2], store)


def test_circumstances_and_paths_make_no_difference(made, store):
    one = made("dpo", data=[FILE], runs="a", json=True)
    other = made("dpo", "other", data=[{**FILE, "path": "copy.jsonl"}], runs="b", quiet=True, seed=1)
    assert refs(siblings(one, store, "seed")) == [one.ref, other.ref]


def test_seeds_that_other_servers_answered_are_siblings_and_not_those_of_no_server(made, store):
    """The key has whether --generate was given, and not which server it was."""
    servers = [made("ppo", f"p{seed}", seed=seed, generate=f"http://gpu{seed}:8000") for seed in (0, 1)]
    made("ppo", "here", seed=2)
    assert siblings(servers[0], store, "seed") == servers and len({setting(run, store) for run in servers}) == 1


def test_the_very_same_run_counts_once(made, store):
    one = made("dpo", beta=0.1)
    again, named = made("dpo", beta=0.1), made("dpo", "named", beta=0.1)
    for artifact in (one, again, named):
        assert refs(siblings(artifact, store, "seed")) == [artifact.ref]


def test_rows_and_seeds_are_ordered_by_rows_first(made, store):
    runs = [
        made("rm", f"r{rows}", max_rows=rows, seed=seed, data=[{**FILE, "rows": rows or 100}])
        for seed in (1, 0)
        for rows in (None, 10, 30)
    ]
    found = siblings(runs[0], store, "rows")
    assert [(rows_of(item, store), seed_of(item)) for item in found] == [
        (10, 0), (10, 1), (30, 0), (30, 1), (100, 0), (100, 1)
    ]  # fmt: skip
    assert [seed_of(item) for item in siblings(runs[0], store, "seed")] == [0, 1]


def test_a_ppo_run_is_repeated_with_its_reward_model(made, store):
    sft = made("sft")
    rms = {
        (rows, seed): made("rm", f"rm-{rows}-{seed}", max_rows=rows, seed=seed, parents={"model": sft},
                           data=[{**FILE, "rows": rows}])
        for rows in (10, 30)
        for seed in (0, 1)
    }  # fmt: skip
    prompts = [{**FILE, "digest": "prompts"}]
    ppo = {
        at: made("ppo", "ppo", seed=at[1], kl_coef=0.1, data=prompts, prompts=["p"],
                 parents={"model": sft, "reward/rm": rm})
        for at, rm in rms.items()
    }  # fmt: skip
    other_rm = made("rm", "other-rm", lr=0.1, max_rows=10, parents={"model": sft}, data=[{**FILE, "rows": 10}])
    made("ppo", "no", kl_coef=0.1, data=prompts, prompts=["p"], parents={"model": sft, "reward/rm": other_rm})
    one = ppo[10, 0]
    assert siblings(one, store, "seed") == [ppo[10, 0], ppo[10, 1]]
    assert [(rows_of(item, store), seed_of(item)) for item in siblings(one, store, "rows")] == sorted(ppo)


def test_a_run_made_again_on_a_reward_model_of_the_same_seed_is_no_second_seed(made, store):
    """Trained with another number of threads, say, the two reward models differ by rounding alone."""
    rms = [made("rm", name, seed=0) for name in ("one", "other")]
    assert rms[0].digest != rms[1].digest
    ppo = [made("ppo", f"p{number}", seed=0, parents={"reward/rm": rm}) for number, rm in enumerate(rms)]
    for run in ppo:
        assert siblings(run, store, "seed") == [run]


def test_a_reward_model_that_was_changed_since_or_is_gone_is_no_sibling(made, store):
    import shutil

    rms = [made("rm", f"rm{seed}", seed=seed) for seed in (0, 1)]
    ppo = [made("ppo", f"p{seed}", seed=seed, parents={"reward/rm": rm}) for seed, rm in enumerate(rms)]
    assert siblings(ppo[0], store, "seed") == ppo
    shutil.rmtree(rms[1].path)
    assert siblings(ppo[0], store, "seed") == ppo[:1]


def test_what_differs_in_one_hyperparameter_is_found_by_its_name_whatever_the_seed(made, store):
    one = made("dpo", beta=0.1)
    large, small = made("dpo", "b", beta=0.5), made("dpo", "b", beta=0.05, seed=3)
    warm = made("dpo", "c", warmup=0.2)
    made("dpo", "two", beta=0.5, warmup=0.2)
    made("dpo", "rows", max_rows=10)
    made("dpo", "seed", beta=0.1, seed=7)
    warm_from = made("dpo", "d", beta=0.1, warmup=0.2)
    assert refs(varied(one, store)["beta"]) == [small.ref, large.ref]
    assert refs(varied(one, store)["warmup"]) == [warm_from.ref]
    assert warm.ref not in refs(item for items in varied(one, store).values() for item in items)  # beta is another too
    assert set(varied(one, store)) == {"beta", "warmup"}


def test_how_often_is_saved_is_another_run_where_one_may_go_back(made, store):
    """As in the key; elsewhere it changes nothing."""
    back = made("ppo", on_alarm="rollback", save_every=2)
    often, again = (made("ppo", name, on_alarm="rollback", save_every=n, seed=1) for name, n in (("b", 1), ("c", 2)))
    one, other = made("ppo", "d", save_every=2), made("ppo", "e", save_every=1, seed=1)
    assert refs(siblings(back, store, "seed")) == [back.ref, again.ref]
    assert refs(varied(back, store)["save_every"]) == [often.ref]
    assert refs(siblings(one, store, "seed")) == [one.ref, other.ref]
    assert "--save-every 2" in command(back.manifest) and "save_every" in options(back.manifest)
    assert "--save-every" not in command(one.manifest) and "save_every" not in options(one.manifest)


def test_a_damaged_neighbour_is_left_out(made, store):
    one, other = made("dpo"), made("dpo", "other", seed=1)
    (other.path / "manifest.json").write_text("{")
    assert siblings(one, store, "seed") == [one]


def test_rows_that_were_held_out_are_not_those_that_were_trained_on(made, store):
    held_out = {**FILE, "path": "held.jsonl", "rows": 7, "digest": "d9"}
    assert rows_of(made("dpo", data=[FILE, held_out]), store) == 100
    both = made("dpo", "both", data=[FILE, {**FILE, "digest": "d2", "rows": 20}, held_out])
    both.manifest.config["data"] = ["a.jsonl", "b.jsonl"]
    assert rows_of(both, store) == 120


def test_a_reward_model_that_is_trained_again_has_the_points_own_seed_and_rows(made):
    model = made("rm", "rm", seed=3, max_rows=50, parents={"model": made("sft")}, runs="elsewhere")
    config = SimpleNamespace(runs="here", quiet=True, debug=False, report_to="none")
    found = retrained(model, 25, 8, config)
    assert (found.seed, found.max_rows, found.model, found.name) == (8, 25, "sft@v1", "rm-rows")
    assert (found.runs, found.lr, found.data) == ("here", 1e-4, ["pairs.jsonl"])


def test_a_reward_model_is_trained_again_from_what_it_was_trained_from_or_not_at_all(made, store, jsonl, own_folder):
    """`sft` of another store is named by its place; one that is another by now is refused."""
    other = artifact_in(Store(own_folder / "other"), "sft")
    made("sft")
    pairs = jsonl("pairs.jsonl", *[PAIR] * 4)
    model = made("rm", parents={"model": other}, data=read_dataset([str(pairs)], "pairs").sources, eval_share=0.0)
    model.manifest.parents["model"]["places"] = [str(other.model_path)] * 2
    write_manifest(model.manifest, model.path)
    point = Point(STAGES["ppo"], {}, 2, 0, PPOConfig(prompts=[str(pairs)], reward=["rm"]))
    assert reward_inputs(point).references["model"].digest == other.digest
    model.manifest.parents["model"]["commit"] = "c0ffee"  # of a base on the hub, which is not the one there is now
    write_manifest(model.manifest, model.path)
    with pytest.raises(UsageError, match="is not what rm@v1 was trained from"):
        reward_inputs(point)
    del model.manifest.parents["model"]["commit"], model.manifest.parents["model"]["places"]
    write_manifest(model.manifest, model.path)
    with pytest.raises(UsageError, match="sft@v1 is not what rm@v1 was trained from"):
        reward_inputs(point)


@pytest.mark.parametrize(("name", "named"), [("rm", "rm=rm-rows@v1"), ("rm.v2", "rm.v2-rows@v1")])
def test_a_reward_model_that_was_trained_again_stands_where_the_first_one_stood(made, store, name, named):
    made("rm", name)
    again = made("rm", f"{name}-rows")
    config = on_reward_model(PPOConfig(reward=[name]), again)
    assert config.reward == [named] and parse_rewards(config.reward, store)[0].reference.artifact == again


def test_the_rewards_of_points_have_the_version_that_there_is_now(made, store):
    made("rm"), made("rm")
    texts = ("rm", "a=rm", "a=rm#label=x", "rm@v1", "python:g.py:f", "owner/rm", "none")
    assert [pinned_reward(text, store) for text in texts] == [
        "rm@v2", "a=rm@v2", "a=rm@v2#label=x", "rm@v1", "python:g.py:f", "owner/rm", "none"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "name", "held_out", "better"),
    [("sft", "loss", "eval_loss", "lower"), ("rm", "accuracy", "accuracy", "higher"),
     ("kto", "loss", "eval_loss", "lower"),
     ("dpo", "rewards/accuracies", "eval_rewards/accuracies", "higher"), ("ppo", "objective/scores", None, "higher")],
)  # fmt: skip
def test_what_a_point_is_known_by_and_which_way_is_better(stage, name, held_out, better):
    score = recorded_score(STAGES[stage], SimpleNamespace(eval_data=None))
    assert (score.name, score.better) == (name, better)
    if held_out:
        assert recorded_score(STAGES[stage], SimpleNamespace(eval_data="f")).name == held_out


def test_a_parent_is_the_artifact_that_it_was_and_no_other_of_its_name(made, store):
    child = made("dpo", parents={"model": made("sft")}).manifest
    assert parent_of(child, "model", store).ref == "sft@v1" and parent_of(child, "reference", store) is None
    child.parents["model"]["digest"] = "another"
    assert parent_of(child, "model", store) is None
    for ref in ("sft@v2", "tiny", "a/b", "sft"):
        child.parents["model"] = {"ref": ref, "digest": None}
        assert parent_of(child, "model", store) is None

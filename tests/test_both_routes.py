"""Both routes run from one start under a budget of pairs, seconds or bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import write
from test_eval_command import keep_steps

from prefcli.artifacts.store import Store
from prefcli.comparison import both_routes
from prefcli.comparison.both_routes import Budget, parse_budget, predicted_bytes, run_both
from prefcli.config.dpo import DPOConfig
from prefcli.config.ppo import PPOConfig
from prefcli.config.reward import RewardConfig
from prefcli.errors import MemoryShortError, UsageError
from prefcli.progress import Reporter
from prefcli.rewards.grammar import parse_rewards
from prefcli.stages.plan import peak, run_of


@pytest.mark.parametrize(
    ("text", "budget"),
    [("pairs=500", Budget("pairs", 500)), ("seconds=1.5", Budget("seconds", 1.5)), ("bytes=8GB", Budget("bytes", 8e9)),
     ("Bytes=300 mb", Budget("bytes", 3e8)), (None, None)],
)  # fmt: skip
def test_a_budget_is_read_as_it_is_written(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["pairs", "pairs=", "pairs=0", "rows=5", "seconds=1.2.3", "bytes=-1", "seconds=.", ""])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(UsageError, match="is not valid"):
        parse_budget(text)


@pytest.fixture
def stand_in(make_artifact, monkeypatch, jsonl):
    """Stages that take 1, 4 and 2 seconds a step and train nothing; what each was asked for, in order."""
    asked = []

    def made(inputs, reporter):
        stage = inputs.stage
        asked.append((stage.name, inputs))
        each = {"rm": 1.0, "ppo": 4.0, "dpo": 2.0}[stage.name]
        times = [9.0] + [each] * 3
        text = "".join(json.dumps({"step": i, "time/step": t}) + "\n" for i, t in enumerate(times, 1))
        return make_artifact(stage.name, files={"metrics.jsonl": text, "model/config.json": "{}"})

    monkeypatch.setattr(both_routes, "_with_reward", lambda ppo, reward, named=None: ppo)
    pairs = jsonl(
        "pairs.jsonl", *[{"prompt": f"Where is {i}?", "chosen": "Here.", "rejected": "No."} for i in range(64)]
    )
    rm = RewardConfig(model="tiny", data=[str(pairs)], batch_size=8, eval_share=0.0, max_length=64)
    ppo = PPOConfig(model="tiny", prompts=[str(pairs)], reward=[reward_file(pairs)], batch_size=8)
    monkeypatch.setattr(both_routes, "made", made)
    return asked, (rm, ppo, DPOConfig(model="tiny", data=[str(pairs)], batch_size=8, max_length=64))


def reward_file(beside):
    path = beside.with_name("one.py")
    path.write_text("def one(prompts, completions, **columns):\n    return [1.0 for _ in prompts]\n")
    return f"python:{path}:one"


def test_seconds_become_steps_by_the_speed_of_a_few_and_the_reward_model_gets_half_at_most(stand_in):
    asked, configs = stand_in
    run_both(*configs, Budget("seconds", 40), Reporter())
    assert [name for name, _ in asked] == ["rm", "ppo", "dpo", "rm", "ppo", "dpo"]
    steps = [inputs.config.max_steps for _, inputs in asked[3:]]
    assert steps == [8, 8, 20]  # one pass of 8 steps is less than half; (40 − 8) / 4; 40 / 2
    asked.clear()
    run_both(*configs, Budget("seconds", 10), Reporter())
    assert [inputs.config.max_steps for _, inputs in asked[3:]] == [5, 1, 5]


def test_the_steps_that_seconds_came_to_are_kept_for_the_same_command_alone(stand_in, store, monkeypatch):
    """Measured again they would be others: nothing would be resumed or reused."""
    asked, (rm, ppo, dpo) = stand_in

    def names_and_steps(*configs, seconds=40):
        asked.clear()
        run_both(*configs, Budget("seconds", seconds), Reporter())
        return [name for name, _ in asked], [inputs.config.max_steps for _, inputs in asked[-3:]]

    trained, steps = names_and_steps(rm, ppo, dpo)
    monkeypatch.setattr(both_routes, "step_seconds", lambda rows: [3.0] * len(rows))
    assert names_and_steps(rm, ppo, dpo) == (trained[3:], steps)
    monkeypatch.setattr("prefcli.artifacts.hub.ask", lambda text: f"the commit of {text}")
    for other in (
        (replace(rm, lr=1e-3), ppo, dpo),
        (rm, replace(ppo, kl_coef=0.3), dpo),
        (rm, replace(ppo, reference="owner/name"), dpo),
        (rm, replace(ppo, reference="owner/other"), dpo),
        (rm, ppo, replace(dpo, seed=1)),
    ):
        assert names_and_steps(*other)[0] == trained
    assert names_and_steps(rm, ppo, dpo, seconds=41)[0] == trained
    for file in (store.root / both_routes.BUDGETS).iterdir():
        file.write_text("[1, 2]")
    assert names_and_steps(rm, ppo, dpo)[0] == trained


@pytest.mark.parametrize("start", ["sft", "ppo@v1:step1", "tiny"])
def test_any_model_of_the_store_may_be_named_when_seconds_are_given(chain, stand_in, start):
    """The trial steps are run in another store, which does not know its name."""
    keep_steps(chain, step1="sft")
    asked, configs = stand_in
    rm, ppo, dpo = (replace(config, model=start) for config in configs)
    ppo = replace(ppo, reference=start, value_init="ppo@v1:step1")
    dpo = replace(dpo, reference=start, reward=["r=rm#label=x", *ppo.reward], reward_weight=["r=0.5", "one=0"])
    run_both(rm, ppo, dpo, Budget("seconds", 40), Reporter())
    assert [name for name, _ in asked] == ["rm", "ppo", "dpo", "rm", "ppo", "dpo"]
    for (_, tried), (_, run) in zip(asked, asked[3:]):
        assert {role: one.digest for role, one in tried.references.items()} == {
            role: one.digest for role, one in run.references.items()
        }
        told = [[(spec.name, spec.digest, spec.label, spec.function) for spec in one.rewards] for one in (tried, run)]
        assert told[0] == told[1] and tried.store.root != run.store.root


def test_rewards_are_called_by_their_place_as_they_are_by_their_name(store, make_artifact, own_folder):
    files = {"model/config.json": "{}", "model/model.safetensors": "weights"}
    for name in ("rm.v2", "7b-rm"):
        make_artifact(name, stage="rm", files=files)
    for name, text in files.items():
        write(own_folder / "my rm" / Path(name).name, text)
    texts = ["rm.v2", "7b-rm@v1#label=x", "my rm", "r=rm.v2"]
    named = both_routes._by_path(DPOConfig(reward=texts))["reward"]
    found = [[(spec.name, spec.label, spec.digest) for spec in parse_rewards(*given)]
             for given in ((texts, store), (named, Store(own_folder / "other")))]  # fmt: skip
    assert found[0] == found[1] and [name for name, *_ in found[0]] == ["rm.v2", "7b-rm", "my rm", "r"]


def test_pairs_limit_what_preferences_are_learnt_from_and_not_the_prompts(stand_in):
    asked, configs = stand_in
    run_both(*configs, Budget("pairs", 10), Reporter())
    assert [len(inputs.data.rows) for _, inputs in asked] == [10, 64, 10]


def test_bytes_split_the_batch_until_it_fits_and_say_when_it_never_does(stand_in):
    asked, configs = stand_in
    configs = [replace(config, tokens_per_row=100_000) for config in configs]
    run_both(*configs, None, Reporter())
    whole = [predicted_bytes(inputs) for _, inputs in asked]
    asked.clear()
    limit = max(whole) - 1
    run_both(*configs, Budget("bytes", limit), Reporter())
    assert all(predicted_bytes(inputs) <= limit for _, inputs in asked)
    assert max(inputs.config.grad_accum for _, inputs in asked) > 1
    with pytest.raises(MemoryShortError, match="--budget gives 1 MB"):
        run_both(*configs, Budget("bytes", 1e6), Reporter())


def test_bytes_are_those_of_the_device_that_trains(stand_in, monkeypatch):
    asked, configs = stand_in
    run_both(*configs, None, Reporter())
    on_cpu = min(predicted_bytes(inputs) for _, inputs in asked)
    monkeypatch.setattr(both_routes, "training_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(both_routes, "pick_dtype", lambda name, device, size: torch.bfloat16)
    found = [predicted_bytes(inputs) for _, inputs in asked]
    assert found == [peak(run_of(inputs, "cuda", "bfloat16")) for _, inputs in asked] and max(found) < on_cpu
    asked.clear()
    run_both(*configs, Budget("bytes", max(found)), Reporter())
    assert [inputs.config.grad_accum for _, inputs in asked] == [config.grad_accum for config in configs]


def test_what_is_said_of_rows_device_and_seed_is_said_to_all_stages_unless_set_otherwise(chain, prefcli, monkeypatch):
    found = []
    monkeypatch.setattr(both_routes, "run_both", lambda *configs: found.extend(configs[:3]) or [])
    args = ["compare", "--data", chain.data("pairs"), "--model", "sft@v1"]
    prefcli(*args, "--seed", "5", "--dtype", "float32", "--device", "cpu", "--skip-bad", "--set", "ppo.seed=6")
    assert [config.seed for config in found] == [5, 6, 5]
    assert {(config.dtype, config.device, config.skip_bad) for config in found} == {("float32", "cpu", True)}
    found.clear()
    prefcli(*args)
    assert {(config.dtype, config.device, config.skip_bad, config.seed) for config in found} == {
        ("auto", "auto", False, 0)
    }


def test_compare_runs_what_is_not_there_and_compares(chain, prefcli):
    args = ["compare", "--data", chain.data("pairs"), "--model", "sft@v1", "--budget", "pairs=16", "--json"]
    for stage in ("rm", "ppo", "dpo"):
        args += ["--set", f"{stage}.max-steps=1", "--set", f"{stage}.batch-size=4"]
    args += ["--set", "ppo.max-new-tokens=4", "--set", "rm.eval-share=0.25"]
    result = json.loads(prefcli(*args).stdout)
    assert [route["artifacts"] for route in result["routes"]] == [["rm@v2", "ppo@v2"], ["dpo@v2"]]
    assert json.loads(prefcli(*args).stdout)["routes"] == result["routes"]  # the same again: nothing is trained twice
    for wrong in (["--budget", "pairs=3"], ["ppo", "--data", "x", "--model", "y"], ["--data", "x"],
                  ["--data", "x", "--model", "tiny", "--set", "sft.lr=1"]):  # fmt: skip
        assert prefcli("compare", *wrong).exit_code == 2

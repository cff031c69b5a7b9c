"""What a run's plan says against what its options say: steps, rollouts, and what the memory model reads of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace

import pytest
from conftest import DEMO, PAIR, data_of

from prefcli.artifacts.bases import Base
from prefcli.artifacts.references import TINY, Reference
from prefcli.config.dpo import DPOConfig
from prefcli.config.kto import KTOConfig
from prefcli.config.orpo import ORPOConfig
from prefcli.config.ppo import PPOConfig
from prefcli.config.reward import RewardConfig
from prefcli.config.sft import SFTConfig
from prefcli.config.stages import STAGES
from prefcli.data.row import Row
from prefcli.errors import ArtifactError
from prefcli.memory.estimate import estimate
from prefcli.memory.gpus import Device
from prefcli.memory.model_files import read_architecture
from prefcli.memory.states import adapter_parameters
from prefcli.rewards.grammar import RewardSpec
from prefcli.stages.inputs import _key, prepare
from prefcli.stages.plan import rollouts, run_of, steps, summary
from prefcli.stages.reward import split

GOLD = "def score(prompts, completions, **_):\n    return [1.0 for _ in completions]\n"


@pytest.fixture
def planned(jsonl, own_folder):
    """`planned("dpo", batch_size=8)`: the inputs of that run on 21 rows."""
    pairs = str(jsonl("pairs.jsonl", *[PAIR | {"prompt": f"Where is {i}?"} for i in range(21)]))
    demos = str(jsonl("demos.jsonl", *[DEMO | {"prompt": f"Where is {i}?"} for i in range(21)]))
    (own_folder / "gold.py").write_text(GOLD)
    kinds = {
        "sft": (SFTConfig, {"data": [demos]}),
        "rm": (RewardConfig, {"data": [pairs]}),
        "dpo": (DPOConfig, {"data": [pairs]}),
        "kto": (KTOConfig, {"data": [pairs]}),
        "orpo": (ORPOConfig, {"data": [pairs]}),
        "ppo": (PPOConfig, {"prompts": [pairs], "reward": ["python:gold.py:score"]}),
    }

    def make(stage, **options):
        config, given = kinds[stage]
        return prepare(config(**{"model": "tiny", **given, **options}))

    return make


@pytest.mark.parametrize(
    ("stage", "options", "expected"),
    [
        ("sft", {"batch_size": 8, "epochs": 1}, 3),  # 21 rows: 8, 8 and 5
        ("sft", {"batch_size": 8, "epochs": 2.5}, 8),
        ("sft", {"batch_size": 8, "max_steps": 5}, 5),
        ("dpo", {"batch_size": 7, "epochs": 1}, 3),
        ("orpo", {"batch_size": 7, "epochs": 1}, 3),
        ("kto", {"batch_size": 7, "epochs": 1}, 6),  # a pair is two labelled answers
        ("rm", {"batch_size": 7, "epochs": 1, "eval_share": 0.0}, 3),
        ("rm", {"batch_size": 7, "epochs": 1, "eval_share": 0.34}, 2),  # 7 are kept back
        ("rm", {"batch_size": 10, "epochs": 1, "eval_share": 0.01}, 2),  # one at least
        ("ppo", {"batch_size": 7, "epochs": 1}, 3),
        ("ppo", {"batch_size": 8, "epochs": 1, "num_generations": 4, "advantage": "rloo"}, 11),  # 84 answers
        ("ppo", {"batch_size": 8, "epochs": 1, "max_steps": 2}, 2),
    ],
)
def test_the_steps_of_a_run(planned, stage, options, expected):
    inputs = planned(stage, **options)
    assert steps(inputs) == expected
    unit = "rollouts" if stage == "ppo" else "steps"
    assert summary(inputs)["training"].startswith(f"{expected} {unit} of {options['batch_size']}, all weights")


def test_the_plan_says_what_a_processor_with_bfloat16_computes_in(planned, monkeypatch):
    inputs = planned("dpo")
    monkeypatch.setattr("prefcli.memory.devices.has_bfloat16", lambda: True)
    assert "bfloat16" not in summary(inputs)["training"]  # tiny is too small to gain by it
    large = dataclasses.replace(inputs.architecture, stated_parameters=20_000_000)
    assert "bfloat16 (--dtype auto)" in summary(dataclasses.replace(inputs, architecture=large))["training"]
    exact = dataclasses.replace(inputs.config, dtype="float32")
    assert "float" not in summary(dataclasses.replace(inputs, architecture=large, config=exact))["training"]


def test_the_plan_is_for_the_gpu_that_auto_and_cuda_take(planned, monkeypatch):
    gpu = Device("T4", 15 * 10**9, bf16=False)
    monkeypatch.setattr("prefcli.stages.plan.found_gpu", lambda: gpu)
    seen = []

    def noted(inputs, *given):
        return seen.append(given) or run_of(inputs, *given)

    monkeypatch.setattr("prefcli.stages.plan.run_of", noted)
    for device in ("auto", "cuda"):
        assert "of 15 GB in this T4" in summary(planned("dpo", device=device))["memory"]
    assert seen == [("cuda", "float32", gpu.bytes)] * 2
    assert "in this machine" in summary(planned("dpo", device="cpu"))["memory"]
    monkeypatch.setattr("prefcli.stages.plan.found_gpu", lambda: None)
    assert "in this machine" in summary(planned("dpo"))["memory"]


def test_rollouts_answer_every_prompt_so_many_times_an_epoch():
    config = SimpleNamespace(num_generations=None, max_steps=None, epochs=1, batch_size=8)
    assert [rollouts(config, prompts) for prompts in (1, 8, 9, 16)] == [1, 1, 2, 2]
    config.num_generations = 4
    assert [rollouts(config, prompts) for prompts in (1, 8, 9, 16)] == [1, 4, 5, 8]


def test_a_small_model_learns_at_the_rate_of_small_models_unless_another_is_given(planned, monkeypatch):
    usual, small = STAGES["sft"].rates
    assert usual < small and planned("sft").config.lr == small
    assert planned("sft", lr=0.5).config.lr == 0.5
    monkeypatch.setattr("prefcli.stages.inputs.SMALL_MODEL_PARAMETERS", 10)
    assert planned("sft").config.lr == usual
    assert (planned("dpo").config.lr, planned("dpo", lora_rank=4).config.lr) == (1e-6, 1e-5)
    assert planned("dpo", lora_rank=4, lr=0.5).config.lr == 0.5


def test_how_a_batch_is_split_and_how_long_its_rows_are_reaches_the_memory_model(planned):
    whole, split = (run_of(planned("dpo", batch_size=8, grad_accum=parts), "cpu") for parts in (1, 4))
    assert (whole.batch_size, whole.grad_accum, split.batch_size, split.grad_accum) == (8, 1, 2, 4)
    ppo = run_of(
        planned("ppo", batch_size=8, grad_accum=2, minibatches=2, max_prompt_length=40, max_new_tokens=30), "cpu"
    )
    assert (ppo.batch_size, ppo.rollout, ppo.max_length, ppo.shared_prompt) == (2, 8, 70, 40)
    assert ppo.value_model and not ppo.reward_model  # the reward is a function
    rloo = run_of(planned("ppo", batch_size=8, advantage="rloo", num_generations=4), "cpu")
    assert not rloo.value_model and rloo.answers == 4
    assert run_of(planned("dpo", max_length=9), "cpu").max_length == 9


def test_where_one_may_go_back_the_key_says_how_often_is_saved():
    def key(**options):
        return _key(SimpleNamespace(stage=STAGES["ppo"], config=PPOConfig(**options), references={}, rewards=[],
                                    data=SimpleNamespace(digests=[]), eval_data=None))  # fmt: skip

    assert key(save_every=1) == key(save_every=2) == key()
    assert len({key(on_alarm="rollback", save_every=every) for every in (None, 1, 2)}) == 3


def test_each_of_several_processes_holds_its_part_of_the_batch(planned, monkeypatch):
    dpo, ppo = planned("dpo", batch_size=8), planned("ppo", batch_size=8, minibatches=2)
    served = planned("ppo", batch_size=8, generate="http://127.0.0.1:1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_of(dpo, "cpu").batch_size == 4
    assert (run_of(ppo, "cpu").batch_size, run_of(ppo, "cpu").rollout) == (2, 4)
    split = planned("dpo", batch_size=8, shard=True)
    assert run_of(dpo, "cpu").buckets and not run_of(split, "cpu").buckets  # DDP's, of whole models alone
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert not run_of(dpo, "cpu").buckets
    zero = run_of(dpo, "cuda")
    assert (zero.zero, zero.shards, zero.packed, zero.rows_of_pass) == (3, 2, False, 4)
    assert estimate(run_of(served, "cuda")).phases["rollout"] < estimate(run_of(ppo, "cuda")).phases["rollout"]


def test_what_shares_a_base_with_the_policy_is_held_once(planned, make_artifact):
    other = make_artifact("other", stage="sft", files={"model/config.json": "{}", "model/model.safetensors": "x"})
    adapter = {"lora_rank": 4}
    assert not run_of(planned("dpo"), "cpu").shared_base
    assert run_of(planned("dpo", **adapter), "cpu").shared_base and run_of(planned("kto", **adapter), "cpu").shared_base
    assert not run_of(planned("dpo", reference=other.ref, **adapter), "cpu").shared_base  # a second model
    assert run_of(planned("dpo", reference=other.ref), "cpu").own_base == {"reference"}
    assert run_of(planned("ppo", layout="separate"), "cpu").separate and not run_of(planned("ppo"), "cpu").separate
    assert run_of(planned("dpo", loss="simpo"), "cpu").cached_reference
    assert run_of(planned("ppo", **adapter), "cpu").shared_base
    assert not run_of(planned("ppo", layout="separate", **adapter), "cpu").shared_base
    assert (run_of(planned("dpo", dtype="bfloat16"), "cpu").dtype, run_of(planned("dpo"), "cuda").dtype) == (
        "bfloat16",
    ) * 2


def test_a_run_without_a_value_model_does_not_ask_for_the_starts(planned, own_folder):
    """An adapter beside the policy, whose base is gone."""
    shutil.copytree(TINY, own_folder / "start" / "model")
    (own_folder / "start" / "value").mkdir()
    (own_folder / "start" / "value" / "adapter_config.json").write_text('{"base_model_name_or_path": "/gone"}')
    assert not run_of(planned("ppo", model="start/model", advantage="rloo"), "cpu").value_model
    with pytest.raises(ArtifactError, match="gone"):
        run_of(planned("ppo", model="start/model"), "cpu")


def model(path, config, adapter=None):
    """A reference to weights of this configuration, or to an adapter on them with that one."""
    (path / "base").mkdir(parents=True)
    (path / "base" / "config.json").write_text(json.dumps(config))
    if adapter:
        (path / "adapter_config.json").write_text(json.dumps(adapter))
    return Reference(str(path), "directory", path, path.name, base=Base("it", path / "base"))


def test_ppo_holds_a_base_for_each_model_that_can_not_share_one(planned, tmp_path):
    """By weights in float32, less those of one policy. A score takes 128."""
    tiny = json.loads((TINY / "config.json").read_text())
    full, small = model(tmp_path / "full", tiny), model(tmp_path / "small", tiny | {"num_hidden_layers": 1})
    other = model(tmp_path / "other", tiny, adapter={"peft_type": "LORA"})
    pissa = model(tmp_path / "pissa", tiny, adapter={"peft_type": "LORA", "init_lora_weights": "pissa"})
    loha = model(tmp_path / "loha", tiny, adapter={"peft_type": "LOHA"})
    adapters = {"adapter": other, "pissa": pissa, "loha": loha}  # by name: on the policy's base

    def weights(*rewards, roles=None, **options):
        inputs = planned("ppo", **options)
        on_it = {name: dataclasses.replace(one, base=inputs.model.base) for name, one in adapters.items()}
        inputs.references |= {role: on_it.get(one, one) for role, one in (roles or {}).items()}
        specs = [RewardSpec(str(n), "r", on_it.get(one, one)) for n, one in enumerate(rewards)]
        run = run_of(dataclasses.replace(inputs, rewards=specs), "cpu")
        held = sum(role.parts["weights"] // 4 for role in estimate(run).roles.values())
        return held - run.architecture.parameters, run.architecture.scorer_parameters, adapter_parameters(run)

    lora = {"lora_rank": 4}
    beside, scorer, adapter = weights("adapter", **lora)
    assert beside == 4 * adapter + 2 * 128  # all on one
    for own in ("pissa", "loha"):
        assert weights(own, **lora) == weights(other, **lora)
        for role in ("reference", "value_init"):
            assert weights("adapter", roles={role: own}, **lora)[0] >= scorer + 4 * adapter
    assert weights(full, **lora)[0] == scorer + 4 * adapter + 128
    assert weights("adapter", full, **lora)[0] == scorer + 4 * adapter + 128
    smaller = read_architecture(tmp_path / "small" / "base" / "config.json").scorer_parameters
    assert weights(full, small, **lora)[0] == scorer + smaller + 4 * adapter + 128 and smaller < scorer
    assert weights(full, advantage="rloo", **lora)[0] == scorer + 3 * adapter
    assert weights(other, roles={"reference": full}, **lora)[0] == weights(other, **lora)[0] + scorer - 128
    assert weights("adapter", roles={"value_init": full}, **lora)[0] == scorer + 4 * adapter + 128
    assert weights(full, roles={"value_init": full}, **lora) == weights(full, **lora)
    assert weights(other, roles={"value_init": other}, **lora) == weights(full, **lora)
    policy = weights(full)[0] - 2 * scorer
    assert weights(full, full)[0] == 3 * scorer + policy and weights(full, small)[0] == 2 * scorer + smaller + policy
    assert weights(full, layout="separate", **lora) == weights("adapter", layout="separate", **lora)


def test_the_seed_decides_what_is_drawn_where_files_are_mixed(planned, jsonl):
    more = str(jsonl("more.jsonl", *[PAIR | {"prompt": f"Who is {i}?"} for i in range(21)]))

    def drawn(seed):
        inputs = planned("dpo", data=["pairs.jsonl", more], data_weight=[0.2, 0.8], seed=seed)
        return [row.prompt for row in inputs.data.rows]

    assert drawn(1) == drawn(1) != drawn(2)
    assert sorted(drawn(1)) != sorted(drawn(2)) and len(drawn(1)) == 42


@pytest.mark.parametrize("seed", range(4))
def test_which_pairs_are_held_out_is_a_draw_of_the_seed(seed):
    rows = data_of(a=[Row(f"q{i}", chosen="a", rejected="b") for i in range(40)]).rows
    training, held_out = split(rows, 0.25, seed, False)
    other = split(rows, 0.25, seed + 1, False)[1]
    assert (
        len(held_out) == 10 and len(training) == 30 and not {r.prompt for r in held_out} & {r.prompt for r in training}
    )
    assert [r.prompt for r in split(rows, 0.25, seed, False)[1]] == [r.prompt for r in held_out]
    assert {r.prompt for r in other} != {r.prompt for r in held_out}

"""The whole chain through the CLI, a few steps a stage: what each artifact is. test_export.py opens them elsewhere."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prefcli.artifacts.store import open_artifact
from prefcli.rewards.python import load_function


def rows(path, step=None):
    return [json.loads(line) for line in path.joinpath("metrics.jsonl").read_text().splitlines()]


def test_a_training_command_prints_the_path_of_its_artifact_and_nothing_else(chain):
    for stage in ("sft", "rm", "ppo", "dpo"):
        assert chain[stage].stdout.count("\n") == 1
        assert chain[stage].stdout.endswith(f"/runs/{stage}/v1\n")
        assert chain.path(stage).is_dir()


def test_training_changed_the_policys_weights(chain):
    sft, dpo, ppo = (AutoModelForCausalLM.from_pretrained(chain.path(s) / "model") for s in ("sft", "dpo", "ppo"))
    for trained in (dpo, ppo):
        assert any((a != b).any() for a, b in zip(sft.parameters(), trained.parameters()))
    rm = AutoModelForSequenceClassification.from_pretrained(chain.path("rm") / "model")
    assert rm.config.num_labels == 1 and rm.score.weight.abs().sum() > 0


def test_dpo_starts_at_ln_2_because_the_reference_is_the_starting_model(chain):
    first = rows(chain.path("dpo"))[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_ppo_starts_each_rollout_at_a_ratio_of_one(chain):
    for row in rows(chain.path("ppo")):
        assert row["val/ratio_first"] < 1e-5  # mean |ratio − 1| in the first minibatch
        assert row["objective/kl_k3"] >= -1e-6


def test_ppo_leaves_answers_of_its_last_rollout_for_whoever_watches(chain):
    found = json.loads((chain.path("ppo") / "samples.json").read_text())
    assert found["step"] == 2 and len(found["samples"]) == 6
    for one in found["samples"]:
        assert one["prompt"] and isinstance(one["completion"], str) and math.isfinite(one["score"])


def test_in_16_bits_a_run_starts_at_its_reference_to_the_last_digit(chain, prefcli):
    """All weights trained: the policy is float32 under autocast, and the reference is held smaller than that."""
    more = ["--dtype", "bfloat16", "--name", "half", "--max-steps", "1", "--force"]
    dpo = rows(chain.path_of(prefcli(*chain.args("dpo"), *more)))[0]
    assert (dpo["loss"], dpo["rewards/margins"]) == (pytest.approx(math.log(2), abs=1e-7), 0)
    ppo = rows(chain.path_of(prefcli(*chain.args("ppo"), *more, "--minibatches", "2")))[0]
    assert (ppo["objective/kl"], ppo["objective/kl_k3"], ppo["val/ratio_first"]) == (0, 0, 0)


def test_ppo_keeps_the_value_model_and_says_where_it_came_from(chain):
    artifact = open_artifact(chain.path("ppo"))
    value = AutoModelForSequenceClassification.from_pretrained(chain.path("ppo") / "value")
    assert value.config.num_labels == 1
    assert artifact.manifest.model["value_from"] == chain.ref("rm")


def test_manifests_name_parents_data_and_what_it_took(chain):
    ppo = open_artifact(chain.path("ppo")).manifest
    assert {role: parent["ref"] for role, parent in ppo.parents.items()} == {
        "model": chain.ref("sft"), "reference": chain.ref("sft"), "reward/rm": chain.ref("rm"),
    }  # fmt: skip
    assert ppo.parents["model"]["digest"] == open_artifact(chain.path("sft")).digest
    assert ppo.data[0]["rows"] > 0 and len(ppo.data[0]["digest"]) == 64
    assert ppo.resources["train_seconds"] > 0 and ppo.resources["steps"] == 2
    assert ppo.resources["measured_peak_bytes"] > 1e7
    assert ppo.config["kl_coef"] == 0.05 and ppo.config["lr"] > 0
    rm = open_artifact(chain.path("rm")).manifest
    low, high = rm.metrics["accuracy_ci95"]
    assert 0 <= low <= rm.metrics["accuracy"] <= high <= 1
    assert {"margin", "score_mean", "score_std"} <= set(rm.metrics)
    assert {"base", "head", "tokenizer_digest", "template_digest"} <= set(rm.model)


def test_no_artifact_holds_a_pickle_or_a_leftover(chain):
    for stage in ("sft", "rm", "ppo", "dpo"):
        names = [str(p.relative_to(chain.path(stage))) for p in chain.path(stage).rglob("*") if p.is_file()]
        assert not [n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl")) or n.startswith("state")]
        assert {"manifest.json", "README.md", "metrics.jsonl"} <= set(names)


def test_the_same_command_again_is_handed_back_at_once(chain, prefcli):
    again = prefcli(*chain.args("sft"))
    assert again.stdout == f"{chain.path('sft')}\n" and "nothing to do" in again.stderr
    as_json = json.loads(prefcli(*chain.args("sft"), "--json").stdout)
    assert as_json["reused"] and as_json["ref"] == chain.ref("sft")


def test_another_seed_or_force_makes_a_new_version(chain, prefcli):
    versions = {chain.path("sft")}
    for extra in (["--seed", "1"], ["--force"]):
        versions.add(chain.path_of(prefcli(*chain.args("sft"), *extra)))
    assert len(versions) == 3


def test_the_same_run_gives_the_same_weights(chain, prefcli):
    forced = chain.path_of(prefcli(*chain.args("ppo"), "--force"))
    for part in ("model", "value"):
        first, second = (p / part / "model.safetensors" for p in (chain.path("ppo"), forced))
        assert first.read_bytes() == second.read_bytes()


def test_grad_accum_splits_a_batch_and_changes_nothing_else(chain, prefcli):
    first = rows(chain.path("dpo"))
    split = rows(chain.path_of(prefcli(*chain.args("dpo"), "--grad-accum", "2")))
    for name in ("entropy", "mean_token_accuracy", "logps/chosen"):  # means over tokens, over pairs
        assert first[0][name] == pytest.approx(split[0][name], rel=1e-5)
    for a, b in zip(first, split):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)


def test_a_reward_model_is_refined_from_an_earlier_one_and_keeps_its_head(chain, prefcli):
    result = prefcli(
        "train-rm",
        "--model",
        "rm",
        "--data",
        chain.data("pairs_honest"),
        "--max-steps",
        "1",
        "--lr",
        "0",
        "--batch-size",
        "4",
        "--name",
        "rm2",
    )
    assert result.exit_code == 0, result.stderr
    old, new = (
        AutoModelForSequenceClassification.from_pretrained(p / "model")
        for p in (chain.path("rm"), chain.path_of(result))
    )
    assert torch.equal(old.score.weight, new.score.weight)


def test_a_reward_model_cannot_be_trained_as_a_policy(chain, prefcli):
    for command in (["dpo", "--data", chain.data("pairs")], ["sft", "--data", chain.data("demos")]):
        result = prefcli(*command, "--model", "rm")
        assert result.exit_code == 4 and "reward model" in result.stderr


def test_a_language_model_cannot_be_a_reward(chain, prefcli):
    result = prefcli("ppo", "--model", "sft", "--reward", "sft@v1", "--prompts", chain.data("prompts"))
    assert result.exit_code == 4 and "not a reward model" in result.stderr


def test_a_headless_reward_model_is_refused(chain, prefcli, tmp_path):
    """The file that lost its head on a merge: transformers would put in a random one, and warn at most."""
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "headless"
    copy.mkdir()
    for file in (chain.path("rm") / "model").iterdir():
        copy.joinpath(file.name).write_bytes(file.read_bytes())
    tensors = {n: t for n, t in load_file(copy / "model.safetensors").items() if not n.startswith("score")}
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    result = prefcli("ppo", "--model", "sft", "--reward", str(copy), "--prompts", chain.data("prompts"))
    assert result.exit_code == 4 and "no reward head" in result.stderr


def test_dry_run_shows_the_rows_as_tokens_and_trains_nothing(chain, prefcli):
    before = set(chain.path("sft").parent.iterdir())
    result = prefcli(*chain.args("sft"), "--force", "--dry-run")
    assert result.exit_code == 0 and result.stdout == ""
    assert "⟦" in result.stderr and "<|assistant|>" in result.stderr and "memory" in result.stderr
    assert set(chain.path("sft").parent.iterdir()) == before


def test_ls_and_show_know_the_lineage(chain, prefcli):
    listed = json.loads(prefcli("ls", "--json").stdout)
    assert {entry["ref"] for entry in listed} >= {chain.ref(s) for s in ("sft", "rm", "ppo", "dpo")}
    shown = json.loads(prefcli("show", "ppo@v1", "--json").stdout)
    assert {parent["ref"] for parent in shown["lineage"]["parents"]} == {chain.ref("sft"), chain.ref("rm")}
    text = prefcli("show", "ppo@v1", "--verify").stdout
    assert "rm@v1" in text and "tiny" in text and "as they were written" in text


def test_the_gold_scorer_is_an_ordinary_python_reward(chain):
    from prefcli.artifacts.store import Store
    from prefcli.rewards.grammar import parse_rewards

    spec = parse_rewards([f"python:{chain.sample_data}/gold.py:score"], Store())[0]
    assert load_function(spec)(["anything"], ["at all"])[0] <= 1


def test_no_answer_is_longer_than_asked_for(chain):
    assert all(row["completions/mean_length"] <= 8 for row in rows(chain.path("ppo")))


def test_tokenizers_survive_the_chain(chain):
    vocabularies = [AutoTokenizer.from_pretrained(chain.path(s) / "model").get_vocab() for s in ("sft", "rm", "ppo")]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]

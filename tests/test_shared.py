"""Roles that share a base give the figures of four models."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification, LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from tiny_models import ARCHITECTURES, MORE, tiny_lm, tiny_scorer
from transformers import AutoModelForSequenceClassification

from prefcli.artifacts.bases import Base
from prefcli.config.reward import RewardConfig
from prefcli.models import shared
from prefcli.models.adapter_files import open_adapter
from prefcli.models.adapters import with_adapter
from prefcli.models.logps import sequence_scores, token_logps, token_values
from prefcli.models.packed import pack
from prefcli.models.rows import pad_rows
from prefcli.models.shared import SharedRole
from prefcli.progress import Reporter
from prefcli.rl.ppo import PPO
from scripts.families import zoo
from scripts.families.tokenizers import tokenizer_of

ROWS = pad_rows([[2, 3, 4], [2, 3, 4], [5, 6], [5, 6]], [[7, 8, 9, 1], [9, 9], [4, 1], [6, 5, 4, 3, 1]])


def adapted(model, task, seed):
    """With a LoRA adapter that does something."""
    found = get_peft_model(
        model,
        LoraConfig(r=2, target_modules="all-linear", task_type=task,
                   modules_to_save=["score"] if task == TaskType.SEQ_CLS else None),
    )  # fmt: skip
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return found.eval()


@pytest.fixture(params=[*ARCHITECTURES, *MORE])
def roles(request, tmp_path):
    """(policy, reference, scorer) as models of their own, and the same three on one base."""
    base = tiny_lm(request.param)
    body = getattr(base, base.base_model_prefix).state_dict()
    scorer = tiny_scorer(request.param)
    getattr(scorer, scorer.base_model_prefix).load_state_dict(body)
    policy = adapted(copy.deepcopy(base), TaskType.CAUSAL_LM, 1)
    scorer = adapted(scorer, TaskType.SEQ_CLS, 2)
    scorer.save_pretrained(tmp_path / "scorer")
    together = copy.deepcopy(policy)
    shared_scorer = SharedRole(together, "ppo_value", shared.add_from_file(together, "ppo_value", tmp_path / "scorer"))
    shared.train_only(together, ["default", "ppo_value"])
    return (policy, base, scorer), (together, SharedRole(together, None), shared_scorer)


def figures(models):
    policy, reference, scorer = models
    return [
        token_logps(policy, ROWS).logps,
        token_logps(reference, ROWS).logps,
        token_values(scorer, ROWS),
        sequence_scores(scorer, ROWS),
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_roles_on_one_base_give_the_figures_and_gradients_of_their_own_models(roles, packed):
    for models in roles:
        assert not packed or all(pack(model) is None for model in models)
    alone, together = figures(roles[0]), figures(roles[1])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-2
    # Backward in the order that PPO never takes: the scorer's last, when the policy's adapter is at work again.
    (alone[0].sum() + alone[2].sum()).backward()
    (together[0].sum() + together[2].sum()).backward()
    for alone, together, adapter in ((roles[0][0], roles[1][0], "default"), (roles[0][2], roles[1][2], "ppo_value")):
        expected, found = by_name(alone, "default"), by_name(together, adapter)
        assert expected and all(gradient.abs().max() > 0 for gradient in expected.values())
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def by_name(model, adapter):
    """The gradients of a role's adapter and head, by the names that they have in any layout."""
    return {
        re.sub(rf"^(base\.)?base_model\.model\.|\.modules_to_save|\.{adapter}(?=\.)", "", name): p.grad
        for name, p in model.named_parameters()
        if p.requires_grad and (f".{adapter}." in name or name.startswith("score."))
    }


def test_an_adapter_is_copied_on_a_base_that_was_given_a_token(tmp_path):
    base = zoo.random_model(zoo.FAMILIES["phi"], tokenizer_of("codegen"))  # its head has a bias
    base.save_pretrained(tmp_path)
    base.resize_token_embeddings(base.config.vocab_size + 1)
    policy = adapted(base, TaskType.CAUSAL_LM, 1)
    policy.peft_config["default"].base_model_name_or_path = str(tmp_path)
    shared.add_copy(policy, "copy")
    with torch.no_grad():
        roles = [SharedRole(policy, name) for name in ("default", "copy", None)]
        trained, copied, bare = (role(input_ids=torch.tensor([[3, 4, 5]])).logits for role in roles)
    assert torch.equal(trained, copied) and not torch.equal(trained, bare)


def test_a_fresh_head_is_as_wide_as_what_it_reads():
    """OPT-350M's last states are narrower than its layers."""
    family = zoo.FAMILIES["opt"]
    narrow = replace(family, sizes=family.sizes | {"word_embed_proj_dim": 16})
    policy = adapted(zoo.random_model(narrow, tokenizer_of("opt")), TaskType.CAUSAL_LM, 1)
    value = SharedRole(policy, "default", shared.fresh_head(policy, 0))
    assert value(input_ids=torch.tensor([[3, 4, 5]])).shape == (1, 3, 1)


def test_a_head_that_is_trained_is_float32_on_a_base_of_16_bits_and_runs_with_and_without_autocast(tmp_path):
    base = tiny_scorer().to(torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    made = with_adapter(base, RewardConfig(lora_rank=2), scorer=True, reporter=Reporter())
    with torch.no_grad():
        made.score.modules_to_save["default"].weight.add_(1e-4)  # less than half a step of bfloat16 of most
    made.save_pretrained(tmp_path / "adapter")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    base_of = Base("base", tmp_path / "base")
    opened = open_adapter(again, tmp_path / "adapter", base_of, "rm", scorer=True, trainable=True)
    policy = adapted(tiny_lm().to(torch.bfloat16), TaskType.CAUSAL_LM, 1)
    value = SharedRole(policy, "default", shared.fresh_head(policy, 0))
    for model in (made, opened, value):
        assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
        plain = sequence_scores(model, ROWS)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(sequence_scores(model, ROWS), plain, rtol=0.05, atol=0.05)
    assert torch.equal(opened.score.modules_to_save["default"].weight, made.score.modules_to_save["default"].weight)


def test_a_layer_is_computed_again_under_the_adapter_it_ran_with(roles):
    policy, _, scorer = roles[1]
    expected = gradients(policy, scorer)
    policy.gradient_checkpointing_enable({"use_reentrant": False})
    shared.recompute_as_run(policy)
    for module in policy.modules():
        module.training = bool(getattr(module, "gradient_checkpointing", False))
    torch.testing.assert_close(gradients(policy, scorer), expected, atol=1e-6, rtol=1e-4)


def gradients(policy, scorer):
    loss = token_values(scorer, ROWS).sum() + token_logps(policy, ROWS).logps.sum()
    scorer.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in scorer.parameters() if p.requires_grad]


def test_a_shared_scorer_is_saved_as_peft_reads_it_and_merges_to_the_same_scores(roles, tmp_path):
    _, base, _ = roles[0]
    together = roles[1][2]
    expected = sequence_scores(together, ROWS)
    config = base.config
    plain = AutoModelForSequenceClassification.from_config(config)
    getattr(plain, plain.base_model_prefix).load_state_dict(getattr(base, base.base_model_prefix).state_dict())
    plain.save_pretrained(tmp_path / "base")
    together.base.peft_config["ppo_value"].base_model_name_or_path = str(tmp_path / "base")
    together.save_pretrained(tmp_path / "value")
    opened = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "value", num_labels=1).eval()
    torch.testing.assert_close(sequence_scores(opened, ROWS), expected, atol=1e-5, rtol=1e-5)
    merged = together.merged().eval()
    torch.testing.assert_close(sequence_scores(merged, ROWS), expected, atol=1e-5, rtol=1e-5)


def rows_of(path):
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def tensors(path):
    files = sorted(file for part in ("model", "value") for file in (path / part).glob("*.safetensors"))
    return {f"{file.parent.name}/{name}": tensor for file in files for name, tensor in load_file(file).items()}


@pytest.fixture
def both(chain, prefcli):
    """`both(*options)` makes the same run in either layout; the paths, and what was said in the shared one."""

    def run(*options, reward="rm@v1"):
        command = [reward if word == "rm@v1" else word for word in chain.args("ppo")]
        results = [
            prefcli(*command, "--lora-rank", "4", "--lr", "1e-2", *options, "--layout", layout, "--name", layout)
            for layout in ("separate", "shared")
        ]
        return [chain.path_of(result) for result in results], results[1].stderr

    return run


@pytest.fixture
def lora_rm(chain):
    """A reward model that is an adapter on the sft model."""
    return chain.extra("rm", "--lora-rank", "4", "--lr", "1e-2", "--name", "lora-rm")


def check_equal(paths):
    alone, together = map(rows_of, paths)
    for mine, theirs in zip(together, alone, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    alone, together = map(tensors, paths)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert any(name.startswith("value/") for name in together)


def test_a_reward_adapter_on_the_policys_base_is_shared(lora_rm, both, chain, monkeypatch):
    loaded = []
    load = SharedRole.__init__
    monkeypatch.setattr(SharedRole, "__init__", lambda self, *args: (loaded.append(args), load(self, *args))[1])
    paths, _ = both("--gradient-checkpointing", reward="lora-rm")
    check_equal(paths)
    assert len(loaded) == 3 and len({id(args[0]) for args in loaded}) == 1  # reference, reward, value: on one base
    opened = AutoPeftModelForSequenceClassification.from_pretrained(paths[1] / "value", num_labels=1)
    assert opened.peft_config["default"].base_model_name_or_path == str(chain.runs / "sft/v1/model")


def test_a_reward_model_with_weights_of_its_own_lends_them_to_the_value_model(both, monkeypatch):
    bases = []
    load = SharedRole.__init__
    monkeypatch.setattr(SharedRole, "__init__", lambda self, *args: (bases.append(args[0]), load(self, *args))[1])
    paths, _ = both()
    check_equal(paths)
    assert len(bases) == 2 and bases[0] is not bases[1]


def test_the_parents_adapter_is_trained_on_and_a_copy_of_it_is_the_reference(both, chain, prefcli):
    few = ["--max-steps", "2", "--batch-size", "8", "--lora-rank", "4", "--lr", "1e-2", "--model", "tiny"]
    chain.path_of(prefcli("sft", "--data", chain.data("demos"), *few, "--name", "lora-sft"))
    chain.path_of(prefcli("train-rm", "--data", chain.data("pairs"), *few, "--name", "tiny-rm"))
    paths, _ = both("--model", "lora-sft", reward="tiny-rm")
    check_equal(paths)
    first = rows_of(paths[1])[0]
    assert abs(first["objective/kl"]) < 1e-6 and first["val/ratio_first"] < 1e-5
    before = load_file(chain.runs / "lora-sft/v1/model/adapter_model.safetensors")
    after = load_file(paths[1] / "model/adapter_model.safetensors")
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)
    # The reference may be the base itself. The policy is then elsewhere at the start.
    paths, said = both("--model", "lora-sft", "--reference", "tiny", "--max-steps", "1", reward="tiny-rm")
    check_equal(paths)
    assert "the reference tiny is loaded beside" not in said and rows_of(paths[1])[0]["objective/kl"] != 0


def test_a_base_that_is_on_no_disk_is_saved_merged_with_its_adapters(both, chain, prefcli):
    few = ["--max-steps", "2", "--batch-size", "8", "--lora-rank", "2", "--lr", "1e-2", "--model", "tiny"]
    chain.path_of(prefcli("sft", "--data", chain.data("demos"), *few, "--name", "rank2"))
    source = chain.folder / "short.py"
    source.write_text("def score(prompts, completions, **columns):\n    return [-len(c) / 10 for c in completions]\n")
    paths, said = both("--model", "rank2", "--keep-state", reward=f"python:{source}:score")
    assert "merged into the weights first" in said
    for path in paths:
        value = AutoModelForSequenceClassification.from_pretrained(path / "value")
        assert not (path / "value/adapter_config.json").exists() and value.score.weight.shape[0] == 1
        found, kept = tensors(path), tensors(path / "state/step2")
        projections = [name.removeprefix("model/") for name in found if name.startswith("model/") and "_proj" in name]
        assert len(projections) == 3 * 7
        for name in projections:  # each has its own adapter merged, and no other's
            assert (found[f"value/{name}"] - found[f"model/{name}"]).abs().max() > 1e-4
        assert kept.keys() == found.keys() and all(torch.equal(kept[name], found[name]) for name in found)
    # The value model starts as the policy with a fresh head, whose draw differs between the layouts.
    alone, together = (rows_of(path)[0] for path in paths)
    assert together["objective/scores"] == pytest.approx(alone["objective/scores"], rel=1e-5)


def test_groups_need_no_value_model_and_the_reference_is_the_base(both, monkeypatch):
    roles = []
    load = SharedRole.__init__
    monkeypatch.setattr(SharedRole, "__init__", lambda self, *args: (roles.append(args[1]), load(self, *args))[1])
    paths, _ = both("--advantage", "rloo", "--num-generations", "2")
    assert roles == [None] and not any((path / "value").exists() for path in paths)
    for mine, theirs in zip(*map(rows_of, paths), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_a_shared_run_that_was_stopped_goes_on_to_the_same_end(lora_rm, chain, prefcli, monkeypatch):
    command = [word if word != "rm@v1" else "lora-rm" for word in chain.args("ppo")]
    command += ["--lora-rank", "4", "--max-steps", "3", "--save-every", "1"]
    whole = chain.path_of(prefcli(*command, "--name", "whole"))
    assert json.loads((whole / "manifest.json").read_text())["config"]["layout"] == "shared"  # without being asked for
    with monkeypatch.context() as patch:
        step = PPO.step
        patch.setattr(PPO, "step", lambda self, *a: 1 / 0 if self.rollouts == 2 else step(self, *a))
        assert prefcli(*command, "--name", "cut").exit_code == 1
    cut = chain.path_of(prefcli(*command, "--name", "cut"))
    assert rows_of(cut) == rows_of(whole)
    mine, theirs = tensors(cut), tensors(whole)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_another_seed_draws_another_adapter_and_the_same_seed_the_same(chain, prefcli):
    found = []
    for seed in ("1", "1", "2"):
        few = ["--lora-rank", "2", "--lr", "0", "--max-steps", "1", "--seed", seed, "--force"]
        path = chain.path_of(prefcli(*chain.args("dpo"), *few))
        found.append(load_file(path / "model/adapter_model.safetensors"))
    name = next(name for name in found[0] if "lora_A" in name)
    assert torch.equal(found[0][name], found[1][name]) and not torch.equal(found[0][name], found[2][name])


def test_a_shared_layout_without_adapters_or_under_deepspeed_is_refused(chain, prefcli, monkeypatch):
    result = prefcli(*chain.args("ppo"), "--layout", "shared")
    assert result.exit_code == 2 and "--lora-rank" in result.stderr
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    result = prefcli(*chain.args("ppo"), "--lora-rank", "2")
    assert result.exit_code == 2 and "does not run under DeepSpeed" in result.stderr and "--shard" in result.stderr

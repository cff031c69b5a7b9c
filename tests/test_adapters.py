"""Kinds of adapters: their formulas, which is trained on, how roles share them, and bases in 4 bits."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from conftest import write
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_models import tiny_config, tiny_lm
from transformers import AutoConfig, AutoModelForCausalLM

from prefcli.artifacts.references import resolve
from prefcli.config.sft import SFTConfig
from prefcli.errors import ArtifactError, UsageError
from prefcli.models import shared
from prefcli.models.adapters import kind_of, merged, with_adapter
from prefcli.models.loading import _head_on, load_policy, load_scorer
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT, Reporter

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
RANK, ALPHA = 4, 6.0


def adapted(kind: str) -> PeftModel:
    """A random model with an adapter that has moved."""
    model = with_adapter(
        tiny_lm(), SFTConfig(lora_rank=RANK, lora_alpha=ALPHA, adapter=kind), scorer=False, reporter=Reporter()
    )
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.2)
            elif "magnitude" in name:
                weight.mul_(1.5)
    return model.eval()


def by_formula(kind: str, weight: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The weight that an adapter makes of [out, in], with A [r, in] and B [out, r], from its paper."""
    scale = ALPHA / math.sqrt(RANK) if kind == "rslora" else ALPHA / RANK
    moved = weight + scale * up @ down
    if kind != "dora":
        return moved
    length = weight.norm(dim=1, keepdim=True) * 1.5  # the magnitude, which starts as the weight's own
    return length * moved / moved.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_an_adapter_is_what_its_paper_says_before_and_after_merging(kind):
    model, plain = adapted(kind), tiny_lm()
    with torch.no_grad():
        for name, layer in model.get_base_model().named_modules():
            if hasattr(layer, "lora_A"):
                weight = plain.get_submodule(name).weight
                weight.copy_(by_formula(kind, weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight))
        expected = plain(IDS).logits
        torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(merged(model)(IDS).logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_a_role_on_a_shared_base_runs_and_merges_as_its_adapter_does_and_leaves_the_base_alone(kind):
    base = adapted(kind)
    shared.add_copy(base, "value")
    role = shared.SharedRole(base, "value", shared.fresh_head(base, 0))
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    with torch.no_grad():
        running = role(input_ids=IDS)
        plain = role.merged()
        torch.testing.assert_close(plain.score(plain.model(IDS)[0]), running, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(before[name], weight) for name, weight in base.state_dict().items())


def test_a_parents_adapter_of_another_alpha_is_merged_and_a_new_one_gets_what_was_asked():
    kept = [adapted("lora") for _ in range(2)]
    for model, alpha in zip(kept, (None, ALPHA)):
        config = SFTConfig(lora_rank=RANK, lora_alpha=alpha)
        assert with_adapter(model, config, scorer=False, reporter=Reporter()) is model
    config = SFTConfig(lora_rank=RANK, lora_alpha=2 * ALPHA)
    other = with_adapter(kept[0], config, scorer=False, reporter=Reporter())
    assert other is not kept[0] and other.peft_config["default"].lora_alpha == 2 * ALPHA
    torch.testing.assert_close(other(IDS).logits, kept[1](IDS).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start", ["pissa", "olora", "gaussian"])
def test_a_parents_adapter_goes_on_as_the_same_model_however_it_was_initialised(start):
    config = LoraConfig(r=RANK, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=start)
    parent = get_peft_model(tiny_lm(), config).eval()
    with torch.no_grad():
        for name, weight in parent.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1)
        expected = parent(IDS).logits
        trained = with_adapter(parent, SFTConfig(lora_rank=RANK), scorer=False, reporter=Reporter())
        reference = shared.start_of(trained, trained is parent, "reference")
        assert (trained is parent) == (start == "gaussian")
        for model in (trained, reference):
            torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)


ON_TIED = {
    "the head": {"target_modules": ["q_proj", "lm_head"]},
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "both, tied": {"target_modules": ["q_proj", "embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "the head, whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "neither": {"target_modules": ["q_proj"]},
}


def on_tied(what: str) -> PeftModel:
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(tiny_config())
    base.config.tie_word_embeddings = True
    base.tie_weights()
    model = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM", **ON_TIED[what])).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.2)
    return model


@pytest.mark.parametrize("what", ON_TIED)
def test_an_adapter_on_one_of_two_tied_weights_merges_to_the_same_model(what, tmp_path):
    model = on_tied(what)
    with torch.no_grad():
        expected = model(IDS, output_hidden_states=True)
        plain, scorer = merged(model), _head_on(on_tied(what), torch.float32)
        torch.testing.assert_close(scorer.model(IDS)[0], expected.hidden_states[-1], rtol=1e-4, atol=1e-5)
        plain.save_pretrained(tmp_path)
        for one in (plain, AutoModelForCausalLM.from_pretrained(tmp_path)):
            torch.testing.assert_close(one(IDS).logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert AutoConfig.from_pretrained(tmp_path).tie_word_embeddings == (what == "neither")


def test_dora_refuses_rows_of_zeros_and_names_the_weight():
    model = tiny_lm()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3] = 0
    with pytest.raises(ArtifactError, match=r"model.layers.1.mlp.up_proj has rows of zeros"):
        with_adapter(model, SFTConfig(lora_rank=4, adapter="dora"), scorer=False, reporter=Reporter())


def test_dora_looks_at_the_layers_that_it_changes_and_at_gpt2s_too():
    config = SFTConfig(lora_rank=2, adapter="dora")
    model = tiny_lm()
    with torch.no_grad():
        model.lm_head.weight[0] = 0  # as that of a token that pads may be
    assert kind_of(with_adapter(model, config, scorer=False, reporter=Reporter()).peft_config["default"]) == "dora"
    gpt2 = tiny_lm("gpt2")
    with torch.no_grad():
        gpt2.transformer.h[0].mlp.c_fc.weight[3] = 0  # [in, out]: of no output
    with_adapter(copy.deepcopy(gpt2), config, scorer=False, reporter=Reporter())
    with torch.no_grad():
        gpt2.transformer.h[1].mlp.c_fc.weight[:, 3] = 0
    with pytest.raises(ArtifactError, match=r"transformer.h.1.mlp.c_fc has rows of zeros"):
        with_adapter(gpt2, config, scorer=False, reporter=Reporter())


def test_a_gguf_file_in_4_bits_is_refused_before_it_is_read(own_folder, store):
    write(own_folder / "m.gguf", "GGUF")
    reference, how = resolve("m.gguf", store), {"dtype": torch.float32, "device": torch.device("cpu"), "in_4bit": True}
    for load in (
        lambda: load_policy(reference, trainable=True, **how),
        lambda: load_scorer(reference, load_tokenizer(resolve("tiny", store), SILENT), new_head=True, **how),
    ):
        with pytest.raises(UsageError, match="--load-in-4bit does not read a GGUF file") as refused:
            load()
        assert "prefcli export" in refused.value.hint


@pytest.fixture(scope="module")
def in_4bit(trained):
    pytest.importorskip("bitsandbytes")
    return trained.extra("sft", "--model", "sft@v1", "--lora-rank", "2", "--adapter", "rslora", "--load-in-4bit",
                         "--name", "four")  # fmt: skip


def test_a_parents_adapter_of_the_same_kind_is_trained_on_and_of_another_merged(in_4bit, chain, prefcli):
    dpo = ["dpo", "--data", chain.data("pairs"), "--max-steps", "1", "--batch-size", "4", "--model", "four@v1"]
    same = prefcli(*dpo, "--lora-rank", "2", "--adapter", "rslora", "--load-in-4bit", "--name", "same")
    assert "merged" not in same.stderr
    saved = chain.path_of(same)
    first = json.loads((saved / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)  # policy and reference are one at step 0
    config = PeftModel.from_pretrained(load_base(saved), saved / "model").peft_config["default"]
    assert (kind_of(config), config.r) == ("rslora", 2)
    other = prefcli(*dpo, "--lora-rank", "2", "--name", "other")
    assert "(rslora, rank 2, alpha 4) is merged into the weights first" in other.stderr and other.exit_code == 0
    refused = prefcli(*dpo, "--lora-rank", "3", "--load-in-4bit", "--name", "refused")
    assert refused.exit_code == 2 and "cannot be merged into weights of 4 bits" in refused.stderr


def load_base(artifact):
    base = json.loads((artifact / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    return AutoModelForCausalLM.from_pretrained(base)


def test_an_adapter_made_in_4_bits_opens_with_plain_peft_on_the_whole_base(in_4bit, trained):
    model = AutoPeftModelForCausalLM.from_pretrained(in_4bit / "model")
    base = AutoModelForCausalLM.from_pretrained(trained.path("sft") / "model")
    linear = base.model.layers[0].mlp.up_proj.weight
    assert torch.equal(model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight, linear)
    assert all("absmax" not in name for name in model.state_dict())


def test_a_base_in_4_bits_holds_its_linear_layers_in_an_eighth_of_the_bytes_and_answers_nearly_alike(trained):
    pytest.importorskip("bitsandbytes")
    from prefcli.artifacts.references import resolve
    from prefcli.artifacts.store import Store

    reference = resolve("tiny", Store(str(trained.runs)))
    options = {"dtype": torch.float32, "device": torch.device("cpu"), "trainable": False}
    whole, small = load_policy(reference, **options), load_policy(reference, in_4bit=True, **options)
    layer, packed = (m.model.layers[0].mlp.up_proj.weight for m in (whole, small))
    assert packed.dtype == torch.uint8 and packed.nbytes * 8 == layer.nbytes
    assert small.lm_head.weight.dtype == torch.float32
    ids = torch.arange(5, 45)[None]
    with torch.no_grad():
        a, b = (m(ids).logits.log_softmax(-1) for m in (whole, small))
    divergence = (a.exp() * (a - b)).sum(-1).mean()
    assert 1e-6 < divergence < 0.3


def test_every_stage_trains_an_adapter_in_float32_on_a_base_in_4_bits(in_4bit, chain, prefcli):
    few = ["--max-steps", "1", "--batch-size", "4", "--lora-rank", "2", "--load-in-4bit"]
    for command, data, *more in (("train-rm", "pairs"), ("kto", "pairs"), ("dpo", "pairs", "--no-packed")):
        result = prefcli(command, "--model", "sft@v1", "--data", chain.data(data), *few, *more)
        weights = load_file(chain.path_of(result) / "model" / "adapter_model.safetensors")
        assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
        first = next(tensor for name, tensor in weights.items() if "lora_A" in name)
        assert not torch.equal(first, first.bfloat16().float())  # nor was it rounded on the way


def test_a_reference_in_4_bits_is_not_taken_from_what_was_kept_of_the_whole_one(in_4bit, chain, prefcli):
    few = ["--max-steps", "1", "--batch-size", "4"]
    whole = prefcli(*chain.args("dpo"), *few, "--name", "whole")
    assert whole.exit_code == 0, whole.stderr
    path = chain.path_of(prefcli(*chain.args("dpo"), *few, "--lora-rank", "2", "--load-in-4bit", "--name", "q"))
    first = json.loads((path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)  # a new adapter changes nothing: policy is reference


def test_ppo_holds_policy_value_and_reference_in_4_bits_with_no_kl_at_the_start(in_4bit, chain, prefcli):
    result = prefcli(*chain.args("ppo"), "--lora-rank", "2", "--load-in-4bit", "--layout", "separate", "--name", "qppo")
    rows = [json.loads(line) for line in (chain.path_of(result) / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-5)


def test_adapter_options_without_an_adapter_or_the_package_are_refused(chain, prefcli, monkeypatch):
    for typed in (["--adapter", "dora"], ["--load-in-4bit"], ["--lora-alpha", "32"]):
        result = prefcli(*chain.args("sft"), *typed)
        assert result.exit_code == 2 and f"{typed[0]} is about adapters, and --lora-rank is 0" in result.stderr
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = prefcli(*chain.args("sft"), "--load-in-4bit", "--lora-rank", "2")
    assert result.exit_code == 2 and "pip install 'prefcli[qlora]'" in result.stderr

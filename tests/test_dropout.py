"""A model with dropout trains as one without, but for its adapter's own; what looks at it gives it its mode back."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_lm
from transformers import OPTConfig, OPTForCausalLM

from prefcli.models.devices import pick_dtype
from prefcli.models.dropout import NOISE, train_without_dropout
from prefcli.models.generation import evaluation_mode, generate

IDS = torch.tensor([[1, 2, 3, 2, 1]])


def made(architecture):
    """OPT's layers hand their rate of dropout to a function, and are those that compute their activations again."""
    if architecture != "opt":
        return tiny_lm(architecture, vocab=6)
    torch.manual_seed(0)
    config = OPTConfig(vocab_size=6, hidden_size=8, ffn_dim=16, num_hidden_layers=2, num_attention_heads=2,
                       max_position_embeddings=16, word_embed_proj_dim=8, pad_token_id=0)  # fmt: skip
    return OPTForCausalLM(config).eval()


def noisy(architecture, rate=0.5):
    """Every rate of dropout that it has, whether a module holds it or a forward hands it on."""
    model = made(architecture)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
        for name, value in list(vars(module).items()):
            if NOISE.search(name) and isinstance(value, float):
                setattr(module, name, rate)
    return model.train()


def logits(model):
    return model(input_ids=IDS).logits.detach()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_a_model_with_dropout_gives_the_same_figures_twice_and_those_without(architecture, checkpointing):
    model, calm = noisy(architecture), made(architecture)
    assert not torch.equal(logits(model), logits(model))
    if checkpointing:
        model.gradient_checkpointing_enable()
    train_without_dropout(model)
    assert model.training
    torch.testing.assert_close(logits(model), logits(calm.eval()))
    if checkpointing:  # those that compute their activations again are told so, and what they hand on is 0
        again = [module for module in model.modules() if getattr(module, "gradient_checkpointing", False)]
        assert again and all(module.training for module in again)
        rates = [value for module in again for name, value in vars(module).items()
                 if NOISE.search(name) and isinstance(value, float)]  # fmt: skip
        assert not any(rates)


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapters_own_dropout_is_at_work_and_no_other(dora):
    base = noisy("gpt2")
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.5, use_dora=dora))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    train_without_dropout(adapted)
    assert not torch.equal(logits(adapted), logits(adapted))
    for name, module in adapted.named_modules():
        if isinstance(module, torch.nn.Dropout):
            assert module.training == (".lora_dropout." in name), name
    with evaluation_mode(adapted):
        assert torch.equal(logits(adapted), logits(adapted))
    assert not torch.equal(logits(adapted), logits(adapted))  # and is again afterwards


@pytest.mark.parametrize("ends", [(3,), (3, 4), (4, 3), (0, 1, 2, 3, 4, 5)])
def test_an_answer_ends_at_any_of_its_end_tokens_and_at_no_other(ends):
    model = tiny_lm(vocab=6, scale=0.3)
    draws = torch.rand(30, 8, generator=torch.Generator().manual_seed(0))
    found = generate(model, [[1, 2]] * 30, max_new_tokens=8, eos_ids=frozenset(ends), draws=draws)
    for answer in found:
        assert all(token not in ends for token in answer[:-1])
        assert answer[-1] in ends or len(answer) == 8
    assert {answer[-1] for answer in found} >= set(ends[:2])


@pytest.mark.parametrize(
    ("name", "dtype"), [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_the_number_format_of_a_cpu_is_float32_unless_another_is_named(name, dtype):
    assert pick_dtype(name, torch.device("cpu")) == dtype

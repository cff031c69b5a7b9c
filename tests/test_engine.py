"""Answers of servers: the very model's, proven at every update, whatever the servers do."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from fake_vllm import FakeVLLM
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefcli.artifacts.references import TINY
from prefcli.errors import SurroundingsError, UsageError
from prefcli.models import engine as module
from prefcli.models.engine import Engine
from prefcli.models.generation import generate
from prefcli.models.logps import token_logps
from prefcli.models.rows import pad_rows
from prefcli.progress import Reporter

EOS = frozenset({1})


class Notices(Reporter):
    def __init__(self):
        self.said = []

    def notice(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def tiny():
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(TINY)


@pytest.fixture
def model(tiny):
    """The built-in model with an adapter that does something, and its tokenizer."""
    torch.manual_seed(0)
    adapted = get_peft_model(copy.deepcopy(tiny[0]), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])).eval()
    move(adapted, 0.05)
    return adapted, tiny[1]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF", 0.02)
    monkeypatch.setattr(module, "AT_ONCE", 2)


def move(model, by):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * by)


def engine_of(model, tmp_path, *servers, timeout=3):
    told = Notices()
    urls = ",".join(f"{server.url}#timeout={timeout}" for server in servers)
    return Engine(*model, urls, tmp_path / "weights", told), told.said


def prompts_of(tokenizer, number=6):
    return [tokenizer(f"Where is the {'red ' * i}cup?")["input_ids"] for i in range(number)]


GREEDY = {"max_new_tokens": 6, "eos_ids": EOS}


def check_answers(engine, model, prompts):
    found = engine.sample(prompts, **GREEDY)
    assert found.ids == generate(model, prompts, **GREEDY)
    rows = pad_rows(prompts, found.ids)
    with torch.no_grad():
        expected = token_logps(model, rows).logps[rows.mask]
    torch.testing.assert_close(torch.tensor(sum(found.logps, [])), expected, atol=1e-4, rtol=0)
    return found


@pytest.mark.parametrize("kind", ["adapter", "all weights"])
def test_answers_and_log_probabilities_are_the_models_after_every_update(model, tiny, tmp_path, kind):
    trained = model if kind == "adapter" else (copy.deepcopy(tiny[0]), tiny[1])
    prompts, answers = prompts_of(tiny[1]), []
    with FakeVLLM(*tiny) as server:
        engine, _ = engine_of(trained, tmp_path, server)
        for _ in range(3):
            engine.update()
            answers.append(check_answers(engine, trained[0], prompts).ids)
            with torch.no_grad():
                for name, parameter in trained[0].named_parameters():
                    if kind == "all weights" or "lora_" in name:
                        parameter.add_(torch.randn_like(parameter) * 0.05)
            assert len(list((tmp_path / "weights").iterdir())) == 1  # of the versions before nothing is left
        assert answers[0] != answers[1] != answers[2]
        assert len(server.adapters) == (kind == "adapter")
        engine.close()
        assert not server.adapters and not (tmp_path / "weights").exists()

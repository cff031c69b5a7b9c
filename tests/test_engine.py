"""Answers of servers: the very model's, proven at every update, whatever the servers do."""

from __future__ import annotations

import copy
import time

import pytest
import torch
from fake_vllm import FakeVLLM
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_lm
from transformers import AutoTokenizer

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
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = tiny_lm(vocab=len(tokenizer), scale=3.0)
    model.config.max_position_embeddings = 256
    return model, tokenizer


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
    monkeypatch.setattr(module, "DRAWN", 4)


def move(model, by):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter) * by)


def engine_of(model, tmp_path, *servers, timeout=60):
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


WRONG = {
    "other weights": ({}, "other weights"),
    "tokenizer": ({"tokenizer": True}, "another tokenizer"),
    "template": ({"template": True}, "another chat template"),
    "without adapter": ({"without adapter": True}, "without the adapter"),
    "top-k": ({"top_k": 20}, "cuts off what is unlikely"),
    "top-p": ({"top_p": 0.9}, "cuts off what is unlikely"),
    "raw log-probabilities": ({"raw": True}, "leave out the temperature"),
    "no lora": ({"no lora": True}, "does not take new weights"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_server_that_is_not_the_model_is_named_before_it_answers(model, tiny, tmp_path, name):
    faults, words = WRONG[name]
    base = copy.deepcopy(tiny[0])
    if name == "other weights":
        with torch.no_grad():
            base.get_output_embeddings().weight.add_(0.02 * torch.randn_like(base.get_output_embeddings().weight))
    with FakeVLLM(base, tiny[1], **faults) as server:
        engine, _ = engine_of(model, tmp_path, server)
        with pytest.raises(SurroundingsError, match=words) as found:
            engine.update()
        assert found.value.exit_code == 7 and server.url in found.value.message and found.value.hint
        engine.close()


def test_a_stale_adapter_is_caught_20_times_of_20(model, tiny, tmp_path):
    """However little was learnt: by 1e-4 of each weight, the step of one update."""
    caught = 0
    with FakeVLLM(*tiny) as server:
        engine, _ = engine_of(model, tmp_path, server)
        engine.update()
        for number in range(20):
            move(model[0], 10 ** -(2 + 2 * number / 19))
            server.faults["stale"] = True
            with pytest.raises(SurroundingsError, match="the update before"):
                engine.update()
            caught += 1
            del server.faults["stale"]
            engine.update()  # and the true one is not
    assert caught == 20


def test_all_weights_that_were_not_reloaded_are_caught(tiny, tmp_path):
    trained = copy.deepcopy(tiny[0])
    with FakeVLLM(*tiny) as server:
        engine, _ = engine_of((trained, tiny[1]), tmp_path, server)
        engine.update()
        server.faults["stale"] = True
        with torch.no_grad():
            trained.get_output_embeddings().weight.mul_(1.01)
        with pytest.raises(SurroundingsError, match="the update before"):
            engine.update()


def test_a_server_that_cannot_reload_serves_what_it_was_started_with_and_nothing_else(tiny, tmp_path):
    trained = copy.deepcopy(tiny[0])
    with FakeVLLM(*tiny, **{"no dev": True}) as server:
        engine, _ = engine_of((trained, tiny[1]), tmp_path, server)
        engine.update()
        check_answers(engine, trained, prompts_of(tiny[1], 2))
        with pytest.raises(SurroundingsError, match="does not take new weights") as found:
            engine.update()
        assert "VLLM_SERVER_DEV_MODE=1" in found.value.hint


@pytest.mark.parametrize("fault", ["drop", "fail", "restart", "twice", "garbage", "cut", "other", "hang", "slow"])
def test_what_passes_is_tried_again_and_the_answers_are_right(model, tiny, tmp_path, fault):
    prompts = prompts_of(tiny[1])
    with FakeVLLM(*tiny) as server:
        engine, said = engine_of(model, tmp_path, server)
        engine.update()
        server.faults["once"] = [fault, "slow"]
        told = []

        def progress(answers):
            told.append(answers)
            engine._servers[0].timeout = 60

        if fault == "hang":
            engine._servers[0].timeout = 1.0
            engine._reporter.notice = lambda text: progress(0)
        found = engine.sample(prompts, progress=progress, **GREEDY)
        assert found.ids == generate(model[0], prompts, **GREEDY) and sum(told) == len(prompts)
        if fault == "restart":
            assert server.seen.count("/v1/load_lora_adapter") > 1  # it was told the weights again
        assert not server.faults["once"] and len(said) <= 1


def test_a_server_that_stays_away_ends_the_run_in_time(model, tiny, tmp_path):
    with FakeVLLM(*tiny) as server:
        engine, said = engine_of(model, tmp_path, server)
        engine.update()
        server.faults["dead"], engine._servers[0].timeout = True, 0.4
        started = time.monotonic()
        with pytest.raises(SurroundingsError, match="no answer in 0.4 s") as found:
            engine.sample(prompts_of(tiny[1]), **GREEDY)
        assert found.value.exit_code == 7 and "same command resumes" in found.value.hint
        assert time.monotonic() - started < 5 and "trying again" in said[0]
    with pytest.raises(SurroundingsError, match="Connection refused"):
        engine.update()


def test_another_end_of_answers_is_named(model, tiny, tmp_path):
    prompts = prompts_of(tiny[1])
    first = generate(model[0], prompts, **GREEDY)[0][1]
    with FakeVLLM(*tiny, stops=[first]) as server:
        engine, _ = engine_of(model, tmp_path, server)
        with pytest.raises(SurroundingsError, match=f"ends answers at token {first}"):
            engine.update()
            engine.sample(prompts, **GREEDY)


def test_servers_share_the_prompts_and_one_that_dies_is_left_out_until_it_is_back(model, tiny, tmp_path):
    prompts = prompts_of(tiny[1], 12)
    expected = generate(model[0], prompts, **GREEDY)
    with FakeVLLM(*tiny) as one:
        other = FakeVLLM(*tiny)
        engine, said = engine_of(model, tmp_path, one, other)
        engine.update()
        asked = [one.prompts, other.prompts]
        assert engine.sample(prompts, **GREEDY).ids == expected
        assert [one.prompts - asked[0], other.prompts - asked[1]] == [6, 6]
        other.stop()
        assert engine.sample(prompts, **GREEDY).ids == expected and not said  # its share went to the first
        assert engine.sample(prompts, **GREEDY).ids == expected
        assert len(said) == 1 and f"{other.url} does not answer" in said[0] and "1 of 2 servers answer" in said[0]
        engine.update()
        with FakeVLLM(*tiny, port=other.port) as back:
            engine.update()
            assert said[1:] == [f"--generate {other.url} answers again"]
            before = back.prompts
            assert engine.sample(prompts, **GREEDY).ids == expected and back.prompts > before


def test_a_server_that_did_not_hear_of_new_weights_is_not_asked(tiny, tmp_path):
    trained, prompts = copy.deepcopy(tiny[0]), prompts_of(tiny[1])
    with FakeVLLM(*tiny) as one, FakeVLLM(*tiny) as other:
        engine, said = engine_of((trained, tiny[1]), tmp_path, one, other)
        engine.update()
        check_answers(engine, trained, prompts)
        other.faults["drops"] = "/collective_rpc"
        with torch.no_grad():
            trained.get_output_embeddings().weight.add_(0.2 * torch.randn_like(trained.get_output_embeddings().weight))
        engine.update()
        asked = other.prompts
        check_answers(engine, trained, prompts)
        assert other.prompts == asked and "left out" in said[0]


@pytest.mark.parametrize(
    "text", ["localhost:8000", "http://", "http://a:b", "http://user:pw@host", "http://a,", "http://a#wait=3"]
)
def test_what_is_no_address_is_a_usage_error(text):
    with pytest.raises(UsageError, match="--generate"):
        module.addresses(text)

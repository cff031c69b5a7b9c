"""Answers of servers: the very model's, proven at every update, whatever the servers do."""

from __future__ import annotations

import copy
import re
import time

import pytest
import torch
from fake_vllm import BROKEN, FakeVLLM, reply
from peft import LoraConfig, get_peft_model
from tiny_models import tiny_lm
from transformers import AutoTokenizer

from prefcli.artifacts.references import TINY
from prefcli.errors import SurroundingsError, UsageError
from prefcli.models import engine as module
from prefcli.models import served
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


def everywhere(said):
    """The same answer to all that may be asked."""
    paths = ("/tokenize", "/v1/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/collective_rpc")
    return {"says": dict.fromkeys(paths, said)}


def altered(**fields):
    return {"alter": lambda choices: [choice | fields for choice in choices]}


PAGE = reply(200, b"<html>\n<title>\x1b[31mWelcome to nginx!</title></html>", "Content-Type: text/html")
OTHER = "does not answer like a vLLM server: "
WRONG = {
    "other weights": ({}, "other weights"),
    "rounded weights": ({}, "other weights"),
    "tokenizer": ({"tokenizer": True}, "another tokenizer"),
    "template": ({"template": True}, "another chat template"),
    "without adapter": ({"without adapter": True}, "without the adapter"),
    "top-k": ({"top_k": 20}, "cuts off what is unlikely"),
    "top-p": ({"top_p": 0.9}, "cuts off what is unlikely"),
    "min-p": ({"min_p": 0.1}, "cuts off what is unlikely"),
    "penalty": ({"penalty": 2.0}, "draws from another distribution"),
    "raw log-probabilities": ({"raw": True}, "leave out the temperature"),
    "no lora": ({"no lora": True}, "does not take new weights .*VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
    "a page": (everywhere(PAGE), OTHER + "no tokens of a text, but <html> <title>\ufffd"),
    "an error that is a 200": (everywhere(reply(200, b'{"error": "overloaded"}')), OTHER + '.*"overloaded"'),
    "nothing": (everywhere(reply(200, b"")), OTHER + "no tokens"),
    "a page instead of answers": ({"says": {"/v1/completions": PAGE}}, OTHER + "no answers to prompts, but <html>"),
    "another site": (everywhere(reply(404, b"<html>Not Found")), "does not take new weights .*HTTP 404 .*<html>"),
    "a redirect": (everywhere(reply(307, b"", "Location: /login")), "HTTP 307 Temporary Redirect: it redirects"),
    "a key": (everywhere(reply(401, b'{"error": "Unauthorized"}')), "HTTP 401 Unauthorized .*without a key"),
    "no disk in common": (
        {"says": {"/v1/load_lora_adapter": reply(404, b"No adapter found for /a")}},
        "does not take new weights .*No adapter found .*the same disk",
    ),
    "no ids": (altered(token_ids=None), OTHER + ".*it has no 'token_ids'"),
    "no log-probabilities": (altered(logprobs=None), OTHER + ".*it has no 'token_logprobs'"),
    "no log-probabilities of prompts": (altered(prompt_logprobs=None), OTHER + ".*it has no 'prompt_logprobs'"),
    "ids of another vocabulary": (altered(token_ids=[10**6]), OTHER + ".*1000000 is not a token id"),
    "ids that are text": (altered(token_ids=["7"], logprobs={"token_logprobs": [-1]}), OTHER + ".*7 is not a token id"),
    "infinite ids": (altered(token_ids=[1e999], logprobs={"token_logprobs": [-1]}), OTHER + ".*Infinity is not a"),
    "no probabilities": (altered(token_ids=[7], logprobs={"token_logprobs": [1]}), OTHER + ".*1 is not a log-prob"),
    "not a number": (altered(token_ids=[7], logprobs={"token_logprobs": [None]}), OTHER + ".*null is not a log-prob"),
    "an answer too few": ({"alter": lambda choices: choices[1:]}, OTHER + "0 answers to 1 prompts"),
    "an answer too many": ({"alter": lambda choices: choices * 2}, OTHER + "2 answers to 1 prompts"),
    "endless answers": ({"alter": lambda choices: choices * 300}, OTHER + "an answer of more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_server_that_is_not_the_model_is_named_before_it_answers(model, tiny, tmp_path, monkeypatch, name):
    faults, words = WRONG[name]
    base = tiny[0]
    monkeypatch.setattr(served, "LARGEST", 1 << 18)
    if name == "other weights":
        base = copy.deepcopy(base)
        with torch.no_grad():
            base.get_output_embeddings().weight.add_(0.02 * torch.randn_like(base.get_output_embeddings().weight))
    if name == "rounded weights":
        base = copy.deepcopy(base).bfloat16().float()
    with FakeVLLM(base, tiny[1], **faults) as server:
        engine, _ = engine_of(model, tmp_path, server)
        with pytest.raises(SurroundingsError) as found:
            engine.update()
        said = f"{found.value.message}; {found.value.hint}"
        assert re.search(words, said) and "\x1b" not in said
        assert found.value.exit_code == 7 and server.url in found.value.message
        engine.close()
    assert len(WRONG) >= 20


def test_a_stale_adapter_is_caught_20_times_of_20(model, tiny, tmp_path):
    """However little was learnt: by 1e-4 of each weight, the step of one update."""
    caught = 0
    with FakeVLLM(*tiny) as server:
        engine, _ = engine_of(model, tmp_path, server)
        engine.update()
        for number in range(20):
            move(model[0], 10 ** -(2 + 2 * number / 19))
            server.faults["stale"] = True
            with pytest.raises(SurroundingsError, match="the previous update"):
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
        with pytest.raises(SurroundingsError, match="the previous update"):
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


PASSES = {
    **{name: name for name in ("drop", "fail", "restart", "hang", "slow", *BROKEN)},
    "gateway": reply(502, b"<html>Bad Gateway</html>"),
    "page": PAGE,
    "error": reply(200, b'{"error": {"message": "EngineDeadError"}}'),
    "no HTTP": b"\x15\x03\x01\x00\x02\x02F",
    "half": reply(200, b'{"choices": [{"index": 0, "token').replace(b"Content-Length: ", b"Content-Length: 9"),
}


@pytest.mark.parametrize("fault", PASSES)
def test_what_passes_is_tried_again_and_the_answers_are_right(model, tiny, tmp_path, fault):
    prompts = prompts_of(tiny[1])
    with FakeVLLM(*tiny) as server:
        engine, said = engine_of(model, tmp_path, server)
        engine.update()
        server.faults["once"] = [PASSES[fault], "slow"]
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


@pytest.mark.parametrize("fault", ["dead", "drips", "page"])
def test_a_server_that_stays_away_ends_the_run_in_time(model, tiny, tmp_path, fault):
    with FakeVLLM(*tiny) as server:
        engine, said = engine_of(model, tmp_path, server)
        engine.update()
        server.faults |= {"says": {"/v1/completions": PAGE}} if fault == "page" else {fault: True}
        engine._servers[0].timeout = 0.4
        started = time.monotonic()
        with pytest.raises(SurroundingsError, match="no answer in 0.4 s") as found:
            engine.sample(prompts_of(tiny[1]), **GREEDY)
        assert found.value.exit_code == 7 and "same command resumes" in found.value.hint
        assert time.monotonic() - started < 5 and "trying again" in said[0]
        assert fault != "page" or "no answers to prompts, but <html>" in found.value.message
    with pytest.raises(SurroundingsError, match="Connection refused"):
        engine.update()


def test_answers_that_are_compressed_unasked_are_read(model, tiny, tmp_path):
    """As some proxies do."""
    with FakeVLLM(*tiny, gzip=True) as server:
        engine, said = engine_of(model, tmp_path, server)
        engine.update()
        check_answers(engine, model[0], prompts_of(tiny[1], 3))
        assert not said


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

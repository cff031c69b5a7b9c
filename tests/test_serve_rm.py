"""`serve-rm`: scores as the model gives them, requests joined and fair to each other, limits, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
import torch
from forked import PREFCLI
from transformers import AutoTokenizer

from prefcli.artifacts.store import Store
from prefcli.data.encoder import Encoder
from prefcli.errors import DataError
from prefcli.progress import SILENT
from prefcli.rewards import app, joining, requests
from prefcli.rewards import server as server_module
from prefcli.rewards.grammar import parse_rewards
from prefcli.rewards.http import Service
from prefcli.rewards.joining import Joiner
from prefcli.rewards.requests import BadRequest, Request
from prefcli.rewards.server import RewardServer
from prefcli.rewards.sources import Answer, load_reward

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}
CHAT = [{"role": "user", "content": "Mira keeps the kite in the barn. Where is the kite?"}]
ANSWERS = ["It is in the barn.", "I do not know.", "What a wonderful question! It is in the barn.", "Über Äpfel: 7 €"]
BOTH = ("/v1/score/evaluation", "/get_reward")


@contextmanager
def running(source, **more):
    with RewardServer("127.0.0.1", 0, **more) as server:
        server.source = source
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def served(chain):
    """(server, the reward model that it serves)."""
    source = load_reward(parse_rewards(["rm"], Store(chain.runs))[0], None, reporter=SILENT, **CPU)
    with running(source) as server:
        yield server, source


@pytest.mark.parametrize("path", BOTH)
def test_the_server_scores_as_the_model_does_through_both_forms(chain, served, path):
    """Against `ModelReward` on token ids, with answers that ended and answers that were cut off."""
    server, _ = served
    tokenizer = AutoTokenizer.from_pretrained(chain.path("rm") / "model")
    store = Store(chain.runs)
    direct = load_reward(parse_rewards(["rm"], store)[0], tokenizer, reporter=SILENT, **CPU)
    far = load_reward(parse_rewards([server.url + path], store)[0], tokenizer, reporter=SILENT, **CPU)
    encoder = Encoder(tokenizer)
    longer = [*CHAT, {"role": "assistant", "content": "In the barn."}, {"role": "user", "content": "And why?"}]
    answers = []
    for prompt in (CHAT, longer, "Once upon a time"):
        for text in ANSWERS:
            ids = encoder.completion_ids(prompt, text)
            answers.append(Answer(prompt, text))
            answers.append(Answer(prompt, text, encoder.prompt_ids(prompt), ids))
            answers.append(Answer(prompt, text, encoder.prompt_ids(prompt), ids[:-1]))
    expected, found = direct.score(answers), far.score(answers)
    assert expected.std() > 1e-3
    assert torch.allclose(found, expected.double(), atol=1e-5), (found - expected).abs().max()


JSON = {"Content-Type": "application/json"}


def exchange(url, content, method="POST", headers=JSON):
    """(status, JSON) of a request."""
    request = urllib.request.Request(url, content, dict(headers), method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            assert error.headers["Content-Type"] == "application/json"
            return error.code, json.loads(error.read())


def test_the_answers_are_those_of_the_two_servers(served):
    server, source = served
    (score,) = source.score_ids([source.ids_of_text("abc", None, None, "")]).tolist()
    status, body = exchange(server.url + "/get_reward", b'{"query": ["abc"]}')
    assert status == 200 and body == {"rewards": [pytest.approx(score)], "scores": body["rewards"], "extra_logs": {}}
    status, body = exchange(server.url + "/v1/score/evaluation", b'{"model": "m", "messages": ["abc"]}')
    assert body.pop("id") and body == {"object": "score.evaluation", "model": "m", "scores": [pytest.approx(score)]}
    assert exchange(server.url + "/health", None, "GET") == (200, {"status": "ok", "reward": "rm"})
    _, short = exchange(server.url, b'{"model": "m", "messages": ["abcdefgh"], "max_length": 1}')
    assert short["scores"] == pytest.approx(source.score_ids([source.ids_of_text("abcdefgh", None, 1, "")]).tolist())


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "object"),
        (b"{}", '"messages" or "query"'),
        (b'{"messages": ["a"], "query": ["a"]}', '"messages" or "query"'),
        (b'{"query": "a"}', "list of strings"),
        (b'{"query": []}', "list of strings"),
        (b'{"query": [1]}', "list of strings"),
        (b'{"query": ["a"], "prompts": ["a", "b"]}', "2 prompts for 1 texts"),
        (b'{"query": ["a"], "prompts": [1]}', "prompts"),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "list of strings"),
        (b'{"query": ["a", ""]}', "text 1 is empty"),
        (b'{"messages": ["a"], "max_length": 0}', "max_length"),
        (b'{"messages": ["a"], "max_length": true}', "max_length"),
        (b'{"query": ["\\ud800"]}', "surrogate"),
        (json.dumps({"query": ["word " * 5000]}).encode(), "tokens, and the model"),
        (json.dumps({"query": ["word " * 50_000]}).encode(), "250,000 characters"),
    ],
)
def test_a_malformed_request_is_400_and_says_why(served, content, part):
    status, body = exchange(served[0].url, content)
    assert status == 400 and list(body) == ["error"] and part in body["error"]


def test_a_score_that_is_no_number_is_500(served):
    server, source = served
    source.model.score.weight.data.fill_(float("nan"))
    status, body = exchange(server.url, b'{"query": ["a"]}')
    assert status == 500 and "nan" in body["error"]


def test_a_port_that_is_taken_is_of_the_surroundings(chain, prefcli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = prefcli("serve-rm", "rm", "--port", port)
    assert (result.exit_code, result.stdout) == (7, "")
    assert f"port {port} of 127.0.0.1 is in use" in result.stderr and "--port 0" in result.stderr
    assert prefcli("serve-rm", "rm", "--host", "256.1.1.1").exit_code == 7


@pytest.mark.parametrize(
    ("ref", "code", "part"),
    [
        ("sft", 4, "not a reward model"),
        ("nothing", 4, "nothing"),
        ("python:{gold}:score", 2, "not a model"),
        ("http://127.0.0.1:1/x", 2, "not a model"),
    ],
)
def test_only_a_reward_model_is_served(chain, prefcli, ref, code, part):
    result = prefcli("serve-rm", ref.format(gold=chain.sample_data / "gold.py"), "--port", "0")
    assert (result.exit_code, result.stdout) == (code, "") and part in result.stderr


# Joined, and fair


class Counted:
    """In a reward model's place: a text is as many tokens as it has characters, its score as well."""

    name = "counted"

    def __init__(self, seconds=0.0):
        self.passes, self.seconds = [], seconds
        self.asked, self.go = threading.Event(), threading.Event()
        self.go.set()

    def prepare_to_serve(self):
        pass

    def ids_of_text(self, text, prompt, longest, what):
        if text == "bad":
            raise DataError(f"{what} is bad")
        return [len(text)] * len(text)

    def score_ids(self, ids):
        self.asked.set()
        self.go.wait(10)
        self.passes.append(ids)
        time.sleep(self.seconds)
        return torch.tensor([float(one[0]) for one in ids])


@pytest.fixture
def joiner(request):
    source = Counted()
    made = Joiner(source, SILENT)
    yield made, source
    source.go.set()
    made.stop()


def asked(*texts):
    return Request(list(texts), [None] * len(texts), None, None)


def test_waiting_requests_are_scored_together_and_each_gets_its_own(joiner):
    made, source = joiner
    source.go.clear()
    first = made.submit(asked("x"))
    time.sleep(0.1)
    others = [made.submit(asked("x" * n, "x" * (2 * n))) for n in range(1, 30)]
    source.go.set()
    assert first.result(5) == [1.0]
    assert [one.result(5) for one in others] == [[float(n), 2.0 * n] for n in range(1, 30)]
    most = max(joining.TOKENS)
    assert len(source.passes) <= 8 and all(len(ids) * max(map(len, ids)) <= most for ids in source.passes)


def test_a_large_request_leaves_the_others_their_share(joiner):
    made, source = joiner
    source.seconds = 0.01
    large = made.submit(asked(*["x" * 100] * 20_000))
    while not source.passes:
        time.sleep(0.001)
    for n in range(5):
        before = len(source.passes)
        assert made.submit(asked("y" * (n + 1))).result(5) == [n + 1.0]
        assert len(source.passes) - before <= 4
    assert not large.done()
    assert large.result(60) == [100.0] * 20_000


def test_one_bad_text_fails_its_own_request_alone(joiner):
    made, source = joiner
    source.go.clear()
    made.submit(asked("x"))
    time.sleep(0.05)
    good, bad = made.submit(asked("xx", "x")), made.submit(asked("x", "bad", "x"))
    source.go.set()
    assert good.result(5) == [2.0, 1.0]
    with pytest.raises(DataError, match="text 1 is bad"):
        bad.result(5)
    assert made.submit(asked("xxx")).result(5) == [3.0]


def test_more_than_the_queue_takes_is_503(joiner, monkeypatch):
    made, source = joiner
    monkeypatch.setattr(joining, "WAITING", 3)
    source.go.clear()
    waiting = [made.submit(asked("x")) for _ in range(3)]
    with pytest.raises(BadRequest, match="try again later") as error:
        made.submit(asked("x"))
    assert error.value.status == 503
    source.go.set()
    assert [one.result(5) for one in waiting] == [[1.0]] * 3 and made.submit(asked("x")).result(5) == [1.0]


@pytest.fixture
def counted():
    """(server, source) of a model that only counts."""
    source = Counted()
    with running(source) as server:
        yield server, source
        source.go.set()


def test_64_clients_at_once_are_all_answered(counted):
    server, source = counted
    source.go.clear()
    body = b'{"query": ["abc"]}'
    head = b"POST /get_reward HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    clients = [socket.create_connection(server.address, timeout=10) for _ in range(64)]
    for client in clients:
        client.sendall(head.replace(b"Host: a", b"Host: 127.0.0.1") % len(body) + body)
    time.sleep(1.0)  # the first pass waits; meanwhile the others arrive, on a busy machine too
    source.go.set()
    for client in clients:
        with client:
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert len(source.passes) < 32


def test_a_client_that_left_is_dropped(counted):
    server, source = counted
    source.seconds = 0.02
    body = json.dumps({"query": ["x" * 100] * 20_000}).encode()
    with socket.create_connection(server.address) as client:
        client.sendall(b"POST / HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body))
        client.sendall(body)
        while len(source.passes) < 2:
            time.sleep(0.001)
    assert exchange(server.url, b'{"query": ["ab"]}')[1]["scores"] == [2.0]
    time.sleep(0.1)
    before = len(source.passes)
    time.sleep(0.2)
    assert len(source.passes) == before and sum(map(len, source.passes)) < 20_000


# Limits


def test_other_requests_are_refused_in_json_too(counted, monkeypatch):
    server, source = counted
    assert exchange(server.url + "/", None, "GET")[0] == 404
    assert exchange(server.url, b"{}", "PUT")[0] == 405
    assert exchange(server.url, b"", headers=JSON | {"Content-Length": str(1 << 40)})[0] == 413
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        status, said = exchange(server.url, b'{"query": ["a"]}', headers={"Content-Type": kind})
        assert status == 415 and "application/json" in said["error"]
    monkeypatch.setattr(requests, "TEXTS", 2)
    assert exchange(server.url, b'{"query": ["a", "b", "c"]}')[0] == 413
    monkeypatch.setattr(app, "HELD", 10)
    assert exchange(server.url, b'{"query": ["a"]}')[0] == 503
    with socket.create_connection(server.address) as raw:
        raw.sendall(b"no HTTP at all\r\n\r\n")
        assert raw.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert not source.passes and exchange(server.url + "/health", None, "GET")[0] == 200  # it lives


def parts_of(server, *parts, head=b"Transfer-Encoding: chunked"):
    """The status of a request whose body is sent in these parts; the connection stays open."""
    with socket.create_connection(server.address, timeout=10) as raw:
        raw.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + head + b"\r\n\r\n")
        for part in parts:
            raw.sendall(part)
        return int(raw.recv(1000).split()[1])


def test_a_body_in_chunks_has_the_same_limits(counted, monkeypatch):
    server, _ = counted
    assert parts_of(server, b'9\r\n{"query":\r\n', b'6\r\n["ab"]\r\n', b"1\r\n}\r\n0\r\n\r\n") == 200
    monkeypatch.setattr(app, "LARGEST", 10)
    assert parts_of(server, b'9\r\n{"query":\r\n', b'6\r\n["ab"]\r\n') == 413
    monkeypatch.setattr(app, "PATIENCE", 0.1)
    assert parts_of(server, b'9\r\n{"query":\r\n') == 408


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:8000", 200), ("127.0.0.1:1", 200), ("[::1]:80", 200), ("10.1.2.3", 200),
        ("gpu-box", 200), ("evil.example", 421), ("evil.example:8000", 421), ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421), ("[evil", 421),
    ],
)  # fmt: skip
def test_only_requests_for_this_machine_are_answered(host, status):
    with running(Counted(), hosts=["GPU-box"]) as server:
        for path, body, method in (("/", b'{"query": ["a"]}', "POST"), ("/health", None, "GET")):
            found, said = exchange(server.url + path, body, method, JSON | {"Host": host})
            assert found == status and ("--allow-host" in said.get("error", "")) == (status == 421)


def test_any_name_will_do_where_that_is_said():
    with running(Counted(), hosts=["*"]) as server:
        assert exchange(server.url + "/health", None, "GET", {"Host": "reward.svc.cluster"})[0] == 200


# How it ends


def test_what_is_not_scored_in_time_is_told_so(monkeypatch):
    monkeypatch.setattr(server_module, "GRACE", 0.2)
    source = Counted()
    with running(source) as server:
        source.go.clear()
        found = []
        client = threading.Thread(target=lambda: found.append(exchange(server.url, b'{"query": ["abc"]}')))
        client.start()
        assert source.asked.wait(10)
        server.shutdown()
        client.join()
        source.go.set()
    assert found == [(503, {"error": "the service is shutting down: use another, or try again later"})]


def test_what_is_in_flight_is_answered_and_nothing_new_is_taken():
    source = Counted()
    with running(source) as server:
        source.go.clear()
        found = []
        client = threading.Thread(target=lambda: found.append(exchange(server.url, b'{"query": ["abc"]}')))
        client.start()
        assert source.asked.wait(10)
        server.shutdown()
        time.sleep(0.3)
        with pytest.raises(OSError):
            socket.create_connection(server.address, timeout=1)
        source.go.set()
        client.join()
    assert found == [(200, {"rewards": [3.0], "scores": [3.0], "extra_logs": {}})]


def test_the_command_says_where_it_serves_and_answers_before_a_signal_ends_it(chain, forked):
    many = json.dumps({"query": ANSWERS * 100}).encode()
    found = []
    pipe = subprocess.PIPE
    with forked.start(PREFCLI, "serve-rm", "rm", "--port", "0", stdout=pipe, stderr=pipe) as process:
        try:
            url = process.stdout.readline().strip()
            assert exchange(url + "/health", None, "GET")[1]["reward"] == "rm"
            assert Service("far", url + "/get_reward", 30.0).scores(ANSWERS, [""] * 4, [""] * 4)
            client = threading.Thread(target=lambda: found.append(exchange(url, many)))
            client.start()
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
            client.join()
        finally:
            process.kill()
    assert process.returncode == 130 and out == ""
    assert "serving rm@v1" in err and "Traceback" not in err
    ((status, answer),) = found
    assert status == 200 and len(answer["scores"]) == 400

"""Rewards over HTTP: both forms, what goes wrong on the way, the server against direct scoring, the preflight."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import versions_below, write
from transformers import AutoTokenizer

from prefcli.artifacts.manifest import read_manifest
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row, said
from prefcli.errors import ArtifactError, SurroundingsError, UsageError
from prefcli.progress import SILENT, Reporter
from prefcli.rewards import http as module
from prefcli.rewards.grammar import parse_rewards
from prefcli.rewards.http import Service
from prefcli.rewards.preflight import PAIRS, preflight
from prefcli.rewards.sources import Answer, HTTPReward, ModelReward

CPU = {"dtype": torch.float32, "device": torch.device("cpu")}
CHAT = [{"role": "user", "content": "Mira keeps the kite in the barn. Where is the kite?"}]
ANSWERS = ["It is in the barn.", "I do not know.", "What a wonderful question! It is in the barn.", "Über Äpfel: 7 €"]
BOTH = ("/v1/score/evaluation", "/get_reward")


class Notices(Reporter):
    def __init__(self):
        self.said = []

    def notice(self, text):
        self.said.append(text)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF", 0.0)


@contextmanager
def running(server):
    quick = {"poll_interval": 0.01} if isinstance(server, ThreadingHTTPServer) else {}
    thread = threading.Thread(target=server.serve_forever, kwargs=quick)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.__exit__(None, None, None)


@pytest.fixture
def service():
    """`service(answer)` serves `answer(path, body) -> (status, object or bytes)`: its URL, and the requests it saw."""
    open_servers = []

    def make(answer, path="/get_reward"):
        seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append((self.path, body))
                status, content = answer(self.path, body)
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        server = running(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        port = server.__enter__().server_port
        open_servers.append(server)
        return f"http://127.0.0.1:{port}{path}", seen

    yield make
    for server in open_servers:
        server.__exit__(None, None, None)


def lengths(key, result):
    """A service that scores by length and, like FastAPI, answers 422 to a request of another form."""

    def answer(path, body):
        if not isinstance(body.get(key), list):
            return 422, {"detail": [{"msg": "Field required", "loc": [key]}]}
        return 200, {result: [len(text) for text in body[key]]}

    return answer


def ask(url, texts=("ab", "c"), timeout=10.0, reporter=SILENT):
    texts = list(texts)
    return Service("far", url, timeout, reporter).scores(texts, ["a"] * len(texts), [""] * len(texts))


# The two forms


def test_llama_factorys_form_at_its_own_path(service):
    url, seen = service(lengths("messages", "scores"), "/v1/score/evaluation")
    assert ask(url) == [2.0, 1.0]
    assert seen == [("/v1/score/evaluation", {"model": "model", "messages": ["ab", "c"]})]


@pytest.mark.parametrize("key", ["rewards", "scores"])
def test_openrlhfs_form_at_any_other_path(service, key):
    url, seen = service(lengths("query", key), "/a/b?token=1")
    assert ask(url) == [2.0, 1.0]
    assert seen == [("/a/b?token=1", {"query": ["ab", "c"], "prompts": ["a", "a"], "labels": ["", ""]})]


def test_openrlhfs_newest_answer_holds_more_and_the_rewards_count(service):
    url, _ = service(lambda *_: (200, {"rewards": [1, 2], "scores": [0, 1], "extra_logs": {"x": [9, 9]}}))
    assert ask(url) == [1.0, 2.0]


@pytest.mark.parametrize(
    ("path", "key"), [("/own", "messages"), ("/score/evaluation", "query"), ("/score/evaluation/", "messages")]
)
def test_a_form_that_is_refused_is_followed_by_the_other_and_the_right_one_is_kept(service, path, key):
    url, seen = service(lengths(key, "scores"), path)
    far = Service("far", url, 10.0)
    for _ in range(3):
        assert far.scores(["abc"], [""], [""]) == [3.0]
    assert [key in body for _, body in seen[-3:]] == [True] * 3
    assert len(seen) == (3 if path.endswith("/") else 4)


def test_a_server_that_crashes_on_the_other_form_is_found_out_too(service):
    """OpenRLHF's own server answers 500 where there is no "query"."""
    url, seen = service(
        lambda _, body: (200, {"rewards": [len(t) for t in body["query"]]}) if "query" in body else (500, b"TypeError"),
        "/score/evaluation",
    )
    assert ask(url) == [2.0, 1.0]
    assert len(seen) == 1 + module.RETRIES + 1


# What goes wrong


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_tried_again_and_said(service, status):
    calls = []

    def answer(*_):
        calls.append(1)
        return (status, b"busy") if len(calls) <= module.RETRIES else (200, {"rewards": [1.5, 2]})

    notices = Notices()
    url, _ = service(answer)
    assert ask(url, reporter=notices) == [1.5, 2.0]
    assert len(notices.said) == module.RETRIES and f"HTTP {status}" in notices.said[0] and "busy" in notices.said[0]


def test_a_service_that_is_overloaded_is_not_asked_in_another_format(service):
    url, seen = service(lambda _, body: (503, b"busy") if "query" in body else (200, {"scores": [1.0, 2.0]}))
    with pytest.raises(SurroundingsError, match="HTTP 503"):
        ask(url)
    assert all("query" in body for _, body in seen) and len(seen) == module.RETRIES + 1


def test_the_waits_double(service, monkeypatch):
    waits = []
    monkeypatch.setattr(module, "BACKOFF", 1.0)
    monkeypatch.setattr(module.time, "sleep", waits.append)
    with pytest.raises(SurroundingsError):
        ask(f"http://127.0.0.1:{closed_port()}/get_reward")
    assert waits == [1.0, 2.0, 4.0]


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_service_that_is_not_there_is_of_the_surroundings():
    with pytest.raises(SurroundingsError, match="does not answer .*refused; 4 tries"):
        ask(f"http://127.0.0.1:{closed_port()}/get_reward")


def test_a_service_that_is_too_slow_is_of_the_surroundings(service):
    done = threading.Event()
    url, seen = service(lambda *_: (done.wait(5), (200, {"rewards": [1, 2]}))[1])
    with pytest.raises(SurroundingsError, match="timed out") as error:
        ask(url, timeout=0.05)
    done.set()
    assert "0.05 s" in error.value.hint and "#timeout=" in error.value.hint
    assert len(seen) == 1 + module.RETRIES


def test_a_connection_that_breaks_off_is_of_the_surroundings():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def hang_up():
            for _ in range(1 + module.RETRIES):
                listener.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(SurroundingsError, match="does not answer"):
            ask(f"http://127.0.0.1:{port}/get_reward")
        thread.join()


def test_a_server_that_always_fails_is_of_the_surroundings(service):
    url, _ = service(lambda *_: (500, b"out of memory"))
    with pytest.raises(SurroundingsError, match="HTTP 500 .*out of memory"):
        ask(url)


@pytest.mark.parametrize(
    ("status", "content", "part"),
    [
        (404, b"<h1>no such page</h1>", "HTTP 404"),
        (401, {"detail": "Invalid API key."}, "Invalid API key."),
        (302, b"", "HTTP 302"),
        (200, b"<html>welcome</html>", "welcome"),
        (200, b"", "JSON object"),
        (200, b"\xff\xfe\x00", "JSON object"),
        (200, b"[" * 100_000, "JSON object"),
        (200, [1, 2], "JSON object"),
        (200, {"error": "no model loaded"}, "no model loaded"),
        (200, {"rewards": None}, "no rewards or scores"),
        (200, {"rewards": 3}, "not a list of scores"),
        (200, {"rewards": [1]}, "1 scores for 2 texts"),
        (200, {"rewards": []}, "0 scores for 2 texts"),
        (200, {"rewards": [1, 2, 3]}, "3 scores for 2 texts"),
        (200, {"rewards": ["1", "2"]}, '"1"'),
        (200, {"rewards": [1, None]}, "null"),
        (200, {"rewards": [True, False]}, "true"),
        (200, {"rewards": [[1], [2]]}, "[1]"),
        (200, b'{"rewards": [1, NaN]}', "NaN for the text 'c'"),
        (200, b'{"rewards": [-Infinity, 1]}', "-Infinity"),
        (200, {"rewards": [1, -1e39]}, "-1e+39 for the text 'c'"),
        (200, b'{"rewards": [1' + b"0" * 400 + b", 2]}", "1000"),
    ],
)
def test_an_answer_that_is_none_is_an_artifact_error_that_shows_it(service, status, content, part):
    url, seen = service(lambda *_: (status, content))
    with pytest.raises(ArtifactError) as error:
        ask(url)
    assert part in error.value.message and "reward far" in error.value.message
    assert len(seen) <= 2  # no retries: one request a form


def test_a_proxy_for_the_outside_world_is_not_asked_for_this_machine(service, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    url, _ = service(lengths("query", "rewards"))
    assert ask(url) == ask(url.replace("127.0.0.1", "localhost")) == [2.0, 1.0]


# The grammar


def test_a_url_is_a_source_without_a_digest(store):
    (spec,) = parse_rewards(["http://host:5000/get_reward"], store)
    assert (spec.name, spec.url, spec.timeout) == ("http", "http://host:5000/get_reward", 60.0)
    assert spec.digest is spec.reference is spec.function is None
    spec, other = parse_rewards(["far=HTTPS://[::1]/a?b=c#timeout=2.5", "http://h"], store)
    assert (spec.name, spec.url, spec.timeout) == ("far", "HTTPS://[::1]/a?b=c", 2.5)
    assert spec.text == "HTTPS://[::1]/a?b=c#timeout=2.5" and other.name == "http"


@pytest.mark.parametrize(
    "text",
    [
        "http://", "http:///path", "http://host:port/", "http://host:70000/", "http://host:0/", "http://[::1/",
        "http://a b/", "http://host/é", "http://host/\n", "http://" + "x" * 70 + "/", "http://a..b/",
        "http://me:secret@host/", "x=http://me@host/",
        "http://host#timeout=0", "http://host#timeout=nan", "http://host#timeout=", "http://host#time=3",
    ],
)  # fmt: skip
def test_what_is_no_url_is_a_usage_error(store, text):
    with pytest.raises(UsageError, match="--reward") as error:
        parse_rewards([text], store)
    assert "secret" not in error.value.message


# What is sent


class Asked:
    """In a service's place: keeps what it is asked and scores by length."""

    def __init__(self):
        self.calls = []

    def scores(self, texts, prompts, labels):
        self.calls.append((texts, prompts, labels))
        return [float(len(text)) for text in texts]


def test_a_policys_answer_is_sent_as_the_policy_read_and_wrote_it(chain):
    tokenizer = AutoTokenizer.from_pretrained(chain.path("sft") / "model")
    encoder = Encoder(tokenizer)
    asked = Asked()
    source = HTTPReward("far", asked, tokenizer)
    whole = encoder.completion_ids(CHAT, "On it.")
    cut = Answer(CHAT, "On it.", encoder.prompt_ids(CHAT), whole[:-1], {"label": "7", "other": 1})
    scores = source.score([Answer(CHAT, "On it."), cut, Answer("Once", " upon")])
    prompt = f"<|user|>{CHAT[0]['content']}<|end|><|assistant|>"
    ((texts, prompts, labels),) = asked.calls
    assert texts == [prompt + "On it.<|end|>", prompt + "On it.", "Once upon<|end|>"]
    assert prompts == [prompt, prompt, "Once"] and labels == ["", "7", ""]
    assert scores.tolist() == [len(text) for text in texts]


def test_without_a_policy_dialogues_are_paragraphs():
    asked = Asked()
    call = {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [{"function": {"name": "look"}}]}
    answers = [Answer([*CHAT], "Yes."), Answer("Once", " upon"), Answer([*CHAT, call], "Yes.")]
    HTTPReward("far", asked, None).score(answers)
    ((texts, prompts, _),) = asked.calls
    asks = f"user: {CHAT[0]['content']}\n\n"
    assert texts[:2] == [f"{asks}assistant: Yes.", "Once upon"]
    assert texts[2] == f"{asks}assistant: {said(call)}\n\nassistant: Yes."
    assert "Hm." in texts[2] and "look" in texts[2]
    assert all(text.startswith(prompt) for text, prompt in zip(texts, prompts))


def test_long_lists_go_in_parts_and_come_back_in_order():
    asked = Asked()
    scores = HTTPReward("far", asked, None).score([Answer("", "x" * i) for i in range(150)])
    assert [len(texts) for texts, *_ in asked.calls] == [64, 64, 22]
    assert scores.tolist() == list(range(150))
    assert HTTPReward("far", asked, None).score([]).shape == (0,)


# In a run


def test_a_run_on_a_service_is_never_taken_for_the_same_again(chain, prefcli, service):
    url, seen = service(lengths("query", "rewards"))
    args = ["ppo", "--model", "sft@v1", "--reward", f"far={url}", "--prompts", chain.data("prompts"),
            "--max-new-tokens", "4", "--max-steps", "1", "--batch-size", "4"]  # fmt: skip
    first, second = chain.path_of(prefcli(*args)), chain.path_of(prefcli(*args))
    assert first != second
    assert read_manifest(first).parents["reward/far"] == {"ref": url, "digest": None}
    assert len(seen) == 4  # each run: one question before it, one rollout
    assert prefcli("show", second).exit_code == 0


def test_a_dead_service_ends_a_run_before_it_trains(chain, prefcli):
    before = versions_below(chain.folder)
    result = prefcli("ppo", "--model", "sft@v1", "--reward", f"http://127.0.0.1:{closed_port()}/get_reward",
                     "--prompts", chain.data("prompts"), "--max-steps", "1")  # fmt: skip
    assert (result.exit_code, result.stdout) == (7, "") and "does not answer" in result.stderr
    assert "Traceback" not in result.stderr and versions_below(chain.folder) == before


def test_eval_takes_a_service(chain, prefcli, service):
    url, _ = service(lengths("query", "rewards"))
    result = prefcli("eval", "--reward", f"far={url}", "--pairs", chain.data("held_out_pairs"), "--json")
    (entry,) = json.loads(result.stdout)["reward_models"]
    assert entry["name"] == "far" and entry["ref"] == url
    assert "paragraphs" in result.stderr


# Preflight


class Judge(ModelReward):
    """A reward model whose scores are a function of the answer's text."""

    def __init__(self, judge):
        self.name, self._judge, self.proven = "judge", judge, False

    def score(self, answers):
        return torch.tensor([float(self._judge(answer.completion)) for answer in answers])


GOOD = {good for _, good, _ in PAIRS}


@pytest.mark.parametrize(
    ("judge", "cautions"),
    [
        (lambda text: text in GOOD, 0),
        (lambda text: text not in GOOD, 1),
        (lambda text: 0.0, 1),
        (len, 0),
        (lambda text: text in sorted(GOOD)[:4], 0),
        (lambda text: text in sorted(GOOD)[:3], 1),
    ],
)
def test_a_model_that_prefers_noise_on_most_pairs_is_said(judge, cautions):
    notices = Notices()
    preflight([Judge(judge)], [Row("p")], notices)
    assert len(notices.said) == cautions and all("judge" in text for text in notices.said)


def test_a_model_with_an_accuracy_on_record_is_not_cautioned_about():
    judge, notices = Judge(lambda text: text not in GOOD), Notices()
    judge.proven = True
    preflight([judge], [Row("p")], notices)
    assert notices.said == []


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_a_model_whose_score_is_no_number_is_refused(bad):
    with pytest.raises(ArtifactError, match="reward judge gives"):
        preflight([Judge(lambda text: float(bad) if text == "No." else 1.0)], [Row("p")], SILENT)


def test_a_service_is_asked_about_the_runs_own_rows():
    asked = Asked()
    preflight([HTTPReward("far", asked, None)], [Row("p: ", columns={"label": "4"}), Row("q")], SILENT)
    assert asked.calls == [(["p: I do not know."], ["p: "], ["4"])]


def test_a_function_is_tried_once_before_its_time(chain, prefcli, own_folder):
    source = (
        "def score(p, completions, **_):\n    open('calls', 'a').write('x')\n    return [0.0 for _ in completions]\n"
    )
    write(own_folder / "r.py", source)
    result = prefcli(
        "ppo", "--model", "sft@v1", "--reward", "python:r.py:score", "--prompts", chain.data("prompts"),
        "--max-new-tokens", "4", "--max-steps", "1", "--batch-size", "4",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert (own_folder / "calls").read_text() == "xx"

"""Passwords, keys and tokens stand in no file and no message; a service gets what it needs, and does no harm."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import PAIR, write

from prefcli.cli.console import ConsoleReporter
from prefcli.errors import ArtifactError, SurroundingsError, without_secrets
from prefcli.progress import SILENT
from prefcli.rewards import http
from prefcli.rewards.http import Endpoint, Service

SECRET = "hunter2-c0ffee"
TOKENS = (
    "HF_TOKEN",
    "WANDB_API_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "OPENAI_API_KEY",
    "PREFCLI_JUDGE_KEY",
    "AWS_SECRET_KEY",
)


def nowhere(*folders):
    """The secret stands in no file."""
    files = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
    assert files and not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "text, shown",
    [
        ("http://me:hunter2@host:80/a", "http://…@host:80/a"),
        ("see https://me@host/ and http://a:b@c/", "see https://…@host/ and http://…@c/"),
        ("http://h/a?api_key=x&n=1#timeout=3", "http://h/a?api_key=…&n=1#timeout=3"),
        ("http://h/?n=1&access-token=x&sig=y", "http://h/?n=1&access-token=…&sig=…"),
        ("http://h/?X-Amz-Signature=ab/c+d", "http://h/?X-Amz-Signature=…"),
        ("http://h/?max_tokens=5&tokenizer=a&keys=2 b@c", "http://h/?max_tokens=5&tokenizer=a&keys=2 b@c"),
        ("mail me@host, //server/share", "mail me@host, //server/share"),
    ],
)
def test_passwords_and_keys_of_urls_are_not_shown(text, shown):
    assert without_secrets(text) == shown


URLS = [
    f"http://me:{SECRET}@127.0.0.1:9/", f"http://{SECRET}@127.0.0.1:9/", f"HTTP://me:{SECRET}@127.0.0.1:port/",
    f"http://me:{SECRET}@[::1/", f"http://127.0.0.1:9/?api_key={SECRET}", f"http://127.0.0.1:9/a?b=c&token={SECRET}",
    f"ftp://me:{SECRET}@h/", f"http://me:{SECRET}@/",
]  # fmt: skip


@pytest.mark.parametrize("url", URLS)
def test_a_url_with_a_secret_is_refused_and_the_secret_shown_nowhere(prefcli, own_folder, make_artifact, url):
    make_artifact("sft")
    write(own_folder / "p.jsonl", json.dumps(PAIR) + "\n")
    write(own_folder / "a.jsonl", "".join(json.dumps({"prompt": "q", "completion": c}) + "\n" for c in "ab"))
    write(own_folder / "c.yaml", f"reward: [{json.dumps(url)}]\n")
    for args in (
        ["ppo", "--prompts", "p.jsonl", "--model", "sft", "--reward", url],
        ["ppo", "--prompts", "p.jsonl", "--model", "tiny", "--config", "c.yaml"],
        ["dpo", "--data", "p.jsonl", "--model", url],
        ["score", "--data", "p.jsonl", "--reward", f"far={url}", "--quiet"],
        ["label", "--data", "a.jsonl", "--by", f"judge:{url}#model", "--out", "o.jsonl"],
        ["eval", "--model", "tiny", "--against", "tiny", "--prompts", "p.jsonl", "--judge", f"{url}#model"],
    ):
        result = prefcli(*args)
        assert result.exit_code in (2, 4), (args, result.output)
        assert SECRET not in result.output, (args, result.output)
    (own_folder / "c.yaml").unlink()
    nowhere(own_folder)


def test_a_notice_shows_no_password(capsys):
    ConsoleReporter().notice(f"--report-to mlflow failed: https://me:{SECRET}@tracking.example/ does not answer")
    shown = capsys.readouterr().err
    assert "tracking.example" in shown and SECRET not in shown


def test_no_token_of_the_environment_lands_in_what_a_run_writes_or_says(chain, prefcli, own_folder):
    env = dict.fromkeys(TOKENS, SECRET)
    for args in (
        [*chain.args("sft"), "--name", "fresh", "--max-steps", "1", "--report-to", "tensorboard", "--json"],
        ["show", "fresh", "--json"],
        ["export", "fresh", "out"],
        ["report", "fresh", "--output", "page.html"],
    ):
        result = prefcli(*args, env=env)
        assert result.exit_code == 0, result.output
        assert SECRET not in result.output
    nowhere(chain.runs, own_folder)
    assert (own_folder / "page.html").is_file() and list((chain.runs / "tensorboard").rglob("events*"))


# What a service gets, and what it may do


@pytest.fixture
def serve():
    """`serve(answer)` serves `answer(handler)`: its URL, and (path, headers, body) of the requests."""
    servers = []

    def make(answer):
        seen = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                seen.append((self.path, dict(self.headers), body))
                answer(self)

            do_GET = do_POST

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/", seen

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(http, "BACKOFF", 0.0)


def reply(status=200, content=b'{"rewards": [1.0]}', **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def test_a_service_gets_texts_prompts_and_the_label_and_no_other_column(prefcli, own_folder, serve):
    def answer(handler):
        texts = json.loads(seen[-1][2]).get("query", [])
        reply(content=json.dumps({"rewards": [1.0] * len(texts)}).encode())(handler)

    url, seen = serve(answer)
    row = PAIR | {"email": SECRET, "annotator": SECRET, "label": "gold"}
    write(own_folder / "p.jsonl", json.dumps(row) + "\n")
    result = prefcli("score", "--data", "p.jsonl", "--reward", url, "--quiet", env=dict.fromkeys(TOKENS, SECRET))
    assert result.exit_code == 0, result.output
    assert seen and all(SECRET not in str(request) for request in seen)
    for _, headers, body in seen:
        assert set(json.loads(body)) == {"query", "prompts", "labels"}
        known = {"Accept-Encoding", "Content-Length", "Content-Type", "Host", "User-Agent", "Connection"}
        assert set(headers) <= known, headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_key_goes_nowhere_else(serve, status):
    elsewhere, stolen = serve(reply())
    url, seen = serve(reply(status, b"", Location=elsewhere))
    endpoint = Endpoint("judge", url, 5.0, SILENT, hint="", key=SECRET)
    with pytest.raises(http.Refused, match=str(status)) as error:
        endpoint.ask({})
    assert not stolen and seen[0][1]["Authorization"] == f"Bearer {SECRET}" and SECRET not in str(error.value)


@pytest.mark.parametrize("status", [200, 401, 500])
def test_an_answer_that_repeats_the_key_does_not_show_it(serve, status):
    url, _ = serve(reply(status, f"wrong key {SECRET}".encode()))
    with pytest.raises((http.Refused, ArtifactError)) as error:
        Endpoint("judge", url, 5.0, SILENT, hint="", key=SECRET).ask({})
    assert SECRET not in str(error.value) and "wrong key" in str(error.value)


def test_an_answer_without_end_is_cut_off(serve, monkeypatch):
    monkeypatch.setattr(http, "LARGEST", 1 << 20)

    def endless(handler):
        reply(content=b"")(handler)
        for _ in range(1000):
            handler.wfile.write(b" " * (1 << 20))

    url, seen = serve(endless)
    with pytest.raises(ArtifactError, match="more than 1 MB"):
        Service("far", url, 5.0).scores(["a"], ["a"], [""])
    assert len(seen) == 1


def test_a_drop_at_a_time_is_too_slow(serve, monkeypatch):
    monkeypatch.setattr(http, "RETRIES", 0)

    def dripping(handler):
        reply(content=b"")(handler)
        for _ in range(100):
            handler.wfile.write(b" ")
            time.sleep(0.05)

    url, _ = serve(dripping)
    began = time.monotonic()
    with pytest.raises(SurroundingsError, match="timed out"):
        Service("far", url, 0.3).scores(["a"], ["a"], [""])
    assert time.monotonic() - began < 3

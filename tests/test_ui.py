"""`ui`: nothing without its token and from its own page, no inline scripts, runs as they are, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import write
from starlette.routing import Route
from starlette.testclient import TestClient

from prefcli import serving
from prefcli.artifacts import alive
from prefcli.artifacts.manifest import Manifest
from prefcli.config.ui import UIConfig
from prefcli.errors import ArtifactError, UsageError
from prefcli.progress import SILENT
from prefcli.report.mark import MARK
from prefcli.ui import app as apps
from prefcli.ui import watching
from prefcli.ui.app import App
from prefcli.ui.desk import opened
from prefcli.ui.guard import LARGEST, new_token
from prefcli.ui.questions import questions

TOKEN = "t0ken"
HERE = "http://127.0.0.1:8010"
PAIR = {"prompt": "Where is the cup?", "chosen": "On the shelf.", "rejected": "I do not know."}
EVIL = '"><script>alert(1)</script>'


@pytest.fixture
def client(own_folder, store, jsonl):
    """A browser at a page with everything: `client.get("label")` has the token, the host and, in a POST, the origin."""
    config = UIConfig(label=[str(jsonl("data.jsonl", PAIR))], out="out.jsonl", reason=[EVIL])
    with opened(config, questions(config, SILENT), SILENT) as desk:
        app = App(store, TOKEN, threading.Event(), SILENT, desk=desk, talk=_Talk())
        client = TestClient(app.asgi, base_url=f"{HERE}/{TOKEN}/", headers={"origin": HERE}, follow_redirects=False)
        client.app_under_test = app
        yield client


class _Talk:
    two, saves = True, True

    def ask(self, text):
        return {"id": "1", "answers": [text, text[::-1]]}


# Safety


def test_nothing_is_answered_without_the_token(client, store):
    routes = client.app_under_test.asgi._app.routes
    assert len(routes) > 12 and all(isinstance(route, Route) for route in routes)
    for route in routes:
        path = (
            re.sub(r"\{number.*?\}", "0", route.path)
            .replace("{name}", "sft")
            .replace("{script}", "ui")
            .replace("{version}", "v1")
        )
        for start in ("", "/wrong", f"/{TOKEN[:-1]}", f"/{TOKEN}x", "//" + TOKEN, f"/x/{TOKEN}", f"/{TOKEN.upper()}"):
            for method in ("GET", "POST"):
                answer = client.request(method, HERE + start + path, json={})
                assert answer.status_code == 403 and "the token" in answer.text, (start, path)
                assert TOKEN not in answer.text
    assert client.get(f"{HERE}/{TOKEN}").headers["location"] == f"/{TOKEN}/"
    assert len({new_token() for _ in range(100)}) == 100 and all(len(new_token()) >= 32 for _ in range(10))


@pytest.mark.parametrize(
    ("status", "part", "method", "headers", "more"),
    [
        (421, "that name", "GET", {"host": "evil.example"}, {}),
        (421, "that name", "GET", {"host": "evil.example:8010"}, {}),
        (421, "that name", "GET", {"host": ""}, {}),
        (403, "another page", "POST", {"origin": "http://evil.example"}, {}),
        (403, "another page", "POST", {"origin": "null"}, {}),
        (403, "another page", "POST", {"origin": "http://127.0.0.1:8011"}, {}),
        (403, "another page", "POST", {"origin": "https://127.0.0.1:8010"}, {}),
        (403, "another page", "POST", {"origin": ""}, {}),
        (415, "application/json", "POST", {"content-type": "text/plain"}, {}),
        (415, "application/json", "POST", {"content-type": "application/x-www-form-urlencoded"}, {}),
        (413, "larger", "POST", {}, {"content": b'"' + b"x" * LARGEST + b'"'}),
        (413, "larger", "POST", {"content-length": "1e3"}, {}),
        (
            413,
            "too large",
            "POST",
            {},
            {"content": (b"x" * 2**16 for _ in range(17))},
        ),  # in chunks, of no stated length
        (405, "only GET", "PUT", {}, {}),
        (405, "only GET", "OPTIONS", {}, {}),
        (405, "only GET", "DELETE", {}, {}),
        (400, "JSON object", "POST", {}, {"content": b"[]"}),
        (400, "cannot be read", "POST", {}, {"content": b"{"}),
        (400, "cannot be read", "POST", {}, {"content": b"[" * 100_000}),
        (400, "'id'", "POST", {}, {"content": b'{"by": "ann"}'}),
        (400, "a name", "POST", {}, {"content": b'{"by": 1, "id": "x"}'}),
        (409, "already", "POST", {}, {"content": b'{"by": "ann", "id": "x"}'}),
    ],
)
def test_other_requests_are_refused(client, status, part, method, headers, more):
    headers = {"content-type": "application/json"} | headers
    answer = client.request(method, "label/decide", headers=headers, **({"content": b"{}"} | more))
    assert answer.status_code == status and part in answer.text
    assert "access-control-allow-origin" not in answer.headers
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not os.path.getsize("out.jsonl")


def test_names_of_this_machine_and_given_ones_are_answered(store):
    app = App(store, TOKEN, threading.Event(), SILENT, hosts=("gpu1",)).asgi
    for name in ("localhost", "127.0.0.1", "[::1]", "192.168.1.5", socket.gethostname(), "GPU1"):
        assert TestClient(app, base_url=f"http://{name}:8010").get(f"/{TOKEN}/").status_code == 200
    assert TestClient(app, base_url="http://gpu2:8010").get(f"/{TOKEN}/").status_code == 421


class _Parts(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self.said = [], None, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside in ("script", "style"):
            self.said.append(data)


def test_pages_have_no_inline_script_or_style_and_ask_for_nothing_from_elsewhere(client, make_artifact, monkeypatch):
    make_artifact("sft", metrics={EVIL: 1.0}, config={"data": [EVIL]})
    write(Path("report.html"), f"<!DOCTYPE html>{MARK}<p>A report")
    policy = dict(part.split(" ", 1) for part in client.get("").headers["content-security-policy"].split("; "))
    assert policy["script-src"] == policy["style-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    for path in ("", "label", "chat", "runs/sft/v1"):
        answer = client.get(path)
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
        assert answer.headers["referrer-policy"] == "same-origin" and answer.headers["cache-control"] == "no-store"
        page = _Parts(answer.text)
        assert page.said == [], path
        scripts = [attributes for tag, attributes in page.tags if tag == "script"]
        names = ["ui.js", *(["label.js"] if path in ("label", "chat") else [])]
        assert scripts == [{"src": f"/{TOKEN}/{name}", "defer": None} for name in names]
        for tag, attributes in page.tags:
            assert "style" not in attributes and not any(name.startswith("on") for name in attributes), tag
            for name in ("src", "href"):
                value = attributes.get(name, "#")
                assert value.startswith((f"/{TOKEN}/", "#", "data:,")), value
    label = _Parts(client.get("label").text)
    (reasons,) = [attributes["data-reasons"] for _, attributes in label.tags if "data-reasons" in attributes]
    assert json.loads(reasons) == [EVIL]
    for name in ("ui.css", "ui.js", "label.js"):
        text = client.get(name).text
        assert not re.search(
            r"https?://(?!www\.w3\.org/2000/svg)|@import|innerHTML|insertAdjacent|outerHTML|eval\(", text
        )


def test_the_pages_for_models_and_people_are_there_only_where_asked_for(store):
    client = TestClient(App(store, TOKEN, threading.Event(), SILENT).asgi, base_url=f"{HERE}/{TOKEN}/")
    assert client.get("label").status_code == client.get("chat").status_code == 404
    start = client.get("").text
    assert "prefcli ui --label answers.jsonl" in start and f'href="/{TOKEN}/label"' not in start


def test_a_defect_of_ours_is_told_and_not_shown_as_a_traceback(client, monkeypatch):
    monkeypatch.setattr(watching, "runs", lambda _: 1 / 0)
    careless = TestClient(client.app_under_test.asgi, base_url=f"{HERE}/{TOKEN}/", raise_server_exceptions=False)
    answer = careless.get("")
    assert answer.status_code == 500 and answer.json() == {"error": "ZeroDivisionError: division by zero"}


# Label, over HTTP


def test_a_decision_over_http_is_on_disk_when_it_is_answered(client):
    state = client.post("label/next", json={"by": "ann"}).json()
    said = {"by": "ann", "id": state["question"]["id"], "verdict": "left", "reasons": [EVIL]}
    after = client.post("label/decide", json=said).json()
    assert after["question"] is None and after["progress"]["mine"] == 1
    (row,) = map(json.loads, Path("out.jsonl").read_text().splitlines())
    assert row["chosen"] == state["question"]["answers"][0] and row["reasons"] == [EVIL]
    assert client.post("label/report", json={}).json()["annotators"][0]["decisions"] == 1
    assert client.post("label/undo", json={"by": "ann"}).json() == state and not os.path.getsize("out.jsonl")
    answer = client.post("label/undo", json={"by": "ann"})
    assert answer.status_code == 400 and "take back" in answer.json()["error"]


def test_a_date_in_a_message_is_sent_as_its_text(client, monkeypatch):
    monkeypatch.setattr(_Talk, "ask", lambda *_: {"sent": datetime(2026, 1, 2)})
    assert client.post("chat/ask", json={"text": "a"}).json() == {"sent": "2026-01-02 00:00:00"}


def test_a_full_disk_is_said_and_the_page_goes_on(client, monkeypatch):
    state = client.post("label/next", json={"by": "ann"}).json()
    said = {"by": "ann", "id": state["question"]["id"], "verdict": "left"}
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data) if b"chosen" not in data else _full())
    answer = client.post("label/decide", json=said)
    assert (
        answer.status_code == 507 and "No space left" in answer.json()["error"] and "free some" in answer.json()["hint"]
    )
    monkeypatch.setattr(os, "write", real)
    assert client.post("label/decide", json=said).status_code == 200


def _full():
    raise OSError(28, "No space left on device")


# Watch


def test_runs_are_listed_with_their_states(client, store, make_artifact):
    sft = make_artifact("sft", metrics={"loss": 0.5})
    make_artifact("dpo", parents={"model": sft, "reference": sft}, status="stopped")
    make_artifact("rm")
    write(store.root / "rm" / "v1" / "manifest.json", "{")
    write(store.root / "other" / "v1.partial" / "theirs", "not ours")
    with store.writer("dpo", "key") as draft:
        draft.note({"key": "key", "environment": {}, "parents": {"model": {"ref": "sft@v1", "digest": "d"}}})
        write(draft.path / "metrics.jsonl", '{"step": 1}\n{"step": 7, "loss": 1}\n{"step": 8')
        (first, *_), found = watching.runs(store), {run.ref: run for run in watching.runs(store)}
        assert {ref: run.state for ref, run in found.items()} == {
            "sft@v1": "complete", "dpo@v1": "stopped", "dpo@v2": "running", "rm@v1": "damaged"
        }  # fmt: skip
        assert (first.ref, first.stage, first.origin, first.result) == ("dpo@v2", "dpo", "model sft@v1", "step 7")
        assert found["dpo@v1"].origin == "model sft@v1" and "loss 0.5" in found["sft@v1"].result
        assert client.get("states").json()["runs"][0] == ["dpo@v2", "running", "step 7"]
        page = client.get("runs/dpo/v2").text
        assert 'id="stop"' in page and "Made from model sft@v1" in page
        with draft.save(7, keep=True) as folder:
            write(folder / "there", "x")
    (run,) = [run for run in watching.runs(store) if run.ref == "dpo@v2"]
    assert run.state == "interrupted" and "kept up to step 7; the same command resumes" in run.result
    assert 'id="stop"' not in client.get("runs/dpo/v2").text
    page = client.get("runs/sft/v1").text
    assert "<svg" in page and "prefcli sft" in page
    for path in ("runs/dpo/v3", "runs/nothing/v1", "runs/dpo/v2.partial", "runs/..%2F/v1", "runs/dpo/.lock"):
        assert client.get(path).status_code == 404


def test_what_is_stopped_is_the_process_that_holds_the_run_and_no_other(client, store, monkeypatch):
    sent = []
    with store.writer("dpo", "key") as draft:
        assert alive.process(draft.path) == os.getpid()
        real = os.kill
        monkeypatch.setattr(os, "kill", lambda *what: sent.append(what) if what[1] else real(*what))
        assert client.post("runs/dpo/v1/stop", json={}).status_code == 200
        assert sent == [(os.getpid(), signal.SIGINT)]
        assert client.post("runs/dpo/v2/stop", json={}).json() == {"error": "there is no run dpo@v2"}
        sign = json.loads((draft.path / alive.FILE).read_text())
        monkeypatch.setattr(alive, "_write", lambda version: None)  # no more signs of ours
        time.sleep(0.05)
        other = subprocess.Popen(["sleep", "60"])
        try:
            for change in ({"process": other.pid}, {"process": 2**22 + 1}, {"time": sign["time"] - 60},
                           {"host": "elsewhere"}, {"boot": "another"}, {"process": "x"}):  # fmt: skip
                write(draft.path / alive.FILE, json.dumps(sign | {"time": time.time()} | change))
                assert alive.process(draft.path) is None, change
            with pytest.raises(UsageError, match="does not run on this machine"):
                watching.stop(store, "dpo", "v1")
        finally:
            real(other.pid, signal.SIGKILL)
            other.wait()
        write(draft.path / alive.FILE, json.dumps(sign | {"time": time.time()}))
        assert alive.process(draft.path) == os.getpid()
    assert len(sent) == 1
    with pytest.raises(ArtifactError):
        watching.stop(store, "dpo", "v1")


def test_on_windows_nothing_is_sent_to_a_run(store, monkeypatch):
    windows = {"name": "nt", "kill": lambda *_: 1 / 0}  # 0 would be Ctrl-C there, and SIGINT kills
    with store.writer("dpo") as draft:
        for module in (watching, alive):
            monkeypatch.setattr(module, "os", SimpleNamespace(**vars(os) | windows))
        assert alive.process(draft.path) == os.getpid()
        with pytest.raises(UsageError, match="Ctrl-C"):
            watching.stop(store, "dpo", "v1")
        monkeypatch.undo()


def test_a_log_is_followed_line_by_line_and_read_anew_where_it_was_cut_back(own_folder):
    path, log = own_folder / "metrics.jsonl", watching.Log()
    assert not log.changed(path)
    write(path, '{"step": 1, "loss": 3.0}\n{"step": 2, "lo')
    assert log.changed(path) and [row["step"] for row in log.rows] == [1] and not log.changed(path)
    with path.open("a") as file:
        file.write('ss": "NaN", "alarm/explosion": 1}\nnonsense\n{"step": 3, "loss": 1.0}\n')
    assert log.changed(path) and [row["step"] for row in log.rows] == [1, 2, 3]
    told = log.told()
    assert told["samples"] == {}
    assert told["panels"] == [{"title": "loss", "series": [{"name": "training", "points": [(1, 3.0), (3, 1.0)]}]}]
    assert told["alarms"] == [(2, "explosion")] and told["log"][-1] == {"step": 3, "loss": 1.0}
    for text, shown in (
        ('{"step": 4, "samples": [{"prompt": "p", "completion": "<b>", "score": 1}]}', 1),
        ("{half", 0),
    ):
        write(own_folder / "samples.json", text)
        with path.open("a") as file:
            file.write('{"step": 3, "loss": 1.0}\n')
        assert log.changed(path) and len(log.told()["samples"].get("samples", [])) == shown
    log.rows = log.rows[:3]
    path.rename(own_folder / "moved")
    assert not log.changed(own_folder / "moved") and len(log.rows) == 3  # a version that is finished
    os.replace(write(own_folder / "new", '{"step": 1, "loss": 3.0}\n'), path)
    assert log.changed(path) and [row["step"] for row in log.rows] == [1]


def test_a_long_curve_keeps_its_peaks_and_its_end():
    steps, values = list(range(10_000)), [0.0] * 10_000
    values[1234], values[7777], values[-3], values[-2], values[-1] = 9.0, -9.0, -1.0, 1.0, 0.5
    found = watching.thinned(steps, values)
    assert len(found) <= 410 and found == sorted(found)
    assert {(1234, 9.0), (7777, -9.0), (9999, 0.5)} <= set(found)
    assert watching.thinned([1, 2], [3.0, 4.0]) == [(1, 3.0), (2, 4.0)]


def events_of(app, name, version, act):
    """The events of a run's stream; `act` is told the number of each as it comes."""

    async def listen():
        found = []
        async for text in app._stream(name, version):
            if text.startswith("event"):
                kind, data = re.fullmatch(r"event: (\w+)\ndata: (.*)\n\n", text).groups()
                found.append((kind, json.loads(data)))
                act(len(found))
        return found

    return asyncio.run(asyncio.wait_for(listen(), 20))


def test_a_stream_tells_what_is_new_until_the_run_is_over(store, client, monkeypatch, make_artifact):
    monkeypatch.setattr(apps, "TICK", 0.02)
    app = client.app_under_test
    writer = store.writer("sft", "key")
    draft = writer.__enter__()
    draft.note({"key": "key", "environment": {}, "parents": {}})
    log = write(draft.path / "metrics.jsonl", '{"step": 1, "loss": 3.0}\n')

    def act(number):
        if number == 2:
            with log.open("a") as file:
                file.write('{"step": 2, "loss": 2.0}\n')
        elif number == 3:
            with draft.save(2, keep=True) as folder:
                write(folder / "there", "x")
            assert not writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
        elif number == 4:  # it is resumed, and ends
            with store.writer("sft", "key") as resumed:
                resumed.note({"key": "key", "environment": {}, "parents": {}})
                resumed.finish(Manifest("sft", "sft", 1, "2026-01-01T00:00:00+00:00", "key"))

    found = events_of(app, "sft", "v1", act)
    assert [kind for kind, _ in found] == ["log", "state", "log", "state", "state"]
    assert [told["state"] for kind, told in found if kind == "state"] == ["running", "interrupted", "complete"]
    assert found[2][1]["panels"][0]["series"][0]["points"] == [[1, 3.0], [2, 2.0]]
    assert app._streams == 0
    make_artifact("dpo")
    assert [kind for kind, _ in events_of(app, "dpo", "v1", lambda _: None)] == ["log", "state"]
    with client.stream("GET", "runs/dpo/v1/events") as answer:
        assert (
            answer.headers["content-type"].startswith("text/event-stream") and "event: state" in answer.read().decode()
        )
    monkeypatch.setattr(apps, "STREAMS", 0)
    assert client.get("runs/dpo/v1/events").status_code == 503
    assert client.get("runs/dpo/v9/events").status_code == 404


def test_only_our_reports_are_served_and_they_run_nothing(client, store, own_folder):
    write(own_folder / "a.html", f"<!DOCTYPE html>{MARK}<p>A report")
    write(own_folder / "b.html", "<script>alert(1)</script>")
    store.root.mkdir()
    write(store.root / "c.html", f"<!DOCTYPE html>{MARK}<p>Another")
    assert [path.name for path in watching.reports(store).values()] == ["a.html", "c.html"]
    (address,) = (name for name, path in watching.reports(store).items() if path.name == "c.html")
    assert f"reports/{address}" in client.get("").text
    write(own_folder / "0.html", f"<!DOCTYPE html>{MARK}<p>A later one, which stands before it")
    answer = client.get(f"reports/{address}")
    assert "Another" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert client.get("reports/2").status_code == client.get("reports/b.html").status_code == 404
    assert "a.html" in client.get("").text and "b.html" not in client.get("").text


# The command


@contextmanager
def running(app):
    over, listener = threading.Event(), serving.listen("127.0.0.1", 0)
    thread = threading.Thread(target=serving.serve, args=(app, listener, over, 1))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        thread.join()
        listener.close()


def test_a_second_one_on_the_port_says_so(prefcli, store):
    with running(App(store, TOKEN, threading.Event(), SILENT).asgi) as port:
        result = prefcli("ui", "--no-browser", "--port", port)
    assert (result.exit_code, result.stdout) == (7, "")
    assert (
        f"a prefcli ui is already running on port {port} of 127.0.0.1" in result.stderr and "--port 0" in result.stderr
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        threading.Thread(target=lambda: taken.accept()[0].close(), daemon=True).start()
        result = prefcli("ui", "--no-browser", "--port", port)
    assert result.exit_code == 7 and f"port {port} of 127.0.0.1 is in use" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (["--out", "out.jsonl"], 2, "--out is for --label"),
        (["--overlap", "0.5"], 2, "--overlap is for --label"),
        (["--label", "data.jsonl"], 2, "--out is missing"),
        (["--label", "data.jsonl", "--out", "data.jsonl"], 2, "one of the files of --label"),
        (["--label", "data.jsonl", "--out", "out.txt"], 2, ".jsonl"),
        (["--label", "data.jsonl", "--out", "o.jsonl", "--order", "uncertain"], 2, "go together"),
        (
            ["--label", "data.jsonl", "--out", "o.jsonl", "--to", "binary", "--objective", "a"],
            2,
            "--objective has no effect with --to",
        ),
        (["--label", "data.jsonl", "--out", "o.jsonl", "--reward", "rm"], 2, "go together"),
        (["--label", "nothing.jsonl", "--out", "o.jsonl"], 3, "nothing.jsonl"),
        (["--label", "one.jsonl", "--out", "o.jsonl"], 3, "two different answers"),
        (["--label", "one.jsonl", "--out", "o.jsonl", "--to", "ranking"], 3, "two answers"),
        (["--label", "data.jsonl", "--out", "o.jsonl", "--order", "uncertain", "--reward", "rm"], 4, "rm"),
        (["--chat", "sft", "--chat-out", "o.jsonl"], 2, "between two models"),
        (["--chat-out", "o.jsonl"], 2, "--chat-out is for --chat"),
        (["--chat", "a", "--chat", "b", "--chat", "c"], 2, "more than twice"),
        (["--chat", "sft"], 4, "sft"),
        (["--host", "256.1.1.1"], 7, "cannot listen"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_served(prefcli, jsonl, args, code, part):
    jsonl("data.jsonl", PAIR), jsonl("one.jsonl", {"prompt": "a", "completion": "b"})
    result = prefcli("ui", "--no-browser", "--port", "0", *args)
    assert (result.exit_code, result.stdout) == (code, "") and part in result.stderr
    assert not Path("o.jsonl").exists()


def test_the_command_opens_its_page_and_ends_by_a_signal_with_watchers_attached(own_folder, jsonl, store):
    jsonl("data.jsonl", PAIR)
    write(own_folder / "browser.sh", f"#!/bin/sh\nexec {sys.executable} -c 'import sys, urllib.request as u; "
          f'open("seen", "wb").write(u.urlopen(sys.argv[1]).read())\' "$1"\n').chmod(0o755)  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "prefcli",
        "ui",
        "--port",
        "0",
        "--json",
        "--label",
        "data.jsonl",
        "--out",
        "o.jsonl",
    ]
    env = os.environ | {"BROWSER": f"{own_folder / 'browser.sh'} %s"}
    with store.writer("sft", "key"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        try:
            url = json.loads(process.stdout.readline())["url"]
            until = time.monotonic() + 20
            while not (Path("seen").exists() and b"Which answer is better?" in Path("seen").read_bytes()):
                assert time.monotonic() < until
                time.sleep(0.02)
            port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/([\w-]{32})/label", url).groups()
            watcher = socket.create_connection(("127.0.0.1", int(port)))
            watcher.sendall(f"GET /{token}/runs/sft/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            assert watcher.recv(100).startswith(b"HTTP/1.1 200")
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
            watcher.close()
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 130 and "Traceback" not in said
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)))


def test_small_answers_are_sent_at_once():
    """And not 40 ms later, when the client's kernel acknowledges the headers: asyncio goes by the protocol's name."""
    with serving.listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_an_interrupt_ends_streams_at_once_and_does_not_wait_for_the_grace(client, store):
    class Interrupted(threading.Event):
        """Whoever waits for it is interrupted, once somebody watches."""

        def wait(self, timeout=None):
            while not app._streams:
                time.sleep(0.01)
            raise KeyboardInterrupt

    over, listener = Interrupted(), serving.listen("127.0.0.1", 0)
    app = App(store, TOKEN, over, SILENT)
    port = listener.getsockname()[1]

    def watch():
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as watcher:
            watcher.sendall(f"GET /{TOKEN}/runs/sft/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            while watcher.recv(1000):
                pass

    with store.writer("sft", "key"), listener:
        watching_it = threading.Thread(target=watch)
        watching_it.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            serving.serve(app.asgi, listener, over, grace=60)
        assert time.monotonic() - started < 30
        watching_it.join(10)


def test_no_model_no_torch():
    heavy = ("torch", "transformers", "trl", "datasets", "matplotlib")
    code = (
        f"import prefcli.cli.ui, prefcli.ui.app, prefcli.ui.desk, sys; print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# Chat


@pytest.fixture
def talk(own_folder, monkeypatch):
    """Two models that answer from a list, first one then the other, and the file of votes."""
    from prefcli.data.appending import JsonLines
    from prefcli.evaluation.chat import Chat, Speaker
    from prefcli.ui.talk import Talk

    chat = Chat([Speaker("one", None, None), Speaker("two", None, None)], False, 1.0, 8, 0)
    monkeypatch.setattr(chat, "_fitting", lambda turns: turns)
    monkeypatch.setattr(chat, "_answer", lambda speaker, prompt, _: f"{speaker.name} to {prompt[-1]['content']}")
    with JsonLines(Path("votes.jsonl")) as file:
        yield Talk(chat, file)


def test_votes_are_blind_random_and_pairs_of_the_answers_that_stood_there(talk):
    lefts, votes = [], 40
    for number in range(votes):
        asked = talk.ask(f"q{number}")
        assert set(asked) == {"id", "answers"} and sorted(asked["answers"]) == [
            f"one to q{number}",
            f"two to q{number}",
        ]
        left = asked["answers"][0].split()[0]
        lefts.append(left)
        voted = talk.vote(asked["id"], "left")
        assert voted["names"] == [left, "two" if left == "one" else "one"]
        row = json.loads(Path("votes.jsonl").read_text().splitlines()[-1])
        assert [row["chosen"], row["rejected"]] == asked["answers"] and row["models"] == voted["names"]
        assert row["prompt"][-1] == {"role": "user", "content": f"q{number}"}
        if number:  # the dialogue went on with the better answer
            assert row["prompt"][-2]["content"] == f"{lefts[-2]} to q{number - 1}"
    wins = [["one", lefts.count("one")], ["two", lefts.count("two")]]
    assert 5 < wins[0][1] < 35 and voted["tally"] | {"ci95": 0} == {
        "wins": wins, "ties": 0, "fraction": wins[0][1] / votes, "ci95": 0
    }  # fmt: skip


def test_a_vote_counts_once_and_for_the_last_question_alone(talk):
    first, last = talk.ask("a"), talk.ask("b")
    for number, verdict in ((first["id"], "left"), (last["id"], "up"), (None, "left"), (last["id"], None)):
        with pytest.raises(UsageError):
            talk.vote(number, verdict)
    same, talk._chat.last.answers = talk._chat.last.answers, ["same", " same\n"]
    with pytest.raises(UsageError, match="no pair"):
        talk.vote(last["id"], "left")
    talk._chat.last.answers = same
    assert talk.vote(last["id"], "tie")["tally"]["fraction"] == 0.5
    with pytest.raises(UsageError):
        talk.vote(last["id"], "left")
    assert not os.path.getsize("votes.jsonl")
    for text in ("", "  ", "x" * 50_001, None, 1):
        with pytest.raises(UsageError):
            talk.ask(text)
    talk.reset()
    assert talk._chat.history == []


def test_a_page_that_is_loaded_anew_is_told_the_dialogue_and_what_waits_for_its_vote(talk):
    assert talk.state() == {"turns": [], "asked": None, "tally": None}
    asked = talk.ask("q")
    question = {"role": "user", "content": "q"}
    assert talk.state() == {"turns": [question], "asked": asked, "tally": None}
    tally = talk.vote(asked["id"], "right")["tally"]
    answer = {"role": "assistant", "content": asked["answers"][1]}
    assert talk.state() == {"turns": [question, answer], "asked": None, "tally": tally}


def test_a_question_that_is_refused_leaves_the_vote_on_the_one_before_it(talk, monkeypatch):
    asked, before = talk.ask("q"), talk.state()
    for step in ("_fitting", "_answer"):
        with monkeypatch.context() as refusing:
            refusing.setattr(talk._chat, step, lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                talk.ask("too long")
        assert talk.state() == before
    assert talk.vote(asked["id"], "left")["names"][0] == asked["answers"][0].split()[0]


def test_the_list_reads_a_manifest_once_and_again_when_it_is_another(store, make_artifact, monkeypatch):
    made = make_artifact("sft", metrics={"loss": 0.5})
    opened, real = [], store.open
    monkeypatch.setattr(store, "open", lambda *what: opened.append(what) or real(*what))
    assert "loss 0.5" in watching.runs(store)[0].result and "loss 0.5" in watching.runs(store)[0].result
    assert len(opened) == 1
    text = (made.path / "manifest.json").read_text()
    write(made.path / "manifest.json", text.replace("0.5", "0.75"))
    assert "loss 0.75" in watching.runs(store)[0].result
    (made.path / "manifest.json").unlink()
    assert watching.runs(store)[0].state == "damaged"


def test_the_newest_row_is_found_at_the_end_of_a_long_log(own_folder):
    rows = "".join(f'{{"step": {step}, "loss": 1.5}}\n' for step in range(1, 10_000))
    path = write(own_folder / "metrics.jsonl", rows + '{"step": 10000, "lo')
    assert watching.newest(path) == {"step": 9999, "loss": 1.5}
    assert watching.newest(own_folder / "nothing") == {} and watching.newest(write(path, '{"st')) == {}


def test_a_vote_is_taken_back_and_given_anew_which_its_row_says(talk):
    with pytest.raises(UsageError, match="take back"):
        talk.undo()
    asked = talk.ask("q")
    history = [dict(turn) for turn in talk._chat.history]
    for verdict in ("left", "tie", "right"):
        before = talk.vote(asked["id"], verdict)
        assert talk.undo() == {"id": asked["id"], "tally": None} and talk._chat.history == history
        assert talk._file.rows == [] and not os.path.getsize("votes.jsonl")
    assert talk.vote(asked["id"], "right") == before
    assert rows_of_votes()[0]["seen"] is True and rows_of_votes()[0]["chosen"] == asked["answers"][1]
    again = talk.ask("r")
    with pytest.raises(UsageError, match="take back"):
        talk.undo()  # of an earlier question
    talk.vote(again["id"], "left")
    assert "seen" not in rows_of_votes()[1]


def test_a_vote_that_met_a_full_disk_is_given_again_and_so_is_what_was_not_taken_back(talk, monkeypatch):
    asked = talk.ask("q")
    history = [dict(turn) for turn in talk._chat.history]
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda *_: _full())
        with pytest.raises(OSError, match="No space"):
            talk.vote(asked["id"], "right")
    assert talk._chat.history == history
    voted = talk.vote(asked["id"], "right")
    assert voted["tally"]["fraction"] in (0, 1) and rows_of_votes()[0]["chosen"] == asked["answers"][1]
    with monkeypatch.context() as full:
        full.setattr(os, "ftruncate", lambda *_: _full())
        with pytest.raises(OSError, match="No space"):
            talk.undo()
    assert talk.undo() == {"id": asked["id"], "tally": None} and rows_of_votes() == []


def rows_of_votes():
    return [json.loads(line) for line in Path("votes.jsonl").read_text().splitlines()]

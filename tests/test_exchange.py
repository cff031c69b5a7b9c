"""One deadline over a whole exchange by HTTP, however slowly its parts come; proxies; causes in words."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from itertools import chain, repeat

import pytest

from prefcli.errors import SurroundingsError
from prefcli.progress import SILENT
from prefcli.rewards import http as module
from prefcli.rewards.http import Endpoint, Refused

OK = b"HTTP/1.1 200 OK\r\n"
DRIPS = {
    "status line": (b"", b"H"),
    "header": (OK + b"X-Long: ", b"x"),
    "headers": (OK, b"X-A: b\r\n"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunk size": (OK + b"Transfer-Encoding: chunked\r\n\r\n1", b";a"),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "body": (OK + b"Content-Length: 1000\r\n\r\n", b" "),
    "nothing": (b"", b""),
}


@pytest.fixture
def drips(monkeypatch):
    """`drips(first, then)` answers each request with `first`, then with `then` again and again for four seconds."""
    monkeypatch.setattr(module, "RETRIES", 0)
    listeners, over = [], threading.Event()

    def make(first, then):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                try:
                    for part in chain([first], repeat(then, 80)):
                        connection.sendall(part)
                        if over.wait(0.05):
                            return
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"

    yield make
    over.set()
    for listener in listeners:
        listener.close()


def ask(url, timeout=0.4):
    return Endpoint("judge", url, timeout, SILENT, hint="").ask({"a": 1})


@pytest.mark.parametrize("part", DRIPS)
def test_an_answer_in_drops_is_too_slow_in_whatever_part(drips, part):
    url = drips(*DRIPS[part])
    began = time.monotonic()
    with pytest.raises(SurroundingsError, match="timed out"):
        ask(url)
    assert time.monotonic() - began < 3, part


def test_an_error_is_told_in_time_however_slowly_its_words_come(drips):
    url = drips(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 1000\r\n\r\nbecause", b" of")
    began = time.monotonic()
    with pytest.raises(Refused, match="HTTP 400 Bad Request because"):
        ask(url)
    assert time.monotonic() - began < 3


def test_the_proxy_of_the_environment_is_asked_for_other_machines(drips, monkeypatch):
    """`http_proxy` may come without a scheme; `no_proxy` is heeded."""
    url = drips(OK + b'Content-Length: 8\r\n\r\n{"a": 1}', b"")
    monkeypatch.setenv("http_proxy", url.removeprefix("http://").rstrip("/"))
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask("http://service.invalid/score", timeout=5) == {"a": 1}
    monkeypatch.setenv("no_proxy", "service.invalid")
    with pytest.raises(SurroundingsError, match="does not answer"):
        ask("http://service.invalid/score", timeout=5)


def test_a_proxy_that_is_none_is_said(monkeypatch):
    monkeypatch.setattr(module, "RETRIES", 0)
    monkeypatch.setenv("http_proxy", "gopher://me:hunter2@host")
    with pytest.raises(SurroundingsError, match="does not answer") as error:
        ask("http://service.invalid/")
    assert "hunter2" not in error.value.message


def test_an_asking_thread_may_have_a_loop_of_its_own(drips):
    import asyncio

    url = drips(OK + b'Content-Length: 8\r\n\r\n{"a": 2}', b"")

    async def notebook():
        return ask(url, timeout=5)

    assert asyncio.run(notebook()) == {"a": 2}


def test_no_command_pays_for_servers_and_clients_that_it_does_not_use(forked):
    code = (
        "import prefcli.rewards.sources, prefcli.evaluation.judge, prefcli.stages.ppo, sys\n"
        "print([name for name in ('httpx', 'starlette', 'uvicorn') if name in sys.modules])"
    )
    assert forked.start(code, stdout=subprocess.PIPE).communicate()[0].strip() == "[]"

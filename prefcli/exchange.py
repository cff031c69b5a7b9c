"""One request over HTTP and its answer, on httpx, under one deadline.

The deadline is over the whole of it: name, connection, sending, status line, headers, `100 Continue`s, body. A timeout
of each read would never come where a server sends a byte now and then.
"""

from __future__ import annotations

import asyncio
import functools
import os
import ssl
import threading
import urllib.request
from collections.abc import Callable, Coroutine
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from prefcli import __version__

T = TypeVar("T")
_LOOPBACK = ("localhost", "::1")


class NoAnswer(Exception):
    """An exchange that failed, with the reason in words."""


@dataclass
class Answer:
    """`content` is cut off a little above the size that was asked for; of an error's it may be the beginning."""

    status: int
    reason: str
    content: bytearray = field(default_factory=bytearray)

    @property
    def is_error(self) -> bool:
        return not 200 <= self.status < 300


def post(url: str, content: bytes, headers: dict[str, str], *, timeout: float, largest: int, shown: int) -> Answer:
    """The answer, after `timeout` seconds at most. A redirect is an answer like any other.

    At most a little more than `largest` bytes are read of it, of an error's `shown`. Raises NoAnswer.
    """
    return wait(posted(url, content, headers, timeout=timeout, largest=largest, shown=shown))


def wait(work: Coroutine[Any, Any, T], meanwhile: Callable[[], None] = lambda: None) -> T:
    """What comes of exchanges that run together; Ctrl-C ends them all. `meanwhile` is called now and then."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        while not futures.wait([future], timeout=0.1).done:
            meanwhile()
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def posted(
    url: str, content: bytes | None, headers: dict[str, str], *, timeout: float, largest: int, shown: int
) -> Answer:
    """As `post`, beside others; without content a GET."""
    known = {"User-Agent": f"prefcli/{__version__}", "Accept-Encoding": "identity", "Connection": "close"}
    answers: list[Answer] = []
    try:
        await _exchange(url, content, known | headers, timeout, largest, shown, answers)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
        if answers and answers[0].is_error:  # that it is one is known, whatever became of its words
            return answers[0]
        raise NoAnswer(_said(error)) from error
    return answers[0]


async def _exchange(
    url: str,
    content: bytes | None,
    headers: dict[str, str],
    timeout: float,
    largest: int,
    shown: int,
    answers: list[Answer],
) -> None:
    method = "GET" if content is None else "POST"
    secure = url[:5].lower() == "https"
    async with (
        asyncio.timeout(timeout),
        httpx.AsyncClient(
            timeout=None,
            trust_env=False,  # proxies are ours to find: this machine is never asked for through one
            proxy=_proxy(url),
            verify=_certificates() if secure else False,
        ) as client,
    ):
        # A request of our own has no headers but these: the client would add some.
        response = await client.send(httpx.Request(method, url, headers=headers, content=content), stream=True)
        try:
            answer = Answer(response.status_code, response.reason_phrase)
            answers.append(answer)
            most = shown if answer.is_error else largest
            async for block in response.aiter_bytes():  # some compress what was asked for plain
                answer.content += block
                if len(answer.content) > most:
                    return
        finally:
            await response.aclose()


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for the process, in a thread of its own: who asks may stand in a loop already (a notebook)."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="http").start()
    return loop


os.register_at_fork(after_in_child=_loop.cache_clear)  # a child has the loop, and not its thread


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Those that the system trusts, a company's own among them."""
    return ssl.create_default_context()


def _proxy(url: str) -> str | None:
    """The proxy of the environment or the system (http_proxy, no_proxy …); none for this machine's own ports."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in _LOOPBACK or host.startswith("127.") or urllib.request.proxy_bypass(parts.netloc):
        return None
    proxy = urllib.request.getproxies().get(parts.scheme.lower())
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def _said(error: BaseException) -> str:
    """The cause below what the libraries made of it."""
    if isinstance(error, TimeoutError):
        return "timed out"
    causes: list[BaseException] = [error]
    while (inner := causes[-1].__cause__ or causes[-1].__context__) is not None and inner not in causes:
        causes.append(inner.exceptions[0] if isinstance(inner, BaseExceptionGroup) else inner)
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.errno is not None:
            return f"{os.strerror(cause.errno) if cause.errno > 0 else cause.strerror}"
    return str(error) or type(error).__name__

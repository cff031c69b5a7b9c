"""The requests that `serve-rm` answers: POST on any path with texts to score, and GET /health; on starlette.

Everything that limits a request is here, and comes before the work that it limits: who is addressed, what kind of body
it is, its size, and how long it may take to be sent. Refusals are JSON like all answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HTTPRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from prefcli.errors import DataError
from prefcli.progress import Reporter
from prefcli.rewards.requests import BadRequest, Request
from prefcli.serving import host_name, is_ours

LARGEST = 64 << 20  # bytes of a request
HELD = 256 << 20  # bytes of all requests that are being read or wait
PATIENCE = 60  # seconds that a client may take to send one


class App:
    """The answers, as an application that any ASGI server runs: `asgi`."""

    def __init__(
        self,
        name: str,
        submit: Callable[[Request], Future[list[float]]],
        hosts: Sequence[str],
        reporter: Reporter,
    ) -> None:
        """`submit` hands a request to who scores it; `hosts` are names that this machine may be called by."""
        self._name, self._submit, self._reporter = name, submit, reporter
        self._hosts = {host.lower() for host in hosts}
        self._held = 0
        self.asgi = Starlette(
            routes=[
                Route("/health", self._health, methods=["GET"]),
                Route("/{path:path}", self._nothing, methods=["GET"]),
                Route("/{path:path}", self._scores, methods=["POST"]),
            ],
            exception_handlers={HTTPException: _refused, BadRequest: _refused},
        )

    async def _health(self, http: HTTPRequest) -> Response:
        self._addressed(http)
        return JSONResponse({"status": "ok", "reward": self._name})

    async def _nothing(self, http: HTTPRequest) -> Response:
        raise BadRequest("GET answers /health only; send texts to score with POST", 404)

    async def _scores(self, http: HTTPRequest) -> Response:
        self._addressed(http)
        if http.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # What a page of another site may send unasked has no such type.
            raise BadRequest('the request needs the header "Content-Type: application/json"', 415)
        held = [0]
        try:
            request = Request.of(await self._content(http, held))
            return JSONResponse(request.answer(await self._wait(http, request)))
        except ClientDisconnect:
            return Response()  # to nobody
        except asyncio.CancelledError as error:
            raise BadRequest("the service is shutting down: use another, or try again later", 503) from error
        except DataError as error:
            raise BadRequest(error.message) from error
        except BadRequest:
            raise
        except Exception as error:  # nobody stands above: the client is told, and the operator
            said = f"{type(error).__name__}: {error}"
            self._reporter.notice(f"a request failed: {said}")
            raise BadRequest(said, 500) from error
        finally:
            self._held -= held[0]

    def _addressed(self, http: HTTPRequest) -> None:
        """Raise BadRequest where the request is for a name that is not ours (`serving.is_ours`)."""
        name = host_name(http.headers.get("host", ""))
        if not is_ours(name, self._hosts):
            raise BadRequest(f"this is not {name[:100]!r}: start serve-rm with --allow-host NAME to let it be", 421)

    async def _content(self, http: HTTPRequest, held: list[int]) -> bytes:
        """The body. `held` is told how much of it counts as held. Raises BadRequest: too large, too slow, no room."""
        length = http.headers.get("content-length", "0")
        self._take(int(length) if length.isascii() and length.isdecimal() and len(length) < 19 else LARGEST + 1, held)
        content = bytearray()
        try:
            async with asyncio.timeout(PATIENCE):
                async for block in http.stream():
                    content += block
                    self._take(len(content), held)
        except TimeoutError as error:
            raise BadRequest(f"the request was not complete after {PATIENCE} s", 408) from error
        return bytes(content)

    def _take(self, size: int, held: list[int]) -> None:
        if size > LARGEST:
            raise BadRequest(f"the request is larger than {LARGEST >> 20} MB: send fewer texts at a time", 413)
        more = max(0, size - held[0])
        if self._held + more > HELD:
            raise BadRequest("too much is waiting: try again later", 503)
        self._held += more
        held[0] += more

    async def _wait(self, http: HTTPRequest, request: Request) -> list[float]:
        """The scores. Raises ClientDisconnect: nobody waits for them, and they are not made."""
        scores = asyncio.wrap_future(self._submit(request))
        left = asyncio.ensure_future(_left(http))
        try:
            both: set[asyncio.Future[Any]] = {scores, left}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not scores.done():
                raise ClientDisconnect()
            return scores.result()
        finally:
            left.cancel()
            scores.cancel()


async def _left(http: HTTPRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


async def _refused(http: HTTPRequest, error: Any) -> Response:
    if isinstance(error, BadRequest):
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return JSONResponse({"error": str(error)}, error.status, headers)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)

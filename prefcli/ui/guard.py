"""What every request to `ui` must pass before anything is done: the name it calls us by, the token, where it is from.

The token is the first part of the path, and not a cookie: cookies of one address are seen on all its ports. What may
change something also says where it comes from (Origin), so that no page of another site can send it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from prefcli.serving import host_name, is_ours

LARGEST = 1 << 20  # bytes of a request
WHO = "prefcli ui"  # begins every refusal: a second `ui` on the port knows the first one by it
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # the token is in the address; with no-referrer some browsers send no Origin
    "cache-control": "no-store",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def new_token() -> str:
    return secrets.token_urlsafe(24)


class Guard:
    """An ASGI application around another, which sees only what passed, without the token in its path."""

    def __init__(self, app: Any, token: str, hosts: Sequence[str] = ()) -> None:
        """`hosts`: further names that requests may call this machine by."""
        self._app, self._token = app, token
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(entry for entry in more if entry[0] not in given)]
            await send(message)

        request = Request(scope, receive)
        refusal = self._refused(request)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
            return
        path = "/" + scope["path"].split("/", 2)[2]
        inner = scope | {"path": path, "raw_path": path.encode(), "root_path": ""}
        await self._app(inner, _limited(receive), with_headers)

    def _refused(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if not host or not is_ours(host_name(host), self._hosts):
            return _no(421, "this machine does not have that name")
        path = request.scope["path"]
        token = path.split("/", 2)[1] if path.startswith("/") else ""
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            return _no(403, "use the address that the command printed: the token that opens the page is part of it")
        if path == f"/{self._token}":
            return RedirectResponse(f"/{self._token}/", 308)
        if request.method == "GET":
            return None
        if request.method != "POST":
            return _no(405, "only GET and POST")
        if request.headers.get("origin") != f"http://{host}":
            return _no(403, "the request comes from another page")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _no(415, 'the request needs the header "Content-Type: application/json"')
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal() and len(length) < 19 and int(length) <= LARGEST):
            return _no(413, f"the request is larger than {LARGEST >> 20} MB")
        return None


class TooLarge(Exception):
    """A body sent in chunks that is larger than it may be."""


def _limited(receive: Any) -> Any:
    seen = 0

    async def counted() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > LARGEST:
            raise TooLarge
        return message

    return counted


def _no(status: int, why: str) -> Response:
    return PlainTextResponse(f"{WHO}: {why}\n", status)

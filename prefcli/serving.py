"""What our servers (`serve-rm`, `ui`) have in common: the socket, how they run and end, whom a request may address."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import uvicorn

from prefcli.errors import SurroundingsError

BACKLOG = 2048  # connections that wait to be accepted; the system may have a lower limit


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises SurroundingsError: the port is in use, or cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP: asyncio sends small answers at once (TCP_NODELAY) on such sockets alone.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        found.close()
        in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise SurroundingsError(
            f"port {port} of {host} is in use" if in_use else f"cannot listen on port {port} of {host}: {error}",
            "choose another with --port; --port 0 takes a free one" if in_use else "check --host and --port",
        ) from error
    return found


def url(address: tuple[str, int]) -> str:
    """The address of a socket as a browser takes it."""
    host, port = address
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server(app: Any, grace: int) -> uvicorn.Server:
    """An ASGI application on uvicorn. What is in flight when it ends has `grace` seconds."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            log_config=None,
            log_level="critical",  # what goes wrong with a request is told by the application
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=grace,
        )
    )


def serve(app: Any, listener: socket.socket, over: threading.Event, grace: int) -> None:
    """Answer in a thread until `over` is set, or an interrupt comes: who calls this only waits, so that the interrupt
    finds nothing half done. What is in flight then has `grace` seconds; nothing new is taken."""
    running = server(app, grace)

    def answer() -> None:
        try:
            running.run([listener])
        finally:
            over.set()

    answering = threading.Thread(target=answer, daemon=True, name="answering")
    answering.start()
    try:
        over.wait()
    finally:
        over.set()  # streams that would never end look at it
        running.should_exit = True
        answering.join(grace + 1)


def host_name(header: str) -> str:
    """The name in a Host header, without its port: `[::1]:80` → `::1`."""
    name = header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0]
    return name.rstrip(".").lower()


def is_ours(name: str, names: Collection[str]) -> bool:
    """Whether a request for `name` is meant for this machine, which has these names (`*`: any).

    A page in a browser here may have made its own name lead here, to read the answers. An address, or no name at all
    (HTTP/1.0), cannot be made so.
    """
    if not name or name in {"localhost", socket.gethostname().lower()} or name in names or "*" in names:
        return True
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name.partition("%")[0]))
    return False

"""A reward model as a service, on uvicorn: its socket, its threads, and how it ends."""

from __future__ import annotations

import errno
import socket
import sys
import threading
from collections.abc import Sequence
from types import TracebackType

import uvicorn

from prefcli.errors import SurroundingsError
from prefcli.progress import SILENT, Reporter
from prefcli.rewards.app import App
from prefcli.rewards.joining import Joiner
from prefcli.rewards.sources import ModelReward

BACKLOG = 2048  # connections that wait to be accepted; the system may have a lower limit
GRACE = 5  # seconds that requests in flight have when it ends; a signal's own are eight

SWITCH = 2e-4  # seconds; at Python's 5 ms the answers wait for the scoring thread at each of their steps


class RewardServer:
    """Listens from the start and answers once it has its `source` and `serve_forever` runs.

    Requests are read and answered in a thread of their own, and scored in another; who calls `serve_forever` only
    waits, so that an interrupt finds nothing half done. Raises SurroundingsError: the port is in use, or cannot be had.
    """

    source: ModelReward

    def __init__(self, host: str, port: int, reporter: Reporter = SILENT, hosts: Sequence[str] = ()) -> None:
        """`hosts`: further names that requests may call this machine by."""
        self._reporter, self._hosts = reporter, [host, *hosts]
        self._over = threading.Event()
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(BACKLOG)
        except (OSError, UnicodeError) as error:
            self._socket.close()
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            raise SurroundingsError(
                f"port {port} of {host} is in use" if in_use else f"cannot listen on port {port} of {host}: {error}",
                "choose another with --port; --port 0 takes a free one" if in_use else "check --host and --port",
            ) from error
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def __enter__(self) -> RewardServer:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.close()

    @property
    def url(self) -> str:
        host, port = self.address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def serve_forever(self) -> None:
        """Until `shutdown`, or an interrupt. What is in flight then has GRACE seconds; nothing new is taken."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        joiner = Joiner(self.source, self._reporter)
        app = App(self.source.name, joiner.submit, self._hosts, self._reporter)
        server = uvicorn.Server(
            uvicorn.Config(
                app.asgi,
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
                timeout_graceful_shutdown=GRACE,
            )
        )
        answering = threading.Thread(target=self._answer, args=(server,), daemon=True, name="answering")
        answering.start()
        try:
            self._over.wait()
        finally:
            server.should_exit = True
            answering.join(GRACE + 1)
            joiner.stop()
            sys.setswitchinterval(interval)

    def shutdown(self) -> None:
        """Let `serve_forever`, in another thread, come to its end."""
        self._over.set()

    def _answer(self, server: uvicorn.Server) -> None:
        try:
            server.run([self._socket])
        finally:
            self._over.set()

"""A reward model as a service, on uvicorn: its socket, its threads, and how it ends."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from types import TracebackType

from prefcli import serving
from prefcli.progress import SILENT, Reporter
from prefcli.rewards.app import App
from prefcli.rewards.joining import Joiner
from prefcli.rewards.sources import ModelReward

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
        self._socket = serving.listen(host, port)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def __enter__(self) -> RewardServer:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.close()

    @property
    def url(self) -> str:
        return serving.url(self.address)

    def serve_forever(self) -> None:
        """Until `shutdown`, or an interrupt. What is in flight then has GRACE seconds; nothing new is taken."""
        interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH)
        joiner = Joiner(self.source, self._reporter)
        app = App(self.source.name, joiner.submit, self._hosts, self._reporter)
        try:
            serving.serve(app.asgi, self._socket, self._over, GRACE)
        finally:
            joiner.stop()
            sys.setswitchinterval(interval)

    def shutdown(self) -> None:
        """Let `serve_forever`, in another thread, come to its end."""
        self._over.set()

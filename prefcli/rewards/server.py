"""A reward model as a service: both forms of prefcli/rewards/http.py, on any path, and GET /health."""

from __future__ import annotations

import errno
import json
import math
import socket
import threading
import uuid
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prefcli import __version__
from prefcli.errors import DataError, SurroundingsError
from prefcli.progress import SILENT, Reporter
from prefcli.rewards.sources import ModelReward

LARGEST = 64 << 20  # bytes of a request
PATIENCE = 60  # seconds that a client may take to send it


class BadRequest(Exception):
    """What is wrong with a request, and the status that says so."""

    def __init__(self, said: str, status: int = 400) -> None:
        super().__init__(said)
        self.status = status


@dataclass(frozen=True)
class Request:
    """A request of either form. `model` is a name that LLaMA-Factory's form wants back; None in OpenRLHF's."""

    texts: list[str]
    prompts: list[str | None]
    longest: int | None  # tokens that a text is cut to
    model: str | None

    @staticmethod
    def of(content: bytes) -> Request:
        """Raises BadRequest for what is of neither form."""
        try:
            body = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"the request is not JSON: {error}") from error
        if not isinstance(body, dict) or ("messages" in body) == ("query" in body):
            raise BadRequest('the request must be an object with either "messages" or "query"')
        if "query" in body:
            texts = _strings("query", body["query"])
            prompts = body.get("prompts")
            known = [None] * len(texts) if prompts is None else _strings("prompts", prompts)
            if len(known) != len(texts):
                raise BadRequest(f"{len(known)} prompts for {len(texts)} texts in query")
            return Request(texts, list(known), None, None)
        texts = _strings("messages", body["messages"])
        longest = body.get("max_length")
        if longest is not None and (type(longest) is not int or longest < 1):
            raise BadRequest('"max_length" must be a number of tokens')
        return Request(texts, [None] * len(texts), longest, str(body.get("model", "")))

    def answer(self, scores: list[float]) -> dict[str, Any]:
        """The object that goes back."""
        if self.model is None:
            return {"rewards": scores, "scores": scores, "extra_logs": {}}
        made = f"scoreval-{uuid.uuid4().hex}"
        return {"id": made, "object": "score.evaluation", "model": self.model, "scores": scores}


class RewardServer(ThreadingHTTPServer):
    """Listens from the start and answers once it has its `source` and `serve_forever` runs. Its socket closes with it.

    Raises SurroundingsError: the port is in use, or cannot be had.
    """

    daemon_threads = True
    source: ModelReward

    def __init__(self, host: str, port: int, reporter: Reporter = SILENT) -> None:
        self.reporter = reporter
        self._one_at_a_time = threading.Lock()  # the model's memory is that of one batch
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except (OSError, UnicodeError) as error:
            in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            raise SurroundingsError(
                f"port {port} of {host} is in use" if in_use else f"cannot listen on port {port} of {host}: {error}",
                "choose another with --port; --port 0 takes a free one" if in_use else "check --host and --port",
            ) from error

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://[{host!s}]:{port}" if self.address_family == socket.AF_INET6 else f"http://{host!s}:{port}"

    def scores(self, request: Request) -> list[float]:
        """One score for each text. Raises BadRequest: a text is empty or too long. ArithmeticError: no finite score."""
        try:
            with self._one_at_a_time:
                scores: list[float] = self.source.score_texts(request.texts, request.prompts, request.longest).tolist()
        except DataError as error:
            raise BadRequest(error.message) from error
        for score in scores:
            if not math.isfinite(score):
                raise ArithmeticError(f"the reward model gave {score}")
        return scores

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves before it has its answer is nothing to draw a traceback for."""


class _Handler(BaseHTTPRequestHandler):
    server: RewardServer
    server_version = f"prefcli/{__version__}"
    timeout = PATIENCE

    def do_GET(self) -> None:
        if self.path.partition("?")[0] == "/health":
            self._send(200, {"status": "ok", "reward": self.server.source.name})
        else:
            self._send(404, {"error": "GET knows /health alone; texts to score are POSTed"})

    def do_POST(self) -> None:
        try:
            request = Request.of(self._content())
            status, answer = 200, request.answer(self.server.scores(request))
        except BadRequest as error:
            status, answer = error.status, {"error": str(error)}
        except Exception as error:  # a thread's exception has nobody above it: the client is told, and the operator
            status, answer = 500, {"error": f"{type(error).__name__}: {error}"}
            self.server.reporter.notice(f"a request failed: {answer['error']}")
        self._send(status, answer)

    def _content(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise BadRequest("the request needs a Content-Length", 411)
        if len(length) > 12 or int(length) > LARGEST:
            raise BadRequest(f"the request is larger than {LARGEST >> 20} MB: send fewer texts at a time", 413)
        return self.rfile.read(int(length))

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """http.server's own refusals (no such method, no HTTP), as JSON like all others."""
        self._send(code, {"error": message or self.responses.get(code, ("",))[0]})

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a rollout is a request, and ppo shows its own progress."""


def _strings(key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise BadRequest(f'"{key}" must be a list of strings that is not empty')
    try:
        "".join(value).encode()
    except UnicodeEncodeError as error:  # no tokenizer takes it, and JSON lets it pass
        raise BadRequest(f'"{key}" holds half of a surrogate pair') from error
    return value

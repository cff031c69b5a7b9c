"""What serve-rm was until it joined requests: the standard library's server, and a lock around the model."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prefcli.rewards.requests import Request
from prefcli.rewards.sources import ModelReward


def server(source: ModelReward) -> ThreadingHTTPServer:
    """Listening; five connections wait to be accepted, as the standard library has it."""
    one = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = Request.of(self.rfile.read(int(self.headers["Content-Length"])))
            with one:
                ids = [source.ids_of_text(text, None, None, "a text") for text in request.texts]
                scores = source.score_ids(ids).tolist()
            content = json.dumps(request.answer(scores)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.daemon_threads = True
    return made

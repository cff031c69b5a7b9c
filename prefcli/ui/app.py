"""The pages of `ui` and what they ask for, on starlette. What must be safe is in guard.py, which stands before it."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from prefcli import __version__
from prefcli.artifacts.store import Store
from prefcli.artifacts.unfinished import LOG
from prefcli.errors import ArtifactError, PrefcliError, from_foreign
from prefcli.progress import Reporter
from prefcli.ui import watching
from prefcli.ui.desk import Desk, Stale
from prefcli.ui.guard import Guard, TooLarge

HERE = Path(__file__).parent
LOOK = (HERE.parent / "report" / "report.css", HERE / "ui.css")
SCRIPTS = ("ui", "label")
TICK = 1.0  # seconds between two looks at a log
STREAMS = 64  # pages that watch at a time
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"  # a report's own styles


class App:
    """What is served, as an application that any ASGI server runs: `asgi`."""

    def __init__(
        self, store: Store, token: str, over: threading.Event, reporter: Reporter, *, desk: Desk | None = None,
        talk: Any = None, hosts: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """`over` is set when streams must end. `talk` is a `ui.talk.Talk`; without it there is no page to chat."""
        self._store, self._desk, self._talk = store, desk, talk
        self._over, self._reporter = over, reporter
        self._base, self._streams = f"/{token}/", 0
        self._pages = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        routes = [
            Route("/", self._start),
            Route("/ui.css", self._css),
            Route("/{script}.js", self._script),
            Route("/runs/{name}/{version}", self._run),
            Route("/runs/{name}/{version}/events", self._events),
            Route("/runs/{name}/{version}/stop", self._stop, methods=["POST"]),
            Route("/states", self._states),
            Route("/reports/{name}", self._report),
        ]
        if desk is not None:
            routes += [
                Route("/label", self._label),
                Route("/label/next", self._asked(lambda said: desk.next(said["by"])), methods=["POST"]),
                Route("/label/decide", self._asked(lambda said: desk.decide(said["by"], said["id"], said)),
                      methods=["POST"]),
                Route("/label/undo", self._asked(lambda said: desk.undo(said["by"])), methods=["POST"]),
                Route("/label/report", self._asked(lambda _: desk.report()), methods=["POST"]),
            ]  # fmt: skip
        if talk is not None:
            routes += [
                Route("/chat", self._chat),
                Route("/chat/state", self._asked(lambda _: talk.state()), methods=["POST"]),
                Route("/chat/ask", self._asked(lambda said: talk.ask(said["text"])), methods=["POST"]),
                Route("/chat/vote", self._asked(lambda said: talk.vote(said["id"], said["verdict"])), methods=["POST"]),
                Route("/chat/undo", self._asked(lambda _: talk.undo()), methods=["POST"]),
                Route("/chat/reset", self._asked(lambda _: talk.reset()), methods=["POST"]),
            ]
        handlers: dict[Any, Any] = {Exception: self._failed, HTTPException: _nothing_there, ArtifactError: _not_there}
        self.asgi = Guard(Starlette(routes=routes, exception_handlers=handlers), token, hosts)

    def _page(self, template: str, **more: Any) -> Response:
        about = {"base": self._base, "version": __version__, "labels": self._desk is not None,
                 "chats": self._talk is not None}  # fmt: skip
        return HTMLResponse(self._pages.get_template(template).render(**about, **more))

    def _asked(self, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
        """An endpoint that is sent a JSON object; what goes wrong is told in JSON too."""

        async def endpoint(http: Request) -> Response:
            try:
                said = json.loads(await http.body())
                found = await run_in_threadpool(answer, said) if isinstance(said, dict) else None
                if found is None:
                    return _told(400, "a JSON object is expected")
                return Response(json.dumps(found, default=str), media_type="application/json")  # dates too
            except Stale:
                return _told(409, "this was answered already, or in another window")
            except TooLarge:
                return _told(413, "that is too large")
            except (ValueError, KeyError, RecursionError) as error:
                return _told(400, f"the request cannot be read: {error}")
            except PrefcliError as error:
                return _told(400, error.message, error.hint)
            except OSError as error:  # a full disk: the question stays, and so does the page
                known = from_foreign(error)
                self._reporter.notice(f"not written: {error}")
                return _told(507, f"not written: {known.message if known else error}", known.hint if known else None)

        return endpoint

    def _start(self, http: Request) -> Response:
        found = watching.runs(self._store)
        files = [(path.name, str(path), name) for name, path in watching.reports(self._store).items()]
        return self._page("start.html.j2", runs=found, reports=files, root=str(self._store.root.resolve()))

    def _states(self, http: Request) -> Response:
        """Every run's state and result, in the order of the list."""
        return JSONResponse({"runs": [[run.ref, run.state, run.result] for run in watching.runs(self._store)]})

    def _css(self, http: Request) -> Response:
        return Response("\n".join(path.read_text(encoding="utf-8") for path in LOOK), media_type="text/css")

    def _script(self, http: Request) -> Response:
        if http.path_params["script"] not in SCRIPTS:
            raise HTTPException(404)
        return FileResponse(HERE / f"{http.path_params['script']}.js", media_type="text/javascript")

    def _label(self, http: Request) -> Response:
        assert self._desk is not None
        return self._page("label.html.j2", kind=self._desk.kind, reasons=self._desk.reasons,
                          objectives=self._desk.objectives)  # fmt: skip

    def _chat(self, http: Request) -> Response:
        return self._page("chat.html.j2", two=self._talk.two, saves=self._talk.saves)

    def _run(self, http: Request) -> Response:
        name, version = http.path_params["name"], http.path_params["version"]
        run = watching.run_of(self._store, name, version)
        return self._page(
            "run.html.j2", run=run, address=f"{self._base}runs/{name}/{version}",
            command=watching.command_of(self._store, run), lineage=watching.drawing(self._store, run),
        )  # fmt: skip

    async def _events(self, http: Request) -> Response:
        name, version = http.path_params["name"], http.path_params["version"]
        await run_in_threadpool(watching.place, self._store, name, version)
        if self._streams >= STREAMS:
            return _told(503, "too many pages are open: close some")
        return StreamingResponse(self._stream(name, version), media_type="text/event-stream")

    async def _stream(self, name: str, version: str) -> AsyncIterator[str]:
        """Server-sent events: "log" whenever there is more of it, "state" at first and when it changes, until the run
        is a finished version."""
        self._streams += 1
        log, state = watching.Log(), ""
        try:
            while not self._over.is_set():
                started = time.monotonic()
                run = await run_in_threadpool(watching.run_of, self._store, name, version)
                place = await run_in_threadpool(watching.place, self._store, name, version)
                if await run_in_threadpool(log.changed, place / LOG):
                    yield f"event: log\ndata: {json.dumps(await run_in_threadpool(log.told))}\n\n"
                if run.state != state:
                    state = run.state
                    yield f"event: state\ndata: {json.dumps({'state': state, 'result': run.result})}\n\n"
                if state not in ("running", "interrupted"):  # the latter may be resumed
                    return
                yield ": alive\n\n"  # a client that is gone is found out
                until = started + max(TICK, 10 * (time.monotonic() - started))  # a long log is not all we do
                while time.monotonic() < until and not self._over.is_set():
                    await asyncio.sleep(0.1)
        except ArtifactError:  # it was removed
            yield f"event: state\ndata: {json.dumps({'state': 'gone', 'result': ''})}\n\n"
        finally:
            self._streams -= 1

    def _stop(self, http: Request) -> Response:
        name, version = http.path_params["name"], http.path_params["version"]
        try:
            watching.stop(self._store, name, version)
        except PrefcliError as error:
            return _told(400, error.message, error.hint)
        self._reporter.notice(f"stopping {name}@{version}")
        return JSONResponse({"stopping": f"{name}@{version}"})

    def _report(self, http: Request) -> Response:
        found = watching.reports(self._store).get(http.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return FileResponse(found, headers={"content-security-policy": REPORT_POLICY})

    def _failed(self, http: Request, error: Exception) -> Response:
        said = f"{type(error).__name__}: {error}"
        self._reporter.notice(f"a request failed: {said}")
        return _told(500, said)


def _told(status: int, message: str, hint: str | None = None) -> Response:
    return JSONResponse({"error": message} | ({"hint": hint} if hint else {}), status)


def _nothing_there(http: Request, error: HTTPException) -> Response:
    return _told(error.status_code, error.detail)


def _not_there(http: Request, error: ArtifactError) -> Response:
    return _told(404, error.message)

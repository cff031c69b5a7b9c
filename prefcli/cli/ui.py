"""`prefcli ui`: a local page to give preferences, watch runs and talk to models, until it is interrupted."""

from __future__ import annotations

import json
import socket
import threading
import webbrowser
from contextlib import ExitStack, suppress
from typing import Any

from prefcli.artifacts.store import Store
from prefcli.cli.console import print_result, reporter
from prefcli.cli.out import out_file
from prefcli.config.base import option
from prefcli.config.ui import UIConfig
from prefcli.errors import SurroundingsError, UsageError
from prefcli.progress import Reporter

LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # how we reach ourselves where we listen to all


def run(config: UIConfig) -> None:
    """stdout carries the address, with its token."""
    _check(config)
    from prefcli import serving
    from prefcli.ui.app import App
    from prefcli.ui.guard import new_token

    report = reporter(config.quiet)
    over, token = threading.Event(), new_token()
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(config))
        desk = stack.enter_context(_desk(config, report)) if config.label else None
        talk = stack.enter_context(_talk(config, report)) if config.chat else None
        app = App(Store(config.runs), token, over, report, desk=desk, talk=talk, hosts=(config.host,))
        port, page = listener.getsockname()[1], f"/{token}/" + ("label" if desk else "chat" if talk else "")
        address = serving.url((socket.gethostname() if config.host in LOOPBACK else config.host, port)) + page
        report.notice("whoever has this address can use the page; Ctrl-C ends it")
        if config.host not in ("127.0.0.1", "localhost", "::1"):
            report.notice("nothing is encrypted on the way: use it on a network that you trust")
        print_result(json.dumps({"url": address}) if config.json else address)
        if config.browser:
            own = serving.url((LOOPBACK.get(config.host, config.host), port)) + page
            threading.Thread(target=_open, args=(own,), daemon=True).start()
        serving.serve(app.asgi, listener, over, grace=2)


def _check(config: UIConfig) -> None:
    """Raises UsageError: an option without the one that it belongs to."""
    for needed, given in (("label", ("out", "reason", "objective", "overlap", "reward")), ("chat", ("chat_out",))):
        for name in given:
            if getattr(config, name) and not getattr(config, needed):
                raise UsageError(f"{option(name)} is for {option(needed)}", f"add {option(needed)}, or leave it out")
    if config.label and config.out is None:
        raise UsageError("--out is missing", "name the file of the decisions: --out pairs.jsonl")
    if config.objective and config.to != "pairs":
        raise UsageError(f"--objective has no effect with --to {config.to}", "leave it out, or use --to pairs")
    if (config.order == "uncertain") != bool(config.reward):
        raise UsageError("--order uncertain and --reward go together", "give both, or neither")
    if len(config.chat) > 2:
        raise UsageError("--chat is given more than twice", "two models are compared at most")
    if config.chat_out is not None and len(config.chat) < 2:
        raise UsageError("--chat-out is for votes between two models", "name a second one: --chat REF --chat REF")
    out_file("--out", config.out, {"one of the files of --label": config.label})
    out_file("--chat-out", config.chat_out, {"one of the files of --label": config.label, "the file of --out":
                                             [config.out]})  # fmt: skip


def _listen(config: UIConfig) -> Any:
    """Raises SurroundingsError: the port is in use, by another `ui` or by something else."""
    from prefcli import serving

    try:
        return serving.listen(config.host, config.port)
    except SurroundingsError as error:
        if "in use" in error.message and _is_ui(config):
            raise SurroundingsError(
                f"a prefcli ui is already running on port {config.port} of {config.host}",
                "open the address that it printed, end it with Ctrl-C, or use another port: --port 0",
            ) from error
        raise


def _is_ui(config: UIConfig) -> bool:
    """Whether it is a `ui` that listens there: it refuses us, by name."""
    import httpx

    from prefcli import serving
    from prefcli.ui.guard import WHO

    host = LOOPBACK.get(config.host, config.host)
    with suppress(httpx.HTTPError):
        return httpx.get(serving.url((host, config.port)), timeout=1, trust_env=False).text.startswith(WHO)
    return False


def _desk(config: UIConfig, report: Reporter) -> Any:
    from prefcli.ui.desk import opened
    from prefcli.ui.needed import needed
    from prefcli.ui.questions import by_uncertainty, questions

    todo, more = questions(config, report), None
    if config.order == "uncertain":
        from prefcli.ui.uncertain import scores

        todo = by_uncertainty(todo, scores(config, todo, report), config.to)
        if config.to != "binary":
            more = needed(config.reward, str(config.out), Store(config.runs))
    return opened(config, todo, report, more)


def _talk(config: UIConfig, report: Reporter) -> Any:
    from prefcli.ui.talk import opened

    return opened(config, report)


def _open(page: str) -> None:
    with suppress(webbrowser.Error, OSError):
        webbrowser.open(page)

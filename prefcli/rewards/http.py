"""JSON over HTTP with retries, and rewards by it: the two forms in use, and what counts as an answer. No torch.

    LLaMA-Factory  POST {"model", "messages": [text, …]}                → {"scores": [number, …]}
    OpenRLHF       POST {"query": [text, …], "prompts": […], "labels": […]} → {"rewards": [number, …]}, or "scores"

A text is prompt and answer together, as a model reads them: these services apply no chat template.
"""

from __future__ import annotations

import http.client
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prefcli.errors import ArtifactError, SurroundingsError
from prefcli.progress import SILENT, Reporter

RETRIES = 3
BACKOFF = 1.0  # seconds before the first retry, and twice as long before each further one
LARGEST = 16 << 20  # bytes of an answer; a score of 64 texts is a few thousand
_SHOWN = 200  # characters of an answer in a message
_LOOPBACK = ("localhost", "::1")
_FORMS_HINT = "the forms of request are in docs/rewards.md"


@dataclass(frozen=True)
class Form:
    """How a request is written, and under which keys the scores come back: the first that is there."""

    name: str
    body: Callable[[list[str], list[str], list[Any]], dict[str, Any]]  # of texts, their prompts, labels
    keys: tuple[str, ...]


LLAMA_FACTORY = Form("LLaMA-Factory", lambda texts, _, __: {"model": "model", "messages": texts}, ("scores", "rewards"))
OPENRLHF = Form(
    "OpenRLHF",
    lambda texts, prompts, labels: {"query": texts, "prompts": prompts, "labels": labels},
    ("rewards", "scores"),  # newer servers send both: "rewards" train, "scores" filter
)


class Refused(Exception):
    """The service answered, but not to this form of request: an HTTP status that is an error."""

    def __init__(self, said: str, status: int) -> None:
        super().__init__(said)
        self.status = status


class Endpoint:
    """A URL to which JSON is posted, and which answers with a JSON object. `what` it is called in messages.

    The `key`, where there is one, is sent as a bearer token, and is never shown: not even where an answer repeats it.
    """

    def __init__(
        self, what: str, url: str, timeout: float, reporter: Reporter, *, hint: str, key: str | None = None
    ) -> None:
        self.url = url
        self._what, self._timeout, self._reporter, self._hint, self._key = what, timeout, reporter, hint, key
        host = urlsplit(url).hostname or ""
        # A proxy for the outside world (http_proxy) knows nothing of this machine's own ports.
        proxies: dict[str, str] | None = {} if host in _LOOPBACK or host.startswith("127.") else None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirect())

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that comes back.

        Raises Refused: an HTTP status that is an error; the last one, where each of the retries met one that may pass.
        SurroundingsError: no answer within the timeout and the retries. ArtifactError: no JSON object, or too much.
        """
        data = json.dumps(body, default=str).encode()  # a label may be a date
        request = urllib.request.Request(self.url, data, {"Content-Type": "application/json"}, method="POST")
        if self._key:
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        problem: Exception
        for attempt in range(RETRIES + 1):
            try:
                until = time.monotonic() + self._timeout
                with self._opener.open(request, timeout=self._timeout) as response:
                    content = _read(response, until)
                if len(content) > LARGEST:
                    raise ArtifactError(
                        f"{self._what}: {self.url} answers with more than {LARGEST >> 20} MB", self._hint
                    )
                return self._object(content)
            except urllib.error.HTTPError as error:
                problem = Refused(self._shown(f"HTTP {error.code} {_content(error)}"), error.code)
                if not may_pass(error.code):
                    raise problem from error
            except (OSError, http.client.HTTPException) as error:  # URLError and TimeoutError are OSErrors
                problem = error
            if attempt < RETRIES:
                wait = BACKOFF * 2**attempt
                self._reporter.notice(f"{self._what}: {_said(problem)}; trying again in {wait:g} s")
                time.sleep(wait)
        if isinstance(problem, Refused):
            raise problem
        raise SurroundingsError(
            f"{self._what}: {self.url} does not answer ({_said(problem)}; {RETRIES + 1} tries)",
            f"is the service running? It has {self._timeout:g} s for a request: "
            "#timeout=SECONDS at the end of the URL changes that",
        ) from problem

    def _object(self, content: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ArtifactError(
                f"{self._what}: {self.url} did not answer with a JSON object: "
                f"{self._shown(content.decode(errors='replace'))}",
                self._hint,
            )
        return answer

    def _shown(self, text: str) -> str:
        return _short(text.replace(self._key, "…") if self._key else text)


class Service:
    """A scoring service at a URL.

    Which form it takes is found out at the first call, and kept: LLaMA-Factory's where the path is the one that its
    server has, else OpenRLHF's first; where that is refused, the other one.
    """

    def __init__(self, name: str, url: str, timeout: float, reporter: Reporter = SILENT) -> None:
        self.name, self.url = name, url
        self._endpoint = Endpoint(f"reward {name}", url, timeout, reporter, hint=_FORMS_HINT)
        own = urlsplit(url).path.rstrip("/").endswith("/score/evaluation")
        self._forms = [LLAMA_FACTORY, OPENRLHF] if own else [OPENRLHF, LLAMA_FACTORY]

    def scores(self, texts: list[str], prompts: list[str], labels: list[Any]) -> list[float]:
        """One finite number for each text.

        Raises SurroundingsError: no answer within the timeout and the retries, or a server error each time.
        ArtifactError: an answer that is none (another status, no JSON, no list of as many finite numbers).
        """
        refusals: list[Refused] = []
        for form in self._forms:
            try:
                answer = self._endpoint.ask(form.body(texts, prompts, labels))
            except Refused as refused:
                refusals.append(refused)
                continue
            found = next((answer[key] for key in form.keys if key in answer), None)
            if found is None:
                refusals.append(Refused(f"no {' or '.join(form.keys)} in {_short(json.dumps(answer))}", 200))
                continue
            self._forms = [form]
            return self._checked(found, texts)
        tried = "; ".join(f"{form.name}'s form: {refused}" for form, refused in zip(self._forms, refusals))
        if any(may_pass(refused.status) for refused in refusals):
            raise SurroundingsError(
                f"reward {self.name}: {self.url} fails ({tried})", "see what the service itself says of the request"
            )
        raise ArtifactError(
            f"reward {self.name}: {self.url} is no reward service, or at another path ({tried})",
            _FORMS_HINT,
        )

    def _checked(self, found: Any, texts: list[str]) -> list[float]:
        where = f"reward {self.name}: {self.url} gave"
        if not isinstance(found, list):
            raise ArtifactError(f"{where} {_short(json.dumps(found))}, which is no list of scores")
        if len(found) != len(texts):
            raise ArtifactError(f"{where} {len(found)} scores for {len(texts)} texts")
        for value, text in zip(found, texts):
            if not _is_score(value):
                raise ArtifactError(
                    f"{where} {_short(json.dumps(value))} for the text {text[-80:]!r}", "a score is a finite number"
                )
        return [float(value) for value in found]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would follow with a GET and leave the texts behind: a redirect is an error that shows its status."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def may_pass(status: int) -> bool:
    """Whether to try again: server errors; and timeout, too early, too many requests."""
    return status >= 500 or status in (408, 425, 429)


def _is_score(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _read(response: http.client.HTTPResponse, until: float) -> bytes:
    """The answer, or a little more than LARGEST of it. Raises TimeoutError, IncompleteRead.

    The socket's own timeout is for each piece: a byte a minute would never end.
    """
    found = bytearray()
    while len(found) <= LARGEST and (block := response.read1(1 << 16)):
        found += block
        if time.monotonic() > until:
            raise TimeoutError("timed out")
    if len(found) <= LARGEST and response.length:  # it ended before all that its header says
        raise http.client.IncompleteRead(b"", response.length)
    return bytes(found)


def _content(error: urllib.error.HTTPError) -> str:
    """What a server says of its error."""
    try:
        with error:
            return f"{error.reason} {error.read(4 * _SHOWN).decode(errors='replace')}"
    except (OSError, http.client.HTTPException):
        return str(error.reason)


def _said(problem: Exception) -> str:
    if isinstance(problem, urllib.error.URLError):
        problem = problem.reason if isinstance(problem.reason, Exception) else problem
    return str(problem) or type(problem).__name__


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "…"

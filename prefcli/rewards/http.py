"""JSON over HTTP with retries, and rewards by it: two request formats, and what counts as an answer. No torch.

    LLaMA-Factory  POST {"model", "messages": [text, …]}                → {"scores": [number, …]}
    OpenRLHF       POST {"query": [text, …], "prompts": […], "labels": […]} → {"rewards": [number, …]}, or "scores"

A text is prompt and answer together, as a model reads them: these services apply no chat template.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prefcli.errors import ArtifactError, SurroundingsError
from prefcli.progress import SILENT, Reporter
from prefcli.rewards.grammar import LARGEST_SCORE, SCORE_FORM
from prefcli.urls import may_pass

RETRIES = 3
BACKOFF = 1.0  # seconds before the first retry, and twice as long before each further one
LARGEST = 16 << 20  # bytes of an answer; a score of 64 texts is a few thousand
_SHOWN = 200  # characters of an answer in a message
_FORMS_HINT = "the request formats are in docs/rewards.md"


@dataclass(frozen=True)
class Form:
    """A request format, and the keys under which the scores come back: the first that is there."""

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

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The JSON object that comes back.

        Raises Refused: an HTTP status that is an error; the last one, where each of the retries met one that may pass.
        SurroundingsError: no answer within the timeout and the retries. ArtifactError: no JSON object, or too much.
        """
        data = json.dumps(body, default=str).encode()  # a label may be a date
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        exchange: Any = importlib.import_module("prefcli.exchange")  # httpx, which only this needs
        problem: Exception
        for attempt in range(RETRIES + 1):
            try:
                answer = exchange.post(
                    self.url, data, headers, timeout=self._timeout, largest=LARGEST, shown=4 * _SHOWN
                )
                content = bytes(answer.content)
                if not answer.is_error:
                    return self._object(content)
                said = content[: 4 * _SHOWN].decode(errors="replace")
                problem = Refused(self._shown(f"HTTP {answer.status} {answer.reason} {said}"), answer.status)
                if not may_pass(answer.status):
                    raise problem
            except exchange.NoAnswer as error:
                problem = error
            if attempt < RETRIES:
                wait = BACKOFF * 2**attempt
                self._reporter.notice(f"{self._what}: {problem}; trying again in {wait:g} s")
                time.sleep(wait)
        if isinstance(problem, Refused):
            raise problem
        raise SurroundingsError(
            f"{self._what}: {self.url} does not answer ({problem}; {RETRIES + 1} tries)",
            f"is the service running? It has {self._timeout:g} s for a request: "
            "#timeout=SECONDS at the end of the URL changes that",
        ) from problem

    def _object(self, content: bytes) -> dict[str, Any]:
        if len(content) > LARGEST:
            raise ArtifactError(f"{self._what}: {self.url} answers with more than {LARGEST >> 20} MB", self._hint)
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
                if may_pass(refused.status) and refused.status != 500:  # 500 may mean a format that it does not know
                    break
                continue
            found = next((answer[key] for key in form.keys if key in answer), None)
            if found is None:
                refusals.append(Refused(f"no {' or '.join(form.keys)} in {_short(json.dumps(answer))}", 200))
                continue
            self._forms = [form]
            return self._checked(found, texts)
        tried = "; ".join(f"{form.name}'s format: {refused}" for form, refused in zip(self._forms, refusals))
        if any(may_pass(refused.status) for refused in refusals):
            raise SurroundingsError(
                f"reward {self.name}: {self.url} fails ({tried})", "see the service's own log of the request"
            )
        raise ArtifactError(
            f"reward {self.name}: {self.url} is not a reward service, or the service has another path ({tried})",
            _FORMS_HINT,
        )

    def _checked(self, found: Any, texts: list[str]) -> list[float]:
        where = f"reward {self.name}: {self.url} gave"
        if not isinstance(found, list):
            raise ArtifactError(f"{where} {_short(json.dumps(found))}, which is not a list of scores")
        if len(found) != len(texts):
            raise ArtifactError(f"{where} {len(found)} scores for {len(texts)} texts")
        for value, text in zip(found, texts):
            if not _is_score(value):
                raise ArtifactError(f"{where} {_short(json.dumps(value))} for the text {text[-80:]!r}", SCORE_FORM)
        return [float(value) for value in found]


def _is_score(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_SCORE


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "…"

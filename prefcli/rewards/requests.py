"""The requests and answers of `serve-rm`: both formats of prefcli/rewards/http.py. No torch, no server."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

TEXTS = 65_536  # of a request


class BadRequest(Exception):
    """An invalid request, with the reason and the HTTP status."""

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
        """Raises BadRequest for what is of neither form, or too much."""
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


def _strings(key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise BadRequest(f'"{key}" must be a list of strings that is not empty')
    if len(value) > TEXTS:
        raise BadRequest(f'"{key}" has {len(value):,} texts, and a request takes {TEXTS:,}: send fewer at a time', 413)
    try:
        "".join(value).encode()
    except UnicodeEncodeError as error:  # no tokenizer takes it, and JSON lets it pass
        raise BadRequest(f'"{key}" holds half of a surrogate pair') from error
    return value

"""One vLLM server (`vllm serve`): token ids in, token ids with their log-probabilities out, and new weights.

    POST /v1/completions         answers to prompts, which are lists of token ids
    POST /tokenize               the server's ids of a text or a dialogue, to compare its tokenizer and template
    POST /v1/load_lora_adapter   an adapter, from a folder that the server reads
    POST /collective_rpc         reload_weights: all weights, likewise (over NCCL: `transfer.py`)

Each request says all that shapes the distribution, so that no default of the server's counts. Of an answer everything
that could make it another's, or another distribution's, is checked here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefcli import exchange
from prefcli.errors import SurroundingsError
from prefcli.urls import may_pass

LARGEST = 256 << 20  # bytes of an answer: some 100 a token, with its log-probability
SHOWN = 400  # bytes of an error
PROBING = 60.0  # seconds for a server's first word
ROUNDING = 0.01  # of a log-probability of 0
# Nothing is cut off, nothing is penalised: what is drawn has the probability that the model gives it.
PLAIN = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


class Down(Exception):
    """No answer, or one that is not to what was asked: it may pass."""


class Odd(Down):
    """An answer that vLLM never gives. Of a server that was never proven it is the last word: it is another program."""


class Refused(Exception):
    """An HTTP status that says no, with the server's words."""

    def __init__(self, said: str, status: int) -> None:
        super().__init__(said)
        self.status = status


class Answer(NamedTuple):
    ids: list[int]
    logps: list[float]
    prompt_logps: list[float]  # of the prompt's tokens but the first, at temperature 1; empty where they are not asked


@dataclass(eq=False)
class Server:
    """`proven`: it had the weights once. `alive`: and has answered ever since."""

    url: str
    timeout: float  # seconds, of a request
    vocabulary: int  # ids of tokens are below
    alive: bool = False
    proven: bool = False
    left_out: bool = False  # which was said
    rows: int = 0  # that it is asked for now

    async def ask(self, path: str, body: dict[str, Any] | None, timeout: float | None = None) -> Any:
        """The JSON that comes back, or what else does, as text. Without a body a GET.

        Raises Down, Refused; SurroundingsError: it redirects.
        """
        try:
            answer = await exchange.posted(
                self.url + path,
                None if body is None else json.dumps(body).encode(),
                {"Content-Type": "application/json"},
                timeout=min(timeout or self.timeout, self.timeout),
                largest=LARGEST,
                shown=SHOWN,
            )
        except exchange.NoAnswer as error:
            raise Down(str(error)) from error
        content = bytes(answer.content)
        if 300 <= answer.status < 400:
            raise SurroundingsError(
                f"--generate {self.url}: HTTP {answer.status} {answer.reason}: it redirects to another address",
                "give that one",
            )
        if answer.is_error:
            words = in_short(content[:SHOWN].decode(errors="replace"))
            raise Refused(f"HTTP {answer.status} {answer.reason} {words}".strip(), answer.status)
        if len(content) > LARGEST:
            raise Odd(f"an answer of more than {LARGEST >> 20} MB")
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            return content[:SHOWN].decode(errors="replace")

    async def complete(
        self,
        model: str | None,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        eos_ids: frozenset[int],
        salt: str,
        score: bool = False,
    ) -> list[Answer]:
        """One answer for each prompt, drawn at `temperature` (0: the likeliest tokens) by `model` (None: the base).

        `salt` keeps apart what the server has cached of other weights. With `score` the prompts' own log-probabilities
        come too. Raises Down; SurroundingsError where it ends answers elsewhere, or refuses for good.
        """
        body = PLAIN | {
            **({} if model is None else {"model": model}),
            "prompt": [list(prompt) for prompt in prompts],
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "logprobs": 0,
            "ignore_eos": True,
            "stop_token_ids": sorted(eos_ids),
            "return_token_ids": True,
            "cache_salt": salt,
            **({"prompt_logprobs": 0} if score else {}),
        }
        try:
            answer = await self.ask("/v1/completions", body)
        except Refused as refused:
            if may_pass(refused.status) or refused.status == 404:  # the model is gone: it was started again
                raise Down(str(refused)) from refused
            raise SurroundingsError(f"--generate {self.url}: {refused}", "see the server's own log") from refused
        choices = answer.get("choices") if isinstance(answer, dict) else None
        if not isinstance(choices, list):
            raise Odd(f"no answers to prompts, but {in_short(answer)}")
        if len(choices) != len(prompts):
            raise Odd(f"{len(choices)} answers to {len(prompts)} prompts")
        try:
            choices = sorted(choices, key=lambda choice: choice["index"])
            if [choice["index"] for choice in choices] != list(range(len(prompts))):
                raise ValueError("one is there twice")
            return [self._read(*both, max_new_tokens, eos_ids, score) for both in zip(choices, prompts)]
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise Odd(f"an answer that is none of vLLM's: {said}") from error

    def _read(
        self, choice: dict[str, Any], prompt: Sequence[int], most: int, eos_ids: frozenset[int], score: bool
    ) -> Answer:
        if choice.get("finish_reason") not in ("stop", "length"):
            raise Down(f"an answer was broken off ({choice.get('finish_reason')})")
        if choice.get("prompt_token_ids") not in (None, list(prompt)):
            raise Down("an answer to another prompt")
        ids = _list(choice, "token_ids")
        logps = _list(choice["logprobs"] or {}, "token_logprobs")
        if len(ids) != len(logps) or not 0 < len(ids) <= most:
            raise ValueError(f"{len(logps)} log-probabilities of {len(ids)} tokens, of at most {most}")
        if odd := [token for token in ids if type(token) is not int or not 0 <= token < self.vocabulary]:
            raise ValueError(f"{in_short(odd[0])} is not a token id, of {self.vocabulary:,}")
        if odd := [x for x in logps if not isinstance(x, int | float) or not -math.inf < x < ROUNDING]:
            raise ValueError(f"{in_short(odd[0])} is not a log-probability")
        if past := eos_ids.intersection(ids[:-1]):
            raise SurroundingsError(
                f"--generate {self.url}: the server continues after end token {min(past)}",
                "use a server that supports stop_token_ids, as vLLM does",
            )
        if len(ids) < most and ids[-1] not in eos_ids:
            raise SurroundingsError(
                f"--generate {self.url}: the server ends answers at token {ids[-1]}, which is not an end token here",
                "start it with --generation-config vllm",
            )
        told = zip(_list(choice, "prompt_logprobs")[1:], prompt[1:], strict=True) if score else ()
        return Answer(ids, logps, [float(one[str(token)]["logprob"]) for one, token in told])


def _list(fields: dict[str, Any], name: str) -> list[Any]:
    if not isinstance(fields.get(name), list):
        raise KeyError(name)
    found: list[Any] = fields[name]
    return found


def in_short(what: object) -> str:
    """In one line that a terminal may show."""
    text = what if isinstance(what, str) else json.dumps(what)
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))[:SHOWN]

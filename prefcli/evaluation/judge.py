"""A language model as judge: which of two answers to a prompt is better, asked in both orders.

Judges favour a place (Zheng et al., arXiv 2306.05685, section 3.3), so a verdict counts only where both orders give the
same one.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import torch
from transformers import PreTrainedTokenizerBase

from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.config.label import JUDGE, KEY_ENV
from prefcli.data.encoder import Encoder
from prefcli.errors import ArtifactError, DataError, SurroundingsError, UsageError
from prefcli.evaluation.placement import Placement
from prefcli.models.loading import is_scorer
from prefcli.models.logps import completion_logits
from prefcli.models.positions import positions_of
from prefcli.models.rows import pad_rows
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import service
from prefcli.rewards.http import Endpoint, Refused
from prefcli.statistics.intervals import wilson_interval
from prefcli.urls import is_url, may_pass

Verdict = float | None  # 1.0: the answer in the first place is better; 0.0: the second; 0.5: tie; None: no verdict

QUESTION = """\
Here are a prompt and two answers to it. Judge which answer is better: which one helps more, is true and does no harm. \
Neither the order of the answers nor their length counts.

[Prompt]
{prompt}

[Answer A]
{a}

[Answer B]
{b}

[Question]
Which answer is better? Reply with one letter, A or B."""
_PLACEHOLDER = re.compile(r"\{(prompt|a|b)\}")
BATCH = 16  # questions in one forward pass
AT_ONCE = 8  # requests to an endpoint

_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)  # also those that the token limit cut off
_MARKUP = re.compile(r"[*_`#]|\\boxed")
_NAME = r"(?i:(?:answer|response|option|assistant)\s+)?"
_LABEL = (
    r"\b(?i:answer|verdict|choice|winner|decision|conclusion|result|preference"
    r"|(?:better|best|preferred)(?:\s+(?:answer|response|one|option|choice))?)"
)
_IS = r"[^\w:=]*(?:[:=]|\b(?i:is)\b)\W*"
_LABELLED = rf"(?:(?i:(?:my|the|final)\s+)*{_LABEL}(?:{_IS}|\s*[-–—]\W*))?"
# A last line that is a verdict and nothing else: "B", "Final answer: B", "Answer B".
_BARE = re.compile(rf"{_LABELLED}{_NAME}(?i:a\s+(?=tie))?((?i:[AB]|tie))")
# A verdict that a reply opens with, its reason behind it; not where the other letter opens a part like it: a list, or
# headings.
_OPENING = re.compile(
    rf"\W*{_LABELLED}([AB])[\])\"'}}]*"
    r"(?:[.!]?[ \t]*\n(?!(?s:.*)^\W*(?!\1)[AB](?:[.:)][ \t]+\S|[.:)]?[ \t]*\n))|[.!]\s(?!(?s:.*)\b(?!\1)[AB][.:)]\s)"
    r"|,?\s+(?:because|since)\b)",
    re.MULTILINE,
)
# What the better one is compared with: "than B", and "to A" of "prefer B to A", but not that of "the edge goes to A".
_THAN = re.compile(
    r"\b(?:(?i:than|over|compared\s+to)"
    rf"|((?i:preferred|preferable|superior)|(?i:prefer)\s+{_NAME}[AB])\s+to)\s+{_NAME}[AB]\b"
)
_AGAINST = re.compile(
    r"(?i:\b(?:not|never|no|nobody|neither|nor|cannot|hardly|less|least|worse|worst|inferior|weak\w*|poor\w*|bad"
    r"|wrong|incorrect|false|fail\w*|reject\w*|los\w+)\b|n['’]t\b)"
)
_FILLER = r"(?:\w+ly|by\s+far|far|much|an?|bit|little|the|to\s+be|still|overall|clear)\s+"
# What is good in any answer: "more detailed" or "more concise" may be said against it.
_MERIT = (
    r"more\s+(?:helpful|useful|accurate|correct|truthful|honest|relevant|informative|complete|thorough|reliable|safe)"
)
_FOR = {
    letter: re.compile(
        rf"\b{letter}\s+(?i:wins\b|has\s+(?:the|an?)\s+(?:\w+\s+)?edge\b)"
        rf"|\b{letter}(?i:\s+(?:is|was|seems|looks)\s+|\s*[:–—-]\s+(?:it\s+is\s+|it['’]s\s+)?)(?i:(?:{_FILLER})*"
        rf"(?:better|best|preferred|preferable|superior|stronger|winner|{_MERIT})\b)"
        rf"|\b(?i:prefer|choose|chose|pick|favou?r|go\s+with|(?:win|edge|preference)(?:\s+(?:goes|is))?\s+(?:to|for))"
        rf"\s+{_NAME}{letter}\b"
        rf"|{_LABEL}{_IS}{_NAME}{letter}\b(?!['’]|\s+(?!because\b|since\b|with\s+(?:\w+\s+)?confidence\b)\w)"
    )
    for letter in "AB"
}
# "A" before a small word is the article, unless that word goes with a verdict.
_SAID = re.compile(r"\b(A(?!\s+(?!(?:is|was|has|seems|looks|wins|because|since|and|or)\b)[a-z])|B|[Tt]ie|TIE)\b")
_AROUND = " \t\n.!'\"[](){}"
_CLAUSE = re.compile(r"[^.,;!?\n]+\??")
_MEANS = {"a": 1.0, "b": 0.0, "tie": 0.5}


class Judge(Protocol):
    ref: str  # how it is shown

    def verdicts(self, questions: list[str]) -> list[Verdict]:
        """One for each question; None where there is none."""


@dataclass
class Tally:
    """Results of the comparisons: each is one pair of answers, asked in both orders."""

    comparisons: int = 0
    ties: int = 0  # the orders disagree, or the judge says so
    no_verdict: int = 0  # questions
    first: float = 0.0  # questions in which the first place was preferred, ties as halves
    same_place: int = 0  # one place was preferred in both orders, whichever answer stood there

    def add(self, one: Verdict, two: Verdict) -> float:
        """Count a comparison. Whether the first answer is better: 1, 0, or 0.5 for a tie."""
        self.comparisons += 1
        self.no_verdict += (one is None) + (two is None)
        one, two = (0.5 if verdict is None else verdict for verdict in (one, two))
        self.first += one + two
        self.same_place += one == two != 0.5
        outcome = one if one + two == 1 else 0.5
        self.ties += outcome == 0.5
        return outcome

    def summary(self) -> dict[str, Any]:
        """The position bias goes with the Wilson interval of as many draws as comparisons, not questions: the two
        verdicts on a pair are not independent, and their mean varies no more than one draw does."""
        return {
            "comparisons": self.comparisons,
            "ties": self.ties,
            "no_verdict": self.no_verdict,
            "first_place": self.first / (2 * self.comparisons),
            "first_place_ci95": list(wilson_interval(self.first / 2, self.comparisons)),
        }


def fill(template: str, prompt: str, a: str, b: str) -> str:
    """The question. What looks like a placeholder in prompt or answers stays as it is."""
    parts = {"prompt": prompt, "a": a, "b": b}
    return _PLACEHOLDER.sub(lambda match: parts[match[1]], template)


def read_template(path: str | None) -> str:
    """The question's text, from a file or the built-in one. Raises DataError: no such file, or a placeholder lacks."""
    if path is None:
        return QUESTION
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or "not valid UTF-8"
        raise DataError(f"--judge-prompt {path}: {said}", "give a text file in UTF-8") from error
    missing = [name for name in ("prompt", "a", "b") if f"{{{name}}}" not in text]
    if missing:
        raise DataError(
            f"--judge-prompt {path}: there is no {{{missing[0]}}} in it",
            "{prompt}, {a} and {b} stand for the prompt and the two answers",
        )
    return text


def parse_verdict(reply: str) -> Verdict:
    """A, B or tie, from a reply that should be one letter: what it opens with or its last line, if that is a verdict
    alone; else the only letter that the reply, or its last line, names, where it is said to be the better one. None
    where there is no such letter, or where first and last line differ: a letter may be named for what is wrong. What a
    reply opens with does not count either where its last line says that the other one is better."""
    text = _MARKUP.sub("", _THOUGHTS.sub("", reply)).strip()
    if (alone := text.strip(_AROUND + ":").lower()) in _MEANS:
        return _MEANS[alone]
    last = text.splitlines()[-1] if text else ""
    opening = _OPENING.match(text)
    ends = {found[1].lower() for found in (opening, _BARE.fullmatch(last.strip(_AROUND))) if found}
    if opening is not None:
        behind = _THAN.sub(r"\1", text[opening.end() :].rpartition("\n")[2])
        ends |= {letter.lower() for letter in "AB" if _is_for(letter, behind)}
    if ends:
        return _MEANS[ends.pop()] if len(ends) == 1 else None
    for part in (text, last):
        part = _THAN.sub(r"\1", part)
        said = set(_SAID.findall(part))
        if len(said) == 1 and _is_for(letter := said.pop(), part):
            return _MEANS[letter.lower()]
    return None


def _is_for(letter: str, text: str) -> bool:
    """Whether some clause says that it is the better one, with no word against it; a tie need only be named."""
    clauses = [clause for clause in _CLAUSE.findall(text) if not (clause.endswith("?") or _AGAINST.search(clause))]
    return any(letter not in _FOR or _FOR[letter].search(clause) for clause in clauses)


class ModelJudge:
    """A causal language model: the letter to which it gives the higher probability, right after the question."""

    def __init__(self, ref: str, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        self.ref, self._model = ref, model.eval()
        self._encoder = Encoder(tokenizer)
        self._positions = positions_of(model.config)
        a, b = (self._encoder.completion_ids(_turn("Which?"), letter) for letter in "AB")
        differ = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), None)
        if differ is None:
            raise ArtifactError(f"{ref}: its tokenizer does not tell A from B", "take another model as judge")
        self._before, self._letters = a[:differ], [a[differ], b[differ]]

    @torch.no_grad()
    def verdicts(self, questions: list[str]) -> list[Verdict]:
        """None for a question that is longer than the model has positions for. Raises ArtifactError: NaN."""
        prompts = [self._encoder.prompt_ids(_turn(question)) + self._before for question in questions]
        fit = [i for i, ids in enumerate(prompts) if self._positions is None or len(ids) < self._positions]
        fit.sort(key=lambda i: len(prompts[i]))  # alike in length: little padding
        found: list[Verdict] = [None] * len(questions)
        device = next(self._model.parameters()).device
        for start in range(0, len(fit), BATCH):
            part = fit[start : start + BATCH]
            rows = pad_rows([prompts[i] for i in part], [self._letters[:1]] * len(part), device=device)
            logits = completion_logits(self._model, rows)[:, self._letters].float().cpu()
            if not logits.isfinite().all():
                raise ArtifactError(
                    f"{self.ref}: its logits are not finite", "its weights are damaged, or its --dtype is too narrow"
                )
            for i, (a, b) in zip(part, logits.tolist()):
                found[i] = 0.5 if a == b else float(a > b)
        return found


class EndpointJudge:
    """A model behind an OpenAI-compatible chat-completions endpoint, asked at temperature 0."""

    def __init__(self, url: str, model: str, timeout: float, key: str | None, reporter: Reporter) -> None:
        parts = urlsplit(url)
        path = parts.path.rstrip("/")
        path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
        self.ref = f"{url}#{model}"
        self._model = model
        self._endpoint = Endpoint(
            "judge",
            urlunsplit(parts._replace(path=path)),
            timeout,
            reporter,
            hint="it must be an OpenAI-compatible endpoint: docs/label.md",
            key=key,
        )

    def verdicts(self, questions: list[str]) -> list[Verdict]:
        """None for a reply that names neither A nor B nor a tie.

        Raises SurroundingsError: no answer. ArtifactError: an answer that is none (wrong key, no such model).
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._verdict, questions))

    def _verdict(self, question: str) -> Verdict:
        body = {"model": self._model, "messages": _turn(question), "temperature": 0}
        url = self._endpoint.url
        try:
            answer = self._endpoint.ask(body)
        except Refused as refused:
            if may_pass(refused.status):
                raise SurroundingsError(f"judge: {url} fails ({refused})", "try again later") from refused
            raise ArtifactError(
                f"judge: {url} refuses ({refused})", f"check the URL, the model {self._model!r} and the key"
            ) from refused
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise ArtifactError(
                f"judge: {url} answers without choices[0].message.content", "is it a chat-completions endpoint?"
            ) from error
        return parse_verdict(content) if isinstance(content, str) else None


def load_judge(
    what: str,
    given: str,
    key_env: str | None,
    *,
    score_with: str,
    place: Placement,
    store: Store,
    reporter: Reporter,
) -> Judge:
    """The judge that `what` names: a model's reference, or URL#MODEL. For messages: `given` is the option as it was
    typed (`--by judge:rm`), `score_with` the option of reward models.

    Raises UsageError: a URL without a model's name, a key that is not there. ArtifactError: no such model, or a reward
    model.
    """
    option, _, typed = given.partition(" ")
    if is_url(what):
        url, _, name = what.partition("#")
        name, _, settings = name.partition("#")
        spec = service(option, typed, JUDGE[:-1], url + (f"#{settings}" if settings else ""))
        if not name:
            form = given.replace(what, "http://HOST/v1#MODEL")
            raise UsageError(f"{given}: no model is named", f"add its name after a #: {form}")
        return EndpointJudge(url, name, spec.timeout, _key(key_env), reporter)
    if key_env is not None:
        raise UsageError("--judge-key-env: the judge is not an endpoint", "leave it out")
    reference = resolve(what, store)
    if is_scorer(reference):
        raise ArtifactError(f"{given} is a reward model, not a language model", f"score with it: {score_with} {what}")
    if reference.note:
        reporter.notice(reference.note)
    tokenizer = load_tokenizer(reference, reporter)
    model = place.policy(reference, len(tokenizer))
    return ModelJudge(reference.shown, model, tokenizer)


def _key(name: str | None) -> str | None:
    """The key in that environment variable. An endpoint of one's own needs none, so it may lack where none is named."""
    key = os.environ.get(name or KEY_ENV, "").strip()
    if name is not None and not key:
        raise UsageError(f"--judge-key-env {name}: there is no such environment variable", f"export {name}=…")
    if key and not (key.isascii() and key.isprintable()):
        raise UsageError(f"the key in {name or KEY_ENV} contains invalid characters", "set it again")
    return key or None


def _turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]

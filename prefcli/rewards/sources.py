"""Reward sources, loaded: each turns prompts and answers into one score an answer.

A function's and a service's scores are what these gave, in float64: who trains with them casts them. They are on the
CPU, since not every device has that type.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from prefcli.data.encoder import Encoder
from prefcli.data.row import Prompt, said, text_of
from prefcli.errors import ArtifactError, DataError
from prefcli.models.loading import is_scorer, load_scorer
from prefcli.models.logps import sequence_scores
from prefcli.models.positions import positions_of
from prefcli.models.rows import pad_rows, parts
from prefcli.models.sharding import at_own_pace
from prefcli.models.tokenizers import load_tokenizer, template_digest, tokenizer_digest
from prefcli.progress import Reporter
from prefcli.rewards.grammar import RewardSpec
from prefcli.rewards.http import Service
from prefcli.rewards.python import Function, columns_of, load_function

AT_A_TIME = 64  # texts in one request to a service: ppo's default rollout
CHARACTERS = 64  # of a text that is served, for each token that the model reads
POSITIONS = 16_384  # tokens, where the model reads any number


@dataclass(frozen=True)
class Answer:
    """The input of a source: the prompt's row, the answer's text, and the policy's own ids where there are any.

    `ended`: it ended by itself; else it was cut, and nothing that scores it gives it an end token.
    """

    prompt: Prompt
    completion: str
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    columns: dict[str, Any] | None = None
    ended: bool = True


class PythonReward:
    """A user's function. It sees the prompt's text and the answer's, and the other columns of the rows."""

    def __init__(self, name: str, function: Function) -> None:
        self.name, self._function = name, function

    def reading(self, tokenizer: PreTrainedTokenizerBase) -> PythonReward:
        """Itself: it reads text."""
        return self

    def score(self, answers: Sequence[Answer]) -> torch.Tensor:
        """[B] scores, on the CPU."""
        columns = columns_of([answer.columns for answer in answers])
        texts = [text_of(answer.prompt) for answer in answers]
        found = self._function(texts, [answer.completion for answer in answers], **columns)
        return torch.tensor(found, dtype=torch.float64)


class ModelReward:
    """A sequence classifier, read at an answer's last token.

    It scores the policy's own ids where both have the same tokenizer, first and end token and template; else the text,
    rendered again with the reward model's (an id means another token to another tokenizer, and a template writes the
    first and the end token by their names).
    """

    def __init__(
        self, name: str, model: Any, tokenizer: PreTrainedTokenizerBase, *, same_ids: bool, batch_size: int = 16
    ) -> None:
        self.name, self.model, self.same_ids = name, model.eval(), same_ids
        self._encoder, self._batch_size = Encoder(tokenizer), batch_size
        self.tokens_per_row: int | None = None  # of a packed model: how many go through it at a time
        self.proven = False  # its accuracy on held-out pairs is on record, and above chance

    def reading(self, tokenizer: PreTrainedTokenizerBase) -> ModelReward:
        """The same source for answers of a policy with this tokenizer: by their ids where both read them alike."""
        own, found = self._encoder.tokenizer, copy.copy(self)
        found.same_ids = tokenizer_digest(own) == tokenizer_digest(tokenizer)
        found.same_ids = found.same_ids and template_digest(own) == template_digest(tokenizer)
        ends = [(one.bos_token_id, one.eos_token_id) for one in (own, tokenizer)]  # in no digest: they are roles
        found.same_ids = found.same_ids and ends[0] == ends[1]
        return found

    def score(self, answers: Sequence[Answer]) -> torch.Tensor:
        """[B] scores, on the CPU. Raises DataError: an answer is longer than the model has positions for."""
        ids = [self._ids(answer) for answer in answers]
        positions = positions_of(self.model.config)
        longest = max((len(prompt) + len(completion) for prompt, completion in ids), default=0)
        if positions is not None and longest > positions:
            raise DataError(
                f"a prompt with its answer has {longest} tokens, and reward {self.name} reads {positions}",
                "leave longer ones out, or take a reward model that reads more",
            )
        return self._score(ids)

    def ids_of_text(self, text: str, prompt: str | None, longest: int | None, what: str) -> list[int]:
        """Token ids of a text as it is, cut to `longest`: who sends it has applied a chat template.

        `prompt` is its beginning where that is known; then no token spans prompt and answer, as in training. `what` it
        is called in messages. Raises DataError: no token, more than the model has positions for, or, before it is
        tokenised, more characters than so many tokens have.
        """
        positions = positions_of(self.model.config)
        characters = CHARACTERS * (positions or POSITIONS)
        if longest is not None:
            text = text[:characters]
        elif len(text) > characters:
            raise DataError(
                f"{what} has {len(text):,} characters: the model reads {positions or 'any number of'} tokens, "
                f"and {characters:,} characters are taken at most"
            )
        known = prompt if prompt and text.startswith(prompt) else ""
        before = self._encoder.text_ids(known) if known else []
        after = (self._encoder.continued_ids if known else self._encoder.text_ids)(text[len(known) :])
        ids = self._to_the_end(before + after)[:longest]
        if not ids:
            raise DataError(f"{what} is empty")
        if positions is not None and len(ids) > positions:
            raise DataError(f"{what} has {len(ids)} tokens, and the model reads {positions}")
        return ids

    def score_ids(self, ids: Sequence[list[int]]) -> torch.Tensor:
        """[B] scores, on the CPU, of texts as token ids, in one pass: B times the longest must fit in memory."""
        return self._score([(one, []) for one in ids], len(ids))

    def prepare_to_serve(self) -> None:
        """On a CPU: as many threads, for passes from this thread, as are fastest. A pass of a small model takes longer
        on all cores than on one, and many times as long where another process has one of them."""
        if next(self.model.parameters()).device.type != "cpu":
            return
        some = [[0] * 32] * 16
        seconds: dict[int, float] = {}
        for threads in sorted({1, torch.get_num_threads()}):
            torch.set_num_threads(threads)
            self.score_ids(some)  # the threads are made
            taken = []
            for _ in range(3):
                began = time.perf_counter()
                self.score_ids(some)
                taken.append(time.perf_counter() - began)
            seconds[threads] = min(taken)
        torch.set_num_threads(min(seconds, key=seconds.__getitem__))

    @torch.no_grad()
    def _score(self, ids: list[tuple[list[int], list[int]]], batch_size: int | None = None) -> torch.Tensor:
        """[B] scores of prompts with their completions."""
        size = batch_size or self._batch_size
        lengths = [len(prompt) + len(completion) for prompt, completion in ids]
        order = sorted(range(len(ids)), key=lengths.__getitem__)  # alike in length: little padding
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        if self.tokens_per_row is not None:
            batches = parts(lengths, self.tokens_per_row)
        scores = torch.zeros(len(ids))
        device = next(self.model.parameters()).device
        with at_own_pace(self.model):  # processes have different numbers of batches
            for part in batches:
                rows = pad_rows([ids[i][0] for i in part], [ids[i][1] for i in part], device=device)
                scores[part] = sequence_scores(self.model, rows).cpu()
        return scores

    def _to_the_end(self, ids: list[int]) -> list[int]:
        """Without the blanks that a chat template writes behind the last end token: scores are read at that."""
        eos = self._encoder.tokenizer.eos_token_id
        if eos not in ids:
            return ids
        end = len(ids) - ids[::-1].index(eos)
        return ids[:end] if not self._encoder.tokenizer.decode(ids[end:]).strip() else ids

    def _ids(self, answer: Answer) -> tuple[list[int], list[int]]:
        if self.same_ids and answer.prompt_ids is not None and answer.completion_ids is not None:
            return answer.prompt_ids, answer.completion_ids
        return (
            self._encoder.prompt_ids(answer.prompt),
            self._encoder.completion_ids(answer.prompt, answer.completion, ended=answer.ended),
        )


class HTTPReward:
    """A service. It is sent what the policy read and wrote, the chat template's tokens and the end token included.

    Without a policy's tokenizer (`eval`, `score`) there is no template: a plain prompt and its answer are sent as they
    are, a dialogue as `role: text` paragraphs.
    """

    def __init__(self, name: str, service: Service, tokenizer: PreTrainedTokenizerBase | None) -> None:
        self.name, self._service, self._tokenizer = name, service, tokenizer

    def reading(self, tokenizer: PreTrainedTokenizerBase) -> HTTPReward:
        """The same service for answers of a policy with this tokenizer: it is sent what that read and wrote."""
        return HTTPReward(self.name, self._service, tokenizer)

    def score(self, answers: Sequence[Answer]) -> torch.Tensor:
        """[B] scores, on the CPU. Raises SurroundingsError and ArtifactError as `Service.scores` does."""
        found: list[float] = []
        for start in range(0, len(answers), AT_A_TIME):
            part = answers[start : start + AT_A_TIME]
            texts, prompts = zip(*map(self._text, part))
            labels = [(answer.columns or {}).get("label", "") for answer in part]
            found += self._service.scores(list(texts), list(prompts), labels)
        return torch.tensor(found, dtype=torch.float64)

    def _text(self, answer: Answer) -> tuple[str, str]:
        """(prompt with answer, prompt)."""
        if self._tokenizer is None:
            prompt = answer.prompt
            if not isinstance(prompt, str):
                prompt = "\n\n".join([*(f"{turn['role']}: {said(turn)}" for turn in prompt), "assistant: "])
            return prompt + answer.completion, prompt
        before, after = answer.prompt_ids, answer.completion_ids
        if before is None or after is None:
            encoder = Encoder(self._tokenizer)
            before = encoder.prompt_ids(answer.prompt)
            after = encoder.completion_ids(answer.prompt, answer.completion, ended=answer.ended)
        return self._decode(before + after), self._decode(before)

    def _decode(self, ids: list[int]) -> str:
        assert self._tokenizer is not None
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


RewardSource = PythonReward | ModelReward | HTTPReward


def load_reward(
    spec: RewardSpec,
    policy_tokenizer: PreTrainedTokenizerBase | None,
    *,
    dtype: torch.dtype,
    device: torch.device,
    reporter: Reporter,
    model: Any = None,
) -> RewardSource:
    """A source ready to score. A service is not asked yet; `model` is a reward model that is in memory already.

    Raises ArtifactError: a language model in a reward model's place, a head that is missing, a file that fails.
    """
    if spec.url is not None:
        if policy_tokenizer is None:
            reporter.notice(
                f"reward {spec.name} is sent dialogues as `role: text` paragraphs: there is no policy here whose chat "
                "template would render them"
            )
        return HTTPReward(spec.name, Service(spec.name, spec.url, spec.timeout, reporter), policy_tokenizer)
    if spec.reference is None:
        return PythonReward(spec.name, load_function(spec))
    reference = spec.reference
    if not is_scorer(reference):
        raise ArtifactError(
            f"{spec.option} {spec.text} is not a reward model",
            "train one with: prefcli train-rm --data pairs.jsonl, or give python:FILE:FUNCTION",
        )
    if reference.note:
        reporter.notice(reference.note)
    tokenizer = load_tokenizer(reference, reporter)
    if model is None:
        model = load_scorer(reference, tokenizer, dtype=dtype, device=device, label=spec.label).requires_grad_(False)
    source = ModelReward(spec.name, model, tokenizer, same_ids=False)
    if policy_tokenizer is not None:
        source = source.reading(policy_tokenizer)
        if not source.same_ids:
            reporter.notice(
                f"reward {spec.name} has another tokenizer or chat template than the policy: "
                "it scores the text, rendered with its own"
            )
    if reference.artifact is not None:
        source.proven = reference.artifact.manifest.metrics.get("accuracy_ci95", [0])[0] > 0.5
    return source

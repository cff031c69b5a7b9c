"""Language models on held-out prompts: sampled answers, their scores, KL, length, variety."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from prefcli.artifacts.parts import Job, Work
from prefcli.config.shared import Sampling
from prefcli.data.encoder import Encoder
from prefcli.data.row import Row
from prefcli.errors import ArtifactError, UsageError
from prefcli.evaluation.variety import Distinct
from prefcli.models.generation import InProcess, NotFiniteError, Sampler
from prefcli.models.logps import completion_logits
from prefcli.models.positions import positions_of
from prefcli.models.rows import pad_rows
from prefcli.models.tokenizers import end_ids
from prefcli.rewards.preflight import refuse_not_finite
from prefcli.rewards.sources import Answer, RewardSource
from prefcli.statistics.bootstrap import bootstrap_interval
from prefcli.statistics.intervals import wilson_interval
from prefcli.statistics.pairs import right

BATCHES = 4  # in a part: of N answers those of like length are sampled together


@dataclass
class Answers:
    """One model's answers to all prompts, in order."""

    prompt_ids: list[list[int]]
    completion_ids: list[list[int]]
    completions: list[str]
    ended: list[bool]
    seconds: float


def answer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
    seed: int,
    draws: torch.Tensor | None = None,
    progress: Callable[[int], None] | None = None,
    on_token: Callable[[int, int], None] | None = None,
    sampler: Sampler | None = None,
) -> Answers:
    """Sample one answer to each row's prompt; a row that occurs there twice gets two.

    The seed fixes the draws, whatever was sampled before, unless they are given: [rows, max_new_tokens]. `progress` is
    told the number of answers that each batch has finished, `on_token` the row and id of each token as it is drawn.
    With a `sampler` that one draws them, by no seed of ours.
    Raises UsageError: prompt and answer may be longer than the model has positions for. ArtifactError: its logits are
    not finite.
    """
    eos_ids = end_ids(tokenizer, model.generation_config)
    encoder = Encoder(tokenizer)
    prompts = [encoder.prompt_ids(row.prompt) for row in rows]
    refuse_too_long(model, max(map(len, prompts)), max_new_tokens)
    if draws is None:
        draws = Draws(seed, max_new_tokens).of(range(len(prompts)))
    started = time.monotonic()
    try:
        ids, _ = (sampler or InProcess(model)).sample(
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            eos_ids=eos_ids,
            pad_id=tokenizer.pad_token_id,
            batch_size=batch_size,
            draws=draws,
            progress=progress,
            on_token=on_token,
        )
    except NotFiniteError as error:
        raise not_finite() from error
    seconds = time.monotonic() - started
    ended = [completion[-1] in eos_ids for completion in ids]
    bare = [completion[:-1] if end else completion for completion, end in zip(ids, ended)]
    return Answers(prompts, ids, [encoder.answer_text(c) for c in bare], ended, seconds)


def not_finite() -> ArtifactError:
    return ArtifactError("the model's logits are not finite", "its weights are damaged, or its --dtype is too narrow")


def answerer(
    model: Any, tokenizer: Any, rows: Sequence[Row], config: Sampling, n: int, job: Job, sampler: Sampler
) -> Callable[[range], tuple[list[Row], Answers]]:
    """From a span of rows to each of them `n` times, and an answer to each; the job is told how far it is."""
    draws = Draws(config.seed, config.max_new_tokens)

    def answered(span: range) -> tuple[list[Row], Answers]:
        asked = [row for i in span for row in [rows[i]] * n]
        return asked, answer(
            model,
            tokenizer,
            asked,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            batch_size=config.batch_size,
            seed=config.seed,
            draws=draws.of(range(span.start * n, span.stop * n)),
            progress=lambda finished: job.tick(finished / n),
            sampler=sampler,
        )

    return answered


def answering(work: Work, name: str, rows: Sequence[Row], config: Sampling, n: int) -> Job:
    """The job of answering each row's prompt `n` times."""
    return work.job(name, len(rows), max(1, BATCHES * config.batch_size // n), "prompts")


class Draws:
    """The draws of all answers under a seed, [answers, max_new_tokens], a span of them at a time.

    An answer has the same ones however the answers are divided. Spans in order cost no more than all at once.
    """

    def __init__(self, seed: int, max_new_tokens: int) -> None:
        self._seed, self._width = seed, max_new_tokens
        self._rewind()

    def of(self, span: range) -> torch.Tensor:
        if span.start < self._at:
            self._rewind()
        while self._at < span.start:
            self._next(min(span.start - self._at, 4096))
        return self._next(len(span))

    def _rewind(self) -> None:
        self._at, self._generator = 0, torch.Generator().manual_seed(self._seed)

    def _next(self, answers: int) -> torch.Tensor:
        self._at += answers
        return torch.rand(answers, self._width, generator=self._generator)


def refuse_too_long(model: Any, longest: int, max_new_tokens: int) -> None:
    """Raise UsageError where a prompt of `longest` tokens and its answer may be more than the model reads."""
    positions = positions_of(model.config)
    if positions is not None and longest + max_new_tokens > positions:
        raise UsageError(
            f"prompt and answer may have {longest + max_new_tokens} tokens, and the model reads {positions}",
            "lower --max-prompt-length or --max-new-tokens",
        )


def scores(source: RewardSource, rows: Sequence[Row], answers: Answers) -> list[float]:
    """One score an answer by a source that is `reading` the policy's tokenizer, as ppo gives it, without penalties.

    Raises ArtifactError: a score that is not a finite number, or what the source raises.
    """
    columns = zip(rows, answers.completions, answers.prompt_ids, answers.completion_ids, answers.ended)
    asked = [Answer(row.prompt, text, prompt, ids, row.columns, ended) for row, text, prompt, ids, ended in columns]
    found = [float(value) for value in source.score(asked)]
    refuse_not_finite(source.name, found, asked)
    return found


@torch.no_grad()
def kl_to(reference: Any, model: Any, answers: Answers, temperature: float, batch_size: int) -> list[float]:
    """KL(π ‖ π_ref) along each answer, in nats, at the sampling temperature.

    Σ_t KL(π(·|s_t) ‖ π_ref(·|s_t)) over the states that were visited: its mean is the KL of the answers'
    distributions, by the chain rule, and it varies less than log π − log π_ref of the tokens drawn.
    """
    model.eval()
    reference.eval()
    device = next(model.parameters()).device
    order = sorted(range(len(answers.prompt_ids)), key=lambda i: len(answers.prompt_ids[i]))
    found = [0.0] * len(order)
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        rows = pad_rows([answers.prompt_ids[i] for i in part], [answers.completion_ids[i] for i in part], device=device)
        logps, reference_logps = (
            (completion_logits(m, rows).float() / temperature).log_softmax(-1) for m in (model, reference)
        )
        per_token = (logps.exp() * (logps - reference_logps)).sum(-1).cpu()
        for i, piece in zip(part, per_token.split([len(answers.completion_ids[i]) for i in part])):
            found[i] = float(piece.sum())
    return found


class Measures:
    """Length in tokens, variety, share that ended by themselves, seconds, of answers that come part by part."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()
        self._distinct = Distinct(2)

    @staticmethod
    def noted(answers: Answers) -> dict[str, float]:
        """The values of some answers that `add` needs beside their texts."""
        return {
            "answers": len(answers.completions),
            "tokens": sum(map(len, answers.completion_ids)),
            "ended": sum(answers.ended),
            "seconds": answers.seconds,
        }

    def add(self, noted: dict[str, float], texts: Iterable[str]) -> None:
        self._sums.update(noted)
        self._distinct.add(texts)

    @property
    def answers(self) -> int:
        return self._sums["answers"]

    def summary(self) -> dict[str, float]:
        return {
            "length": self._sums["tokens"] / self.answers,
            "distinct_2": self._distinct.value,
            "ended": self._sums["ended"] / self.answers,
            "seconds": self._sums["seconds"],
        }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean with its 95 % interval over prompts (bootstrap-t)."""
    return {"mean": sum(values) / len(values), "ci95": list(bootstrap_interval(values))}


def win_rate(values: Sequence[float], against: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Share of prompts on which a model scores higher than the baseline, ties as halves, and Wilson's interval."""
    return win_rate_of_many([[mine] for mine in values], [[theirs] for theirs in against])


def win_rate_of_many(
    values: Sequence[Sequence[float]], against: Sequence[Sequence[float]]
) -> tuple[float, tuple[float, float]]:
    """`win_rate` of several answers a prompt, [prompts][answers]: a prompt's share is that of its answers in order."""
    wins = [
        sum(right(x - y) for x, y in zip(mine, theirs, strict=True)) / len(mine)
        for mine, theirs in zip(values, against, strict=True)
    ]
    return sum(wins) / len(wins), wilson_interval(sum(wins), len(wins))

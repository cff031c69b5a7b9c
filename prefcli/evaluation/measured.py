"""One model, measured on the prompts: its answers, their scores by every source, and their KL to a reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, TypeVar, overload

from prefcli.artifacts.parts import Job, Make, Part, Work
from prefcli.artifacts.places import noted, own_store
from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.config.evaluate import EvalConfig
from prefcli.data.row import Row
from prefcli.errors import ArtifactError
from prefcli.evaluation import models
from prefcli.evaluation.placement import Placement
from prefcli.evaluation.served import sampler_of
from prefcli.models.tokenizers import load_tokenizer, tokenizer_digest
from prefcli.progress import Reporter
from prefcli.rewards.sources import RewardSource

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """The setting that all models share."""

    config: EvalConfig
    store: Store
    place: Placement
    reporter: Reporter


@dataclass(frozen=True)
class Measured:
    """`texts`, and the scores of each source, are [prompts][answers]; `kl` is a mean for each prompt, in nats."""

    ref: str
    texts: Sequence[list[str]]
    scores: dict[str, list[list[float]]]
    kl: list[float] | None
    kl_to: str | None
    measures: dict[str, float]

    @property
    def means(self) -> dict[str, list[float]]:
        """Source → a prompt's mean score, for each prompt."""
        return {name: [fmean(row) for row in rows] for name, rows in self.scores.items()}


def anchor_of(reference: Reference, store: Store) -> Reference | None:
    """The reference model that an artifact was tied to while it was trained, if it is still there as it was."""
    if reference.artifact is None:
        return None
    parent = reference.artifact.manifest.parents.get("reference")
    if parent is None:
        return None
    for text in map(str, noted(parent["places"], reference.artifact)) if "places" in parent else [parent["ref"]]:
        try:
            found = resolve(text, own_store(reference.artifact, store))
        except ArtifactError:
            continue
        if found.digest == parent["digest"]:
            return replace(found, text=parent["ref"])
    return None


def measuring(work: Work, number: int, rows: Sequence[Row], config: EvalConfig) -> Job:
    """The job of `measure` for a model with this number."""
    return models.answering(work, f"answers-{number}", rows, config, config.best_of)


def measure(
    reference: Reference,
    anchor: Reference | None,
    rows: Sequence[Row],
    sources: Sequence[RewardSource],
    setting: Setting,
    job: Job,
) -> Measured:
    """`config.best_of` answers to each row's prompt, their scores, and their KL to `anchor`.

    In other processes than the first the texts alone are there. Raises ArtifactError and UsageError as `models.answer`.
    """
    config = setting.config
    tokenizer = load_tokenizer(reference, setting.reporter)
    tied = _tied(reference, anchor, tokenizer, setting)
    scores: dict[str, list[float]] = {source.name: [] for source in sources}
    kl: list[float] = []
    measured = models.Measures()
    for part in job.run(
        _measurer(reference, tied, tokenizer, rows, sources, setting, job) if not job.idle else _nothing
    ):
        measured.add(part.noted["measures"], (text for texts in _texts(part) for text in texts))
        for name, values in scores.items():
            values += part.noted["scores"][name]
        kl += part.noted["kl"] or []
    return Measured(
        reference.shown,
        Texts(job),
        {name: _by_prompt(values, config.best_of) for name, values in scores.items()},
        None if tied is None else [fmean(values) for values in _by_prompt(kl, config.best_of)],
        None if tied is None else tied.shown,
        measured.summary() if measured.answers else {},
    )


class Texts(Sequence[list[str]]):
    """The answers to each prompt, read from the job's parts when they are asked for."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._part: tuple[int, list[list[str]]] = (-1, [])

    def __len__(self) -> int:
        return self._job.items

    @overload
    def __getitem__(self, index: int) -> list[str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[str]]: ...
    def __getitem__(self, index: int | slice) -> list[str] | list[list[str]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number, place = divmod(range(len(self))[index], self._job.size)
        if number != self._part[0]:
            self._part = (number, _texts(self._job.part(number)))
        return self._part[1][place]


def _measurer(
    reference: Reference,
    tied: Reference | None,
    tokenizer: Any,
    rows: Sequence[Row],
    sources: Sequence[RewardSource],
    setting: Setting,
    job: Job,
) -> Make:
    config, n = setting.config, setting.config.best_of
    model = setting.place.policy(reference, len(tokenizer))
    frozen = setting.place.policy(tied, len(tokenizer)) if tied and not tied.same_as(reference) else None
    reading = [source.reading(tokenizer) for source in sources]
    sampler = sampler_of(model, tokenizer, config.generate, setting.store.root, setting.reporter, job.work.at_end)
    answered = models.answerer(model, tokenizer, rows, config, n, job, sampler)

    def make(span: range) -> tuple[bytes, Any]:
        asked, answers = answered(span)
        if frozen is not None:
            kl = models.kl_to(frozen, model, answers, config.temperature, config.batch_size)
        else:
            kl = [0.0] * len(asked)
        noted = {
            "measures": models.Measures.noted(answers),
            "scores": {source.name: models.scores(source, asked, answers) for source in reading},
            "kl": kl if tied is not None else None,
        }
        return b"".join(json.dumps(texts).encode() + b"\n" for texts in _by_prompt(answers.completions, n)), noted

    return make


def _nothing(span: range) -> tuple[bytes, Any]:
    raise AssertionError("every part is there")


def _texts(part: Part) -> list[list[str]]:
    return [json.loads(line) for line in part.lines.splitlines()]


def _by_prompt(values: list[T], size: int) -> list[list[T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _tied(reference: Reference, anchor: Reference | None, tokenizer: Any, setting: Setting) -> Reference | None:
    """The reference of a model's KL: the anchor, where that reads the same ids."""
    if anchor is None or anchor.same_as(reference):
        return anchor
    same = tokenizer_digest(load_tokenizer(anchor, setting.reporter)) == tokenizer_digest(tokenizer)
    return anchor if same else None

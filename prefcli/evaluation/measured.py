"""One model, measured on the prompts: its answers, their scores by every source, and their KL to a reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, TypeVar

import torch

from prefcli.artifacts.places import noted, own_store
from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.config.evaluate import EvalConfig
from prefcli.data.row import Row
from prefcli.errors import ArtifactError
from prefcli.evaluation import models
from prefcli.models.loading import load_policy
from prefcli.models.tokenizers import load_tokenizer, tokenizer_digest
from prefcli.progress import Reporter
from prefcli.rewards.sources import RewardSource

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What is the same for all models."""

    config: EvalConfig
    store: Store
    dtype: torch.dtype
    device: torch.device
    reporter: Reporter


@dataclass(frozen=True)
class Measured:
    """`texts`, and the scores of each source, are [prompts][answers]; `kl` is a mean for each prompt, in nats."""

    ref: str
    texts: list[list[str]]
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


def measure(
    reference: Reference,
    anchor: Reference | None,
    rows: Sequence[Row],
    sources: Sequence[RewardSource],
    setting: Setting,
    progress: Callable[[int], None],
) -> Measured:
    """`config.best_of` answers to each row's prompt, their scores, and their KL to `anchor`.

    Raises ArtifactError and UsageError as `models.answer` does.
    """
    config = setting.config
    asked = [row for row in rows for _ in range(config.best_of)]
    tokenizer = load_tokenizer(reference, setting.reporter)
    model = _load(reference, len(tokenizer), setting)
    answers = models.answer(
        model,
        tokenizer,
        asked,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=config.seed,
        progress=progress,
    )
    scores = {source.name: models.scores(source, asked, answers, tokenizer) for source in sources}
    kl, kl_to = _kl(reference, anchor, model, tokenizer, answers, setting)
    return Measured(
        reference.shown,
        _by_prompt(answers.completions, config.best_of),
        {name: _by_prompt(values, config.best_of) for name, values in scores.items()},
        None if kl is None else [fmean(values) for values in _by_prompt(kl, config.best_of)],
        kl_to,
        models.measures(answers),
    )


def _by_prompt(values: list[T], size: int) -> list[list[T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _load(reference: Reference, tokenizer_size: int, setting: Setting) -> Any:
    return load_policy(
        reference, dtype=setting.dtype, device=setting.device, trainable=False, tokenizer_size=tokenizer_size
    )


def _kl(
    reference: Reference,
    anchor: Reference | None,
    model: Any,
    tokenizer: Any,
    answers: models.Answers,
    setting: Setting,
) -> tuple[list[float] | None, str | None]:
    """KL of each answer to the anchor, and which it is; (None, None) where there is none, or it reads other ids."""
    if anchor is None:
        return None, None
    if anchor.shown == reference.shown:
        return [0.0] * len(answers.completions), anchor.shown
    if tokenizer_digest(load_tokenizer(anchor, setting.reporter)) != tokenizer_digest(tokenizer):
        return None, None
    frozen = _load(anchor, len(tokenizer), setting)
    config = setting.config
    return models.kl_to(frozen, model, answers, config.temperature, config.batch_size), anchor.shown

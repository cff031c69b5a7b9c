"""`score` as a function: rows with answers, each scored by every reward source, and what the scores look like."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any

from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.config.score import ScoreConfig
from prefcli.data.answers import read_rows
from prefcli.data.row import Row
from prefcli.errors import UsageError
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import parse_rewards, refuse_language_model
from prefcli.rewards.preflight import refuse_not_finite
from prefcli.rewards.python import try_functions
from prefcli.rewards.sources import Answer, RewardSource, load_reward
from prefcli.statistics.pairs import accuracy

AT_A_TIME = 64  # rows between two steps of the progress bar
SIDES = ("chosen", "rejected")


def score(config: ScoreConfig, reporter: Reporter) -> dict[str, Any]:
    """{"rows": [row with its scores, …], "rewards": [summary, …]}; the shapes are in docs/rewards.md.

    Raises UsageError: no data or no reward. DataError, ArtifactError and SurroundingsError as everywhere.
    """
    if not config.data:
        raise UsageError("--data is missing", "name a file of answers or pairs: --data FILE")
    if not config.reward:
        raise UsageError("--reward is missing", "name a reward model, python:FILE:FUNCTION or a service's URL")
    store = Store(config.runs)
    specs = parse_rewards(config.reward, store, label=config.label)
    for spec in specs:
        refuse_language_model(spec)
    template = resolve(config.tokenizer, store) if config.tokenizer else None
    rows = read_rows(config.data, config.skip_bad, reporter, split=config.split, names=config.map)
    try_functions(specs, rows[0])
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    # Reward models render text with their own template; only a service is sent it rendered.
    tokenizer = load_tokenizer(template, reporter) if template else None
    sources = [
        load_reward(spec, tokenizer if spec.url else None, dtype=dtype, device=device, reporter=reporter)
        for spec in specs
    ]
    scores = score_rows(sources, rows, reporter)
    return {
        "rows": [_object(row, {name: values[i] for name, values in scores.items()}) for i, row in enumerate(rows)],
        "rewards": [
            {"name": spec.name, "ref": spec.reference.shown if spec.reference else spec.text}
            | summary(rows, scores[spec.name])
            for spec in specs
        ],
    }


def score_rows(
    sources: Sequence[RewardSource], rows: Sequence[Row], reporter: Reporter
) -> dict[str, list[tuple[float, ...]]]:
    """Source → the scores of each row: (chosen, rejected) of a pair, else (completion,).

    Raises ArtifactError: a score that is no finite number, or what a source raises.
    """
    found: dict[str, list[tuple[float, ...]]] = {source.name: [] for source in sources}
    reporter.begin("scoring", len(rows) * len(sources))
    for start in range(0, len(rows), AT_A_TIME):
        part = rows[start : start + AT_A_TIME]
        answers = [Answer(row.prompt, text, columns=row.columns) for row in part for text in texts_of(row)]
        for number, source in enumerate(sources, 1):
            scores = source.score(answers).tolist()
            refuse_not_finite(source.name, scores, answers)
            left = iter(scores)
            found[source.name] += [tuple(next(left) for _ in texts_of(row)) for row in part]
            reporter.advance(start * len(sources) + len(part) * number)
    reporter.end()
    return found


def summary(rows: Sequence[Row], scores: Sequence[tuple[float, ...]]) -> dict[str, Any]:
    """What one source's scores look like; where there are pairs, how often it prefers the chosen side (ties as halves).

    The deviation is the population's, as in a reward model's manifest (`score_std`).
    """
    values = [value for row in scores for value in row]
    found: dict[str, Any] = {
        "answers": len(values),
        "mean": fmean(values),
        "std": pstdev(values),
        "min": min(values),
        "max": max(values),
    }
    margins = [both[0] - both[1] for row, both in zip(rows, scores) if _is_pair(row)]
    if margins:
        found |= accuracy(margins)
    return found


def _is_pair(row: Row) -> bool:
    return row.chosen is not None  # such a row also has its chosen side as its completion


def texts_of(row: Row) -> tuple[str, ...]:
    """The answers of a row, in the order of their scores."""
    texts = (row.chosen, row.rejected) if _is_pair(row) else (row.completion,)
    return tuple(text for text in texts if text is not None)


def _object(row: Row, scores: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    """A row as JSON, in a form that every command reads: the other columns, prompt, answers, scores."""
    names = SIDES if _is_pair(row) else ("completion",)
    shown = {name: dict(zip(SIDES, both)) if _is_pair(row) else both[0] for name, both in scores.items()}
    return row.columns | {"prompt": row.prompt} | dict(zip(names, texts_of(row))) | {"scores": shown}

"""`score` as a function: rows with answers, each scored by every reward source, and what the scores look like."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from prefcli.artifacts.parts import ALONE, Job, Make, Share, join, open_beside
from prefcli.artifacts.store import Store
from prefcli.config.score import ScoreConfig
from prefcli.data.dataset import read_again, read_checked
from prefcli.data.decisions import refuse_decided
from prefcli.data.row import Row, written
from prefcli.data.writing import as_line
from prefcli.errors import UsageError
from prefcli.evaluation.causes import causes, of_model, of_rewards
from prefcli.evaluation.placement import placement_of
from prefcli.evaluation.together import tell, together
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import parse_rewards, refuse_language_model, sent_template
from prefcli.rewards.preflight import refuse_not_finite
from prefcli.rewards.python import try_functions
from prefcli.rewards.sources import Answer, RewardSource
from prefcli.statistics.pairs import accuracy

AT_A_TIME = 64  # rows that a source is handed
A_PART = 8 * AT_A_TIME
SIDES = ("chosen", "rejected")


def score(
    config: ScoreConfig,
    reporter: Reporter,
    *,
    share: Share = ALONE,
    out: Path | None = None,
    show: Callable[[bytes], None] = lambda lines: None,
) -> dict[str, Any]:
    """{"rows": their number, "rewards": [summary, …]}: the shapes are in docs/rewards.md.

    {} in all processes but the first. The rows are written to `out` when all are there, part by part beside it until
    then; without it, they are shown.

    Raises UsageError: no data or no reward. DataError, ArtifactError and SurroundingsError as everywhere.
    """
    with together(share, reporter) as (work, plan):
        if not config.data:
            raise UsageError("--data is missing", "name a file of answers or pairs: --data FILE")
        if not config.reward:
            raise UsageError("--reward is missing", "name a reward model, python:FILE:FUNCTION or a service's URL")
        store = Store(config.runs)
        specs = parse_rewards(config.reward, store, label=config.label)
        for spec in specs:
            refuse_language_model(spec)
        template = sent_template(config.tokenizer, specs, store)
        place = placement_of(config, work, reporter)
        if plan is None:
            data = read_checked(config.data, "demos", config, reporter)
            if out is not None:
                refuse_decided(out)
                named = {"data": data.digests, "reward": of_rewards(specs), "tokenizer": of_model(template)}
                open_beside(work, out, causes("score", config, place.device, place.dtype, **named))
            tell(work, data.rows.positions)
        else:
            data = read_again(config.data, "demos", plan, config)
        work.check = data.check
        try_functions(specs, data.rows[0])
        # Reward models render text with their own template; only a service is sent it rendered.
        tokenizer = load_tokenizer(template, reporter) if template else None
        sources = [place.reward(spec, tokenizer if spec.url else None, reporter) for spec in specs]
        job = work.job("scores", len(data.rows), A_PART, "rows")
        found = Scores([spec.name for spec in specs])
        work.begin("scoring", job)
        for part in job.run(scorer(sources, data.rows, job)):
            found.add(part.noted)
            show(part.lines)
        reporter.end()
        if not share.first:
            return {}
        if out is not None:
            join(job, out)
        work.remove()
    return {
        "rows": len(data.rows),
        "rewards": [
            {"name": spec.name, "ref": spec.reference.shown if spec.reference else spec.text} | found.summary(spec.name)
            for spec in specs
        ],
    }


def scorer(sources: Sequence[RewardSource], rows: Sequence[Row], job: Job, *, lines: bool = True) -> Make:
    """From a span of rows to their scores: {source: [(chosen, rejected) of a pair, else (completion,), …]} is noted of
    them; with `lines`, the rows with these are written.

    Raises ArtifactError: a score that is not a finite number, or what a source raises.
    """

    def make(span: range) -> tuple[bytes, Any]:
        found: dict[str, list[tuple[float, ...]]] = {source.name: [] for source in sources}
        written = []
        for start in range(span.start, span.stop, AT_A_TIME):
            part = [rows[i] for i in range(start, min(start + AT_A_TIME, span.stop))]
            answers = [Answer(row.prompt, text, columns=row.columns) for row in part for text in texts_of(row)]
            for source in sources:
                scores = source.score(answers).tolist()
                refuse_not_finite(source.name, scores, answers)
                left = iter(scores)
                found[source.name] += [tuple(next(left) for _ in texts_of(row)) for row in part]
                job.tick(len(part) / len(sources))
            for i, row in enumerate(part if lines else (), start - span.start):
                written.append(as_line(_object(row, {name: values[i] for name, values in found.items()})) + b"\n")
        return b"".join(written), found

    return make


class Scores:
    """The scores of rows that come part by part: numbers alone, 8 bytes each."""

    def __init__(self, sources: Sequence[str]) -> None:
        self._starts = array("Q", [0])  # of a row's answers
        self._values = {name: array("d") for name in sources}

    @property
    def sources(self) -> list[str]:
        return list(self._values)

    def add(self, noted: dict[str, list[list[float]]]) -> None:
        """Add what `scorer` noted of the next rows."""
        for name, rows in noted.items():
            for row in rows:
                self._values[name].extend(row)
        for row in next(iter(noted.values())):
            self._starts.append(self._starts[-1] + len(row))

    def of(self, source: str, row: int, side: int) -> float:
        """Of an answer: `side` 0 of a pair is the chosen one."""
        return self._values[source][self._starts[row] + side]

    def summary(self, source: str) -> dict[str, Any]:
        """What one source's scores look like; where there are pairs, how often it prefers the chosen side (ties as
        halves). The standard deviation is the population's, as in a reward model's manifest (`score_std`)."""
        values = self._values[source]
        found: dict[str, Any] = {
            "answers": len(values),
            "mean": fmean(values),
            "std": pstdev(values),
            "min": min(values),
            "max": max(values),
        }
        pairs = [start for start, end in zip(self._starts, self._starts[1:]) if end - start == len(SIDES)]
        if pairs:
            found |= accuracy(array("d", (values[start] - values[start + 1] for start in pairs)))
        return found


def _is_pair(row: Row) -> bool:
    return row.chosen is not None  # such a row also has its chosen side as its completion


def texts_of(row: Row) -> tuple[str, ...]:
    """The answers of a row, in the order of their scores."""
    texts = (row.chosen, row.rejected) if _is_pair(row) else (row.completion,)
    return tuple(text for text in texts if text is not None)


def _object(row: Row, scores: dict[str, tuple[float, ...]]) -> dict[str, Any]:
    """A row as JSON, in a format that every command reads: the other columns, prompt, answers, scores."""
    names = SIDES if _is_pair(row) else ("completion",)
    shown = {name: dict(zip(SIDES, both)) if _is_pair(row) else both[0] for name, both in scores.items()}
    return row.columns | {"prompt": row.prompt} | dict(zip(names, map(written, texts_of(row)))) | {"scores": shown}

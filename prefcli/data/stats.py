"""Statistics of the rows of files: number, lengths, labels, duplicates."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from prefcli.config.stages import Purpose
from prefcli.data.checks.gathered import Gathered, duplicates
from prefcli.data.dataset import check_split
from prefcli.data.lengths import length_bias
from prefcli.data.row import BadRow, Row, Tie
from prefcli.data.scan import counts, scan_all
from prefcli.progress import SILENT, Reporter

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
MOST_TURNS = 20  # more are counted together
EVERY = 1000  # rows between two steps of the progress bar


@dataclass
class Stats:
    """`lengths`: part (prompt, answer, chosen, rejected) → of each row; `turns`: messages of a prompt → rows."""

    unit: str
    files: list[dict[str, Any]] = field(default_factory=list)
    lengths: dict[str, array[int]] = field(default_factory=dict)
    turns: Counter[int] = field(default_factory=Counter)
    rows: Gathered = field(default_factory=Gathered)

    def as_dict(self) -> dict[str, Any]:
        """Lengths as quantiles."""
        no, yes, pairs = self.rows.kinds
        found: dict[str, Any] = {
            "rows": len(self.rows),
            "bad": sum(file["bad"] for file in self.files),
            "ties": sum(file["ties"] for file in self.files),
            "files": self.files,
            "prompts": len(np.unique(np.asarray(self.rows.prompts))),
            "duplicates": sum(1 for _ in duplicates(self.rows)) if len(self.rows) else 0,
            "turns": {str(turns): count for turns, count in sorted(self.turns.items())},
            "unit": self.unit,
            "lengths": {name: summary(values) for name, values in self.lengths.items()},
        }
        if yes or no:
            found["labels"] = {"true": yes, "false": no}
        if pairs:
            bias = length_bias(zip(self.lengths["chosen"], self.lengths["rejected"]))
            found["length_bias"] = bias._asdict() if bias else None
        if yes or no or pairs:
            found["agreement"] = asdict(self.rows.labels.agreement())
        return found


def measure(
    paths: Sequence[str],
    purpose: Purpose | None = None,
    encoder: Any = None,
    reporter: Reporter = SILENT,
    **options: Any,
) -> Stats:
    """One pass over the files. Lengths are in tokens of `encoder` (a tokenising.Encoder), without one in characters;
    `options` are `scan`'s. Raises DataError as `scan` does; rows that do not fit are counted."""
    check_split(paths, options.get("split"))
    stats = Stats("tokens" if encoder else "characters")
    for path, source in zip(paths, scan_all(paths, purpose, **options)):
        for note in source.notes:
            reporter.notice(note)
        reporter.begin(f"reading {path}", len(source), "rows")
        stats.rows.open(path)
        before, ties = len(stats.rows), 0
        for count, (number, row) in enumerate(source, 1):
            ties += isinstance(row, Tie)
            if not isinstance(row, BadRow):
                stats.rows.add(number, row)
                stats.turns[min(MOST_TURNS, 0 if isinstance(row.prompt, str) else len(row.prompt))] += 1
                for name, length in _lengths(row, encoder):
                    stats.lengths.setdefault(name, array("I")).append(length)
            if count % EVERY == 0:
                reporter.advance(count)
        reporter.end()
        stats.files.append(counts(path, source, len(stats.rows) - before, ties))
    return stats


def _lengths(row: Row, encoder: Any) -> list[tuple[str, int]]:
    parts = [("answer", row.completion)] if row.chosen is None or row.completion is not None else []
    parts += [("chosen", row.chosen), ("rejected", row.rejected)] if row.completion is None else []
    answers = [(name, text) for name, text in parts if text is not None]
    if encoder is None:
        return [("prompt", len(row.prompt_text)), *((name, len(text)) for name, text in answers)]
    prompt = len(encoder.prompt_ids(row.prompt))
    return [("prompt", prompt), *((name, len(encoder.completion_ids(row.prompt, text))) for name, text in answers)]


def summary(values: Sequence[int]) -> dict[str, float]:
    """Mean and quantiles: "q50" is the median."""
    found = np.asarray(values)
    ends = np.quantile(found, QUANTILES)
    return {"mean": float(found.mean())} | {f"q{q * 100:g}": float(end) for q, end in zip(QUANTILES, ends)}


def histogram(values: Sequence[int], bins: int = 12) -> list[tuple[int, int, int]]:
    """(from, to, rows) of bins of one width up to the 99 % quantile; the last goes on to the longest."""
    found = np.asarray(values)
    low, high = int(found.min()), int(np.quantile(found, 0.99, method="higher"))
    width = max(1, -(-(high - low + 1) // bins))
    counts = np.bincount(np.minimum((found - low) // width, (high - low) // width))
    ends = [low + width * (i + 1) - 1 for i in range(len(counts))]
    ends[-1] = int(found.max())
    return [(low + width * i, end, int(count)) for i, (end, count) in enumerate(zip(ends, counts))]

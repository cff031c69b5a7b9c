"""How many labels a better reward model needs: what the page tells beside the order that a reward model gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefcli.artifacts.store import Artifact, Store
from prefcli.experiments.siblings import rows_of, siblings
from prefcli.rewards.grammar import parse_rewards
from prefcli.statistics.growth import Growth, rows_for

FEWER = (
    0.1  # a better reward model makes a tenth fewer mistakes: on the sample world, a little more than twice the pairs
)


@dataclass(frozen=True)
class Needed:
    """What is known of a reward model that a better one is to follow.

    `trained` pairs, of which `here` stand in --out; `runs` of other numbers of pairs, and what these say (`growth`;
    None where there is no such run).
    """

    ref: str
    trained: int
    here: int
    runs: int
    growth: Growth | None

    def told(self, labels: int, rate: float) -> dict[str, Any]:
        """{"ref", "trained", "runs", "known", "labels", "low", "high", "minutes"}: labels still needed.

        `labels` stand in --out, `rate` is labels a second of all who are at work. Where nothing is known of growth
        they are those for twice as many pairs. Where it is not sure that any number is enough, "labels" is None, "low"
        the least that may be (None as well where more pairs made it worse), and "minutes" those for it.
        """
        growth = self.growth or Growth(2.0 * self.trained, None, None, 0.0)
        left, low, high = (
            None if rows is None else max(0, math.ceil(rows) - self.trained - (labels - self.here))
            for rows in (growth.rows, growth.low, growth.high)
        )
        if self.growth is not None and high is None:
            left = None
        least = low if left is None else left
        minutes = math.ceil(least / rate / 60) if least is not None and rate else None
        return {"ref": self.ref, "trained": self.trained, "runs": self.runs, "known": self.growth is not None,
                "labels": left, "low": low, "high": high, "minutes": minutes}  # fmt: skip


def needed(rewards: Sequence[str], out: str, store: Store) -> Needed | None:
    """Of the first of `rewards` that `train-rm` made; None where there is none. Raises as `parse_rewards`."""
    for spec in parse_rewards(list(rewards), store):
        artifact = spec.reference.artifact if spec.reference is not None else None
        if artifact is not None and artifact.manifest.scores and (trained := _trained(artifact, store)):
            return _of(artifact, trained, Path(out).resolve(), store)
    return None


def _of(artifact: Artifact, trained: int, out: Path, store: Store) -> Needed:
    here = sum(int(source["rows"]) for source in artifact.manifest.data if Path(source["path"]).resolve() == out)
    runs = [
        (rows, float(accuracy), int(pairs))
        for run in siblings(artifact, store, over="rows")
        if (rows := _trained(run, store)) and (pairs := run.manifest.model.get("held_out_pairs"))
        if (accuracy := run.manifest.metrics.get("accuracy")) is not None
    ]
    return Needed(artifact.ref, trained, min(here, trained), len(runs), rows_for(runs, trained, FEWER))


def _trained(artifact: Artifact, store: Store) -> int:
    """Pairs that it learned from: without those that it held out itself."""
    manifest = artifact.manifest
    own = 0 if manifest.config.get("eval_data") else int(manifest.model.get("held_out_pairs", 0))
    return max(0, (rows_of(artifact, store) or 0) - own)

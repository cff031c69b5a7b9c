"""The parts of a criterion: figures with their intervals and sources, and who is shown to be ahead by them.

A winner is named only where the figures say so. Counts and bytes are compared as they are. What another seed or
other prompts would change needs an interval of the difference that leaves 0 out, against every other route.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Literal

from prefcli.statistics.intervals import mean_interval, welch_interval, wilson_interval
from prefcli.statistics.paired import paired_difference

NO_DIFFERENCE, DISAGREE, NOT_MEASURED = "no difference shown", "the measures disagree", "not measured"
OF_THESE_RUNS = "of single runs"  # how many rows say who is ahead of these runs alone
Better = Literal["lower", "higher"]
LEVEL = 0.05


@dataclass(frozen=True)
class Figure:
    """One route's value. `source`: the runs and files it comes from. `ci95` is None of what is counted."""

    value: float
    source: str
    ci95: tuple[float, float] | None = None


@dataclass(frozen=True)
class Measure:
    """One thing measured on every route, by the route's ref; None where there is no figure of it.

    `better` is None of what is only told. `ahead` are the routes that it shows to be ahead of others: (better, worse).
    `of_single_runs`: it is of one run a route, so what it shows holds of these runs and not of the routes, which
    another seed would make again.
    """

    measure: str
    unit: str
    figures: dict[str, Figure | None]
    better: Better | None = None
    ahead: tuple[tuple[str, str], ...] = ()
    of_single_runs: bool = False

    @property
    def winner(self) -> str | None:
        """The route that is ahead of every other."""
        refs = list(self.figures)
        return next((ref for ref in refs if all((ref, other) in self.ahead for other in refs if other != ref)), None)

    @property
    def measured(self) -> bool:
        return all(figure is not None for figure in self.figures.values())


@dataclass(frozen=True)
class Criterion:
    """One row of the comparison. `measure_with`: the commands that would measure what is missing."""

    criterion: str
    claimed: str
    measures: tuple[Measure, ...]
    measure_with: tuple[str, ...] = ()
    why: str = ""

    @property
    def winner(self) -> str | None:
        """The route that is ahead of every other in some measure, and behind another in none. Measures of single runs
        name none, though they may say no."""
        return self._ahead(of_single_runs=False)

    @property
    def of_these_runs(self) -> str | None:
        """Where no route is the winner: the one whose single run is ahead, as far as these runs go."""
        return self._ahead(of_single_runs=True) if self.winner is None else None

    def _ahead(self, of_single_runs: bool) -> str | None:
        deciding = [m for m in self.measures if m.better and m.measured]
        behind = {worse for measure in deciding for _, worse in measure.ahead}
        asked = [m for m in deciding if m.of_single_runs == of_single_runs]
        return next((m.winner for m in asked if m.winner is not None and m.winner not in behind), None)

    @property
    def verdict(self) -> str:
        deciding = [m for m in self.measures if m.better and m.measured]
        if not deciding:
            return NOT_MEASURED
        if self.winner is not None:
            return self.winner
        if self.of_these_runs is not None:
            number = "two" if len(deciding[0].figures) == 2 else str(len(deciding[0].figures))
            return f"{self.of_these_runs}, of these {number} runs"
        return DISAGREE if any(measure.winner for measure in deciding) else NO_DIFFERENCE

    def as_dict(self) -> dict[str, Any]:
        return {
            "criterion": self.criterion,
            "claimed": self.claimed,
            "measures": [
                {
                    "measure": m.measure,
                    "unit": m.unit,
                    "better": m.better,
                    "figures": {ref: asdict(figure) if figure else None for ref, figure in m.figures.items()},
                    "winner": m.winner,
                    "of_single_runs": m.of_single_runs,
                }
                for m in self.measures
            ],
            "winner": self.winner,
            "of_these_runs": self.of_these_runs,
            "verdict": self.verdict,
            "measure_with": list(self.measure_with),
            "why": self.why,
        }


@dataclass(frozen=True)
class Samples:
    """Values whose spread is the uncertainty, of every route: of seeds, steps or prompts."""

    values: Mapping[str, Sequence[float]]
    source: Mapping[str, str] = field(default_factory=dict)


def counted(measure: str, unit: str, values: Mapping[str, tuple[float, str] | None], better: Better) -> Measure:
    """Counts and bytes: the smaller or larger one is ahead, whatever the difference. `values`: (value, source)."""
    figures = {ref: None if found is None else Figure(*found) for ref, found in values.items()}
    ahead = tuple(
        (a, b)
        for a, one in figures.items()
        for b, other in figures.items()
        if one and other and _better(one.value, other.value, better)
    )
    return Measure(measure, unit, figures, better, ahead)


def shares(measure: str, unit: str, counts: Mapping[str, tuple[int, int, str]], better: Better) -> Measure:
    """(how many, of how many, source) as shares, of one run a route; ahead is one whose Wilson interval lies beside the
    other's."""
    figures: dict[str, Figure | None] = {
        ref: Figure(k / n, source, wilson_interval(k, n)) if n else None for ref, (k, n, source) in counts.items()
    }
    ahead = []
    for a, one in figures.items():
        for b, other in figures.items():
            if one and other and one.ci95 and other.ci95:
                apart = one.ci95[1] < other.ci95[0] if better == "lower" else one.ci95[0] > other.ci95[1]
                ahead += [(a, b)] if apart else []
    return Measure(measure, unit, figures, better, tuple(ahead), of_single_runs=True)


def over_runs(measure: str, unit: str, samples: Samples, better: Better) -> Measure:
    """Means over independent runs or steps, two or more of each route, and the differences by Welch's interval."""
    figures: dict[str, Figure | None] = {
        ref: Figure(fmean(values), samples.source.get(ref, ""), mean_interval(values)) if values else None
        for ref, values in samples.values.items()
    }
    ahead = [
        (a, b)
        for a, mine in samples.values.items()
        for b, theirs in samples.values.items()
        if a != b and (interval := welch_interval(mine, theirs)) and _leaves_out_0(interval, better)
    ]
    return Measure(measure, unit, figures, better, tuple(ahead))


def over_prompts(measure: str, unit: str, samples: Samples, better: Better) -> Measure:
    """Means of one run a route over the same prompts, in one order, and the paired differences by bootstrap-t and by
    sign flips.

    Both must show it: of a few prompts that all lean one way the bootstrap leaves out 0, and chance does not (five of
    five: p = 1/16).
    """
    figures: dict[str, Figure | None] = {}
    for ref, values in samples.values.items():
        own = paired_difference(values, [0.0] * len(values)) if values else None
        figures[ref] = Figure(own["mean"], samples.source.get(ref, ""), tuple(own["ci95"])) if own else None
    ahead = [
        (a, b)
        for a, mine in samples.values.items()
        for b, theirs in samples.values.items()
        if a != b
        and mine
        and theirs
        and (found := paired_difference(mine, theirs))["p"] < LEVEL
        and _leaves_out_0(found["ci95"], better)
    ]
    return Measure(measure, unit, figures, better, tuple(ahead), of_single_runs=True)


def _leaves_out_0(interval: Sequence[float], better: Better) -> bool:
    return interval[1] < 0 if better == "lower" else interval[0] > 0


def _better(one: float, other: float, better: Better) -> bool:
    return one < other if better == "lower" else one > other

"""The report: one HTML file that needs nothing but itself. No script, no link that is followed without a click."""

from __future__ import annotations

import datetime
import json
import shlex
from pathlib import Path
from typing import Any

import jinja2

from prefcli import __version__
from prefcli.artifacts.facts import Figure, Run
from prefcli.config.stages import STAGES
from prefcli.report import lineage_chart
from prefcli.report.facts import Facts
from prefcli.report.lengths import DataFile
from prefcli.report.mark import MARK
from prefcli.report.text import number, seconds, shown
from prefcli.report.views import criteria_view, data_view, evaluation_view, memory_view, run_view


def page(facts: Facts, *, data: list[DataFile], evaluation: dict[str, Any] | None, comparison: dict[str, Any] | None,
         why_not: str | None = None, again: list[str]) -> str:  # fmt: skip
    """The whole page. `why_not` says why there is no comparison, `again` are the words of the command that makes it."""
    lineage, width = lineage_chart.draw(facts.trees, facts.asked) if facts.trees else ("", 0)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            mark=MARK,
            version=__version__,
            made=datetime.date.today(),
            facts=facts,
            title=listed(facts.asked or facts.outside),
            lead=_lead(facts),
            tiles=[_tile(facts, run) for ref in facts.asked if (run := facts.run(ref))],
            lineage=lineage,
            lineage_width=width,
            runs=[run_view(run, place) for place, run in enumerate(facts.runs)],
            memory=memory_view(facts),
            data=data_view(data),
            evaluation=evaluation_view(evaluation) if evaluation and evaluation["models"] else None,
            criteria=criteria_view(comparison) if comparison else None,
            why_not=why_not,
            again=shlex.join(again),
            fill=_fill(facts),
            environment=_environments(facts),
        )
    )


def common_ancestor(facts: Facts) -> str | None:
    """The last model that all named artifacts started from, itself none of them; None where one alone is named.

    A reward model that two runs share is no start of theirs.
    """
    if len(facts.asked) < 2:
        return None
    above = [{run.ref for run in facts.above(ref, ("model", "reference"))} - set(facts.asked) for ref in facts.asked]
    shared = set.intersection(*above)
    return next((run.ref for run in reversed(facts.runs) if run.ref in shared), None)


def listed(names: list[str]) -> str:
    """One, two and three."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1] if names else ""


def _lead(facts: Facts) -> str:
    """The sentence that says where the named artifacts come from."""
    if ancestor := common_ancestor(facts):
        return f"{listed(facts.asked)} were made from the same {ancestor}."
    if len(facts.asked) != 1 or (run := facts.run(facts.asked[0])) is None:
        return ""
    start = next((parent["ref"] for parent in run.parents if parent["role"] == "model"), None)
    return f"{run.ref}, {run.title}" + (f", was made from {start}." if start else ".")


def _tile(facts: Facts, run: Run) -> dict[str, Any]:
    """A named run in a few numbers: what it took, with all that it was made from."""
    above = facts.above(run.ref)
    timed = [stage for stage in above if isinstance(stage.resources.get("train_seconds"), (int, float))]
    return {
        "run": run,
        "stages": len(above),
        "names": " → ".join(stage.stage for stage in above),
        "seconds": sum(stage.resources["train_seconds"] for stage in timed),
        "sources": " ".join(f"{stage.ref}:resources.train_seconds" for stage in timed),
        "peak": run.figure("resources", "measured_peak_bytes", "bytes"),
    }


def _fill(facts: Facts) -> str:
    """The command that measures what this page has not."""
    reward = next((run.ref for run in facts.runs if STAGES[run.stage].scores), "rm")
    refs = shlex.join(facts.asked)
    return f"prefcli report {refs} --prompts held_out_prompts.jsonl --reward {reward}"


def _environments(facts: Facts) -> list[tuple[str, dict[str, Any]]]:
    """The surroundings of the runs, those that are alike together."""
    found: list[tuple[list[str], dict[str, Any]]] = []
    for run in facts.runs:
        refs = next((refs for refs, known in found if known == run.environment), None)
        if refs is None:
            found.append(([run.ref], run.environment))
        else:
            refs.append(run.ref)
    return [(", ".join(refs), about) for refs, about in found]


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # whatever the file is called: answers and file names come from outside
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": shown,
        "number": number,
        "seconds": seconds,
        "raw": _raw,
        "plainly": _plainly,
    }
    environment.tests["figure"] = lambda value: isinstance(value, Figure)
    return environment


def _raw(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plainly(value: Any) -> str:
    """An option's value as it would be typed."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

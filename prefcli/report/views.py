"""Each section of the report as the template takes it: facts with their charts and the sentence that describes them.

A sentence is a list of texts and `Figure`s, so that every recorded number in it is marked with its source.
"""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from prefcli.artifacts.facts import Figure, Run
from prefcli.report import charts
from prefcli.report.charts import Dot
from prefcli.report.facts import Facts
from prefcli.report.lengths import DataFile
from prefcli.report.svg import About
from prefcli.report.text import UNITS, number, share, short, size
from prefcli.stages.series import Panel, Series, panels

Sentence = list[str | Figure]
# What is shown of each run beside its curves: section, name, what it is called, unit.
SUMMARY = (
    ("resources", "steps", "steps", ""),
    ("resources", "train_seconds", "training", "seconds"),
    ("resources", "tokens_per_second", "speed", "tokens a second"),
    ("resources", "predicted_peak_bytes", "memory predicted", "bytes"),
    ("resources", "measured_peak_bytes", "memory measured", "bytes"),
    ("model", "parameters", "parameters", ""),
    ("model", "trained", "of them trained", ""),
)
OFF_THE_CHART = 5.0  # times the next highest KL: such a model would press all others to the edge
FIT_LABELS = 4  # series that have room for their names at the end of their lines


def picture(chart: Markup, title: str, sentence: Sentence) -> dict[str, Any]:
    return {"chart": chart, "title": title, "sentence": sentence}


def run_view(run: Run, number_of_run: int) -> dict[str, Any]:
    """One run: its summary, final metrics and curves."""
    there = [panel for panel in panels(run.rows) if any(len(series.steps) > 1 for series in panel.series)]
    drawn = [part for panel in there for part in _parts(panel)]
    return {
        "run": run,
        "summary": [(label, figure) for section, name, label, unit in SUMMARY
                    if (figure := run.figure(section, name, unit)).value is not None],
        "metrics": [(name, run.figure("metrics", name)) for name in sorted(run.metrics)],
        "curves": [_curve(run, panel, f"run{number_of_run}-{place}") for place, panel in enumerate(drawn)],
        "faint": any(charts.smoothed(panel, series) for panel in drawn for series in panel.series),
        "alarms": run.alarms,
    }  # fmt: skip


def _parts(panel: Panel) -> list[Panel]:
    """The panel as pictures of as many series as have room for their names, about equally many in each."""
    count = -(-len(panel.series) // FIT_LABELS)
    cuts = [round(len(panel.series) * i / count) for i in range(count + 1)]
    return [
        Panel(panel.title + (", continued" if start else ""), panel.series[start:end])
        for start, end in zip(cuts, cuts[1:])
    ]


def _curve(run: Run, panel: Panel, name: str) -> dict[str, Any]:
    sentence: Sentence = []
    for place, series in enumerate(panel.series):
        sentence += ["; " if place else "", *_said(run, series, len(panel.series), charts.smoothed(panel, series))]
    title = panel.title[0].upper() + panel.title[1:]
    plain = f"{run.ref}. " + "".join(part if isinstance(part, str) else number(part.value) for part in sentence)
    names = [short(series.name) for series in panel.series]
    chart = charts.curves(panel, run.alarms, names, About(name, f"{title} of {run.ref}", plain))
    return picture(chart, title, [*sentence, "."])


def ends(series: Series) -> tuple[float, float]:
    """Means of the first and of the last tenth of the values, at least one each."""
    tenth = max(1, len(series.values) // 10)
    return sum(series.values[:tenth]) / tenth, sum(series.values[-tenth:]) / tenth


def _said(run: Run, series: Series, of: int, noisy: bool) -> Sentence:
    """Where a series began and where it ended; with much noise the means there, and the two values where there is room
    for them (it is one `of` few)."""
    first, last = series.steps[0], series.steps[-1]
    said: Sentence = [f"{short(series.name)} " if of > 1 else ""]
    if of == 1 or not noisy:
        said += [run.logged(first, series.name), f" at step {first}"]
        if last != first:
            said += [", ", run.logged(last, series.name), f" at step {last}"]
        said += ["; "] if noisy else []
    if noisy:
        begin, end = ends(series)
        said += [f"mean {number(begin)} over the first tenth, {number(end)} over the last"]
    return said


def memory_view(facts: Facts) -> dict[str, Any] | None:
    """Bars of all runs, predicted beside measured; None where no run says either."""
    rows = []
    for run in facts.runs:
        found = [(label, run.resources.get(f"{label}_peak_bytes")) for label in ("predicted", "measured")]
        if any(value for _, value in found):
            rows.append((run.ref, [(label, float(value or 0)) for label, value in found]))
    if not rows:
        return None
    told = "; ".join(f"{ref}: " + ", ".join(f"{size(v)} {label}" for label, v in found) for ref, found in rows)
    chart = charts.bars(rows, size, About("memory", "Peak memory, predicted and measured", told))
    return {"chart": chart, "cpu": any(run.environment.get("device") == "cpu" for run in facts.runs)}


def data_view(files: list[DataFile]) -> list[dict[str, Any]]:
    found = []
    for place, file in enumerate(files):
        view: dict[str, Any] = {"file": file, "rows": Figure(file.source, file.rows), "chart": None, "sentence": ""}
        if file.lengths:
            means = ", ".join(f"{name} {sum(v) / len(v):.1f}" for name, v in file.lengths.items())
            longest = ", ".join(f"{name} {max(v)}" for name, v in file.lengths.items())
            measured = len(next(iter(file.lengths.values())))
            which = "all rows" if measured == file.rows else f"{measured:,} rows"
            view["sentence"] = f"Mean length in tokens of {which}: {means}. Longest: {longest}."
            about = About(f"data{place}", f"Lengths of {file.path}", view["sentence"])
            view["chart"] = charts.histogram(list(file.lengths.items()), "tokens", about)
        found.append(view)
    return found


def evaluation_view(found: dict[str, Any]) -> dict[str, Any]:
    """The models on held-out prompts: rewards, wins, KL, length and variety, each as a chart with its sentence."""
    models = found["models"]
    rewards = list(models[0]["reward"])

    def figure(place: int, path: str, value: Any, unit: str = "") -> Figure:
        return Figure(f"evaluation:models[{place}].{path}", value, unit)

    def listed(path: str, unit: str = "") -> Sentence:
        said: Sentence = []
        for place, entry in enumerate(models):
            value = entry
            for key in path.split("\0"):
                value = None if value is None else value[key]
            if value is not None:
                said += [", " if said else "", f"{entry['ref']} ", figure(place, path.replace("\0", "."), value, unit)]
        return [*said, "."]

    pictures = []
    for i, name in enumerate(rewards):
        rows = [Dot(m["ref"], m["reward"][name]["mean"], tuple(m["reward"][name]["ci95"]), c)
                for c, m in enumerate(models)]  # fmt: skip
        chart = charts.dots(rows, About(f"reward{i}", f"Mean reward {name}", _plain(rows, number)))
        pictures.append(picture(chart, f"Reward: {name}", ["Mean ", *listed(f"reward\0{name}\0mean")]))
    rows = [Dot(m["ref"], m["win_rate"], tuple(m["win_rate_ci95"]), c)
            for c, m in enumerate(models) if m["win_rate"] is not None]  # fmt: skip
    if rows:
        against = found["against"]
        chart = charts.dots(rows, About("wins", f"Wins against {against}", _plain(rows, share)), share)
        said = [f"Fraction of prompts with a higher {rewards[0]} than {against}; ties count half: "]
        pictures.append(picture(chart, f"Wins against {against}", [*said, *listed("win_rate", "share")]))
    pictures += [view for i, name in enumerate(rewards) if (view := _frontier(models, name, i)) is not None]
    for key, title, form, what in (
        ("length", "Length of an answer", number, "Mean tokens, the end token included: "),
        ("distinct_2", "Diversity", number, "Distinct-2, different word pairs over all word pairs: "),
        ("ended", "Answers that ended by themselves", share, "Fraction of the answers; the others were cut off: "),
    ):
        rows = [Dot(m["ref"], m[key], None, c) for c, m in enumerate(models)]
        chart = charts.dots(rows, About(key, title, _plain(rows, form)), form)
        pictures.append(picture(chart, title, [what, *listed(key, "share" if form is share else "")]))
    return found | {"pictures": pictures, "rewards": rewards, "figure": figure, "difference": _difference(found)}


def _plain(rows: list[Dot], form: Any) -> str:
    said = []
    for row in rows:
        between = f" [{form(row.interval[0])}, {form(row.interval[1])}]" if row.interval else ""
        said.append(f"{row.label} {form(row.value)}{between}")
    return "; ".join(said)


def _frontier(models: list[dict[str, Any]], reward: str, place: int) -> dict[str, Any] | None:
    """Reward over KL; None where fewer than two models have one."""
    points = [(Dot(m["ref"], m["reward"][reward]["mean"], tuple(m["reward"][reward]["ci95"]), c), m["kl"])
              for c, m in enumerate(models) if m["kl"] is not None]  # fmt: skip
    highest = sorted(x for _, x in points)
    off = [p for p in points if len(points) > 2 and p[1] == highest[-1] and p[1] > OFF_THE_CHART * highest[-2]]
    kept = [point for point in points if point not in off]
    if len(points) < 2:
        return None
    told = "; ".join(f"{dot.label}: KL {number(x)}, {reward} {number(dot.value)}" for dot, x in points)
    about = About(f"frontier{place}", f"Reward {reward} against KL", told)
    chart = charts.scatter(kept, "KL to the reference, nats", about)
    said: Sentence = ["What each nat of distance from the reference bought. KL: "]
    for c, m in enumerate(models):
        if m["kl"] is not None:
            said += [", " if len(said) > 1 else "", f"{m['ref']} ", Figure(f"evaluation:models[{c}].kl", m["kl"])]
    beyond = [f" ({', '.join(dot.label for dot, _ in off)} lies far outside.)"] if off else []
    return picture(chart, f"Reward {reward} against KL", [*said, ".", *beyond])


def _difference(found: dict[str, Any]) -> dict[str, Any] | None:
    about = found["difference"]
    if about is None:
        return None
    less = f"{about['first']} less {about['second']}"
    told = About("difference", f"Differences in {about['reward']}, {less}, prompt by prompt",
                 f"Mean {number(about['mean'])} over {len(about['values'])} prompts.")  # fmt: skip
    chart = charts.histogram([("", about["values"])], less, told, zero=True)
    return about | {"chart": chart, "mean_figure": Figure("evaluation:difference.mean", about["mean"])}


def criteria_view(comparison: dict[str, Any]) -> dict[str, Any]:
    """The eight criteria: each with its measures as rows, a route's figure a column."""
    refs = [route["ref"] for route in comparison["routes"]]
    criteria = []
    for i, criterion in enumerate(comparison["criteria"]):
        rows = []
        for j, measure in enumerate(criterion["measures"]):
            cells = []
            unit, label = measure.get("unit") or "", measure["measure"]
            if unit not in UNITS:  # it is said once, in the row's name
                label, unit = (label if unit in label else f"{label}, {unit}"), ""
            for ref in refs:
                cell = measure["figures"].get(ref)
                source = f"comparison:criteria[{i}].measures[{j}].figures.{ref}.value"
                cells.append(
                    {
                        "figure": Figure(source, cell["value"] if cell else None, unit),
                        "ci95": cell.get("ci95") if cell else None,
                        "wins": measure.get("winner") == ref,
                    }
                )
            rows.append({"measure": label, "cells": cells})
        commands = criterion.get("measure_with") or []
        more = {"claimed": None, "why": None} | criterion
        more["measure_with"] = [commands] if isinstance(commands, str) else commands
        criteria.append(more | {"rows": rows, "decided": criterion["verdict"] in refs})  # fmt: skip
    named = {route["ref"]: route["route"] for route in comparison["routes"]}
    return {"criteria": criteria, "refs": refs, "names": named, "score": comparison.get("score") or {}}

"""`prefcli report`: every figure is the recorded one, nothing leads out of the page, what comes from data is text."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PAIR
from huggingface_hub import ModelCard, ModelCardData
from report_page import COMPARISON, EVIL, Parsed, Written

from prefcli.artifacts.facts import run_facts
from prefcli.artifacts.lineage import Node
from prefcli.artifacts.metrics import alarms, is_number
from prefcli.artifacts.store import open_artifact
from prefcli.data.row import Row
from prefcli.errors import DataError
from prefcli.report import charts, lineage_chart
from prefcli.report.answers import choose, compare
from prefcli.report.charts import Dot
from prefcli.report.criteria import check, read_comparison
from prefcli.report.facts import Facts
from prefcli.report.lengths import _measured
from prefcli.report.page import _lead
from prefcli.report.svg import About
from prefcli.report.text import number, seconds, share, short, shown
from prefcli.report.views import ends, run_view
from prefcli.stages.series import Panel, Series


def recorded(source: str, written: Written) -> Any:
    """What stands at the place that a figure names, looked up here by hand."""
    where, _, path = source.partition(":")
    if where in ("evaluation", "comparison"):
        return at(written.facts[where] if where == "evaluation" else COMPARISON, path)
    name, _, version = where.partition("@")
    artifact = written.runs / name / version
    if path.startswith("log@"):
        step, _, metric = path.removeprefix("log@").partition(".")
        rows = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
        return next(row[metric] for row in rows if row["step"] == int(step) and metric in row)
    return at(json.loads((artifact / "manifest.json").read_text()), path)


def at(value: Any, path: str) -> Any:
    """`a.b[0].c` in nested values; a key may hold dots itself."""
    if not path:
        return value
    if match := re.match(r"\[(\d+)\]\.?(.*)", path):
        return at(value[int(match[1])], match[2])
    key = max((key for key in value if re.match(re.escape(key) + r"($|[.\[])", path)), key=len)
    return at(value[key], path[len(key) :].lstrip("."))


def test_every_figure_is_the_recorded_one(written):
    seen: dict[str, int] = {}
    for tag, attributes in written.page.elements:
        if "data-figure" in attributes:
            source = attributes["data-figure"]
            assert tag == "data" and json.loads(attributes["value"]) == recorded(source, written), source
            seen[source] = seen.get(source, 0) + 1
    for source in ("ppo@v1:resources.train_seconds", "rm@v1:metrics.accuracy", "sft@v1:data[0].rows",
                   "dpo@v1:log@2.rewards/margins", "ppo@v1:log@1.objective/scores", "evaluation:models[1].kl",
                   "evaluation:models[2].reward.gold.ci95[0]", "sft@v1:resources.measured_peak_bytes",
                   "comparison:criteria[0].measures[0].figures.ppo@v1.value"):  # fmt: skip
        assert source in seen, source
    assert len(seen) > 100


def test_what_a_model_took_is_the_sum_over_all_that_it_was_made_from(written):
    sums = [a for _, a in written.page.elements if "data-sum" in a]
    assert [a["data-sum"].count("@") for a in sums] == [3, 2]  # sft, rm, ppo; sft, dpo
    for attributes in sums:
        parts = [recorded(source, written) for source in attributes["data-sum"].split()]
        assert json.loads(attributes["data-value"]) == pytest.approx(sum(parts))


def test_figures_read_as_their_values(written):
    """The text beside the raw value is that value: the two cannot part."""
    for value, text in re.findall(r'<data data-figure="[^"]*:resources.train_seconds" value="([^"]*)">([^<]*)</data>',
                                  written.html):  # fmt: skip
        assert text == seconds(float(value))
    assert '<data data-figure="sft@v1:data[0].rows" value="32">32</data>' in written.html


def test_the_page_needs_nothing_but_itself(written):
    assert not [
        tag for tag, _ in written.page.elements if tag in ("script", "link", "img", "iframe", "object", "embed")
    ]
    assert not written.page.all("src") and "@import" not in written.html
    assert all(url.startswith("#") for url in written.page.all("href") + re.findall(r"url\(([^)]*)\)", written.html))
    assert "default-src 'none'" in written.html
    assert not [name for _, attributes in written.page.elements for name in attributes if name.startswith("on")]


def test_ids_do_not_clash_and_every_link_within_the_page_leads_somewhere(written):
    ids = written.page.all("id")
    assert len(ids) == len(set(ids)) > 300
    targets = written.page.all("href") + re.findall(r"url\((#[^)]*)\)", written.html)
    assert {target.removeprefix("#") for target in targets} <= set(ids)
    for _, attributes in written.page.elements:
        assert set(attributes.get("aria-labelledby", "").split()) <= set(ids)


def test_every_chart_has_words_and_no_colour_of_its_own(written):
    found = [attributes for tag, attributes in written.page.elements if tag == "svg"]
    assert len(found) > 25 and all(chart["role"] == "img" and "viewbox" in chart for chart in found)
    assert written.page.all("id").count("lineage-desc") == 1
    drawn = "".join(re.findall(r"<svg.*?</svg>", written.html, re.DOTALL))
    assert not re.findall(r"#[0-9a-f]{6}\b", drawn) and "var(--series-1)" in drawn
    assert "font-family" not in drawn and "<text" in drawn
    style = written.html.split("<style>")[1].split("</style>")[0]
    for used in set(re.findall(r"var\(--([\w-]+)\)", written.html)):
        assert f"--{used}:" in style, used  # a variable that the sheet lacks would be black, in the dark too


def test_what_comes_from_data_is_text(written):
    assert EVIL.replace("\x1b", "") in written.page.text.replace("\x1b", "")
    assert "<img" not in written.html and "<b>of it" not in written.html


def test_sections_stand_with_their_answers_and_criteria(written):
    text = written.page.text
    for piece in ("ppo@v1 and dpo@v1 were made from the same sft@v1", "prefcli train-rm", "measured peak",
                  "1.2 GB", "1.1 GB, 1.3 GB", "prefcli sweep dpo", "Mean length in tokens of all rows"):  # fmt: skip
        assert piece in text, piece
    answers = written.facts["evaluation"]["samples"]
    sides = {sample["side"] for sample in answers}
    assert sides == {side for side in ("worst", "best") if f"Where ppo@v1 does {side} against dpo@v1" in text} != set()
    assert len(answers) == 4 and [a["ref"] for a in answers[0]["answers"]] == ["ppo@v1", "dpo@v1", "tiny", "sft@v1"]
    assert all(answer["text"].strip() in text for sample in answers for answer in sample["answers"])


def test_without_prompts_the_page_says_what_would_fill_it_and_only_a_report_is_replaced(chain, prefcli):
    result = prefcli("report", "sft@v1", "-q")
    assert (result.exit_code, result.stdout) == (0, "report.html\n"), result.stderr
    text = Parsed(Path("report.html").read_text()).text
    assert "prefcli report sft@v1 --prompts" in text and "Two routes that start from the same model" in text
    assert prefcli("report", "sft", "-q").exit_code == 0  # one of ours is written again
    Path("report.html").write_text("mine")
    refused = prefcli("report", "sft", "-q")
    assert refused.exit_code == 2 and "--force" in refused.stderr and Path("report.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "value", "piece"),
    [
        (("routes",), None, "'routes' must be a list"),
        (("criteria", 0, "measures", 0, "figures", "ppo@v1"), {"value": "x"}, "'value' is a number"),
        (("criteria", 0, "measures", 0, "figures", "ppo@v1", "ci95"), ["a", 1], "two numbers"),
        (("criteria", 0, "measures", 0, "unit"), 7, "'unit' must be text"),
        (("criteria", 1, "measure_with"), 3, "a list of commands"),
        (("score",), {"dpo@v1": "many"}, "score['dpo@v1'] must be a number"),
    ],
)
def test_a_comparison_of_another_form_is_refused_where_it_differs(path, value, piece):
    changed = json.loads(json.dumps(COMPARISON))
    check(changed, "file")
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(DataError, match=re.escape(piece)):
        check(changed, "file")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_comparison_is_read_as_powershell_writes_it(encoding, own_folder):
    Path("comparison.json").write_text(json.dumps(COMPARISON), encoding=encoding)
    assert read_comparison("comparison.json") == COMPARISON


def test_what_two_runs_were_made_from_is_where_they_started():
    """Both rest on one reward model, which is no start: only what was their model or reference is."""

    def lead(start):
        made: dict[str, dict[str, str]] = {"rm@v1": {}, "sft@v1": {}, "sft@v2": {}}
        made |= {"ppo@v1": {"model": "sft@v1", "reward": "rm@v1"}, "dpo@v1": {"model": start, "reward": "rm@v1"}}
        runs: Any = [SimpleNamespace(ref=ref, parents=[{"role": role, "ref": of} for role, of in parents.items()])
                     for ref, parents in made.items()]  # fmt: skip
        return _lead(Facts(["ppo@v1", "dpo@v1"], runs, [], [], []))

    assert lead("sft@v1") == "ppo@v1 and dpo@v1 were made from the same sft@v1." and lead("sft@v2") == ""


@pytest.mark.parametrize(
    ("args", "code", "piece"),
    [
        ([], 2, "REF"),
        (["nosuch"], 4, "nosuch"),
        (["tiny"], 2, "--prompts"),
        (["sft", "-o", "no/where.html"], 2, "mkdir"),
        (["sft", "-o", "."], 2, "is a directory"),
        (["sft", "-o", ""], 2, "no file can have that name"),
        (["sft", "-o", "runs/sft/v1/r.html"], 2, "lies in an artifact"),
        (["sft", "--reward", "rm"], 2, "--reward is for --prompts"),
        (["sft", "--samples", "3"], 2, "--samples is for --prompts"),
        (["sft", "--comparison", "missing.json"], 3, "missing.json"),
        (["sft", "--comparison", "list.json"], 3, "must be an object"),
        (["sft", "--comparison", "half.json"], 3, "criteria[0]: 'measures' must be a list"),
        (["rm", "--prompts", "missing.jsonl"], 2, "no model to answer"),
        (["sft", "--prompts", "missing.jsonl"], 3, "missing.jsonl"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(chain, prefcli, args, code, piece):
    Path("list.json").write_text("[]")
    Path("half.json").write_text('{"routes": [], "criteria": [{"criterion": "memory", "verdict": "x"}]}')
    result = prefcli("report", *args)
    assert result.exit_code == code and piece in result.stderr and not result.stdout, result.stderr
    assert not list(Path().glob("*.html"))


def test_what_is_damaged_gone_or_changed_costs_its_part_of_the_page_alone(make_artifact, prefcli, jsonl):
    files = {
        "model/config.json": "{}",
        "metrics.jsonl": '{"step": 1, "loss": "nan"}\n{"step": 2, "lo\n[]\n{"step": 3}\n',
    }
    sft = make_artifact("sft", files=files)
    jsonl("changed.jsonl", PAIR)
    data = [{"path": f"{name}.jsonl", "format": "f", "rows": 1, "digest": "then"} for name in ("changed", "gone")]
    make_artifact("dpo", files=files, parents={"model": sft}, data=data)
    (sft.path / "manifest.json").unlink()
    result = prefcli("report", "dpo", "-q")
    assert result.exit_code == 0, result.stderr
    text = Parsed(Path("report.html").read_text()).text
    for piece in ("No longer there: sft@v1", "there are no curves", "No run recorded its memory", "changed since",
                  "The file is not there any more"):  # fmt: skip
        assert piece in text, piece


# The pieces


def sample(*scores: float) -> dict[str, Any]:
    return {"prompt": "p", "answers": [{"ref": ref, "text": "", "reward": {"r": s}} for ref, s in zip("ab", scores)]}


def test_the_worst_and_the_best_are_those_by_sorting_and_no_prompt_is_shown_twice():
    differences = [0.5, -3, 2, 0, -1, 4, 1]
    samples = [sample(d, 0) for d in differences]
    for count in range(9):
        shown_ones = choose(samples, "a", "b", count)
        worst = [s["difference"] for s in shown_ones if s["side"] == "worst"]
        best = [s["difference"] for s in shown_ones if s["side"] == "best"]
        half = (min(count, 7) + 1) // 2
        assert worst == [d for d in sorted(differences)[:half] if d < 0]
        assert best == [d for d in sorted(differences, reverse=True) if d > 0][: min(count, 7) - len(worst)]
    assert [s["difference"] for s in choose([sample(2, 2), sample(0, 1)], "a", "b", 2)] == [-1]  # a tie is neither
    assert [s["side"] for s in choose([sample(2, 2), sample(0, 0)], "a", "b", 1)] == [None]
    assert [s["difference"] for s in choose([sample(2), sample(0)], "a", None, 2)] == [0, 2]
    bare = {"prompt": "p", "answers": [{"ref": "a", "text": "", "reward": {}}]}
    assert [s["side"] for s in choose([bare], "a", "b", 3)] == [None]


def test_differences_are_paired():
    found = compare([sample(1, 0), sample(2, 2), sample(0, 3), sample(5, 1)], "a", "b")
    assert found is not None and found.values == [1, 0, -3, 4] and (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.mean == 0.5 and found.ci95[0] < 0 < found.ci95[1] and found.ahead is None
    assert compare([{"prompt": "", "answers": [{"ref": "a", "text": "", "reward": {}}]}], "a", "b") is None


def test_nobody_is_ahead_by_one_prompt_or_by_none():
    won, lost, tie = sample(1, 0), sample(0, 1), sample(1, 1)
    for samples in ([won] + [tie] * 9, [lost] + [tie] * 9, [tie] * 64, [won], [won] * 5):
        found = compare(samples, "a", "b")
        assert found is not None and found.ahead is None and found.p > 0.05
    assert compare([won] * 8 + [tie], "a", "b").ahead == "a" and compare([lost] * 8 + [tie], "a", "b").ahead == "b"


def test_alarms_and_their_steps_come_from_the_log(make_artifact):
    rows = [{"step": 1}, {"step": 2, "alarm/explosion": 1.0, "alarm/loss": 1.0}, {"step": 5, "alarm/explosion": 1.0}]
    assert alarms(rows) == [(2, "explosion"), (2, "loss"), (5, "explosion")]
    run = run_facts(make_artifact("ppo").manifest, rows)
    assert run.alarms == alarms(rows)


def test_a_running_mean_is_the_mean_of_the_values_around_and_ends_are_tenths():
    values = [float(i * i) for i in range(60)]
    series = Series("loss", list(range(60)), values)
    mean = charts.running_mean(series)
    assert mean[30] == pytest.approx(sum(values[27:34]) / 7) and mean[0] == pytest.approx(sum(values[:4]) / 4)
    assert ends(series) == (sum(values[:6]) / 6, sum(values[54:]) / 6)


@pytest.mark.parametrize("count", [1, 7, 20, 41, 63, 200, 399])
def test_a_huge_value_is_in_the_means_of_its_own_windows_alone(count):
    values = [0.5] * count
    values[count // 2] = 3e18
    half = count // 20
    windows = [values[max(0, i - half) : i + half + 1] for i in range(count)]
    assert charts.running_mean(Series("loss", [*range(count)], values)) == pytest.approx(
        [math.fsum(window) / len(window) for window in windows], rel=1e-12
    )
    assert charts.running_mean(Series("loss", [*range(40)], [1e308] * 40)) == pytest.approx([1e308] * 40)


def test_a_running_mean_reads_each_value_a_few_times_however_many_there_are():
    read = []

    class Counted(list):
        def __getitem__(self, place):
            found = super().__getitem__(place)
            read.append(len(found) if isinstance(place, slice) else 1)
            return found

    values = [math.sin(i) for i in range(4000)]
    mean = charts.running_mean(Series("loss", list(range(4000)), Counted(values)))
    assert sum(read) <= 3 * 4000 and mean[2000] == pytest.approx(sum(values[1800:2201]) / 401, abs=1e-12)


def test_a_panel_of_many_series_is_drawn_in_parts_that_leave_out_none(make_artifact):
    names = ["objective/scores", "objective/scores/a", "objective/scores/b", "objective/rlhf_reward", "judge/gold"]
    rows = [{"step": step} | {name: float(step) for name in names} for step in (1, 2)]
    drawn = run_view(run_facts(make_artifact("ppo").manifest, rows), 0)["curves"]
    assert [one["title"] for one in drawn] == ["Reward", "Reward, continued"]
    said = "".join(part for one in drawn for part in one["sentence"] if isinstance(part, str))
    assert all(short(name) in said for name in names)


def test_lengths_are_of_what_was_trained_on():
    class Words:
        def prompt_ids(self, prompt):
            return prompt.split()

        def completion_ids(self, prompt, answer):
            return answer.split()

    pair = Row("one two", chosen="a b c", rejected="d")
    assert _measured([pair], Words()) == {"prompt": [2], "chosen": [3], "rejected": [1]}
    assert _measured([replace(pair, completion=pair.chosen)], Words()) == {"prompt": [2], "answer": [3]}


def test_numbers_as_they_are_read():
    assert [number(v) for v in (0, -0.5, 12345.6, 0.000002, -1e-9, 1 / 3, 999.4, -999.7)] == [
        "0", "−0.5", "12,346", "2×10⁻⁶", "−1×10⁻⁹", "0.333", "999", "−1,000"]  # fmt: skip
    assert [seconds(v) for v in (0.26, 41.4, 192, 12000)] == ["0.3 s", "41 s", "3 min 12 s", "3 h 20 min"]
    assert not is_number(10**400) and is_number(10**300)  # JSON has integers of any size
    assert [seconds(v) for v in (179.7, 3599, 5399.9)] == ["3 min", "60 min", "1 h 30 min"]
    assert (shown(None), shown(0.5, "share"), shown(1.2e9, "bytes"), shown([1, 2])) == ("–", "50%", "1.2 GB", "1 to 2")


def test_names_of_any_kind_can_be_drawn():
    about = About("x", EVIL, "\ud800\uffff")
    panel = Panel(EVIL, [Series("a", [1, 2], [0.0, 1e-300]), Series("b", [1, 2], [5.0, 5.0])])
    drawn = charts.curves(panel, [(1, "x")], [EVIL, "$a_b$"], about)
    dots = [Dot(EVIL, 0.0, (0.0, 0.0), 7), Dot("y" * 200, 0.0)]
    for chart in (drawn, charts.dots(dots, about), charts.scatter([(d, 0.0) for d in dots], "x", about),
                  charts.histogram([("a", [1.0, 1.0]), ("b", [1.5])], "x", about),
                  charts.bars([("a", [("b", 0.0)])], number, about)):  # fmt: skip
        assert "<img" not in chart and "\x1b" not in chart and "$" not in chart or "$a_b$" in chart or "$x$" in chart


def test_no_axis_of_shares_goes_beyond_all_or_below_none():
    for values in ([1.0, 1.0], [0.98, 1.0], [0.0, 0.01], [0.0, 1.0], [0.4, 0.6]):
        drawn = charts.dots([Dot(f"m{i}", value, None, i) for i, value in enumerate(values)], About("x", "", ""), share)
        found = [int(label) for label in re.findall(r"([0-9]+)%<", drawn)]
        assert len(found) > len(values) and 0 <= min(found) and max(found) <= 100 and "−" not in drawn


def test_no_arrow_runs_through_a_box_and_nothing_overlaps():
    """sft is the parent of rm, dpo and ppo, which rm is a parent of too: its arrow passes the others' layer."""
    tiny = Node("model", "tiny", "ok")
    sft = Node("model", "sft@v1", "ok", "sft", parents=[tiny])
    rm = Node("reward/rm", "rm@v1", "ok", "rm", parents=[sft])
    trees = [Node("", "ppo@v1", "ok", "ppo", parents=[sft, rm]), Node("", "dpo@v1", "ok", "dpo", parents=[sft])]
    layers = lineage_chart.graph(trees).layers()
    assert layers == {"tiny": 0, "sft@v1": 1, "rm@v1": 2, "ppo@v1": 3, "dpo@v1": 2}
    drawn, width = lineage_chart.draw(trees, ["ppo@v1"])
    boxes = [tuple(map(float, box)) for box in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', drawn)]
    assert len(boxes) == 5 and all(0 <= x and x + w <= width for x, _, w in boxes)
    middle = [(x, x + w) for x, y, w in boxes if y == sorted(b[1] for b in boxes)[2]]
    assert len(middle) == 2 and (middle[0][1] < middle[1][0] or middle[1][1] < middle[0][0])
    (passing,) = [float(x) for x in re.findall(r"([\d.]+),[\d.]+ V", drawn)]
    assert not any(left <= passing <= right for left, right in middle)
    circle = Node("", "a@v1", "ok", "sft", parents=[Node("model", "a@v1", "changed")])
    assert lineage_chart.draw([circle], [])[1] > 0


# The model card


def test_the_card_tells_the_facts_of_the_report_and_its_keys_are_the_hubs(chain):
    import inspect

    known = set(inspect.signature(ModelCardData.__init__).parameters) | {"base_model_relation"}
    for stage in ("sft", "rm", "ppo", "dpo"):
        card = ModelCard((chain.path(stage) / "README.md").read_text())
        data = card.data.to_dict()
        assert set(data) <= known and "license" not in data and "base_model" not in data and stage in data["tags"]
        run = run_facts(open_artifact(chain.path(stage)).manifest, [])
        for piece in (run.command, shown(run.resources["measured_peak_bytes"], "bytes"), run.title):
            assert piece in card.text, piece
        assert "| quiet |" not in card.text and "`tiny`" in card.text


def test_the_page_lies_beside_no_half_written_one(written):
    assert sorted(os.listdir(written.path.parent)) == ["comparison.json", "prompts.jsonl", "r.html"]

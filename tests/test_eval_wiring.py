"""Between the parts of `eval`: which answers are held against whose, by which reward and reference, and drawn how."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import artifact_in
from families import CHATML, tokenizer_of
from matplotlib.figure import Figure as Picture
from test_data_check import STRICT

from prefcli.artifacts.references import Reference
from prefcli.artifacts.store import Store
from prefcli.config.evaluate import EvalConfig
from prefcli.data.dataset import read_checked
from prefcli.data.lengths import length_bias
from prefcli.data.row import Row
from prefcli.errors import DataError, UsageError
from prefcli.evaluation import measured as measuring
from prefcli.evaluation import models, run
from prefcli.evaluation.measured import Measured, Setting
from prefcli.evaluation.prompts import short_ones
from prefcli.evaluation.score import Scores
from prefcli.labelling.run import _carried
from prefcli.progress import SILENT
from prefcli.report.overoptimisation import panel
from prefcli.stages.series import panels
from prefcli.statistics.paired import differences, holm


def one(ref, first, second, kl=None):
    """Four prompts with one answer each, scored by two rewards."""
    scores = {"gold": [[x] for x in first], "rm": [[x] for x in second]}
    return Measured(ref, [[f"{ref} {i}"] for i in range(4)], scores, kl, None, {"length": 2.0})


BASELINE = one("sft", [0.0, 0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 5.0])
BETTER = one("ppo", [1.0, 1.0, 1.0, -1.0], [4.0, 4.0, 4.0, 4.0], kl=[1.0, 2.0, 3.0, 6.0])


def test_a_win_rate_is_the_models_against_the_baseline_by_the_first_reward():
    entry = run._entry(BETTER, BASELINE)
    assert entry["win_rate"] == 0.75 and entry["win_rate_ci95"][0] < 0.75 < entry["win_rate_ci95"][1]
    assert entry["kl"] == 3.0 and entry["length"] == 2.0
    assert {name: found["mean"] for name, found in entry["reward"].items()} == {"gold": 0.5, "rm": 4.0}
    assert run._entry(BASELINE, BASELINE)["win_rate"] is None and run._entry(BETTER, None)["win_rate"] is None


class Job:
    """Work in one part, made at once."""

    idle, size, work = False, 100, SimpleNamespace(at_end=None)

    def __init__(self, items):
        self.items = items

    def run(self, make):
        lines, noted = make(range(self.items))
        self.made = SimpleNamespace(lines=lines, noted=json.loads(json.dumps(noted)))
        return [self.made]

    def part(self, number):
        return self.made

    def tick(self, done):
        pass


def work():
    return SimpleNamespace(
        job=lambda name, items, size, unit: Job(items), begin=lambda *_: None, share=SimpleNamespace(first=True)
    )


def test_a_judge_is_asked_for_each_model_against_the_baseline_in_both_orders():
    asked = []

    def verdicts(questions):
        asked.extend(questions)
        return [1.0, 0.0] * (len(questions) // 2)  # for the model, whichever place it has

    rows = [Row(f"q{i}") for i in range(4)]
    found = run._judged(SimpleNamespace(ref="judge", verdicts=verdicts), [BASELINE, BETTER], rows, work())
    assert (found["ref"], found["against"]) == ("judge", "sft")
    (model,) = found["models"]
    assert (model["ref"], model["win_rate"], model["ties"]) == ("ppo", 1.0, 0)
    orders = [(question.index("ppo 2") < question.index("sft 2")) for question in asked if "q2" in question]
    assert len(asked) == 8 and orders == [True, False]


def test_samples_have_each_models_first_answer_to_the_prompt():
    found = run._samples([BASELINE, BETTER], [Row("q0"), Row("q1")])
    assert [sample["prompt"] for sample in found] == ["q0", "q1"]
    assert found[1]["answers"][1] == {"ref": "ppo", "text": "ppo 1", "reward": {"gold": 1.0, "rm": 4.0}}


def test_kl_is_to_what_a_model_was_tied_to_else_to_the_baseline(monkeypatch):
    monkeypatch.setattr(run, "anchor_of", lambda reference, store: {"ppo": "its reference"}.get(reference))
    assert run.anchors_of(["sft", "ppo"], "sft", None) == ["sft", "its reference"]
    assert run.anchors_of(["sft", "ppo"], None, None) == [None, "its reference"]


def test_each_model_is_measured_against_its_own_anchor(monkeypatch):
    seen = []
    monkeypatch.setattr(run, "measure", lambda reference, anchor, *_: seen.append((reference.shown, anchor)))
    references = [SimpleNamespace(shown=name, note=None) for name in ("sft", "ppo")]
    setting = SimpleNamespace(config=EvalConfig(against="sft"), store=None, reporter=SILENT)
    run._measured(references, [None, "ref"], [], [], setting, work())
    assert seen == [("sft", None), ("ppo", "ref")]


@pytest.mark.parametrize(("theirs", "kl"), [("2", [7.0]), ("1", [0.0])])
def test_a_reference_of_another_store_with_the_models_own_name_is_not_the_model(monkeypatch, theirs, kl):
    ours, tied = (Reference("dpo@v1", "directory", None, digest) for digest in ("1", theirs))
    answers = models.Answers([[1]], [[2]], ["a"], [True], 0.0)
    monkeypatch.setattr(measuring.models, "answerer", lambda *_: lambda span: ([Row("q")], answers))
    monkeypatch.setattr(measuring.models, "kl_to", lambda frozen, model, *_: [7.0] if frozen != model else [1 / 0])
    monkeypatch.setattr(measuring, "load_tokenizer", lambda *_: "a tokenizer")
    monkeypatch.setattr(measuring, "tokenizer_digest", lambda _: "its digest")
    monkeypatch.setattr(measuring, "sampler_of", lambda *_: None)
    place = SimpleNamespace(policy=lambda reference, _: reference.digest)
    setting = Setting(EvalConfig(), SimpleNamespace(root=None), place, SILENT)
    assert measuring.measure(ours, tied, [Row("q")], [], setting, Job(1)).kl == kl


def test_two_models_of_one_name_are_refused_and_one_that_is_named_twice_is_measured_once(make_artifact, tmp_path):
    files = {"model/config.json": "{}", "model/model.safetensors": "their weights"}
    ours, theirs = make_artifact("sft"), artifact_in(Store(tmp_path / "theirs"), "sft", files=files)
    assert len(run._named_models(EvalConfig(model=["sft", str(ours.path)], prompts=["p"]), Store())) == 1
    with pytest.raises(UsageError, match="two different models are called sft@v1"):
        run._named_models(EvalConfig(against="sft", model=[str(theirs.path)], prompts=["p"]), Store())


def test_a_prompt_that_one_models_template_refuses_is_left_out_for_all(jsonl, monkeypatch):
    twice = [{"role": "user", "content": "a"}] * 2
    data = [str(jsonl("prompts.jsonl", {"prompt": twice}, {"prompt": twice[:1]}))]
    plain, strict, said = tokenizer_of("byte-level BPE", CHATML), tokenizer_of("byte-level BPE", STRICT), []
    told, judge = SimpleNamespace(notice=said.append), [SimpleNamespace(shown="rm")]
    monkeypatch.setattr("prefcli.evaluation.prompts.load_tokenizer", lambda *_: strict)
    for skip_bad in (False, True):
        rows = read_checked(data, "prompts", EvalConfig(prompts=data, skip_bad=skip_bad), SILENT).rows
        assert len(short_ones(rows, plain, 99, told)[0]) == 2
        if not skip_bad:
            with pytest.raises(DataError, match="rm: .*take turns"):
                short_ones(rows, plain, 99, told, judge)
    assert short_ones(rows, plain, 99, told, judge)[0][0].prompt == twice[:1]
    assert len(said) == 1 and "1 of 2 prompts left out" in said[0] and "rm: " in said[0]


def test_the_options_of_eval_reach_the_sampling_and_the_answers_their_prompts(monkeypatch):
    asked = {}

    def answer(model, tokenizer, rows, **options):
        asked.update(options, rows=[row.prompt for row in rows])
        texts = [f"{row.prompt}-{i}" for i, row in enumerate(rows)]
        return models.Answers([[1]] * len(rows), [[2]] * len(rows), texts, [True] * len(rows), 0.0)

    monkeypatch.setattr(measuring.models, "answer", answer)
    monkeypatch.setattr(measuring, "load_tokenizer", lambda *_: "a tokenizer")
    monkeypatch.setattr(measuring, "sampler_of", lambda *_: "a sampler")
    config = EvalConfig(seed=7, temperature=0.9, max_new_tokens=5, batch_size=3, best_of=2)
    setting = Setting(config, SimpleNamespace(root=None), SimpleNamespace(policy=lambda *_: None), SILENT)
    monkeypatch.setattr(measuring.models, "scores", lambda source, rows, answers: [float(i) for i in range(len(rows))])
    source = SimpleNamespace(name="r", reading=lambda tokenizer: source)
    found = measuring.measure(SimpleNamespace(shown="m"), None, [Row("a"), Row("b")], [source], setting, Job(2))
    asked.pop("progress"), asked.pop("draws")
    assert asked.pop("sampler") == "a sampler"
    assert asked == {"seed": 7, "temperature": 0.9, "max_new_tokens": 5, "batch_size": 3, "rows": ["a", "a", "b", "b"]}
    assert list(found.texts) == [["a-0", "a-1"], ["b-2", "b-3"]] and found.scores == {"r": [[0.0, 1.0], [2.0, 3.0]]}
    assert found.means == {"r": [0.5, 2.5]} and found.kl is None


def test_a_score_is_asked_with_the_ids_that_were_sampled_and_whether_they_ended():
    seen = []
    source = SimpleNamespace(name="r", reading=lambda tokenizer: source,
                             score=lambda answers: seen.extend(answers) or torch.tensor([0.5, -1.5]))  # fmt: skip
    answers = models.Answers([[1, 2], [3]], [[4], [5, 6]], ["x", "y"], [True, False], 0.0)
    rows = [Row("p", columns={"n": 1}), Row("q", columns={"n": 2})]
    assert models.scores(source, rows, answers) == [0.5, -1.5]
    assert [(a.prompt, a.completion, a.prompt_ids, a.completion_ids, a.columns, a.ended) for a in seen] == [
        ("p", "x", [1, 2], [4], {"n": 1}, True), ("q", "y", [3], [5, 6], {"n": 2}, False),
    ]  # fmt: skip


def test_differences_are_of_the_later_model_less_the_earlier_and_holm_steps_down():
    values = {"a": {"r": [0.0] * 8}, "b": {"r": [1.0 + 0.1 * i for i in range(8)]}}
    (found,) = differences(values)
    assert (found["a"], found["b"]) == ("b", "a") and found["mean"] == pytest.approx(1.35)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_summary_has_the_populations_deviation_and_margins_the_chosen_sides_sign():
    scores = Scores(["r"])
    scores.add({"r": [(3.0, 1.0)]})
    assert scores.summary("r")["margin"] == 2.0
    scores.add({"r": [(0.0, 2.0)]})
    found = scores.summary("r")
    assert (found["mean"], found["std"], found["min"], found["max"]) == (1.5, pytest.approx(1.25**0.5), 0.0, 3.0)
    assert (found["accuracy"], found["margin"], found["pairs"]) == (0.5, 0.0, 2)


# What is drawn, and what is counted in the rows


def test_a_series_is_over_the_steps_that_the_rows_are_of():
    rows = [{"step": 10, "loss": 2.0}, {"step": 10, "eval_loss": 3.0}, {"step": 20, "loss": 1.0, "alarm/loss": 1.0}]
    (panel,) = [panel for panel in panels(rows) if panel.title == "loss"]
    found = {series.name: (series.steps, series.values) for series in panel.series}
    assert found == {"loss": ([10, 20], [2.0, 1.0]), "eval_loss": ([10], [3.0])}


def test_over_optimisation_is_drawn_above_the_start_over_the_root_of_the_kl():
    curve = {"kind": "rl", "of": "ppo", "gold": "g", "proxy": "p", "gold_fit": None, "proxy_fit": None,
             "points": [{"kl": 0.0, "proxy": 1.0, "gold": 5.0}, {"kl": 4.0, "proxy": 3.0, "gold": 4.5}]}  # fmt: skip
    axes = Picture().subplots()
    panel(axes, curve)
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert lines["proxy: p"] == ([0.0, 2.0], [0.0, 2.0]) and lines["gold: g"] == ([0.0, 2.0], [0.0, -0.5])


@pytest.mark.parametrize("longer", [1, -1])
def test_by_how_much_chosen_answers_are_longer_has_a_sign(longer):
    lengths = [(10 + 4 * longer, 10), (10 + 2 * longer, 10), (10, 10), (10 + 2 * longer, 10)]
    found = length_bias(lengths * 10)
    assert found.difference == pytest.approx(2 * longer) and found.rejected == 10
    assert found.share == (0.875 if longer > 0 else 0.125) and found.pairs == 40
    assert found.difference_ci95[0] < found.difference < found.difference_ci95[1]
    assert found.large == (longer > 0)


@pytest.mark.parametrize(("one_label", "other", "preferred"), [(True, False, 1), (False, True, -1), (True, True, 0),
                                                               (None, True, 0), ("good", "bad", 1), (-1, 1, -1),
                                                               ("True", "👎", 1), (1, 0, 0)])  # fmt: skip
def test_the_rows_own_labels_prefer_the_good_answer_and_a_pairs_first_side(one_label, other, preferred):
    rows = [Row("p", completion="a", columns={} if one_label is None else {"label": one_label}),
            Row("p", completion="b", columns={"label": other})]  # fmt: skip
    prefers = _carried(rows)
    assert prefers((0, 0), (1, 0)) == preferred and prefers((1, 0), (0, 0)) == -preferred
    assert prefers((0, 0), (0, 1)) > 0 > prefers((0, 1), (0, 0))  # the chosen side stands first

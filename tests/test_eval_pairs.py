"""`eval --pairs`: RewardBench's rules against ones worked out here, calibration, accuracy by margin and by length."""

from __future__ import annotations

import json
import math
import random
from statistics import fmean

import pytest
from conftest import write
from matplotlib.figure import Figure

from prefcli.data.scan import scan
from prefcli.evaluation.rewardbench import SECTIONS, Labelled, by_subset
from prefcli.statistics.calibration import by, calibration, longer, parts_of

FIRST = {"prompt": "Where?", "chosen_model": "a", "rejected_model": "b", "id": 7}
SECOND = {"prompt": "Where?", "total_completions": 4, "models": ["a"], "additional_metadata": None}


def first(subset, chosen, rejected):
    return FIRST | {"chosen": chosen, "rejected": rejected, "subset": subset}


def second(subset, chosen, rejected, of="0"):
    return SECOND | {"chosen": chosen, "rejected": rejected, "subset": subset, "num_correct": len(chosen), "id": of}


def row(subset, several, of="0"):
    return Labelled(subset, of, several)


def test_both_schemas_are_read_as_what_a_user_asks_with_all_answers(own_folder):
    write(own_folder / "one.jsonl", json.dumps(first("hep-cpp", "yes", "no")) + "\n")
    (told,) = [row for _, row in scan("one.jsonl", "pairs")]
    assert told.prompt == [{"role": "user", "content": "Where?"}] and (told.chosen, told.rejected) == ("yes", "no")
    assert told.columns["subset"] == "hep-cpp"
    lines = [second("Focus", ["yes"], ["no", "why"]), second("Ties", ["1", "2"], ["a"], "tied:3"),
             second("Ties", ["1"], ["a"], "3")]  # fmt: skip
    write(own_folder / "two.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    focus, tied, bad = [row for _, row in scan("two.jsonl", "pairs")]
    assert (focus.chosen, focus.rejected) == ("yes", "no") and focus.columns["all_rejected"] == ["no", "why"]
    assert tied.columns["all_chosen"] == ["1", "2"] and "ref:N or tied:N" in str(bad)


def test_sections_weigh_their_subsets_as_the_leaderboard_does():
    """One subset of each kind: Chat's by their sizes, math-prm as much as the six languages together."""
    outcomes = {"alpacaeval-easy": [1, 1, 1, 0], "mt-bench-med": [0, 1], "math-prm": [1, 1, 0, 1], "hep-go": [0, 0.5],
                "own": [1, 0]}  # fmt: skip
    rows = [row(subset, False) for subset, values in outcomes.items() for _ in values]
    scores = [[[value], [0.5]] for values in outcomes.values() for value in values]
    found = by_subset(rows, scores)
    assert [(one["subset"], one["rows"], one["score"]) for one in found["subsets"]] == [
        (name, len(values), fmean(values)) for name, values in outcomes.items()
    ]
    (bench,) = found["benchmarks"]
    chat, reasoning = (100 * 0.75 + 40 * 0.5) / 140, (984 * 0.75 + 164 * 0.25) / (984 + 164)
    sections = {one["section"]: one for one in bench["sections"]}
    assert sections.keys() == {"Chat", "Reasoning"}
    assert sections["Chat"]["score"] == pytest.approx(chat)
    assert sections["Reasoning"]["score"] == pytest.approx(reasoning)
    assert bench["score"] == pytest.approx((chat + reasoning) / 2) and len(bench["missing"]) == 23 - 4
    low, high = bench["score_ci95"]
    assert low < bench["score"] < high and sum(len(weights) for weights in SECTIONS.values()) == 23
    assert sum(weight for name, weight in SECTIONS["Reasoning"].items() if name != "math-prm") == 984


def test_the_interval_of_a_section_is_that_of_independent_rows():
    """Of many rows the bootstrap's is the normal one: Σ w²·p(1 − p)/n."""
    draw = random.Random(0)
    outcomes = {"alpacaeval-easy": [float(draw.random() < 0.8) for _ in range(400)],
                "alpacaeval-hard": [float(draw.random() < 0.6) for _ in range(300)]}  # fmt: skip
    rows = [row(subset, False) for subset, values in outcomes.items() for _ in values]
    ((section,),) = [one["sections"] for one in by_subset(
        rows, [[[value], [0.5]] for values in outcomes.values() for value in values])["benchmarks"]]  # fmt: skip
    weights = {"alpacaeval-easy": 100 / 195, "alpacaeval-hard": 95 / 195}
    variance = sum(weights[n] ** 2 * fmean(v) * (1 - fmean(v)) / len(v) for n, v in outcomes.items())
    half = 1.96 * math.sqrt(variance)
    assert section["score_ci95"] == pytest.approx([section["score"] - half, section["score"] + half], abs=0.1 * half)


def test_the_best_of_four_must_be_the_right_one_and_shares_a_tie_at_the_top():
    scores = [[[3.0], [1.0, 2.0, 0.0]], [[2.0], [2.0, 1.0, 2.0]], [[1.0], [5.0, 0.0, 0.0]]]
    found = by_subset([row("Math", True)] * 3, scores)
    assert found["subsets"][0]["score"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    (bench,) = found["benchmarks"]
    assert bench["benchmark"] == "RewardBench 2" and bench["score"] == pytest.approx(4 / 9)
    assert bench["missing"] == ["Factuality", "Precise IF", "Safety", "Focus", "Ties"] and bench["sections"] == []


def test_subsets_of_one_name_are_two_where_one_has_pairs_and_one_lists_of_answers():
    rows = [row("Math", False), row("Math", True), row("Math", True)]
    found = by_subset(rows, [[[1.0], [0.0]], [[0.0], [1.0, 2.0]], [[0.0], [1.0, 2.0]]])
    assert [(one["subset"], one["rows"], one["score"]) for one in found["subsets"]] == [("Math", 1, 1), ("Math", 2, 0)]
    assert [one["score"] for one in found["benchmarks"]] == [0]


def test_ties_by_the_rule_of_the_paper():
    draw = random.Random(3)
    prompts = {}
    for number in range(12):
        tied = [[draw.gauss(1, 0.2) for _ in range(5)], [draw.gauss(-0.5, 0.7) for _ in range(4)]]
        prompts[number] = (tied, [[draw.gauss(0.7, 0.5)], [draw.gauss(0, 0.5) for _ in range(3)]])
    prompts[12] = ([[1.0, 1.0], [0.0]], [[2.0], [0.0]])  # no spread: a margin without bound
    accurate, reference, preferred, hard, margins = [], [], [], [], []
    for (right, wrong), (right_ref, wrong_ref) in prompts.values():
        accurate.append(all(r > w for r in right for w in wrong))
        reference.append(right_ref[0] > max(wrong_ref))
        spread, gap, gap_ref = max(right) - min(right), min(right) - max(wrong), right_ref[0] - max(wrong_ref)
        preferred.append(gap > spread)
        hard.append(gap > spread and gap_ref > spread)
        margins.append(math.tanh(min(gap, gap_ref) / spread - 1) if spread else 1.0)
    expected = 0.3 * fmean(accurate) + 0.3 * fmean(reference) + 0.2 * fmean(preferred) + 0.2 * fmean(hard)
    expected += 0.01 * fmean(margins)
    rows = [row("Ties", True, f"{kind}:{number}") for number in prompts for kind in ("tied", "ref")]
    found = by_subset(rows, [sides for both in prompts.values() for sides in both])
    (subset,) = found["subsets"]
    assert subset["score"] == pytest.approx(expected) and subset["rows"] == 26
    assert subset["score_ci95"][0] < expected < subset["score_ci95"][1] and 0 < fmean(hard) < fmean(preferred) < 1
    alone = by_subset(rows[:1], [prompts[0][0]])["subsets"][0]["score"]
    assert alone == pytest.approx(0.3 * accurate[0])  # of what is missing nothing counts
    equal = by_subset(rows[:2], [[[0.0], [0.0]], [[0.0], [0.0]]])["subsets"][0]
    assert equal["score"] == 0 and equal["score_ci95"] == [0, 0]  # a gap and a spread of 0: no margin either


# Calibration


def drawn(draw, n, sharper=1.0):
    """Margins of a source that says `sharper` times what is true."""
    return [sharper * abs(m) * (1 if draw.random() < 1 / (1 + math.exp(-abs(m))) else -1)
            for m in (draw.gauss(0, 1.5) for _ in range(n))]  # fmt: skip


def test_the_calibration_error_is_that_of_its_bins_and_each_has_as_many_pairs():
    margins = drawn(random.Random(1), 400, 2.0)
    found = calibration(margins)
    order = sorted(margins, key=abs)
    error = 0.0
    for number, one in enumerate(found["bins"]):
        some = order[40 * number : 40 * (number + 1)]
        sure = fmean(1 / (1 + math.exp(-abs(m))) for m in some)
        assert (one["pairs"], one["low"], one["high"]) == (40, abs(some[0]), abs(some[-1]))
        assert one["accuracy"] == fmean(m > 0 for m in some) and one["confidence"] == pytest.approx(sure)
        error += 40 * abs(one["accuracy"] - sure)
    assert len(found["bins"]) == 10 and found["ece"] == pytest.approx(error / 400)


def test_a_calibrated_source_is_below_the_error_by_chance_and_one_that_is_too_sure_is_not():
    draw = random.Random(2)
    below = [found["ece"] < found["ece_chance"] for found in (calibration(drawn(draw, 200)) for _ in range(100))]
    assert 0.88 <= fmean(below) <= 1
    sure = calibration(drawn(draw, 400, 3.0))
    assert sure["ece"] > 2 * sure["ece_chance"]
    assert calibration([0.0] * 40) == {"ece": 0, "ece_chance": 0, "bins": [
        {"low": 0, "high": 0, "pairs": 40, "accuracy": 0.5, "accuracy_ci95": pytest.approx([0.352, 0.648], abs=1e-3),
         "confidence": 0.5}]}  # fmt: skip


def test_parts_have_one_size_and_equal_keys_stay_together():
    assert list(parts_of([3, 1, 2, 4], 2)) == [[1, 2], [0, 3]]
    assert list(parts_of([0, 0, 0, 1], 4)) == [[0, 1, 2], [3]] and list(parts_of([5], 4)) == [[0]]
    quarters = by([float(i) for i in range(8)], [1, 1, -1, -1, 1, 0, 1, 1])
    assert [one["accuracy"] for one in quarters] == [1, 0, 0.75, 1]
    assert [(one["low"], one["high"]) for one in quarters] == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_the_longer_answer_counts_by_its_score_and_by_the_label():
    found = longer([5, -2, 3, 0], [1.0, 1.0, 0.0, 9.0])  # longer and better; shorter and better; a tie; as long
    assert (found["pairs"], found["chosen"], found["preferred"]) == (3, 2 / 3, 0.5)
    assert longer([0], [1.0])["preferred"] is None


# The command


@pytest.fixture
def benched(prefcli, own_folder):
    write(
        own_folder / "r.py", "def score(prompts, completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    rows = [first("hep-cpp", "longer", "long"), first("hep-cpp", "a", "long"), first("donotanswer", "same", "long")]
    several = [second("Math", ["right"], ["no", "wrong!", "x"]), second("Ties", ["ab", "cd"], ["e"], "tied:0"),
               second("Ties", ["abc"], ["e"], "ref:0")]  # fmt: skip
    for name, lines in (("one", rows), ("two", several)):
        write(own_folder / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def run(*options):
        result = prefcli("eval", "--pairs", "one.jsonl", "--pairs", "two.jsonl", "--reward", "length=python:r.py:score",
                         "--reward", "again=python:r.py:score", *options)  # fmt: skip
        assert result.exit_code == 0, result.stderr
        return result

    return run


def test_eval_scores_both_benchmarks_with_all_answers(benched, own_folder, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **more: (figures.append(self), save(self, *a, **more)))
    found = json.loads(benched("--json", "--plot", "c.svg").stdout)
    entry, again = found["reward_models"]
    assert entry["pairs"] == 6 and entry["accuracy"] == pytest.approx((1 + 0 + 0.5 + 1 + 1 + 1) / 6)
    scores = {one["subset"]: one["score"] for one in entry["subsets"]}
    assert scores["hep-cpp"] == 0.5 and scores["donotanswer"] == 0.5 and scores["Math"] == 0  # "wrong!" is the longest
    assert scores["Ties"] == pytest.approx(0.3 + 0.3 + 0.2 + 0.2 + 0.01)
    assert [(one["benchmark"], one["score"]) for one in entry["benchmarks"]] == [
        ("RewardBench", 0.5), ("RewardBench 2", pytest.approx(1.01 / 2))]  # fmt: skip
    assert entry["longer"]["preferred"] == 1 and entry["longer"]["chosen"] == 4 / 5
    assert (again["subsets"], again["calibration"]) == (entry["subsets"], entry["calibration"])
    titles = [axes.get_title(loc="left") for axes in figures[0].axes]
    assert titles == ["calibration: length", "calibration: again"] and "<svg" in (own_folder / "c.svg").read_text()
    drawn_at = list(figures[0].axes[0].lines[1].get_ydata())
    assert drawn_at == [one["accuracy"] for one in entry["calibration"]["bins"]]


def test_the_tables_have_subsets_sections_and_what_is_missing(benched):
    shown = benched().stdout
    for piece in ("reward sources on 6 pairs", "by subset", "Reasoning", "RewardBench 2", "chosen longer by",
                  "without 21 of its subsets", "The chosen answer is the longer one in 0.80."):  # fmt: skip
        assert piece in shown, f"{piece}: {shown}"


@pytest.mark.parametrize(
    ("drawing", "args"),
    [
        ("evaluation", ["eval", "--pairs", "pairs.jsonl", "--reward", "length=python:r.py:score"]),
        ("frontier", ["frontier", "a", "b", "--prompts", "p.jsonl"]),
        ("memory_chart", ["mem-estimate", "--params", "7B"]),
        ("data_lengths", ["data", "stats", "pairs.jsonl"]),
    ],
)
def test_a_plot_that_cannot_be_written_takes_no_result_away(prefcli, jsonl, own_folder, monkeypatch, drawing, args):
    def fails(*_):
        raise OSError(28, "No space left on device")

    write(
        own_folder / "r.py", "def score(prompts, completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    jsonl("pairs.jsonl", {"prompt": "p", "chosen": "ab", "rejected": "a"})
    monkeypatch.setattr("prefcli.comparison.frontier.frontier", lambda *_: {"frontiers": []})
    monkeypatch.setattr(f"prefcli.report.{drawing}.draw", fails)
    result = prefcli(*args, "--json", "--plot", "o.svg")
    assert result.exit_code == 7 and "No space left" in result.stderr and isinstance(json.loads(result.stdout), dict)

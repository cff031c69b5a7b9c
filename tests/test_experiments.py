"""The experiments' rules, on results made up here, and the exact one; the page is that of the committed results."""

from __future__ import annotations

import importlib.util
import json
import math
import random

import pytest
import torch

from experiments import forgets_beta, halves, humps, page, sentiment, words
from experiments.openings import openings
from experiments.record import CANNOT_TELL, DOES_NOT, HOLDS, RESULTS, ROOT, Question, Record, write_rows


def test_openings_are_different_and_the_same_each_time():
    assert len(set(openings(800))) == 800 and openings(20) == openings(500)[:20]
    with pytest.raises(ValueError):
        openings(801)


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        ([("dpo", 1.0, 4.0)], HOLDS),
        ([("rloo", 1.0, 4.0)], DOES_NOT),
        ([("dpo", 1.0, 2.0), ("rloo", 8.0, 10.0)], CANNOT_TELL),
        ([("dpo", 1.0, 1.0)], CANNOT_TELL),  # at one place in ten
        ([], CANNOT_TELL),
    ],
)
def test_a_frontier_lies_above_at_a_quarter_of_the_places_and_nowhere_below(where, answer):
    ranges = [dict(zip(("above", "from", "to"), one)) for one in where]
    difference = {"a": "dpo", "b": "rloo", "kl": [float(k) for k in range(1, 11)], "where": ranges, "verdict": "said"}
    question = sentiment.questions()["rloo"]
    sentiment.answer(question, {"differences": [difference], "range": [1.0, 10.0]})
    assert question.answer == answer and "said" in question.why


@pytest.mark.parametrize(
    ("lasts", "half", "answer"),
    [
        ({0.05: 0.2, 0.5: 0.6}, 0.1, HOLDS),
        ({0.05: 0.6, 0.5: 0.2}, 0.1, CANNOT_TELL),
        ({0.05: 0.6}, 0.09, DOES_NOT),
        ({0.05: 0.6}, 0.11, CANNOT_TELL),  # too wide to tell
    ],
)
def test_gold_humps_where_the_last_interval_lies_below_the_highest(lasts, half, answer):
    points = [
        {"method": "dpo-long", "setting": f"beta {beta:g}, step {step}", "reward": reward,
         "reward_ci95": [reward - half, reward + half]}
        for beta, last in lasts.items() for step, reward in ((100, last), (20, 0.3), (9, 0.7))
    ]  # fmt: skip
    other = points[0] | {"method": "ipo-long", "setting": "beta 0.01, step 3"}
    question = Question("?", humps.RULE)
    humps.answer(question, {"points": [*points, other]}, "dpo-long")
    assert question.answer == answer and "step 9 is the highest (0.70)" in question.why


def curve(turn, interval, proxy, gold):
    """Points at the start and the end: each reward's (mean, low, high) at both."""
    points = [
        {"kl": kl, "proxy": one[0], "proxy_ci95": one[1:], "gold": other[0], "gold_ci95": other[1:]}
        for kl, one, other in zip((0.0, 4.0), proxy, gold)
    ]
    return {"points": points, "gold_fit": {"turn": turn, "turn_ci95": interval}}


@pytest.mark.parametrize(
    ("turn", "interval", "proxy", "gold", "answer"),
    [
        (1.0, (0.8, 1.5), 2.0, 0.0, HOLDS),
        (1.0, (0.8, None), 2.0, 0.0, CANNOT_TELL),
        (1.0, (0.8, 1.5), 0.1, 0.0, CANNOT_TELL),  # the proxy did not rise
        (None, (None, None), 2.0, 1.0, DOES_NOT),
        (None, (None, None), 2.0, 0.1, CANNOT_TELL),
    ],
)
def test_gold_turns_where_the_whole_interval_lies_within_what_was_measured(turn, interval, proxy, gold, answer):
    ends = [[(mean, mean - 0.2, mean + 0.2) for mean in (0.0, last)] for last in (proxy, gold)]
    question = halves.questions()["turns"]
    halves.answer_turns(question, curve(turn, interval, *ends))
    assert question.answer == answer


@pytest.mark.parametrize(
    ("found", "alike", "answer"),
    [
        ({"gold": (0.4, 0.01)}, False, HOLDS),
        ({"gold": (-0.4, 0.01)}, False, DOES_NOT),
        ({"gold": (0.4, 0.06)}, False, CANNOT_TELL),
        ({"gold": (-0.4, 0.01), "words": (-0.1, 0.01)}, True, HOLDS),
        ({"gold": (-0.4, 0.01), "words": (0.1, 0.01)}, True, DOES_NOT),
        ({"gold": (-0.4, 0.01), "words": (-0.1, 0.06)}, True, CANNOT_TELL),
    ],
)
def test_differences_are_told_by_sign_where_they_are_shown(found, alike, answer):
    question = Question("?", "!")
    halves.answer_signs(question, found, alike)
    assert question.answer == answer
    told = {"differences": [{"a": "dpo@v1", "b": "rloo@v1", "reward": "gold", "mean": 0.3, "p_holm": 0.01}]}
    assert halves.difference(told, "rloo@v1", "dpo@v1", "gold") == (-0.3, 0.01)


@pytest.mark.parametrize(
    ("interval", "answer"),
    [((0.6, 0.74), HOLDS), ((0.75, 0.8), HOLDS), ((0.55, 0.7), DOES_NOT), ((0.49, 0.75), CANNOT_TELL)],
)
def test_an_accuracy_is_held_against_the_published_one(interval, answer):
    question = halves.questions()["accuracy"]
    halves.answer_accuracy(question, {"accuracy": 0.6, "accuracy_ci95": interval, "pairs": 230})
    assert question.answer == answer


def test_the_judge_of_words_finds_what_is_preferred_beside_the_length(tmp_path):
    dice = random.Random(0)
    filler = [f"word{chr(97 + number)}" for number in range(8)]
    chosen, rejected = [], []
    for _ in range(500):  # preferred by σ of the difference of 3·("please" in the counts' norm) + log(1 + words)
        sides = [["please"] * dice.choice((0, 2)) + dice.choices(filler, k=dice.choice((4, 8, 16))) for _ in range(2)]
        worth = [3 * side.count("please") / math.hypot(*map(side.count, set(side))) + math.log(1 + len(side))
                 for side in sides]  # fmt: skip
        gap = worth[0] - worth[1]
        sides = sides if dice.random() < 1 / (1 + math.exp(-gap)) else sides[::-1]
        chosen.append(" ".join(sides[0]))
        rejected.append(" ".join(sides[1]))
    file = tmp_path / "judge.py"
    assert words.write(chosen, rejected, file) == pytest.approx(1, abs=0.35)
    spec = importlib.util.spec_from_file_location("judge", file)
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)
    polite, plain, twice = judge.score(None, ["please worda", "wordb worda", "please worda please worda"])
    assert polite > plain + 1 and twice == pytest.approx(polite)


def test_the_exact_optima_are_the_closed_forms_and_dpo_s_is_the_best_answer_alone():
    for beta in (0.2, 5.0):
        for loss, often in (("ipo", 1.0), ("ipo", 0.8), ("sigmoid", 0.8)):
            found = forgets_beta.optimum(loss, beta, often)
            torch.testing.assert_close(found, forgets_beta.closed_form(loss, beta, often), atol=1e-7, rtol=0)
        assert forgets_beta.optimum("sigmoid", beta, 1.0)[0] > 0.999


def test_a_folder_is_of_one_size_model_and_file_of_pairs(tmp_path):
    pairs = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "x"}])
    others = write_rows(tmp_path / "others.jsonl", [{"prompt": "y"}])
    folder = tmp_path / "work"
    Record("halves", folder).settle("full", pairs)
    Record("halves", folder).settle("full", pairs)
    for model, size, file in ((None, "smoke", pairs), ("tiny", "full", pairs), (None, "full", others)):
        with pytest.raises(SystemExit, match="another --work"):
            Record("halves", folder, model).settle(size, file)
    for run in (sentiment.run, humps.run):  # one folder for both, and of one size
        Record("sentiment", tmp_path / "of-small").settle("small")
        with pytest.raises(SystemExit, match="size small and not smoke"):
            run(Record("humps", tmp_path / "of-small"), "smoke")
    with pytest.raises(SystemExit, match="size full and not smoke"):
        halves.run(Record("halves", folder), "smoke", pairs)


def test_a_record_has_the_commands_and_the_seconds_of_all_starts(tmp_path, capsys):
    record = Record("some", tmp_path)
    assert record.prefcli("--version").startswith("prefcli")
    record._spent(100, 50)
    again = Record("some", tmp_path)
    assert again.seconds >= 100
    question = Question("Is it?", "holds: always")
    question.answered(HOLDS, "it is")
    told = json.loads(record.write("smoke", [question], value=1.23456789).read_text())
    assert (
        told["commands"] == ["prefcli --version"] and told["value"] == 1.235 and told["questions"][0]["answer"] == HOLDS
    )
    assert "Is it?" in capsys.readouterr().out
    rows = write_rows(tmp_path / "rows.jsonl", [{"prompt": "x"}])
    before = rows.stat().st_mtime_ns
    assert write_rows(rows, [{"prompt": "x"}]).stat().st_mtime_ns == before


def test_the_column_of_a_real_model_goes_by_criterion_and_measure_and_is_replaced(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("findings", ROOT / "scripts" / "findings.py")
    findings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(findings)
    figures = {"RLHF": {"value": 3.0, "ci95": None}, "DPO": {"value": 2.0, "ci95": None}}
    measures = [{"measure": "models at once", "unit": "models", "figures": figures},
                {"measure": "artifacts", "unit": "artifacts", "figures": {"RLHF": None, "DPO": None}}]  # fmt: skip
    result = {"criteria": [{"criterion": "simplicity", "verdict": "DPO", "measures": measures}]}
    monkeypatch.setattr(findings, "REAL", write_rows(tmp_path / "real.json", [result]))
    monkeypatch.setattr(findings, "ELSEWHERE", {"artifacts": "2, 1"})
    table = "\n".join(["| criterion | claimed | measure | RLHF | DPO | ahead |", "|---|---|---|---|---|---|",
                       "| simplicity | DPO | models at once | 4 | 2 | **DPO** |", "|  |  | artifacts | 2 | 1 |  |",
                       "| memory | DPO | models at once | 4 | 2 | **DPO** |"])  # fmt: skip
    found = findings.with_real(table)
    assert [line.split("|")[7].strip() for line in found.splitlines()[2:]] == ["3, 2: **DPO**", "2, 1", "not measured"]
    assert findings.with_real(found) == found


def test_the_page_of_evidence_is_that_of_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
    (result,) = [path for path in RESULTS.glob("forgets_beta.json")]
    assert json.loads(result.read_text())["questions"][0]["answer"] == HOLDS

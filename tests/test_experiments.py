"""The experiments' rules, on results made up here, and the exact one; the page is that of the committed results."""

from __future__ import annotations

import json

import pytest
import torch

from experiments import forgets_beta, humps, page, sentiment
from experiments.openings import openings
from experiments.record import CANNOT_TELL, DOES_NOT, HOLDS, RESULTS, Question, Record, write_rows


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
    ("lasts", "answer"), [({0.05: 0.2, 0.5: 0.6}, HOLDS), ({0.05: 0.6, 0.5: 0.2}, CANNOT_TELL), ({0.05: 0.6}, DOES_NOT)]
)
def test_gold_humps_where_the_last_interval_lies_below_the_highest(lasts, answer):
    points = [
        {"method": "dpo-long", "setting": f"beta {beta:g}, step {step}", "reward": reward,
         "reward_ci95": [reward - 0.1, reward + 0.1]}
        for beta, last in lasts.items() for step, reward in ((100, last), (20, 0.3), (9, 0.7))
    ]  # fmt: skip
    other = points[0] | {"method": "ipo-long", "setting": "beta 0.01, step 3"}
    question = Question("?", humps.RULE)
    humps.answer(question, {"points": [*points, other]}, "dpo-long")
    assert question.answer == answer and "step 9 0.70" in question.why


def test_the_exact_optima_are_the_closed_forms_and_dpo_s_is_the_best_answer_alone():
    for beta in (0.2, 5.0):
        for loss, often in (("ipo", 1.0), ("ipo", 0.8), ("sigmoid", 0.8)):
            found = forgets_beta.optimum(loss, beta, often)
            torch.testing.assert_close(found, forgets_beta.closed_form(loss, beta, often), atol=1e-7, rtol=0)
        assert forgets_beta.optimum("sigmoid", beta, 1.0)[0] > 0.999


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


def test_the_page_of_evidence_is_that_of_the_results():
    assert page.PAGE.read_text(encoding="utf-8") == page.page()
    (result,) = [path for path in RESULTS.glob("forgets_beta.json")]
    assert json.loads(result.read_text())["questions"][0]["answer"] == HOLDS

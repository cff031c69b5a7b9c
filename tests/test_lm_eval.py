"""`eval --lm-eval`: what was lost, question by question, by a stand-in for lm-evaluation-harness."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest

from prefcli.evaluation import harness
from prefcli.evaluation.harness import compare
from prefcli.statistics.paired import holm, paired_difference


@pytest.fixture
def stand_in(monkeypatch):
    """`lm_eval.simple_evaluate` as lm-eval 0.4.13 has it, as far as it is used: 60 questions of a task, a group of two,
    a filter, a metric without a value a question. The n-th model to be asked is right on fewer of them."""
    calls = []

    def simple_evaluate(**options):
        folder = Path(options["model_args"]["pretrained"])
        assert (folder / "config.json").is_file() and (folder / "tokenizer.json").is_file()
        worse = 24 * len(calls)
        calls.append(options)

        def sample(number, metrics, name="none"):
            return {"doc_id": number, "filter": name, "metrics": list(metrics), **metrics}

        return {
            "samples": {
                "quiz": [sample(i, {"acc": float(i >= worse), "err": float(i < worse)}) for i in range(60)],
                "group_a": [sample(i, {"match": i % 2}, "strict") for i in range(10)],
                "group_b": [sample(i, {"match": 1}, "strict") for i in range(10)],
                "text": [sample(i, {"word_perplexity": (-3.0, 2)}) for i in range(3)],
            },
            "group_subtasks": {"quiz": [], "group": ["group_a", "group_b"], "text": []},
            "higher_is_better": {"quiz": {"acc": True, "err": False}, "group_a": {"match": True}},
        }

    module = types.ModuleType("lm_eval")
    module.simple_evaluate = simple_evaluate
    monkeypatch.setitem(sys.modules, "lm_eval", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "lm_eval")
    return calls


ARGS = ("eval", "--model", "dpo", "--against", "sft", "--lm-eval", "quiz,group,text", "--max-prompts", "60")


def test_before_and_after_are_compared_question_by_question(chain, prefcli, stand_in):
    result = prefcli(*ARGS, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["lm_eval"]
    (model,) = found["models"]
    rows = {(row["task"], row["metric"]): row for row in model["results"]}
    assert (found["against"], model["ref"], found["tasks"]) == ("sft@v1", "dpo@v1", ["quiz", "group", "text"])
    assert list(rows) == [("quiz", "acc"), ("quiz", "err"), ("group", "match, strict")]
    acc, err, match = rows.values()
    assert (acc["before"], acc["after"], acc["questions"]) == (1, 0.6, 60)
    assert acc["difference"] == pytest.approx(-0.4) and acc["ci95"][0] < -0.4 < acc["ci95"][1]
    assert acc["p"] == paired_difference([0.0] * 24 + [1.0] * 36, [1.0] * 60)["p"]
    assert [acc["verdict"], err["verdict"], match["verdict"]] == ["lost", "lost", "no difference shown"]
    assert (match["before"], match["after"], match["questions"]) == (0.75, 0.75, 20)
    assert [row["p_holm"] for row in rows.values()] == holm([row["p"] for row in rows.values()])
    assert "--lm-eval text: no metric with a value for each question" in result.stderr
    assert len(stand_in) == 2 and stand_in[0]["limit"] == 60 and stand_in[0]["tasks"] == ["quiz", "group", "text"]
    assert stand_in[0]["model_args"]["dtype"] == "float32" and stand_in[0]["device"] == "cpu"


def test_the_table_has_the_verdicts_and_answers_to_prompts_go_with_it(chain, prefcli, stand_in):
    result = prefcli(*ARGS, "--prompts", chain.data("held_out_prompts"), "--max-new-tokens", "2")
    for piece in ("lm-evaluation-harness against sft@v1, the first 60 questions", "-0.40", "lost", "32 prompts"):
        assert piece in result.stdout, piece


@pytest.mark.parametrize(
    ("more", "piece"),
    [
        (("--judge", "tiny"), "--judge without --prompts"),
        (("--best-of", "2", "--reward", "rm", "--reward", "b=rm"), "--reward without --prompts or --pairs"),
        (("--best-of", "2", "--reward", "rm", "--reward", "b=rm", "--pairs", "{pairs}"), "--best-of without --prompts"),
    ],
)
def test_what_reads_answers_to_prompts_is_refused_where_there_are_none(chain, prefcli, stand_in, more, piece):
    result = prefcli(*ARGS, *[word.format(pairs=chain.data("held_out_pairs")) for word in more])
    assert result.exit_code == 2 and piece in result.stderr and not stand_in, result.stderr


def test_a_gain_is_none_of_the_losses_and_only_shared_questions_count():
    before = {"t\0m": {str(i): float(i % 2) for i in range(40)}, "alone\0m": {"0": 1.0}}
    after = {"t\0m": {str(i): 1.0 for i in range(30)}}
    (row,) = compare(before, after)
    assert (row["questions"], row["before"], row["after"], row["verdict"]) == (30, 0.5, 1.0, "gained")
    assert compare(before, after, ["t\0m"])[0]["verdict"] == "lost"


def test_a_harness_that_fails_is_named_with_what_it_said(chain, prefcli, stand_in, monkeypatch):
    def fails(**_):
        raise KeyError("nosuch")

    monkeypatch.setattr(sys.modules["lm_eval"], "simple_evaluate", fails)
    result = prefcli(*ARGS)
    assert result.exit_code == 7 and "failed on sft@v1" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("args", "piece"),
    [
        (("--model", "dpo", "--against", "sft", "--lm-eval", "quiz"), "pip install lm-eval"),
        (("--model", "dpo", "--lm-eval", "quiz"), "name both: --model ppo --against sft"),
        (("--model", "dpo", "--against", "sft", "--lm-eval", ","), "names no task"),
    ],
)
def test_it_is_refused_with_what_to_do(chain, prefcli, monkeypatch, args, piece):
    monkeypatch.setattr(harness.importlib.util, "find_spec", lambda name: None)
    result = prefcli("eval", *args)
    assert result.exit_code == 2 and piece in result.stderr, result.stderr

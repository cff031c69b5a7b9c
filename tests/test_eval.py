"""`prefcli eval`: its figures against ones worked out here, its intervals against closed forms."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from tiny_models import tiny_lm

from prefcli.artifacts.lineage import trained_on
from prefcli.artifacts.store import Store
from prefcli.cli.eval import _notes, _show
from prefcli.data.row import Row
from prefcli.evaluation.models import Answers, kl_to, win_rate
from prefcli.evaluation.rewards import about, pair_scores, summary
from prefcli.rewards.sources import PythonReward
from prefcli.statistics.bootstrap import bootstrap_interval
from prefcli.statistics.intervals import wilson_interval
from prefcli.statistics.variety import distinct


def test_wilson_interval_solves_its_defining_equation():
    """Its ends are the shares p at which the observed one is 1.96 standard errors away."""
    for right, n in ((0, 10), (3, 10), (37, 40), (200, 200)):
        for end in wilson_interval(right, n):
            if 0 < end < 1:
                assert abs(right / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5)
    assert all(wilson_interval(0, n)[0] == 0 and wilson_interval(n, n)[1] == 1 for n in range(1, 1001))


def test_bootstrap_interval_is_the_normal_one_for_many_values():
    draw = random.Random(1)
    values = [draw.gauss(2, 3) for _ in range(400)]
    mean = sum(values) / 400
    error = math.sqrt(sum((v - mean) ** 2 for v in values)) / 400
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.2 * error)


@pytest.mark.parametrize(
    ("rate", "how"), [(0.5, "over prompts, of wins by Wilson's formula."), (None, "over prompts.")]
)
def test_the_table_says_how_its_intervals_are_made(rate, how):
    entry = {"ref": "a", "reward": {"gold": 1.0}, "win_rate": rate, "kl": None, "kl_to": None}
    assert how in _notes({"models": [entry]})


def test_win_rate_counts_ties_as_halves():
    rate, (low, high) = win_rate([1, 2, 3, 4], [0, 2, 5, 4])
    assert rate == 0.5 and low <= 0.5 <= high


def test_distinct_2_by_hand():
    assert distinct(["a b a b", "a b"], 2) == 2 / 4
    assert distinct(["", "one"], 2) == 0


def test_kl_of_answers_is_the_kl_of_their_distributions():
    """By enumeration: two-token answers of a small vocabulary, each as often as it is likely (importance weights)."""
    model, reference = tiny_lm(vocab=5, layers=1), tiny_lm(vocab=5, layers=1, seed=4)
    temperature, prompt = 0.7, [0, 3]

    def step(m, ids):
        with torch.no_grad():
            return torch.softmax(m(torch.tensor([ids])).logits[0, -1].double() / temperature, -1).tolist()

    answers = [[a, b] for a in range(5) for b in range(5)]
    p = [step(model, prompt)[a] * step(model, [*prompt, a])[b] for a, b in answers]
    q = [step(reference, prompt)[a] * step(reference, [*prompt, a])[b] for a, b in answers]
    exact = sum(x * math.log(x / y) for x, y in zip(p, q))
    along = kl_to(reference, model, Answers([prompt] * 25, answers, [""] * 25, [False] * 25, 0.0), temperature, 7)
    assert sum(x * k for x, k in zip(p, along)) == pytest.approx(exact, rel=1e-4)


def test_pair_accuracy_of_a_known_scorer():
    source = PythonReward("length", lambda prompts, completions, **_: [float(len(c)) for c in completions])
    rows = [Row("p", chosen=c, rejected=r) for c, r in (("long", "s"), ("s", "long"), ("ab", "cd"), ("abc", "d"))]
    found = summary([about(row) for row in rows], pair_scores(source, rows))
    assert found["accuracy"] == (1 + 0 + 0.5 + 1) / 4 and found["pairs"] == 4
    assert found["margin"] == pytest.approx((3 - 3 + 0 + 2) / 4)


@pytest.fixture
def evaluated(chain, prefcli):
    gold = f"gold=python:{chain.sample_data}/gold.py:score"
    result = prefcli(
        "eval", "--model", "dpo", "--model", "ppo@v1", "--against", "sft", "--prompts", chain.data("held_out_prompts"),
        "--reward", gold, "--reward", "rm", "--pairs", chain.data("held_out_pairs"), "--max-prompts", "6",
        "--max-new-tokens", "8", "--samples", "2", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_eval_has_every_model_and_reward_model_and_the_shapes_that_are_documented(evaluated):
    assert [entry["ref"] for entry in evaluated["models"]] == ["sft@v1", "dpo@v1", "ppo@v1"]
    for entry in evaluated["models"]:
        assert list(entry["reward"]) == ["gold", "rm"]
        low, high = entry["reward"]["gold"]["ci95"]
        assert low <= entry["reward"]["gold"]["mean"] <= high
        assert 0 < entry["length"] <= 8 and 0 <= entry["ended"] <= 1 and 0 <= entry["distinct_2"] <= 1
    sft, dpo, ppo = evaluated["models"]
    assert sft["win_rate"] is None and sft["kl"] == 0
    for trained in (dpo, ppo):
        assert trained["kl_to"] == "sft@v1" and trained["kl"] > 0
        assert trained["win_rate_ci95"][0] <= trained["win_rate"] <= trained["win_rate_ci95"][1]
    assert [entry["ref"].split(":")[0] for entry in evaluated["reward_models"]] == ["python", "rm@v1"]
    assert evaluated["reward_models"][0]["accuracy"] == 1.0  # the gold scorer labelled the held-out pairs
    assert evaluated["answers"] == 1 and evaluated["overoptimisation"] == [] and evaluated["judge"] is None
    compared = [(entry["a"], entry["b"]) for entry in evaluated["differences"] if entry["reward"] == "gold"]
    assert compared == [("dpo@v1", "sft@v1"), ("ppo@v1", "sft@v1"), ("ppo@v1", "dpo@v1")]
    assert [(entry["on"], entry["answers"]) for entry in evaluated["agreement"]] == [("answers", 18), ("pairs", 64)]
    assert len(evaluated["samples"]) == 2 and len(evaluated["samples"][0]["answers"]) == 3


def test_eval_prints_a_table_on_stdout(chain, prefcli):
    result = prefcli("eval", "--model", "sft", "--prompts", chain.data("held_out_prompts"), "--max-prompts", "2",
                     "--max-new-tokens", "2", "--reward", "rm", "--samples", "1")  # fmt: skip
    assert "sft@v1" in result.stdout and "reward rm" in result.stdout and "prompt" in result.stdout


def test_samples_are_shown_without_what_would_move_the_cursor(capsys):
    blocks = dict.fromkeys(("models", "differences", "overoptimisation", "reward_models", "agreement"), [])
    answer = {"ref": "a@v1", "text": "\x1b[2Jgone", "reward": {"len": 1.0}}
    _show(blocks | {"judge": None, "lm_eval": None, "samples": [{"prompt": "\x9b1A?", "answers": [answer]}]})
    said = capsys.readouterr().out
    assert "␛[2Jgone" in said and "\ufffd1A?" in said and not {"\x1b", "\x9b"} & set(said)


def test_prompts_that_a_model_or_what_it_was_made_from_was_trained_on_are_told(chain, prefcli, make_artifact):
    args = ("eval", "--model", "ppo", "--max-prompts", "1", "--max-new-tokens", "2", "--prompts")
    for data, who in (("prompts", "ppo@v1"), ("pairs", "rm@v1"), ("demos", "sft@v1"), ("held_out_prompts", None)):
        told = prefcli(*args, chain.data(data)).stderr
        assert ("was trained on these prompts" in told) == (who is not None), told
        assert who is None or f"{who} was trained on these prompts" in told
    ours, held_out = ({"path": f"{name}.jsonl", "format": "prompt", "rows": 1, "digest": name} for name in "ab")
    alone = make_artifact("own", data=[ours, held_out], config={"eval_data": "b.jsonl"})
    assert list(trained_on(alone, Store(chain.runs))) == [("own@v1", "a")]


@pytest.mark.parametrize(
    ("args", "code", "piece"),
    [
        ([], 2, "nothing to measure"),
        (["--model", "sft"], 2, "--prompts"),
        (["--model", "nosuch", "--prompts", "{p}"], 4, "nosuch"),
        (["--model", "rm", "--prompts", "{p}"], 4, "reward model"),
        (["--model", "sft", "--prompts", "missing.jsonl"], 3, "missing.jsonl"),
        (["--reward", "sft", "--pairs", "{pairs}"], 4, "not a reward model"),
        (["--model", "sft", "--prompts", "{p}", "--max-prompt-length", "2"], 3, "--max-prompt-length"),
        (["--model", "sft", "--prompts", "{p}", "--pairs", "{pairs}"], 2, "--pairs without --reward"),
        (["--reward", "rm", "--pairs", "{pairs}", "--samples", "1"], 2, "--samples without --prompts"),
    ],
)
def test_eval_refuses_what_it_cannot_measure(chain, prefcli, args, code, piece):
    files = {"p": chain.data("held_out_prompts"), "pairs": chain.data("held_out_pairs")}
    result = prefcli("eval", *[arg.format(**files) for arg in args])
    assert result.exit_code == code and piece in result.stderr, result.stderr

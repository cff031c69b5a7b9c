"""The length-controlled win rate: against simulations with a known truth, and a grid of the likelihood."""

from __future__ import annotations

import json
import math
import random
from statistics import fmean, pstdev

import pytest
from conftest import write

from prefcli.statistics.intervals import wilson_interval
from prefcli.statistics.length_controlled import WIDE, length_controlled


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def simulated(draw, n, theta, phi, longer, answers=1):
    """Outcomes whose chances are the model's own, the answers longer by about `longer`."""
    lengths = [[draw.gauss(longer, 100) for _ in range(answers)] for _ in range(n)]
    spread = pstdev([x for row in lengths for x in row])
    wins = [[float(draw.random() < sigmoid(theta + phi * math.tanh(x / spread))) for x in row] for row in lengths]
    return wins, lengths


def test_it_finds_the_rate_at_equal_length_where_the_plain_one_is_far_off():
    wins, lengths = simulated(random.Random(0), 4000, -0.4, 2.0, 120)
    found = length_controlled(wins, lengths)
    low, high = found["win_rate_lc_ci95"]
    assert fmean(w for (w,) in wins) > 0.65 and sigmoid(-0.4) < 0.41
    assert low < sigmoid(-0.4) < high and high - low < 0.08


@pytest.mark.parametrize(("n", "theta", "phi", "longer", "answers"), [(40, 0.5, 1.5, 60, 1), (30, -1.0, -1.0, 0, 2)])
def test_its_interval_holds_the_truth_as_often_as_it_says(n, theta, phi, longer, answers):
    draw = random.Random(1)
    held = []
    for _ in range(30):
        low, high = length_controlled(*simulated(draw, n, theta, phi, longer, answers))["win_rate_lc_ci95"]
        held.append(low <= sigmoid(theta) <= high)
    assert fmean(held) >= 0.85  # 0.95 less 2.5 standard deviations


def test_it_is_the_top_of_the_likelihood_by_grid():
    wins, lengths = simulated(random.Random(4), 25, 0.3, 1.0, 50)
    spread = pstdev([x for (x,) in lengths])

    def profile(theta):
        best = -math.inf
        for step in range(-200, 201):
            phi = step / 40
            logits = [theta + phi * math.tanh(x / spread) for (x,) in lengths]
            fit = sum(w * z - math.log1p(math.exp(z)) for (w,), z in zip(wins, logits)) - phi**2 / (2 * WIDE**2)
            best = max(best, fit)
        return best

    found = length_controlled(wins, lengths)
    at, low, high = (math.log(p / (1 - p)) for p in (found["win_rate_lc"], *found["win_rate_lc_ci95"]))
    top = profile(at)
    assert all(profile(at + step) < top for step in (-0.1, 0.1))
    assert top - profile(low) == pytest.approx(1.92, abs=0.02) and top - profile(high) == pytest.approx(1.92, abs=0.02)


def test_without_differences_in_length_it_is_the_win_rate_and_its_interval_is_near_wilsons():
    for won, n in ((30, 40), (10, 10), (0, 12), (25, 50)):
        found = length_controlled([[float(i < won)] for i in range(n)], [[7.0]] * n)
        assert found["win_rate_lc"] == pytest.approx(won / n, abs=1e-6)
        assert found["win_rate_lc_ci95"] == pytest.approx(list(wilson_interval(won, n)), abs=0.12)
    several = length_controlled([[1.0, 1.0], [1.0, 0.0]] * 9, [[1.0, 1.0]] * 18)  # a prompt counts once
    assert several["win_rate_lc"] == pytest.approx(0.75)
    assert several["win_rate_lc_ci95"] == pytest.approx(list(wilson_interval(13.5, 18)), abs=0.02)


def test_where_the_longer_answer_always_wins_nothing_is_known_of_equal_ones():
    found = length_controlled([[1.0], [0.0]] * 15, [[9.0], [-9.0]] * 15)
    assert found["win_rate_lc"] == pytest.approx(0.5)
    assert found["win_rate_lc_ci95"][0] < 0.1 and found["win_rate_lc_ci95"][1] > 0.9


def test_eval_says_it_of_the_first_reward_from_its_own_texts(chain, prefcli, own_folder):
    write(
        own_folder / "n.py", "def score(prompts, completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    args = ("eval", "--model", "dpo", "--against", "sft", "--prompts", chain.data("held_out_prompts"), "--max-prompts",
            "8", "--max-new-tokens", "6", "--reward", "long=python:n.py:score", "--reward", "rm",
            "--samples", "8")  # fmt: skip
    found = json.loads(prefcli(*args, "--json").stdout)
    sft, dpo = found["models"]
    assert sft["win_rate_lc"] is sft["win_rate_lc_ci95"] is None
    lengths = [[len(answer["text"]) for answer in sample["answers"]] for sample in found["samples"]]
    wins = [[0.5 if mine == theirs else float(mine > theirs)] for theirs, mine in lengths]
    expected = length_controlled(wins, [[mine - theirs] for theirs, mine in lengths])
    assert len(set(map(tuple, lengths))) > 1 and {name: dpo[name] for name in expected} == expected
    assert "wins against sft@v1, length-controlled" in prefcli(*args).stdout

"""Eval in depth: paired tests, agreement of sources, over-optimisation; against enumeration and closed forms."""

from __future__ import annotations

import itertools
import math
import random
from statistics import fmean

import pytest
import torch

from prefcli.evaluation.agreement import agreement, rank_correlation, same_order
from prefcli.evaluation.overoptimisation import (
    _solve,
    _turn,
    best_of_n_curve,
    best_of_n_kl,
    best_of_n_values,
    height,
    training_curve,
)
from prefcli.statistics.paired import differences, holm, paired_difference

# Paired differences


def by_enumeration(values):
    """The share of all 2^n choices of signs, zeros and all, whose sum is as far from 0."""
    observed = abs(sum(values))
    sums = [abs(sum(s * v for s, v in zip(signs, values))) for signs in itertools.product((1, -1), repeat=len(values))]
    return sum(value >= observed - 1e-9 for value in sums) / len(sums)


def sign_flip_p(differences):
    return paired_difference(differences, [0.0] * len(differences))["p"]


def test_the_sign_flip_test_is_that_of_all_sign_flips():
    draw = random.Random(0)
    for n in (1, 2, 5, 9, 12):
        values = [draw.choice([0.0, 0.1, 0.3, -0.2, draw.gauss(0.5, 1)]) for _ in range(n)]
        assert sign_flip_p(values) == pytest.approx(by_enumeration(values))
    assert sign_flip_p([0.0] * 30) == 1 and sign_flip_p([1.0] * 16) == 2 / 2**16


def test_with_many_prompts_it_is_the_binomial_test_of_equal_differences():
    """Of differences ±1 the sum is binomial: P(|2 Bin(40, ½) − 40| ≥ 12)."""
    values = [1.0] * 26 + [-1.0] * 14
    exact = sum(math.comb(40, k) for k in range(41) if abs(2 * k - 40) >= 12) / 2**40
    assert sign_flip_p(values) == pytest.approx(exact, abs=4 * math.sqrt(exact / 10_000))
    assert sign_flip_p([1.0] * 400) == pytest.approx(1 / 10_001)


def test_without_a_difference_the_p_value_is_uniform():
    """20 prompts, so drawn flips: at most a share of s of the p-values is below s, and not much less."""
    draw = random.Random(5)
    p_values = [sign_flip_p([draw.gauss(0, 1) for _ in range(20)]) for _ in range(150)]
    for level in (0.1, 0.3, 0.7):
        assert sum(p <= level for p in p_values) / 150 == pytest.approx(level, abs=4 * math.sqrt(level / 150))


def test_a_paired_difference_sees_what_the_prompts_have_in_common_cancel():
    draw = random.Random(1)
    easy = [draw.gauss(0, 10) for _ in range(60)]
    a, b = ([x + shift + draw.gauss(0, 0.1) for x in easy] for shift in (0.2, 0.0))
    found = paired_difference(a, b)
    assert found["mean"] == pytest.approx(fmean(a) - fmean(b)) and found["p"] < 0.001
    assert found["ci95"][0] > 0.1 and found["ci95"][1] < 0.3
    assert paired_difference(b, a)["mean"] == -found["mean"] and paired_difference(b, a)["p"] == found["p"]
    with pytest.raises(ValueError):
        paired_difference([1.0], [1.0, 2.0])


def test_holm_by_its_definition_step_by_step():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([0.02]) == [0.02] and holm([]) == []


def test_every_two_models_are_compared_and_of_many_each_with_the_first():
    draw = random.Random(2)

    def of(models):
        return {m: {"r": [draw.gauss(0, 1) for _ in range(8)], "s": [0.0] * 8} for m in models}

    found = differences(of("abc"))
    assert [(d["a"], d["b"], d["reward"]) for d in found] == [
        (*pair, reward) for reward in "rs" for pair in ("ba", "ca", "cb")
    ]
    assert [d["p_holm"] for d in found[:3]] == holm([d["p"] for d in found[:3]])
    assert all(d["p_holm"] == 1 for d in found[3:])
    assert {(d["a"], d["b"]) for d in differences(of("abcdef"))} == {(m, "a") for m in "bcdef"}
    assert differences(of("a")) == []


# Agreement of reward sources


def spearman(a, b):
    """Pearson's correlation of mid-ranks, by counting."""
    ranks = [[sum(y < x for y in v) + (sum(y == x for y in v) + 1) / 2 for x in v] for v in (a, b)]
    x, y = ([r - fmean(rank) for r in rank] for rank in ranks)
    return sum(p * q for p, q in zip(x, y)) / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))


def test_rank_correlation_is_that_of_ranks_by_counting():
    draw = random.Random(3)
    for values in (range(100), range(4)):  # few values: many ties
        a = [float(draw.choice(values)) for _ in range(40)]
        b = [x + draw.choice(values) for x in a]
        assert rank_correlation(a, b)["rho"] == pytest.approx(spearman(a, b))
    assert rank_correlation([1, 2, 3], [1, 10, 1000])["rho"] == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1])["rho"] == pytest.approx(-1)
    assert rank_correlation([1, 1], [1, 2])["rho"] is None


def test_its_interval_is_that_of_resampled_prompts_ranked_anew():
    draw = random.Random(4)
    prompts = [p for p in range(30) for _ in range(3)]
    shared = [draw.gauss(0, 1) for _ in range(30)]
    a, b = ([round(shared[p] + draw.gauss(0, 1), 1) for p in prompts] for _ in range(2))
    by_hand = []
    for _ in range(200):
        chosen = [draw.randrange(30) for _ in range(30)]
        at = [3 * p + k for p in chosen for k in range(3)]
        by_hand.append(spearman([a[i] for i in at], [b[i] for i in at]))
    by_hand.sort()
    low, high = rank_correlation(a, b, prompts)["ci95"]
    assert (low, high) == pytest.approx((by_hand[5], by_hand[194]), abs=0.08)
    alone = rank_correlation(a, b)["ci95"]
    assert alone[1] - alone[0] < high - low  # answers to one prompt are not independent


def test_same_order_is_a_count_over_pairs_of_answers_to_one_prompt():
    assert same_order([[1, 2, 3], [5, 5, 5]], [[10, 30, 20], [1, 2, 3]])["share"] == 2 / 3  # ties are left out
    assert same_order([[1, 2], [1, 2]], [[1, 2], [2, 1]]) == {"share": 0.5, "ci95": [0.0, 1.0], "comparisons": 2}
    assert same_order([[1], [2]], [[1], [2]])["share"] is None
    (entry,) = agreement({"x": [[1, 2], [3, 4]], "y": [[1, 2], [3, 4]]}, "pairs")
    assert (entry["a"], entry["b"], entry["on"], entry["prompts"], entry["answers"]) == ("x", "y", "pairs", 2, 4)
    assert entry["rho"] == pytest.approx(1) and entry["same_order"] == 1


# Over-optimisation


def test_best_of_n_is_the_mean_over_all_subsets():
    draw = random.Random(6)
    proxy = [[float(draw.randrange(4)) for _ in range(6)] for _ in range(5)]  # ties
    gold = [[draw.gauss(0, 1) for _ in range(6)] for _ in range(5)]
    found = best_of_n_values(proxy, gold)
    for p, n in itertools.product(range(5), range(1, 7)):
        best, judged = [], []
        for subset in itertools.combinations(range(6), n):
            top = max(proxy[p][k] for k in subset)
            best.append(top)
            judged.append(fmean(gold[p][k] for k in subset if proxy[p][k] == top))
        assert found[0][p, n - 1] == pytest.approx(fmean(best))
        assert found[1][p, n - 1] == pytest.approx(fmean(judged))


def test_the_kl_of_best_of_n_is_that_of_its_distribution():
    """By quadrature of n u^(n−1) log(n u^(n−1)), the density of the largest of n uniform ranks."""
    for n in (1, 2, 7, 16):
        steps = 40_000
        densities = (n * ((i + 0.5) / steps) ** (n - 1) for i in range(steps))
        assert best_of_n_kl(n) == pytest.approx(fmean(x * math.log(x) if x else 0.0 for x in densities), abs=5e-4)


@pytest.mark.parametrize("kind", ["best-of-n", "rl"])
def test_a_fit_finds_the_parameters_that_made_the_data_and_its_turn_is_the_top(kind):
    def fit(kl, reward):
        d, reward = torch.tensor(kl, dtype=torch.float64).sqrt(), torch.tensor(reward, dtype=torch.float64)
        alpha, beta = _solve(d, reward, kind)
        return {"alpha": float(alpha), "beta": float(beta), "turn": float(_turn(alpha, beta, kind))}

    kl = [0.0, 0.1, 0.7, 1.5, 4.0, 9.0]
    for alpha, beta in ((1.3, 0.4), (0.5, 0.9), (-0.2, 0.3), (0.8, -0.1)):
        reward = [height({"alpha": alpha, "beta": beta}, kind, math.sqrt(x)) if x else 0.0 for x in kl]
        found = fit(kl, reward)
        assert (found["alpha"], found["beta"]) == pytest.approx((alpha, beta))
        if beta < 0:
            assert found["turn"] == math.inf
        elif found["turn"]:
            top = height(found, kind, found["turn"])
            assert all(top > height(found, kind, found["turn"] * x) for x in (0.9, 0.99, 1.01, 1.1))
    assert all(math.isnan(fit(*few)["alpha"]) for few in (([0.0, 1.0], [0.0, 1.0]), ([], [])))
    if kind == "best-of-n":
        assert fit([0, 1, 4], [0, -1, -4])["turn"] == 0  # it falls from the start on


def turning(draw, kind, alpha, beta, kls, prompts=60, noise=0.3):
    """KL and R [models][prompts] of a model whose mean is on the curve."""
    means = [0.0, *(height({"alpha": alpha, "beta": beta}, kind, math.sqrt(x)) for x in kls[1:])]
    return [[kl] * prompts for kl in kls], [[m + draw.gauss(0, noise) for _ in range(prompts)] for m in means]


def test_the_turn_and_its_interval_are_found_from_noisy_prompts_and_none_is_seen_where_there_is_none():
    draw = random.Random(7)
    kls = [0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0]
    names = [f"ppo@v1:step{i}" for i in range(7)]
    kl, gold = turning(draw, "rl", 1.0, 0.8, kls)
    _, proxy = turning(draw, "rl", 1.0, -0.2, kls)
    found = training_curve(names, kl, proxy, gold)
    true = math.exp(1.0 / 0.8 - 1)
    low, high = found["gold_fit"]["turn_ci95"]
    assert low < true < high and high - low < 0.5 and low < found["gold_fit"]["turn"] < high
    assert found["proxy_fit"]["turn"] is None and found["proxy_fit"]["turn_ci95"] == [None, None]
    assert [point["ref"] for point in found["points"]] == names and found["points"][3]["kl"] == 1.0
    assert found["points"][2]["gold"] == pytest.approx(fmean(gold[2]))
    d, at, lowest, highest = found["gold_fit"]["band"][-1]
    assert d == pytest.approx(math.sqrt(8)) and lowest < at < highest
    assert at == pytest.approx(height(found["gold_fit"], "rl", d))
    assert training_curve(names[:3], kl[:3], proxy[:3], gold[:3])["gold_fit"] is None  # two parameters, two points
    assert training_curve(["a", "b"], [[0.0], [-1e-9]], [[0.0], [1.0]], [[0.0], [1.0]])["points"][1]["kl"] == 0
    # beyond what was measured: no turn, though the curve of the fit has one
    kl, gold = turning(draw, "rl", 1.0, 0.3, kls, noise=0.01)
    beyond = training_curve(names, kl, proxy, gold)["gold_fit"]
    assert beyond["turn"] is None and beyond["turn_ci95"] == [None, None] and beyond["beta"] > 0


def test_best_of_n_turns_where_the_proxy_likes_what_gold_does_not():
    """Gold is the proxy up to a length and falls beyond it: the best of few is better than one, of many not."""
    draw = random.Random(8)
    proxy = [[draw.random() for _ in range(32)] for _ in range(100)]
    gold = [[x if x < 0.7 else 1.4 - 3 * (x - 0.7) - 0.7 for x in row] for row in proxy]
    found = best_of_n_curve(proxy, gold)
    top = max(found["points"], key=lambda point: point["gold"])
    assert 1 < top["n"] < 8 and found["points"][-1]["gold"] < found["points"][0]["gold"]
    assert abs(found["gold_fit"]["turn"] - math.sqrt(top["kl"])) < 0.35
    low, high = found["gold_fit"]["turn_ci95"]
    assert low < found["gold_fit"]["turn"] < high
    assert [point["n"] for point in found["points"]] == list(range(1, 33))
    assert all(x["proxy"] < y["proxy"] for x, y in itertools.pairwise(found["points"]))
    same = best_of_n_curve(proxy, proxy)
    assert [p["gold"] for p in same["points"]] == pytest.approx([(n / (n + 1)) for n in range(1, 33)], abs=0.02)

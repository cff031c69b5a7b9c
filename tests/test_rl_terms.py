"""Every term of PPO's objective against numbers worked by hand and against plain loops over the formulas."""

from __future__ import annotations

import math

import pytest
import torch

from prefcli.losses import policy_loss, value_loss
from prefcli.rl import kl
from prefcli.rl.advantages import gae, token_rewards, whiten

LENGTHS = [5, 1, 3]
MASK = torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def noise(seed: int) -> torch.Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)) * MASK


def close(found: torch.Tensor, expected: list) -> None:
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), atol=1e-5, rtol=1e-5)


def test_kl_estimators_by_hand():
    logps, reference = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0])
    close(kl.k1(logps, reference), [0.5, -1.0])
    close(kl.k3(logps, reference), [math.exp(-0.5) - 1 + 0.5, math.exp(1.0) - 1 - 1.0])


def test_kl_estimators_have_the_exact_kl_as_their_mean():
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.1, 0.6, 0.3])
    exact = sum(a * math.log(a / b) for a, b in zip(p.tolist(), q.tolist()))
    assert (p * kl.k1(p.log(), q.log())).sum().item() == pytest.approx(exact, abs=1e-6)
    assert (p * kl.k3(p.log(), q.log())).sum().item() == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize(
    ("estimator", "place", "expected"),
    [("k1", "reward", "KL"), ("k1", "loss", "nothing"), ("k3", "loss", "the other KL"), ("k3", "reward", "neither")],
)
def test_what_each_placement_of_each_estimator_is_the_gradient_of(estimator, place, expected):
    """Exactly, over all actions of a state: as kl.py says, and why two of the four are refused."""
    reference = torch.tensor([0.6, 0.25, 0.1, 0.05], dtype=torch.float64).log()
    logits = torch.tensor([-0.5, 0.2, 0.9, -1.0], dtype=torch.float64, requires_grad=True)
    logps = logits.log_softmax(-1)
    terms = getattr(kl, estimator)(logps, reference)
    weight = logps.exp().detach()  # how often an action is drawn
    objective = (weight * (terms.detach() * logps if place == "reward" else terms)).sum()
    (found,) = torch.autograd.grad(objective, logits, retain_graph=True)
    (forward,) = torch.autograd.grad((logps.exp() * (logps - reference)).sum(), logits, retain_graph=True)
    (reverse,) = torch.autograd.grad((reference.exp() * (reference - logps)).sum(), logits)
    if expected == "neither":
        assert all((found - other).abs().max() > 0.05 for other in (forward, reverse))
    else:
        wanted = {"KL": forward, "nothing": torch.zeros(4, dtype=torch.float64), "the other KL": reverse}[expected]
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("estimator", "ends", "steps"), [("k1", "at the reference", 3000), ("k3", "at one action", 300)]
)
def test_where_a_policy_goes_that_the_estimator_in_the_reward_alone_moves(estimator, ends, steps):
    reference = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    logits = torch.tensor([0.5, -0.3, 0.9, -0.6], dtype=torch.float64)
    for _ in range(steps):
        logps = logits.log_softmax(-1)
        penalty = getattr(kl, estimator)(logps, reference)
        logits = logits - 0.5 * logps.exp() * (penalty - (logps.exp() * penalty).sum())  # E[penalty·∇log π]
    found = logits.softmax(-1)
    distance = (found * (found.log() - reference)).sum().item()
    if ends == "at the reference":
        assert distance == pytest.approx(0, abs=1e-6)
    else:
        assert distance > 0.9 and found.max() > 0.99


def test_rewards_are_the_kl_price_at_each_token_and_the_score_at_the_last():
    k1 = torch.tensor([[1.0, 2.0, -4.0], [3.0, 9.0, 9.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    close(token_rewards(torch.tensor([10.0, -5.0]), k1, mask, 0.1), [[-0.1, -0.2, 10.4], [-5.3, 0.0, 0.0]])


def test_gae_by_hand():
    # V_3 = 0. δ = (0 + ½·2 − 1, 0 + ½·3 − 2, 4 + 0 − 3) = (0, −0.5, 1); γλ = ¼:
    # A_2 = 1, A_1 = −0.5 + ¼ = −0.25, A_0 = 0 − 1/16.
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = gae(torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([[1.0, 2.0, 3.0]]), mask, 0.5, 0.5)
    close(advantages, [[-0.0625, -0.25, 1.0]])
    close(returns, [[0.9375, 1.75, 4.0]])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.7), (1.0, 1.0), (0.8, 0.0)])
def test_gae_equals_its_definition_as_a_sum(gamma, lam):
    """A_t = Σ_l (γλ)^l δ_{t+l} (eq. 16), each row alone and without padding."""
    rewards, values = noise(0), noise(1)
    # Garbage after the end must not matter.
    advantages, returns = gae(rewards + 100 * ~MASK, values + 100 * ~MASK, MASK, gamma, lam)
    for b, n in enumerate(LENGTHS):
        v = values[b, :n].tolist() + [0.0]
        deltas = [rewards[b, t].item() + gamma * v[t + 1] - v[t] for t in range(n)]
        for t in range(n):
            expected = sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, n))
            assert advantages[b, t].item() == pytest.approx(expected, abs=1e-5)
            assert returns[b, t].item() == pytest.approx(expected + v[t], abs=1e-5)
    assert (advantages[~MASK] == 0).all()


def test_gae_with_lambda_one_and_gamma_one_returns_the_sum_of_rewards_to_come():
    rewards = noise(2)
    _, returns = gae(rewards, noise(3), MASK, 1.0, 1.0)
    for b, n in enumerate(LENGTHS):
        for t in range(n):
            assert returns[b, t].item() == pytest.approx(sum(rewards[b, t:n].tolist()), abs=1e-5)


def test_whitening_by_hand():
    # 1, 3, 5 have mean 3 and unbiased variance 4; the 100 is padding.
    x = torch.tensor([[1.0, 3.0], [5.0, 100.0]])
    mask = torch.tensor([[True, True], [True, False]])
    close(whiten(x, mask), [[-1.0, 0.0], [1.0, 0.0]])
    close(whiten(x, mask, shift_mean=False), [[0.5, 1.5], [2.5, 0.0]])


def test_scaled_rewards_prefer_the_same_answers_whatever_constant_the_score_has():
    """Summed over an answer they are the rewards over one number: no constant a token, which would pay for length."""
    rewards = noise(11)
    for offset in (-30.0, 0.0, 30.0):
        shifted = rewards + 0.0
        shifted[torch.arange(3), torch.tensor(LENGTHS) - 1] += offset
        factor = shifted.sum(1) / whiten(shifted, MASK, shift_mean=False).sum(1)
        close(factor, [factor[0].item()] * 3)
        assert factor[0].item() == pytest.approx(shifted[MASK].std().item(), rel=1e-5)


def test_whitening_brute_force_and_over_two_processes():
    x = noise(4) + 7 * ~MASK
    tokens = x[MASK].tolist()
    mean = sum(tokens) / len(tokens)
    deviation = math.sqrt(sum((t - mean) ** 2 for t in tokens) / (len(tokens) - 1))
    expected = [[(x[b, t].item() - mean) / deviation * MASK[b, t].item() for t in range(5)] for b in range(3)]
    close(whiten(x, MASK), expected)
    # One process holds row 0, another the rest: this one adds the other's sums to its own, as an all-reduce does.
    rest = slice(1, 3)
    others = iter([MASK[rest].sum(), (x * MASK)[rest].sum(), (((x - mean) * MASK)[rest] ** 2).sum()])
    close(whiten(x[:1], MASK[:1], total=lambda sums: sums + next(others)), expected[:1])


def test_whitening_one_token_is_finite():
    assert torch.isfinite(whiten(torch.tensor([[2.0]]), torch.tensor([[True]]))).all()


def test_policy_loss_by_hand():
    # ratios ½, 1, 2 with ε = 0.2; first with A = 1, then with A = −1
    old = torch.zeros(6)
    logps = torch.tensor([0.5, 1.0, 2.0, 0.5, 1.0, 2.0]).log()
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    loss, clipped = policy_loss(logps, old, advantages, 0.2)
    close(loss, [-0.5, -1.0, -1.2, 0.8, 1.0, 2.0])
    assert clipped.tolist() == [False, False, True, True, False, False]


def test_policy_loss_and_its_gradient_against_the_formula():
    logps, old, advantages = noise(5).requires_grad_(), noise(6), noise(7)
    loss, _ = policy_loss(logps, old, advantages, 0.3)
    loss.sum().backward()
    for b in range(3):
        for t in range(5):
            ratio, a = math.exp(logps[b, t].item() - old[b, t].item()), advantages[b, t].item()
            surrogate = min(ratio * a, max(1 - 0.3, min(1 + 0.3, ratio)) * a)  # eq. 7
            assert loss[b, t].item() == pytest.approx(-surrogate, abs=1e-5)
            held = (a > 0 and ratio > 1.3) or (a < 0 and ratio < 0.7)  # no incentive to move further
            assert logps.grad[b, t].item() == pytest.approx(0.0 if held else -a * ratio, abs=1e-5)


def test_value_loss_by_hand():
    # R = 0, V_old = 1, ε = 0.5: V = 2 is held at 1.5 → ½·max(4, 2.25) = 2; V = −1 at 0.5 → ½·max(1, 0.25) = 0.5;
    # V = 0.1 at 0.5 → ½·max(0.01, 0.25) = 0.125, the clipped branch; V = 0.8 moves freely → 0.32
    values = torch.tensor([2.0, -1.0, 0.1, 0.8])
    loss, clipped = value_loss(values, torch.ones(4), torch.zeros(4), 0.5)
    close(loss, [2.0, 0.5, 0.125, 0.32])
    assert clipped.tolist() == [False, False, True, False]
    loss, clipped = value_loss(values, torch.ones(4), torch.zeros(4), 0.0)
    close(loss, [2.0, 0.5, 0.005, 0.32])
    assert not clipped.any()


def test_value_loss_against_the_formula():
    values, old, returns = noise(8), noise(9), noise(10)
    loss, _ = value_loss(values, old, returns, 0.2)
    for v, o, r, found in zip(values.flatten(), old.flatten(), returns.flatten(), loss.flatten()):
        v, o, r = v.item(), o.item(), r.item()
        held = o + max(-0.2, min(0.2, v - o))
        assert found.item() == pytest.approx(0.5 * max((v - r) ** 2, (held - r) ** 2), abs=1e-5)


@pytest.mark.parametrize(
    ("found", "target", "times"),
    [(1.0, 1.0, 1.0), (1.1, 1.0, 1.01), (0.9, 1.0, 0.99), (9.0, 1.0, 1.02), (0.0, 1.0, 0.98), (-5.0, 1.0, 0.98),
     (2.2, 2.0, 1.01)],
)  # fmt: skip
def test_the_coefficient_moves_towards_the_target_by_a_fiftieth_at_most_either_way(found, target, times):
    assert kl.adapted(0.05, found, target) == pytest.approx(0.05 * times)

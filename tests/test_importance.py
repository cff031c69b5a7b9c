"""Answers that another program drew: truncated importance weights, where they enter, what is logged of them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from test_rl_ppo import PROMPTS, make, weights
from tiny_models import tiny_lm

from prefcli.losses import truncated_weights
from prefcli.models.generation import InProcess, Sampled
from prefcli.models.logps import token_logps
from prefcli.models.rows import pad_rows
from prefcli.rl.rollout import HEAVIEST


def test_weighted_answers_of_the_sampler_have_the_policys_expectation():
    """Over all answers of up to two tokens (0 ends one), enumerated: E_sampler[w·f] = E_policy[f], while no weight is
    truncated; token weights have it of what an answer's first token earns."""
    torch.manual_seed(0)
    policy, sampler = (torch.randn(4, 3, dtype=torch.float64).mul(0.3).log_softmax(-1) for _ in range(2))
    answers = [(0,), *((first, second) for first in (1, 2) for second in range(3))]
    mask = torch.tensor([[True, len(answer) > 1] for answer in answers])

    def logps(table):  # row 0: of the first token; row 1 + a: after a
        padded = [(a[0], a[1]) if len(a) > 1 else (a[0], 0) for a in answers]
        return torch.stack([torch.stack([table[0, a], table[1 + a, b]]) for a, b in padded]) * mask

    ours, theirs = logps(policy), logps(sampler)
    f = torch.randn(len(answers), 2, dtype=torch.float64) * mask
    drawn = theirs.sum(1).exp()
    expected = (ours.sum(1).exp()[:, None] * f).sum(0)
    whole = truncated_weights(ours, theirs, mask, "sequence", 100.0)
    torch.testing.assert_close((drawn[:, None] * whole * f).sum(0), expected)
    by_token = truncated_weights(ours, theirs, mask, "token", 100.0)
    first = torch.tensor([[float(answer[0])] for answer in answers], dtype=torch.float64)
    torch.testing.assert_close(
        (drawn[:, None] * by_token[:, :1] * first).sum(), (ours.sum(1).exp() * first[:, 0]).sum()
    )
    assert (by_token[~mask] == 1).all()


def test_no_weight_is_above_the_cap():
    ours, theirs = torch.tensor([[0.0, 0.0]]), torch.tensor([[-math.log(3), math.log(4)]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    torch.testing.assert_close(truncated_weights(ours, theirs, mask, "token", 2.0), torch.tensor([[2.0, 0.25]]))
    torch.testing.assert_close(truncated_weights(ours, theirs, mask, "sequence", 2.0), torch.tensor([[0.75, 0.75]]))


class Elsewhere:
    """A sampler that is another model, and says with what probability it drew."""

    def __init__(self, model, temperature=0.7):
        self.model, self.temperature, self.updates = model, temperature, 0

    def update(self):
        self.updates += 1

    def sample(self, prompts, **how):
        ids = InProcess(self.model).sample(prompts, **how).ids
        with torch.no_grad():
            found = token_logps(self.model, pad_rows(prompts, ids), self.temperature)
        return Sampled(ids, [logps[mask].tolist() for logps, mask in zip(found.logps, found.mask)])

    def close(self):
        pass


def served(sampler, **options):
    ppo = make(**({"generate": "http://localhost:1", "ppo_epochs": 1} | options))
    ppo.sampler = sampler(ppo.roles.policy)
    return ppo


def test_a_sampler_that_is_the_policy_changes_nothing():
    ours, theirs = make(ppo_epochs=1), served(Elsewhere)
    for _ in range(2):
        found = ours.step(PROMPTS), theirs.step(PROMPTS)
    assert theirs.sampler.updates == 2
    for mine, other in zip(weights(ours), weights(theirs)):
        torch.testing.assert_close(other, mine, atol=1e-5, rtol=0)
    assert not any(name.startswith("sampling/") for name in found[0])
    assert found[1]["sampling/kl"] < 1e-9
    assert found[1]["sampling/ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert found[1]["sampling/ratio_max"] == pytest.approx(1, abs=1e-4)


def another(policy):
    model = copy.deepcopy(policy)
    with torch.no_grad():
        for mine, other in zip(model.parameters(), tiny_lm(seed=7, vocab=6, layers=1).parameters()):
            mine.lerp_(other, 0.4)
    return Elsewhere(model)


@pytest.mark.parametrize("level", ["off", "token", "sequence"])
def test_the_policys_loss_is_weighed_token_by_token_or_by_answer(level):
    """By hand: in the first minibatch the ratio is 1, so the loss is −Σ w·A over the tokens."""
    ppo = served(another, importance_weights=level)
    found = ppo.step(PROMPTS)
    rollout = ppo.last_rollout
    total, tokens, ratios = 0.0, 0, []
    advantages, _ = ppo.estimate(rollout)
    for b, ids in enumerate(rollout.completion_ids):
        apart = [float(rollout.logps[b, t] - rollout.sampler_logps[b, t]) for t in range(len(ids))]
        for t in range(len(ids)):
            weight = {"off": 1.0, "token": math.exp(apart[t]), "sequence": math.exp(sum(apart))}[level]
            total -= min(weight, HEAVIEST) * float(advantages[b, t])
            tokens += 1
            ratios.append(math.exp(apart[t]))
    assert max(ratios) > HEAVIEST  # so that it is truncated too
    assert found["loss/policy_avg"] == pytest.approx(total / tokens, abs=1e-5)
    assert found["sampling/ratio_mean"] == pytest.approx(sum(ratios) / tokens, rel=1e-4)
    assert found["sampling/ratio_max"] == pytest.approx(max(ratios), rel=1e-4)
    assert found["sampling/kl"] == pytest.approx(sum(r - 1 - math.log(r) for r in ratios) / tokens, rel=1e-3)

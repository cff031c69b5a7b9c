"""PPO on a space of answers small enough to enumerate ends where theory says: π ∝ π_ref·exp(r/β).

That is the maximiser of E_π[r] − β·KL(π ‖ π_ref) (Ziegler et al., arXiv 1909.08593; Rafailov et al., arXiv 2305.18290,
eq. 4). Answers are EOS, or a letter and then any token: 1 + 4·5 = 21. The target is worked out from the reference's
logits, one sequence at a time, by nothing that the training uses.
"""

from __future__ import annotations

import copy
import math
import random

import pytest
import torch
from accelerate import Accelerator
from tiny_models import LetterTokenizer, tiny_lm, tiny_scorer

from prefcli.config.ppo import PPOConfig
from prefcli.data.row import Row
from prefcli.rl.ppo import PPO
from prefcli.rl.roles import Prompt, Roles

# Two different tokens in the prompt: after [0], the answer's first 0 would give a model of one layer nothing to tell
# the second step from the first by (attention over equal tokens is the token), and the optimum would be out of reach.
VOCAB, EOS, PROMPT, BETA = 5, 4, [0, 3], 0.5
ANSWERS = [(EOS,)] + [(a, b) for a in range(VOCAB) if a != EOS for b in range(VOCAB)]
SIZES = {"vocab": VOCAB, "layers": 1, "hidden": 16}
_dice = random.Random(3)
REWARD = {answer: _dice.uniform(-1.0, 1.0) for answer in ANSWERS}


def distribution(model, temperature):
    """Probability of each of the answers, in order."""

    def next_token(ids):
        with torch.no_grad():
            return torch.softmax(model(torch.tensor([ids])).logits[0, -1].double() / temperature, -1).tolist()

    found = []
    for answer in ANSWERS:
        steps = [next_token([*PROMPT, *answer[:t]])[token] for t, token in enumerate(answer)]
        found.append(math.prod(steps))
    assert sum(found) == pytest.approx(1.0)
    return found


def total_variation(p, q):
    return sum(abs(a - b) for a, b in zip(p, q)) / 2


def score(prompts, completion_ids, completions):
    return {"table": torch.tensor([REWARD[tuple(ids)] for ids in completion_ids])}


@pytest.mark.parametrize(
    ("start", "temperature", "epochs", "answers"),
    [("reference", 1.0, 1, 1), ("elsewhere", 0.7, 2, 1), ("reference", 1.0, 1, 4)],
    ids=["gae", "gae from elsewhere", "rloo"],
)
def test_ppo_reaches_the_exact_optimum(start, temperature, epochs, answers):
    reference = tiny_lm(seed=0, scale=0.5, **SIZES)
    policy = copy.deepcopy(reference) if start == "reference" else tiny_lm(seed=9, **SIZES)
    weights = [p * math.exp(REWARD[a] / BETA) for a, p in zip(ANSWERS, distribution(reference, temperature))]
    target = [weight / sum(weights) for weight in weights]
    before = total_variation(distribution(policy, temperature), target)
    assert before > (0.3 if start == "elsewhere" else 0.2)

    rollouts, rows = 60, 256
    config = PPOConfig(
        batch_size=rows, max_new_tokens=2, temperature=temperature, kl_coef=BETA, missing_eos_penalty=0.0,
        warmup=0.0, lr_scheduler="linear", vf_coef=0.5, ppo_epochs=epochs, num_generations=answers,
        advantage="gae" if answers == 1 else "rloo",
    )  # fmt: skip
    ppo = PPO(
        Roles(policy, tiny_scorer(seed=1, **SIZES), reference, score), config, tokenizer=LetterTokenizer(),
        eos_ids=[EOS], total_rollouts=rollouts, lr=1e-2, accelerator=Accelerator(cpu=True),
    )  # fmt: skip
    for _ in range(rollouts):
        found = ppo.step([Prompt(PROMPT, Row("a"))] * (rows // answers))
    after = distribution(policy, temperature)
    assert total_variation(after, target) < 0.05
    # The objective's maximum is β·log Σ π_ref·exp(r/β).
    assert found["objective/rlhf_reward"] == pytest.approx(BETA * math.log(sum(weights)), abs=0.02)


def test_the_kl_in_the_loss_settles_at_its_own_fixed_point_and_not_at_the_optimum():
    """π = π_ref·β / (β − A), A = r − V, V such that it sums to 1: worked out by bisection, on answers of one token."""
    reference = tiny_lm(seed=0, scale=0.5, **SIZES)
    with torch.no_grad():
        prior = torch.softmax(reference(torch.tensor([PROMPT])).logits[0, -1].double(), -1).tolist()
    reward = [1.0, 0.9, -1.0, -1.0, -1.0]

    def at(value):
        return [p * BETA / (BETA + value - r) for p, r in zip(prior, reward)]

    low, high = max(reward) - BETA + 1e-9, max(reward)  # the sum falls from ∞ to below 1
    for _ in range(200):
        low, high = ((low + high) / 2, high) if sum(at((low + high) / 2)) > 1 else (low, (low + high) / 2)
    fixed = at(low)
    weights = [p * math.exp(r / BETA) for p, r in zip(prior, reward)]
    optimum = [weight / sum(weights) for weight in weights]
    assert total_variation(fixed, optimum) > 0.08

    policy, rollouts = copy.deepcopy(reference), 60
    config = PPOConfig(
        batch_size=256, max_new_tokens=1, temperature=1.0, kl_coef=BETA, missing_eos_penalty=0.0, warmup=0.0,
        lr_scheduler="linear", ppo_epochs=1, num_generations=4, advantage="rloo", kl_in="loss",
    )  # fmt: skip

    def table(prompts, completion_ids, completions):
        return {"table": torch.tensor([reward[ids[0]] for ids in completion_ids])}

    ppo = PPO(
        Roles(policy, None, reference, table), config, tokenizer=LetterTokenizer(), eos_ids=[EOS],
        total_rollouts=rollouts, lr=1e-2, accelerator=Accelerator(cpu=True),
    )  # fmt: skip
    for _ in range(rollouts):
        ppo.step([Prompt(PROMPT, Row("a"))] * 64)
    with torch.no_grad():
        found = torch.softmax(policy(torch.tensor([PROMPT])).logits[0, -1].double(), -1).tolist()
    assert total_variation(found, fixed) < 0.03 < 0.06 < total_variation(found, optimum)
    assert "π_ref·β/(β − A)" in config.resolved().in_words

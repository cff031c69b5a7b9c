"""One rollout: masks at and after the EOS, the penalty for its absence, the four roles' shares, KL estimators."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from tiny_models import LetterTokenizer, tiny_lm, tiny_scorer

from prefcli.config.ppo import PPOConfig
from prefcli.data.row import Row
from prefcli.models import generation
from prefcli.rl import kl
from prefcli.rl.roles import Prompt, Roles
from prefcli.rl.rollout import collect

EOS = 1


def scores_of(prompts, completion_ids, completions):
    return {"length": torch.tensor([float(len(c)) for c in completions]), "half": torch.full((len(prompts),), 0.5)}


def roll(roles, prompts, micro_size=3, seed=0, **options):
    config = PPOConfig(**{"max_new_tokens": 4, "temperature": 0.7, **options})
    return collect(
        roles, prompts, config, tokenizer=LetterTokenizer(), eos_ids=frozenset({EOS}), pad_id=EOS,
        draws=torch.rand(len(prompts), 99, generator=torch.Generator().manual_seed(seed)),
        minibatches=torch.arange(len(prompts)).split(micro_size), device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module")
def roles():
    return Roles(tiny_lm(seed=0, vocab=6), tiny_scorer(seed=1, vocab=6), tiny_lm(seed=2, vocab=6), scores_of)


PROMPTS = [Prompt([0] + [2, 3, 4][: i % 4], Row(f"prompt {i}")) for i in range(24)]


def test_an_answer_is_masked_in_up_to_its_eos_and_out_after_it(roles):
    rollout = roll(roles, PROMPTS)
    assert 0 < rollout.ended.sum() < len(PROMPTS)
    for b, ids in enumerate(rollout.completion_ids):
        assert rollout.mask[b].tolist() == [t < len(ids) for t in range(4)]
        assert bool(rollout.ended[b]) == (ids[-1] == EOS)
        start = len(PROMPTS[b].ids)
        assert rollout.rows.input_ids[b, : start + len(ids)].tolist() == PROMPTS[b].ids + ids
        assert EOS not in ids[:-1]
    for tensor in (rollout.logps, rollout.reference_logps, rollout.values):
        assert (tensor[~rollout.mask] == 0).all()
        assert (tensor[rollout.mask] != 0).all()  # the EOS has its log-probability and its value like any token


def test_each_role_judges_the_answer_at_the_sampling_temperature(roles):
    rollout = roll(roles, PROMPTS)
    for b, ids in enumerate(rollout.completion_ids):
        row, start = torch.tensor([PROMPTS[b].ids + ids]), len(PROMPTS[b].ids)
        for t, token in enumerate(ids):
            before = row[:, : start + t]
            with torch.no_grad():
                for found, model in ((rollout.logps, roles.policy), (rollout.reference_logps, roles.reference)):
                    expected = torch.log_softmax(model(before).logits[0, -1] / 0.7, -1)[token]
                    assert found[b, t].item() == pytest.approx(expected.item(), abs=1e-4)
                assert rollout.values[b, t].item() == pytest.approx(roles.value(before).logits.item(), abs=1e-4)


@pytest.mark.parametrize("at_a_time", [1, 5, 23])
def test_a_rollout_that_is_sampled_in_parts_is_the_same_rollout(roles, at_a_time, monkeypatch):
    """And no part has more answers in its cache than were asked for."""
    seen, decode = [], generation._decode

    def counted(model, prompts, *rest):
        seen.append(len(prompts))
        return decode(model, prompts, *rest)

    monkeypatch.setattr(generation, "_decode", counted)
    whole, parts = roll(roles, PROMPTS), roll(roles, PROMPTS, generation_batch=at_a_time)
    assert seen[0] == len(PROMPTS) and max(seen[1:]) == at_a_time and sum(seen[1:]) == len(PROMPTS)
    assert whole.completion_ids == parts.completion_ids
    for name in ("scores", "logps", "reference_logps", "values"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), atol=1e-5)


def test_scores_are_summed_and_a_missing_eos_costs_its_penalty(roles):
    rollout = roll(roles, PROMPTS, missing_eos_penalty=3.0)
    for b, ids in enumerate(rollout.completion_ids):
        ended = ids[-1] == EOS
        letters = len(ids) - ended  # the text is without the EOS
        assert len(rollout.completions[b]) == letters
        assert rollout.scores[b].item() == pytest.approx(letters + 0.5 - (0.0 if ended else 3.0))
    assert set(rollout.raw_scores) == {"length", "half"}


def test_the_size_of_the_forward_passes_changes_nothing(roles):
    whole, parts = roll(roles, PROMPTS, micro_size=24), roll(roles, PROMPTS, micro_size=5)
    assert whole.completion_ids == parts.completion_ids
    for name in ("logps", "reference_logps", "values", "scores"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=1e-5)


def exact_kl(policy, reference, prompt, depth):
    """KL of the answers' distributions at temperature 0.7, by walking the whole tree of answers."""
    with torch.no_grad():
        p, q = (
            torch.log_softmax(m(torch.tensor([prompt])).logits[0, -1].double() / 0.7, -1) for m in (policy, reference)
        )
    here = sum(a.exp().item() * (a - b).item() for a, b in zip(p, q))
    if depth == 1:
        return here
    below = [
        p[token].exp().item() * exact_kl(policy, reference, [*prompt, token], depth - 1)
        for token in range(len(p)) if token != EOS
    ]  # fmt: skip
    return here + sum(below)


@pytest.mark.parametrize("distance", [0.05, 0.6], ids=["near", "far"])
def test_k1_and_k3_agree_with_the_exact_kl_of_the_answers(roles, distance):
    """Near the reference k1 is negative for about half of the answers, yet its mean is not."""
    reference = tiny_lm(seed=2, vocab=6)
    policy = copy.deepcopy(reference)
    with torch.no_grad():
        for ours, other in zip(policy.parameters(), tiny_lm(seed=5, vocab=6).parameters()):
            ours.lerp_(other, distance)
    exact = exact_kl(policy, reference, [0, 3], depth=3)
    assert exact > 1e-3
    draws = 3000
    near = Roles(policy, roles.value, reference, scores_of)
    rollout = roll(near, [Prompt([0, 3], Row(""))] * draws, micro_size=1000, max_new_tokens=3)
    for estimate in (kl.k1, kl.k3):
        sums = (estimate(rollout.logps, rollout.reference_logps) * rollout.mask).sum(1)
        error = sums.std().item() / math.sqrt(draws)
        assert abs(sums.mean().item() - exact) < 3 * error
        assert sums.mean().item() > -2 * error
        assert error < 0.25 * exact  # so that the two checks above can fail
    assert (kl.k3(rollout.logps, rollout.reference_logps) >= 0).all()


@pytest.mark.parametrize("clip", [0.0, 1.5])
def test_scores_are_clipped_on_both_sides_before_what_is_taken_off_for_length_and_a_missing_end(roles, clip):
    """Of both signs: −9, 9, and what lies between."""

    def both(prompts, completion_ids, completions):
        return {"a": torch.tensor([-9.0, 9.0, 1.0, -1.0] * (len(prompts) // 4)), "b": torch.full((len(prompts),), 0.25)}

    judged = Roles(roles.policy, roles.value, roles.reference, both)
    rollout = roll(judged, PROMPTS, reward_clip=clip, length_penalty=0.1, missing_eos_penalty=0.5)
    sums = [-8.75, 9.25, 1.25, -0.75] * (len(PROMPTS) // 4)
    clipped = [max(-clip, min(clip, x)) if clip else x for x in sums]
    taken = [0.1 * len(ids) + (0.0 if ids[-1] == EOS else 0.5) for ids in rollout.completion_ids]
    assert rollout.scores.tolist() == pytest.approx([x - y for x, y in zip(clipped, taken)], abs=1e-5)
    assert {t > 0.5 for t in taken} == {True, False}
    assert rollout.raw_scores["a"][:2].tolist() == [-9.0, 9.0]  # as the source gave them


@pytest.mark.parametrize("noisy", ["policy", "reference", "value"])
def test_no_role_judges_with_dropout_and_each_has_its_mode_back(noisy):
    """A model in training mode with half of its numbers dropped judges as it does without."""

    def with_dropout(model, p):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = p
        return model.train()

    def made(p):
        models = {"policy": tiny_lm("gpt2", seed=0, vocab=6), "value": tiny_scorer("gpt2", seed=1, vocab=6),
                  "reference": tiny_lm("gpt2", seed=2, vocab=6)}  # fmt: skip
        with_dropout(models[noisy], p)
        return Roles(models["policy"], models["value"], models["reference"], scores_of)

    torch.manual_seed(0)
    calm, dropped = made(0.0), made(0.5)
    one, other = roll(calm, PROMPTS), roll(dropped, PROMPTS)
    assert one.completion_ids == other.completion_ids
    for name in ("logps", "reference_logps", "values"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    assert getattr(dropped, noisy).training

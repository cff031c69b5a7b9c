"""Several answers a prompt, KL in the loss, an adaptive coefficient, penalties and the value model's warm-up."""

from __future__ import annotations

import copy

import pytest
import torch
from test_rl_ppo import PROMPTS, count_c, make, weights

from prefcli.config.ppo import PPOConfig
from prefcli.errors import UsageError
from prefcli.models.packed import pack
from prefcli.rl import kl
from prefcli.rl.advantages import group_normalised, leave_one_out
from prefcli.rl.metrics import OF_POLICY
from prefcli.rl.ppo import PPO

SCORES = [1.0, 4.0, -2.0, 0.5, 0.5, 0.5]


def test_leave_one_out_against_the_other_answers_one_by_one():
    found = leave_one_out(torch.tensor(SCORES), 3).tolist()
    for i, score in enumerate(SCORES):
        group = range(i // 3 * 3, i // 3 * 3 + 3)
        others = [SCORES[j] for j in group if j != i]
        assert found[i] == pytest.approx(score - sum(others) / 2)


def test_group_normalised_is_the_standard_score_and_0_where_all_score_alike():
    found = group_normalised(torch.tensor(SCORES), 3)
    assert found[:3].mean().item() == pytest.approx(0, abs=1e-6) and found[:3].std().item() == pytest.approx(
        1, abs=1e-3
    )
    assert found[:3].argsort().tolist() == [2, 0, 1]
    assert found[3:].tolist() == [0, 0, 0]


def test_every_prompt_is_answered_so_many_times_next_to_each_other():
    ppo = make(advantage="rloo", num_generations=3)
    found = ppo.step(PROMPTS)
    rollout = ppo.last_rollout
    assert [p.row.prompt for p in rollout.prompts] == [p.row.prompt for p in PROMPTS for _ in range(3)]
    assert found["episode"] == 36 and found["loss/value_avg"] == 0 and ppo.value is None
    assert len({tuple(ids) for ids in rollout.completion_ids[:12]}) > 3  # drawn apart from each other


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
def test_one_update_follows_the_gradient_of_the_objective_as_written_down_here(advantage, kl_in):
    """One SGD step from a rollout, against autograd through the formulas over single unpadded rows."""
    ppo = make(
        advantage=advantage, kl_in=kl_in, num_generations=3, kl_coef=0.2, missing_eos_penalty=2.0, ppo_epochs=1,
        optim="sgd", lr=0.1, lr_scheduler="constant", max_grad_norm=0.0,
    )  # fmt: skip
    with torch.no_grad():
        ppo.roles.reference.lm_head.weight.mul_(0.5)
    policy = copy.deepcopy(ppo.roles.policy)
    ppo.step(PROMPTS)
    rollout, terms = ppo.last_rollout, []

    def logp(model, prompt, ids, t):
        return torch.log_softmax(model(torch.tensor([prompt.ids + ids[:t]])).logits[0, -1] / 0.7, -1)[ids[t]]

    totals = []
    for prompt, ids in zip(rollout.prompts, rollout.completion_ids):
        score = ids.count(2) - (0.0 if ids[-1] == 1 else 2.0)
        with torch.no_grad():
            apart = sum(
                logp(policy, prompt, ids, t) - logp(ppo.roles.reference, prompt, ids, t) for t in range(len(ids))
            )
        totals.append(score - (0.2 * float(apart) if kl_in == "reward" else 0.0))
    for i, (prompt, ids) in enumerate(zip(rollout.prompts, rollout.completion_ids)):
        group = totals[i // 3 * 3 : i // 3 * 3 + 3]
        if advantage == "rloo":
            value = totals[i] - (sum(group) - totals[i]) / 2
        else:
            deviation = (sum((x - sum(group) / 3) ** 2 for x in group) / 2) ** 0.5
            value = (totals[i] - sum(group) / 3) / (deviation + 1e-4)
        for t in range(len(ids)):
            ours = logp(policy, prompt, ids, t)
            terms.append(-(ours - ours.detach()).exp() * value)
            if kl_in == "loss":
                log_ratio = logp(ppo.roles.reference, prompt, ids, t).detach() - ours
                terms[-1] = terms[-1] + 0.2 * (log_ratio.exp() - 1 - log_ratio)
    (sum(terms) / len(terms)).backward()
    expected = [p.detach() - 0.1 * p.grad for p in policy.parameters()]
    torch.testing.assert_close([p.detach() for p in ppo.roles.policy.parameters()], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"advantage": "grpo", "num_generations": 3}, 1),
        ({"advantage": "grpo", "num_generations": 3, "minibatches": 2}, 0),  # the second one's policy is another
        ({"advantage": "rloo", "num_generations": 3}, 0),  # its advantages hold the KL
        ({"kl_coef": 0.0}, 1),
        ({"kl_in": "loss", "value_warmup": 1}, 0),  # the policy is not trained, so nothing else judges it
    ],
    ids=["grpo", "minibatches", "rloo", "no KL", "warmup"],
)
def test_the_first_update_judges_the_policy_where_nothing_asks_before(options, saved, monkeypatch):
    """The same numbers, to the bit, for one pass over the answers less."""
    ran = []

    def run(always):
        if always:
            monkeypatch.setattr(PPO, "_update_judges", lambda self: False)
        ppo = make(ppo_epochs=2, grad_accum=1, **options)
        module = ppo.roles.policy.model.layers[0]
        module.register_forward_pre_hook(lambda _, args: ran.append(args[0].shape[1]) if args[0].shape[1] > 5 else None)
        ran.clear()
        found = ppo.step(PROMPTS)
        return ppo, {name: value for name, value in found.items() if not name.startswith("time/")}, len(ran)

    (mine, metrics, few), (plain, expected, many) = run(False), run(True)
    assert metrics == expected and metrics.get("val/ratio_first", 0) == 0
    assert torch.equal(mine.last_rollout.logps, plain.last_rollout.logps)
    assert all(torch.equal(a, b) for a, b in zip(weights(mine), weights(plain)))
    assert many - few == saved


def test_minibatches_hold_whole_groups_and_packed_rows_each_prompt_once():
    plain, packed = (make(advantage="grpo", num_generations=4, minibatches=3) for _ in range(2))
    for model in (packed.roles.policy, packed.roles.reference):
        assert pack(model) is None
    packed.tokens_per_row = 60
    seen = []
    packed.roles.reference.model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    expected, found = plain.step(PROMPTS), packed.step(PROMPTS)
    assert found["objective/kl"] == pytest.approx(expected["objective/kl"], abs=1e-5)
    for mine, theirs in zip(weights(packed), weights(plain)):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    answers = sum(map(len, packed.last_rollout.completion_ids))
    # Less than once where two of the prompts that are alike came to stand next to each other.
    assert answers < sum(seen) <= answers + sum(len(p.ids) for p in PROMPTS)


def test_the_coefficient_follows_the_target():
    ppo = make(kl_coef=0.2, kl_target=0.5)
    with torch.no_grad():
        ppo.roles.reference.lm_head.weight.mul_(0.5)
    coefficient = 0.2
    for _ in range(3):
        found = ppo.step(PROMPTS)
        assert found["objective/kl_coef"] == pytest.approx(coefficient)
        error = max(-0.2, min(0.2, found["objective/kl"] / 0.5 - 1))
        coefficient *= 1 + 0.1 * error
    assert ppo.kl_coef == pytest.approx(coefficient) and coefficient != 0.2
    other = make(kl_coef=0.2, kl_target=0.5)
    other.load_state_dict(copy.deepcopy(ppo.state_dict()))
    assert other.kl_coef == ppo.kl_coef
    assert kl.adapted(1.0, 100.0, 1.0) == pytest.approx(1.02) and kl.adapted(1.0, -3.0, 1.0) == pytest.approx(0.98)


def test_scores_are_clipped_and_pay_for_length_and_a_missing_end():
    ppo = make(reward_clip=1.5, length_penalty=0.25, missing_eos_penalty=2.0)
    ppo.step(PROMPTS)
    rollout = ppo.last_rollout
    for ids, score in zip(rollout.completion_ids, rollout.scores.tolist()):
        assert score == pytest.approx(min(1.5, ids.count(2)) - 0.25 * len(ids) - (0 if ids[-1] == 1 else 2.0))
    assert any(ids.count(2) > 1 for ids in rollout.completion_ids)


def test_the_value_model_warms_up_alone():
    ppo = make(value_warmup=2, weight_decay=0.3, warmup=0.0)
    policy, value = copy.deepcopy(ppo.roles.policy.state_dict()), copy.deepcopy(ppo.roles.value.state_dict())
    for rollout in (1, 2, 3):
        found = ppo.step(PROMPTS)
        same = all(torch.equal(p, policy[name]) for name, p in ppo.roles.policy.state_dict().items())
        assert same == (rollout < 3)
        # Zeros would be taken for a start by the watchers: no entropy to lose, and each real loss an outlier.
        of_policy = {name for name in found if name in OF_POLICY}
        assert of_policy == (set() if rollout < 3 else {*OF_POLICY} - {"router_loss"}) and found["grad_norm"] > 0
        assert not all(torch.equal(p, value[name]) for name, p in ppo.roles.value.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"advantage": "rloo", "num_generations": 1}, "compares answers"),
        ({"advantage": "grpo", "batch_size": 13}, "not a multiple of --num-generations 4"),
        ({"kl_in": "loss", "kl_estimator": "k1"}, "gradient is zero"),
        ({"kl_in": "reward", "kl_estimator": "k3"}, "drives the policy away from the reference: .* gradient"),
        ({"advantage": "rloo", "kl_estimator": "k3"}, "drives the policy away"),
        ({"advantage": "rloo", "whiten_rewards": True}, "--whiten-rewards scales per-token rewards"),
        ({"advantage": "rloo", "value_warmup": 2}, "no value model"),
        ({"kl_coef": 0.0, "kl_target": 6.0}, "0 would stay 0"),
    ],
)
def test_what_does_not_go_together_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        PPOConfig(**{"batch_size": 12, **options}).resolved()


def test_defaults_depend_on_the_advantage():
    plain, grpo = PPOConfig().resolved(), PPOConfig(advantage="grpo").resolved()
    assert (plain.num_generations, plain.kl_in, plain.kl_estimator) == (1, "reward", "k1")
    assert (grpo.num_generations, grpo.kl_in, grpo.kl_estimator) == (4, "loss", "k3")


def test_the_reward_is_learnt_without_a_value_model():
    for advantage in ("rloo", "grpo"):
        ppo = make(count_c, advantage=advantage, num_generations=4, lr=2e-2, missing_eos_penalty=0.0)
        scores = [ppo.step(PROMPTS)["objective/scores"] for _ in range(10)]
        assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.5

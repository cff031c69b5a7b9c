"""The loop: the first ratio, splitting, metrics, alarms, resuming; its optimum has a file of its own."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, TaskType, get_peft_model
from tiny_models import LetterTokenizer, tiny_lm, tiny_scorer

from prefcli.config.ppo import PPOConfig
from prefcli.data.row import Row
from prefcli.errors import AlarmError, UsageError
from prefcli.models.logps import token_logps
from prefcli.rl.optimizer import make_optimizer
from prefcli.rl.ppo import PPO
from prefcli.rl.roles import Prompt, Roles
from prefcli.stages.ppo import answers_of, final, watched
from prefcli.watch.watchers import Watchers, of_ppo

PROMPTS = [Prompt([0] + [2, 3, 4][: i % 4], Row(f"prompt {i}")) for i in range(12)]
OPTIONS = {"max_new_tokens": 5, "temperature": 0.7, "warmup": 0.0, "batch_size": 12}


def count_c(prompts, completion_ids, completions):
    return {"c": torch.tensor([float(text.count("c")) for text in completions])}


def make(score=count_c, policy=None, value=None, lr=1e-2, total_rollouts=10, **options):
    policy = policy or tiny_lm(vocab=6, layers=1, scale=0.5)
    value = value or tiny_scorer(seed=1, vocab=6, layers=1)
    roles = Roles(policy, value, copy.deepcopy(policy), score)
    config = PPOConfig(**{**OPTIONS, **options})
    return PPO(
        roles, config, tokenizer=LetterTokenizer(), eos_ids=[1], total_rollouts=total_rollouts, lr=lr,
        accelerator=Accelerator(cpu=True),
    )  # fmt: skip


def weights(ppo):
    models = [model for model in (ppo.roles.policy, ppo.roles.value) if model is not None]
    return [p.detach().clone() for model in models for p in model.parameters()]


def with_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    model.train()
    return model


def test_the_ratio_is_1_in_the_first_minibatch_of_every_rollout_and_moves_later():
    policy, value = with_dropout(tiny_lm("gpt2", vocab=6)), with_dropout(tiny_scorer("gpt2", vocab=6))
    ppo = make(policy=policy, value=value, minibatches=2, grad_accum=2)
    for _ in range(4):
        found = ppo.step(PROMPTS)
        assert found["val/ratio_first"] < 1e-5
        assert abs(found["val/ratio"] - 1) > 1e-4
        assert found["val/ratio_var"] > 0


@pytest.mark.parametrize("grad_accum", [3, 5, 100])
def test_splitting_a_minibatch_does_not_change_the_update(grad_accum):
    """Answers differ in length: averaging over parts, or over answers first, would show."""
    options = {"minibatches": 2, "ppo_epochs": 2, "entropy_coef": 0.1, "optim": "sgd", "lr": 0.1}
    whole, split = make(**options), make(grad_accum=grad_accum, **options)
    a, b = whole.step(PROMPTS), split.step(PROMPTS)
    assert 1 < a["completions/mean_length"] < 5
    torch.testing.assert_close(weights(split), weights(whole), atol=1e-5, rtol=1e-4)
    assert any((x - y).abs().max() > 1e-3 for x, y in zip(weights(whole), weights(make())))
    timeless = {name: value for name, value in a.items() if not name.startswith("time/")}
    assert {name: b[name] for name in timeless} == pytest.approx(timeless, abs=1e-4, rel=1e-3)


def test_one_update_follows_the_gradient_of_the_objective_as_written_down_here():
    """One SGD step from a rollout, against autograd through the formulas over single unpadded rows."""
    options = {"ppo_epochs": 1, "optim": "sgd", "lr": 0.1, "lr_scheduler": "constant", "max_grad_norm": 0.0}
    ppo = make(entropy_coef=0.1, vf_coef=0.3, kl_coef=0.2, gamma=0.9, lam=0.8, missing_eos_penalty=2.0, **options)
    with torch.no_grad():  # so that there is a KL to pay for
        ppo.roles.reference.lm_head.weight.mul_(0.5)
    policy, value = copy.deepcopy(ppo.roles.policy), copy.deepcopy(ppo.roles.value)
    ppo.step(PROMPTS)
    answers = list(zip(PROMPTS, ppo.last_rollout.completion_ids))
    raw, targets = [], []
    for prompt, ids in answers:
        values = [value(torch.tensor([prompt.ids + ids[:t]])).logits.item() for t in range(len(ids))] + [0.0]
        deltas = []
        for t, token in enumerate(ids):
            state = torch.tensor([prompt.ids + ids[:t]])
            with torch.no_grad():
                ours, frozen = (
                    torch.log_softmax(model(state).logits[0, -1] / 0.7, -1)[token].item()
                    for model in (policy, ppo.roles.reference)
                )
            reward = -0.2 * (ours - frozen)
            if t == len(ids) - 1:
                reward += ids.count(2) - (0.0 if token == 1 else 2.0)
            deltas.append(reward + 0.9 * values[t + 1] - values[t])
        row = [sum(0.72 ** (s - t) * deltas[s] for s in range(t, len(ids))) for t in range(len(ids))]
        raw.append(row)
        targets.append([a + v for a, v in zip(row, values)])
    flat = torch.tensor([a for row in raw for a in row], dtype=torch.float64)
    objective = torch.zeros(())
    for (prompt, ids), row, aims in zip(answers, raw, targets):
        for t, token in enumerate(ids):
            state = torch.tensor([prompt.ids + ids[:t]])
            table = torch.log_softmax(policy(state).logits[0, -1] / 0.7, -1)
            advantage = float((row[t] - flat.mean()) / flat.std())
            ratio = (table[token] - table[token].detach()).exp()
            entropy = -(table.exp() * table).sum()
            value_error = 0.5 * (value(state).logits.squeeze() - aims[t]) ** 2
            objective = objective - ratio * advantage + 0.3 * value_error - 0.1 * entropy
    (objective / len(flat)).backward()
    for trained, copied in ((ppo.roles.policy, policy), (ppo.roles.value, value)):
        expected = [p.detach() - 0.1 * p.grad for p in copied.parameters()]
        torch.testing.assert_close([p.detach() for p in trained.parameters()], expected, atol=1e-5, rtol=1e-4)


def test_adapters_are_trained_and_nothing_else_is():
    def adapt(model, task):
        return get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type=task))

    policy, value = adapt(tiny_lm(vocab=6), TaskType.CAUSAL_LM), adapt(tiny_scorer(vocab=6), TaskType.SEQ_CLS)
    ppo = make(policy=policy, value=value)
    before = [{name: p.clone() for name, p in model.named_parameters()} for model in (policy, value)]
    frozen = {name: p.clone() for name, p in ppo.roles.reference.named_parameters()}
    for _ in range(2):
        assert ppo.step(PROMPTS)["val/ratio_first"] < 1e-5
    assert all(torch.equal(p, frozen[name]) for name, p in ppo.roles.reference.named_parameters())
    for model, old in zip((policy, value), before):
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, old[name])}
        assert moved == {name for name, p in model.named_parameters() if p.requires_grad}
        assert moved


def test_gradient_checkpointing_recomputes_and_gives_the_same_update():
    plain, frugal = make(), make()
    for model in (frugal.roles.policy, frugal.roles.value):
        model.gradient_checkpointing_enable()
    frugal = make(policy=frugal.roles.policy, value=frugal.roles.value)
    calls = []
    frugal.roles.policy.model.layers[0].self_attn.register_forward_hook(
        lambda *_: calls.append(torch.is_grad_enabled())
    )
    plain.step(PROMPTS)
    frugal.step(PROMPTS)
    assert calls.count(True) == 2 * 4  # four updates: once on the way forward, once more on the way back
    torch.testing.assert_close(weights(frugal), weights(plain), atol=1e-5, rtol=1e-4)


def test_metrics_carry_the_ecosystems_names_and_add_up():
    def two(prompts, completion_ids, completions):
        return {**count_c(prompts, completion_ids, completions), "one": torch.ones(len(prompts))}

    ppo = make(two, kl_coef=0.3)
    ppo.step(PROMPTS)
    found = ppo.step(PROMPTS)
    assert set(found) == {
        "objective/kl_coef", "objective/kl", "objective/kl_k3",
        "objective/entropy", "objective/non_score_reward", "objective/rlhf_reward",
        "objective/scores", "objective/scores/c", "objective/scores/one", "policy/approxkl_avg",
        "policy/clipfrac_avg", "policy/entropy_avg", "loss/policy_avg", "loss/value_avg", "val/clipfrac_avg",
        "val/ratio", "val/ratio_var", "val/ratio_first", "val/num_eos_tokens", "completions/mean_length",
        "grad_norm", "grad_norm/policy", "grad_norm/value",
        "lr", "episode", "time/generate", "time/score", "time/train",
    }  # fmt: skip
    rollout = ppo.last_rollout
    assert found["episode"] == 24
    assert found["objective/non_score_reward"] == pytest.approx(-0.3 * found["objective/kl"])
    assert found["objective/rlhf_reward"] == pytest.approx(found["objective/scores"] - 0.3 * found["objective/kl"])
    missing = sum(ids[-1] != 1 for ids in rollout.completion_ids)
    assert found["val/num_eos_tokens"] == 12 - missing
    sources = found["objective/scores/c"] + found["objective/scores/one"]
    assert found["objective/scores"] == pytest.approx(sources - missing / 12)
    assert found["completions/mean_length"] == pytest.approx(sum(map(len, rollout.completion_ids)) / 12)
    assert found["objective/kl"] != 0


def test_the_learning_rate_follows_the_optimizer_steps_to_the_end():
    ppo = make(lr=1.0, optim="sgd", total_rollouts=2, warmup=0.25, ppo_epochs=2, minibatches=2, max_grad_norm=1e-6)
    rates = []
    step = ppo.scheduler.step
    ppo.scheduler.step = lambda: (rates.append(ppo.scheduler.get_last_lr()[0]), step())
    ppo.step(PROMPTS)
    assert ppo.step(PROMPTS)["lr"] == rates[-1]
    assert rates == pytest.approx([0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def moved(model, before):
    return torch.stack([(p.detach() - b).norm() for p, b in zip(model.parameters(), before)]).norm().item()


@pytest.mark.parametrize("vf_coef", [0.1, 1e6])
@pytest.mark.parametrize("limit", [1e-3, 0.0])
def test_the_gradients_of_policy_and_value_are_clipped_each_by_its_own_norm_unless_that_is_0(limit, vf_coef):
    """However large the value loss: under one norm for both it would shrink the policy's step to nothing."""
    options = {"optim": "sgd", "lr": 1.0, "ppo_epochs": 1, "lr_scheduler": "constant", "vf_coef": vf_coef}
    ppo = make(max_grad_norm=limit, **options)
    models = {"policy": ppo.roles.policy, "value": ppo.roles.value}
    before = {name: [p.detach().clone() for p in model.parameters()] for name, model in models.items()}
    found = ppo.step(PROMPTS)
    for name, model in models.items():
        assert found[f"grad_norm/{name}"] > 0.005
        assert moved(model, before[name]) == pytest.approx(limit or found[f"grad_norm/{name}"], rel=1e-2)
    both = (found["grad_norm/policy"] ** 2 + found["grad_norm/value"] ** 2) ** 0.5
    assert found["grad_norm"] == pytest.approx(both)


@pytest.mark.parametrize("optim", ["adamw", "adamw-8bit", "adafactor", "sgd"])
def test_every_optimizer_learns(optim):
    ppo = make(optim=optim, lr=0.3 if optim == "sgd" else 2e-2, missing_eos_penalty=0.0, total_rollouts=10)
    scores = [ppo.step(PROMPTS)["objective/scores"] for _ in range(10)]
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3 + 0.5


@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_whitening_rewards_reaches_the_values_targets(whiten_rewards):
    ppo = make(whiten_rewards=whiten_rewards, gamma=1.0, lam=1.0, kl_coef=0.0, missing_eos_penalty=0.0)
    ppo.step(PROMPTS)
    rollout = ppo.last_rollout
    _, returns = ppo.estimate(rollout)
    rewards = torch.zeros_like(returns)
    for b, ids in enumerate(rollout.completion_ids):
        rewards[b, len(ids) - 1] = ids.count(2)
    deviation = rewards[rollout.mask].std() if whiten_rewards else torch.tensor(1.0)
    assert abs(deviation - 1) > 0.05 or not whiten_rewards
    per_token = rewards / deviation * rollout.mask
    expected = per_token.flip(1).cumsum(1).flip(1) * rollout.mask
    torch.testing.assert_close(returns, expected, atol=1e-4, rtol=1e-4)


def test_a_score_that_is_not_finite_stops_the_run_before_the_weights_move():
    ppo = make(lambda prompts, ids, texts: {"bad": torch.full((len(prompts),), float("nan"))})
    before = weights(ppo)
    with pytest.raises(AlarmError, match="rollout 1.*objective/scores") as caught:
        ppo.step(PROMPTS)
    assert caught.value.exit_code == 6
    torch.testing.assert_close(weights(ppo), before, atol=0, rtol=0)


@pytest.mark.parametrize(("part", "message"), [("value", "loss is not finite"), ("policy", "logits are not finite")])
def test_weights_that_are_not_finite_stop_the_run(part, message):
    ppo = make()
    ppo.step(PROMPTS)
    with torch.no_grad():
        next(reversed(list(getattr(ppo.roles, part).parameters()))).fill_(float("nan"))
    with pytest.raises(AlarmError, match=f"{message} at rollout 2"):
        ppo.step(PROMPTS)


def test_more_minibatches_than_answers_are_refused():
    with pytest.raises(UsageError, match="13 minibatches"):
        make(minibatches=13).step(PROMPTS)


def test_a_run_taken_up_from_its_state_ends_where_an_uninterrupted_one_does():
    whole, first = make(minibatches=2), make(minibatches=2)
    for _ in range(4):
        whole.step(PROMPTS)
    for _ in range(2):
        first.step(PROMPTS)
    state = copy.deepcopy(first.state_dict())
    second = make(policy=copy.deepcopy(first.roles.policy), value=copy.deepcopy(first.roles.value), minibatches=2)
    second.roles.reference.load_state_dict(first.roles.reference.state_dict())
    second.load_state_dict(state)
    for _ in range(2):
        found = second.step(PROMPTS)
    assert found["episode"] == 48
    torch.testing.assert_close(weights(second), weights(whole), atol=0, rtol=0)


def test_the_policys_first_rollout_is_paid_no_kl_where_it_is_the_reference():
    ppo = make()
    assert ppo.step(PROMPTS)["objective/kl"] == pytest.approx(0.0, abs=1e-6)
    rollout = ppo.last_rollout
    after = token_logps(ppo.roles.policy, rollout.rows, 0.7).logps
    assert (after - rollout.logps).abs().max() > 1e-3


def gradients_of(ppo, coefficient):
    """Of one update on the rollout that is there, with a KL coefficient that has moved to this."""
    ppo.kl_coef = coefficient
    rollout = ppo.last_rollout
    advantages, returns = ppo.estimate(rollout)
    ppo._add_gradients(rollout, torch.arange(len(PROMPTS)), advantages, returns, torch.tensor(1.0))
    found = torch.cat([p.grad.flatten() for p in ppo.roles.policy.parameters() if p.grad is not None])
    ppo.optimizer.zero_grad()
    return found


@pytest.mark.parametrize("kl_in", ["loss", "reward"])
def test_the_coefficient_that_has_moved_is_the_one_that_is_paid_wherever_the_kl_stands(kl_in):
    ppo = make(kl_in=kl_in, kl_coef=0.2)
    with torch.no_grad():
        ppo.roles.reference.lm_head.weight.mul_(0.5)
    ppo.step(PROMPTS)
    none, some, more = (gradients_of(ppo, coefficient) for coefficient in (0.0, 0.5, 1.0))
    assert (some - none).norm() > 1e-2 * none.norm()
    if kl_in == "loss":  # linear in it
        torch.testing.assert_close(more - none, 2 * (some - none), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("part", ["policy", "value"])
def test_a_gradient_that_is_not_finite_stops_the_run_before_the_weights_take_it_in(part):
    """The loss is finite: a bad kernel, or an overflow on the way back."""
    ppo = make()
    ppo.step(PROMPTS)
    before = weights(ppo)
    parameter = next(getattr(ppo.roles, part).parameters())
    parameter.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
    with pytest.raises(AlarmError, match="gradient is not finite at rollout 2"):
        ppo.step(PROMPTS)
    torch.testing.assert_close(weights(ppo), before, atol=0, rtol=0)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_softer_is_half_the_rate_and_twice_the_coefficient_each_time_and_stays_so(times):
    options = {"lr": 0.1, "kl_coef": 0.05, "optim": "sgd", "lr_scheduler": "constant", "ppo_epochs": 1}
    ppo = make(**options)
    ppo.step(PROMPTS)
    ppo.soften(times, seed=77)
    assert ppo.kl_coef == pytest.approx(0.05 * 2**times)
    rates = [ppo.step(PROMPTS)["lr"] for _ in range(2)]
    assert rates == pytest.approx([0.1 * 0.5**times] * 2)  # the schedule does not bring the old one back


def test_softer_draws_otherwise_from_here_on_as_its_seed_says():
    options = {"lr": 0.1, "optim": "sgd"}
    runs = [make(**options) for _ in range(4)]
    for ppo in runs:
        ppo.step(PROMPTS)
    for ppo, seed in zip(runs[1:], (77, 77, 78)):
        ppo.soften(1, seed)
    plain, one, same, other = (ppo._draws(4) for ppo in runs)
    assert torch.equal(one, same) and not torch.equal(one, plain) and not torch.equal(one, other)


def test_a_state_brings_back_all_that_changes():
    """Each entry differs after a few steps, and is equal once it was loaded."""
    first, fresh = make(kl_target=0.01, lr=0.1, total_rollouts=50), make(kl_target=0.01, lr=0.1, total_rollouts=50)
    start = copy.deepcopy(fresh.state_dict())
    for _ in range(3):
        first.step(PROMPTS)
    state = copy.deepcopy(first.state_dict())

    def same(one, other):
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        if isinstance(one, (list, tuple)):
            return len(one) == len(other) and all(map(same, one, other))
        return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other

    assert [name for name in state if same(state[name], start[name])] == ["optim", "scaler"]  # the same in a whole run
    fresh.load_state_dict(copy.deepcopy(state))
    found = fresh.state_dict()
    assert [name for name in state if not same(state[name], found[name])] == []
    assert torch.equal(fresh._draws(12), first._draws(12))


def test_the_loss_scale_of_float16_is_in_the_state():
    first, fresh = make(), make()
    for ppo, scale in ((first, 8.0), (fresh, 2.0)):
        ppo.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    fresh.load_state_dict(copy.deepcopy(first.state_dict()))
    assert fresh.accelerator.scaler.get_scale() == 8.0


def test_an_update_that_float16_leaves_out_is_no_alarm():
    ppo = make(ppo_epochs=1)
    ppo.accelerator.scaler = torch.amp.GradScaler("cpu")
    ppo.roles.policy.lm_head.weight.register_hook(lambda gradient: gradient * torch.inf)
    metrics, answers = ppo.step(PROMPTS), answers_of(ppo, {})
    seen = watched(metrics, ppo.accelerator.scaler)
    assert metrics.keys() - seen.keys() == {"grad_norm", "grad_norm/policy"}
    assert Watchers(of_ppo(ppo.config)).observe(1, seen, answers) == []
    (alarm,) = Watchers(of_ppo(ppo.config)).observe(1, watched(metrics, None), answers)
    assert alarm.signal == "not finite"
    assert watched({"grad_norm": 1.0, "loss/policy_avg": math.inf}, ppo.accelerator.scaler).keys() == {
        "grad_norm", "loss/policy_avg",
    }  # fmt: skip
    for scale, alarms in ((2.0, 0), (1.0, 1)):  # halved until it explains nothing
        smaller = torch.amp.GradScaler("cpu", init_scale=scale)
        assert len(Watchers(of_ppo(ppo.config)).observe(1, watched(metrics, smaller), answers)) == alarms


def test_an_update_is_told_before_anything_moves_though_float16_leaves_it_out(monkeypatch):
    ppo, told = make(ppo_epochs=2), []
    monkeypatch.setattr(ppo.optimizer, "step", lambda: told.append("left out"))
    ppo.before_update = lambda: told.append(ppo.scheduler.last_epoch)
    ppo.step(PROMPTS)
    assert told == [0, "left out", 1, "left out"]


def test_final_figures_are_means_over_the_rollouts_that_have_them():
    """A run that ends soon after --value-warmup: its first rollouts have none of the policy's."""
    rows = [{"step": 1, "objective/kl": 1.0}, {"step": 2, "objective/kl": 3.0, "val/ratio": 1.5}]
    assert final(rows) == {"objective/kl": 2.0, "val/ratio": 1.5}


def test_weight_decay_spares_what_is_a_vector():
    """One step of SGD without gradients: matrices shrink by the rate times the decay, biases and norms stay."""
    model = tiny_lm("gpt2", vocab=6, layers=1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(list(model.parameters()), 0.1, PPOConfig(optim="sgd", weight_decay=0.5))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (0.95 if p.ndim > 1 else 1.0))
    assert {p.ndim for p in model.parameters()} >= {1, 2}


@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_the_policy_stands_still_for_exactly_so_many_rollouts(warmup):
    ppo = make(value_warmup=warmup)
    moved_in = []
    for rollout in range(1, 4):
        before = [p.detach().clone() for p in ppo.roles.policy.parameters()]
        ppo.step(PROMPTS)
        if any(not torch.equal(p, b) for p, b in zip(ppo.roles.policy.parameters(), before)):
            moved_in.append(rollout)
    assert moved_in == [n for n in (1, 2, 3) if n > warmup]

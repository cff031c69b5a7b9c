"""The watchers' thresholds from both sides: just past one is an alarm, and as far the other way is none."""

from __future__ import annotations

import json
import math
import random
from types import SimpleNamespace

import pytest

from prefcli.watch import explosion, loss, mode_collapse, pairs, reward_hacking, stalling
from prefcli.watch.records import NO_ANSWERS, Answers
from prefcli.watch.watchers import of_ppo, of_training


def answers(scores=(0.0, 1.0, 2.0, 3.0), texts=None, prompts=None, lengths=None, **judges):
    n = len(scores)
    return Answers(
        list(prompts or [f"p{i}" for i in range(n)]), list(texts or [f"an answer {i} of its own" for i in range(n)]),
        list(scores), {"a": list(scores)}, list(lengths or [5] * n), [True] * n, judges,
    )  # fmt: skip


def signals(watcher, *steps, start=1):
    """The signals of the last step, after all before it."""
    found = []
    for number, (metrics, given) in enumerate(steps, start):
        found = [alarm.signal for alarm in watcher.observe(number, metrics, given)]
    return found


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"val/ratio": 1.21}, ["ratio"]),
        ({"val/ratio": 0.79}, ["ratio"]),
        ({"val/ratio": 1.19}, []),
        ({"val/ratio": 0.81}, []),
        ({"policy/approxkl_avg": 0.11}, ["step size"]),
        ({"policy/approxkl_avg": 0.09}, []),
    ],
)
def test_one_rollouts_updates(metrics, expected):
    assert signals(explosion.Explosion(), (metrics, answers())) == expected


@pytest.mark.parametrize(
    ("name", "usual", "last", "expected"),
    [
        ("loss/policy_avg", 0.0, 0.5, ["policy loss"]),
        ("loss/policy_avg", 0.0, -0.5, []),  # a loss far below is no explosion
        ("loss/policy_avg", 0.0, 0.15, []),
        ("grad_norm", 1.0, 6.0, ["gradient"]),
        ("grad_norm", 1.0, 4.0, []),
        ("grad_norm", 1.0, 0.01, []),
        ("grad_norm", 0.0, 6.0, []),  # nothing was learnt before
    ],
)
def test_outliers_are_above_and_not_below(name, usual, last, expected):
    steps = [({name: usual + 0.001 * (i % 3) * (usual > 0)}, answers()) for i in range(10)]
    assert signals(explosion.Explosion(), *steps, ({name: last}, answers())) == expected
    assert signals(explosion.Explosion(), *steps[:7], ({name: last}, answers())) == []  # too short a history


@pytest.mark.parametrize(("share", "expected"), [(0.11, ["clip fraction"]), (0.09, [])])
def test_tokens_that_are_clipped_rollout_after_rollout(share, expected):
    clipped = ({"policy/clipfrac_avg": share}, answers())
    assert signals(explosion.Explosion(), *[clipped] * 3) == expected
    assert signals(explosion.Explosion(), *[clipped] * 2) == []
    assert signals(explosion.Explosion(), clipped, ({"policy/clipfrac_avg": 0.0}, answers()), clipped) == []


@pytest.mark.parametrize(
    ("kls", "expected"),
    [
        ((6.0, 6.0, 13.0), ["KL runs away"]),
        ((6.0, 6.0, 11.0), []),  # not twice what it was
        ((2.0, 2.0, 9.0), []),  # not far
        ((12.0, 12.0, 12.0), []),
        ((13.0, 13.0, 6.0), []),
    ],
)
def test_a_kl_that_runs_away_rises(kls, expected):
    steps = [({"objective/kl": k}, answers()) for k in kls]
    assert signals(explosion.Explosion(), *steps) == expected


@pytest.mark.parametrize(
    ("k1", "k3", "count", "expected"),
    [
        (-0.5, 0.4, 400, ["negative KL"]),  # 2,000 answers: 0.5 is 25 standard errors of √(0.8/2000)
        (-0.5, 0.4, 4, []),  # of 20 answers it is 2.5
        (0.5, 0.4, 400, []),
        (-0.04, 0.0, 400, []),  # less than rounding may make
    ],
)
def test_a_negative_kl_is_judged_by_the_number_of_answers(k1, k3, count, expected):
    step = ({"objective/kl": k1, "objective/kl_k3": k3}, answers([0.0] * count))
    assert signals(explosion.Explosion(), *[step] * 5) == expected


@pytest.mark.parametrize(("last", "spread", "expected"), [(9.0, 0.0, ["value loss"]), (9.0, 3.0, []), (3.0, 0.0, [])])
def test_a_value_loss_that_grows_beyond_what_the_scores_explain(last, spread, expected):
    """½ of the scores' variance is what predicting their mean would cost: with a deviation of 3, 4.5."""
    early = [({"loss/value_avg": 1.0}, answers([0.0, 0.0]))] * 5
    late = [({"loss/value_avg": last}, answers([-spread, spread]))] * 3
    assert signals(explosion.Explosion(), *early, *late) == expected


@pytest.mark.parametrize(("budget", "expected"), [(10.0, ["KL budget"]), (12.0, []), (0.0, []), (None, [])])
def test_a_budget_of_nats_is_one_where_it_is_not_0(budget, expected):
    step = ({"objective/kl": 11.0}, answers())
    assert signals(reward_hacking.RewardHacking(budget), *[step] * 3) == expected


def test_the_options_of_ppo_reach_its_watchers():
    made = of_ppo(SimpleNamespace(kl_budget=3.0, value_warmup=7, advantage="rloo"))
    assert made["explosion"]._value_warmup == 7
    assert (made["reward hacking"]._kl_budget, made["stalling"]._value_warmup, made["stalling"]._grouped) == (
        3.0,
        7,
        True,
    )
    gae = of_ppo(SimpleNamespace(kl_budget=None, value_warmup=0, advantage="gae"))
    assert not gae["stalling"]._grouped and gae["reward hacking"]._kl_budget is None
    assert of_ppo(SimpleNamespace(kl_budget=0, value_warmup=0, advantage="grpo"))["stalling"]._grouped


def judged(score, judge, *, noise=0.3):
    """64 answers whose scores lie around these."""
    around = [noise * ((i % 9) - 4) / 4 for i in range(64)]
    return {}, answers([score + x for x in around], lengths=[5] * 64, judge=[judge + x for x in around])


@pytest.mark.parametrize(
    ("score", "judge", "expected"),
    [((0.0, 2.0, 3.0), (0.0, 1.0, -1.0), True), ((0.0, 2.0, 3.0), (0.0, 1.0, 2.0), False),
     ((0.0, 2.0, 0.0), (0.0, 1.0, -1.0), False), ((0.0, 0.0, 0.0), (0.0, 1.0, -1.0), False)],
)  # fmt: skip
def test_a_judge_that_falls_from_its_best_while_the_score_rises(score, judge, expected):
    """Not where it rises too, where the score falls with it, or where the score never rose."""
    steps = [judged(score[0], judge[0])] * 3 + [judged(score[1], judge[1])] * 6 + [judged(score[2], judge[2])] * 6
    assert ("judge" in signals(reward_hacking.RewardHacking(None), *steps)) == expected


@pytest.mark.parametrize(("longer", "rises", "expected"), [(1.5, True, True), (1.2, True, False), (1.5, False, False),
                                                           (0.5, True, False)])  # fmt: skip
def test_answers_that_grow_while_the_score_rises(longer, rises, expected):
    early = ({}, answers([0.0, 0.1] * 16, lengths=[20, 22] * 16))
    late = (
        {},
        answers([3.0 if rises else 0.0, 3.1 if rises else 0.1] * 16, lengths=[int(20 * longer), int(22 * longer)] * 16),
    )
    assert ("length" in signals(reward_hacking.RewardHacking(None), *[early] * 3, *[late] * 5)) == expected


@pytest.mark.parametrize(("entropy", "expected"), [((2.0, 0.3), ["entropy"]), ((2.0, 0.5), []), ((0.3, 2.0), [])])
def test_an_entropy_that_falls(entropy, expected):
    steps = [({"policy/entropy_avg": entropy[0]}, answers())] * 3 + [
        ({"policy/entropy_avg": entropy[1]}, answers())
    ] * 5
    assert signals(mode_collapse.ModeCollapse(), *steps) == expected


@pytest.mark.parametrize(
    ("rates", "expected"), [((1e-5,) * 10, True), ((2e-5,) * 5 + (1e-5,) * 5, True), ((1e-6,) * 5 + (1e-5,) * 5, False)]
)
def test_a_policy_that_stands_still_is_waited_for_while_its_rate_rises(rates, expected):
    steps = [({"objective/kl_k3": 0.001, "policy/clipfrac_avg": 0.0, "lr": rate}, answers()) for rate in rates]
    assert ("too slow" in signals(stalling.Stalling(), *steps)) == expected
    assert "too slow" not in signals(stalling.Stalling(value_warmup=5), *steps)
    moving = [({**metrics, "objective/kl_k3": 0.006}, given) for metrics, given in steps]
    assert "too slow" not in signals(stalling.Stalling(), *moving)


@pytest.mark.parametrize(("grouped", "expected"), [(True, True), (False, False)])
def test_scores_are_alike_within_a_prompt_or_among_all(grouped, expected):
    """Both answers to a prompt score the same; the prompts differ."""
    first = ({}, answers([0.0, 1.0, 0.0, 1.0], prompts=["p", "p", "q", "q"]))
    alike = ({}, answers([0.0, 0.0, 1.0, 1.0], prompts=["p", "p", "q", "q"]))
    assert ("scores alike" in signals(stalling.Stalling(grouped=grouped), first, *[alike] * 3)) == expected


# Of training on rows


def trained(*steps, watcher=None, batch=32, beta=0.1, from_reference=True):
    return signals(
        watcher or pairs.Pairs(batch, beta, from_reference=from_reference), *((m, NO_ANSWERS) for m in steps)
    )


@pytest.mark.parametrize(
    ("gained", "from_reference", "expected"),
    [
        (-3.5, True, ["displacement begins"]),
        (-11.0, True, ["displacement"]),
        (-2.5, True, []),
        (3.5, True, []),  # chosen answers gained
        (11.0, True, []),
    ],
)
def test_chosen_answers_that_lose_what_the_reference_gave_them(gained, from_reference, expected):
    """The reference gives them −10 nats; what the policy gained or lost is reward over β."""
    start = {"rewards/chosen": 0.0, "rewards/rejected": 0.0, "logps/chosen": -10.0}
    now = {"rewards/chosen": 0.1 * gained, "rewards/rejected": -1.0, "logps/chosen": -10.0 + gained}
    assert trained(*[start] * 3, *[now] * 5, from_reference=from_reference) == expected


@pytest.mark.parametrize("offset", [-6.0, 6.0])
def test_against_another_reference_it_is_what_was_lost_since_the_start(offset):
    """There log-ratios begin anywhere: standing still is no displacement, and losing is one."""

    def at(gained):
        return {
            "rewards/chosen": 0.1 * (offset + gained),
            "rewards/rejected": 0.0,
            "logps/chosen": -10.0 + offset + gained,
        }

    assert trained(*[at(0.0)] * 8, from_reference=False) == []
    assert trained(*[at(0.0)] * 3, *[at(-4.0)] * 5, from_reference=False) == ["displacement begins"]


@pytest.mark.parametrize(("nats", "expected"), [(0.6, True), (-0.6, True), (0.4, False)])
def test_a_reference_that_is_not_the_start_shows_at_the_first_step_alone(nats, expected):
    first = {"rewards/chosen": 0.1 * nats, "rewards/rejected": 0.0, "logps/chosen": -5.0, "logps/rejected": -5.0}
    assert ("reference" in trained(first)) == expected
    assert "reference" not in trained({}, first) and "reference" not in trained(first, from_reference=False)
    other = {"rewards/chosen": 0.0, "rewards/rejected": 0.1 * nats, "logps/rejected": -5.0}
    assert ("reference" in trained(other)) == expected


@pytest.mark.parametrize(("right", "expected"), [(0.97, True), (0.93, False)])
def test_pairs_that_are_right_as_soon_as_anything_moved(right, expected):
    still = {"rewards/accuracies": 0.5, "rewards/margins": 0.0}
    moved = {"rewards/accuracies": right, "rewards/margins": 0.1}
    assert ("too easy" in trained(*[moved] * 10)) == expected
    assert ("too easy" in trained(*[still] * 5, *[moved] * 10)) == expected  # steps without a move do not count
    assert "too easy" not in trained(*[moved] * 9) and "too easy" not in trained(*[moved] * 11)


@pytest.mark.parametrize(("rate", "expected"), [((1e-5, 1e-5), True), ((1e-6, 1e-5), False), ((1e-5, 1e-6), True)])
def test_guessing_and_standing_still_wait_while_the_rate_rises(rate, expected):
    steps = [{"rewards/accuracies": 0.5, "rewards/margins": 0.001, "learning_rate": rate[i >= 10]} for i in range(20)]
    found = trained(*steps)
    assert ("guessing" in found, "too slow" in found) == (expected, expected)
    moved = [{**step, "rewards/accuracies": 0.6, "rewards/margins": 0.02} for step in steps]
    assert trained(*moved) == []


@pytest.mark.parametrize(
    ("losses", "expected"),
    [((1.0, 1.3), ["rises"]), ((1.0, 1.2), []), ((1.3, 1.0), []), ((0.0, 0.0), []), ((-1.0, -0.5), [])],
)
def test_a_loss_above_where_it_began(losses, expected):
    steps = [{"loss": losses[0]}] * 3 + [{"loss": losses[1]}] * 8
    assert trained(*steps, watcher=loss.Loss(32)) == expected
    assert trained(*[{"loss": losses[0]}] * 3, watcher=loss.Loss(32)) == (["zero"] if losses[0] == 0 else [])


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_a_rise_is_told_from_the_noise_of_small_batches(batch):
    """Of 30 runs whose loss falls slowly none is called one that rises; of those whose loss doubles, all are."""

    def rises(seed, level):
        dice, watcher = random.Random(seed), loss.Loss(batch)
        losses = [dice.gauss(level(step / 300), 0.6 / math.sqrt(batch)) for step in range(300)]
        return any(signals(watcher, ({"loss": max(0.1, x)}, NO_ANSWERS), start=i) for i, x in enumerate(losses, 1))

    assert not any(rises(seed, lambda done: 2 - 0.3 * done) for seed in range(30))
    assert all(rises(seed, lambda done: 2 if done < 0.5 else 4) for seed in range(30))


@pytest.mark.parametrize(("now", "right", "expected"), [(0.04, 1.0, True), (0.06, 1.0, False), (0.04, 0.98, False)])
def test_a_loss_that_has_come_to_nothing_while_all_are_right(now, right, expected):
    steps = [{"loss": 1.0, "accuracy": 0.5}] + [{"loss": now, "accuracy": right}] * 20
    assert ("saturated" in trained(*steps, watcher=loss.Loss(32))) == expected


@pytest.mark.parametrize(("last", "expected"), [(0.56, True), (0.54, False), (0.3, False)])
def test_a_held_out_loss_is_held_against_its_best(last, expected):
    steps = [{"eval_loss": 1.0}, {"eval_loss": 0.5}, {"eval_loss": last}]
    assert ("held-out" in trained(*steps, watcher=loss.Loss(32))) == expected


EVERYTHING = (
    "loss eval_loss grad_norm lr learning_rate val/ratio loss/policy_avg loss/value_avg policy/clipfrac_avg "
    "policy/approxkl_avg policy/entropy_avg objective/kl objective/kl_k3 rewards/chosen rewards/rejected "
    "rewards/margins rewards/accuracies logps/chosen sampling/kl sampling/ratio_mean"
).split()


def test_every_watchers_state_comes_back_whole():
    """After a run with everything in it each entry differs from a fresh watcher's, and is equal once it is loaded."""
    for make in (lambda: of_ppo(SimpleNamespace(kl_budget=10.0, value_warmup=0, advantage="gae")),
                 lambda: of_training(8, 0.1, from_reference=True)):  # fmt: skip
        for name, watcher in make().items():
            start = json.dumps(watcher.state_dict())
            for step in range(1, 60):
                metrics = dict.fromkeys(EVERYTHING, 0.1 * step)
                given = answers([0.1 * i * step for i in range(16)], judge=[float(i * step % 5) for i in range(16)])
                watcher.observe(step, metrics, given)
            state = json.loads(json.dumps(watcher.state_dict()))
            same = [entry for entry, value in state.items() if value == json.loads(start)[entry]]
            assert same == [], (name, same)
            fresh = make()[name]
            fresh.load_state_dict(state)
            assert json.loads(json.dumps(fresh.state_dict())) == state, name
            tracks = [entry for entry in vars(watcher) if type(vars(watcher)[entry]).__name__ == "Track"]
            assert len(tracks) <= len(json.dumps(state).split('"seen"')) - 1, (name, tracks)  # none is left out

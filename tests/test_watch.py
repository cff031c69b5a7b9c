"""The watchers, on made-up runs whose trouble has a known onset: they speak soon after it, not before, and not on
healthy runs; a resumed watcher goes on exactly."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefcli.errors import AlarmError
from prefcli.progress import Reporter
from prefcli.statistics.ranks import rank_correlation
from prefcli.watch import explosion, mode_collapse, reward_hacking, sampling, stalling
from prefcli.watch.records import NO_ANSWERS, Alarm, Answers
from prefcli.watch.series import Sample, Track, deviations_from, pooled, summary, z_score
from prefcli.watch.texts import answers_with
from prefcli.watch.watchers import REPEAT_AFTER, Watchers, act, of_ppo

OPTIONS = SimpleNamespace(kl_budget=reward_hacking.KL_BUDGET, value_warmup=0, advantage="gae")
N, ONSET, LENGTH = 64, 25, 45
WORDS = [f"{a}{b}" for a in "kite lamp rope bell mask coin drum vase".split() for b in range(25)]
Rollout = tuple[dict[str, float], Answers]


def rollout(step: int, seed: int) -> Rollout:
    """One of a healthy run, its figures near those of `tiny` under the demo's options."""
    dice = random.Random(seed * 1000 + step)
    learnt = 1 - math.exp(-step / 20)
    quality = [dice.gauss(0, 1) for _ in range(N)]
    totals = [0.3 + 1.2 * learnt + q for q in quality]
    answers = Answers(
        prompts=[f"prompt {dice.random()}" for _ in range(N)],
        completions=[" ".join(dice.choices(WORDS, k=8)) for _ in range(N)],
        totals=totals,
        scores={"rm": totals},
        lengths=[round(dice.gauss(11, 2)) for _ in range(N)],
        ended=[True] * N,
        judges={"gold": [0.3 * learnt + q + dice.gauss(0, 1) for q in quality]},
    )
    kl = 0.9 * learnt
    metrics = {
        "objective/kl": kl + dice.gauss(0, math.sqrt(2 * kl / N)),
        "objective/kl_k3": kl * math.exp(dice.gauss(0, 0.4)),
        "policy/entropy_avg": 1.1 - 0.6 * learnt + dice.gauss(0, 0.08),
        "policy/clipfrac_avg": abs(dice.gauss(0.005, 0.004)),
        "policy/approxkl_avg": abs(dice.gauss(5e-4, 5e-4)),
        "val/ratio": dice.gauss(0.999, 0.002),
        "loss/policy_avg": dice.gauss(-0.005, 0.003),
        "loss/value_avg": (0.55 - 0.3 * learnt) * math.exp(dice.gauss(0, 0.2)),
        "grad_norm": 1.3 * math.exp(dice.gauss(0, 0.25)),
        "lr": 1e-4,
        "sampling/kl": 5e-5 * math.exp(dice.gauss(0, 0.5)),
        "sampling/ratio_mean": dice.gauss(1, 0.002),
    }
    return metrics, answers


def watched(
    change: Callable[[Rollout, int], Rollout] | None, seed: int, options: Any = OPTIONS, onset: int = ONSET
) -> list[Alarm]:
    """All alarms of a run that is healthy but for `change`, which gets rollouts and how long the trouble has lasted."""
    watchers, found = Watchers(of_ppo(options)), []
    for step in range(1, LENGTH + 1):
        made = rollout(step, seed)
        if change and step >= onset:
            made = change(made, step - onset + 1)
        found += watchers.observe(step, *made)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_silence_on_healthy_runs(seed):
    assert watched(None, seed) == []


def metric(name: str, value: Callable[[float, int], float]) -> Callable[[Rollout, int], Rollout]:
    return lambda made, age: (made[0] | {name: value(made[0][name], age)}, made[1])


def texts(change: Callable[[Answers, int], dict[str, Any]]) -> Callable[[Rollout, int], Rollout]:
    return lambda made, age: (made[0], replace(made[1], **change(made[1], age)))


def judged(change: Callable[[list[float], int], list[float]]) -> Callable[[Rollout, int], Rollout]:
    return texts(lambda answers, age: {"judges": {"gold": change(answers.judges["gold"], age)}})


def flattering(answers: Answers, age: int) -> dict[str, Any]:
    praised = min(N, 8 * age)
    return {"completions": [f"What a wonderful question! {t}" if i < praised else t
                            for i, t in enumerate(answers.completions)]}  # fmt: skip


def droning(answers: Answers, age: int) -> dict[str, Any]:
    return {"completions": [" ".join(text.split()[:2]) + " and so on" * 3 for text in answers.completions]}


def ignorant(answers: Answers, age: int) -> dict[str, Any]:
    return {"completions": ["I do not know."] * 45 + answers.completions[45:]}


def alike(made: Rollout, age: int) -> Rollout:
    return made[0], replace(made[1], totals=[1.5] * N)


def unmoved(made: Rollout, age: int) -> Rollout:
    return made[0] | {"objective/kl": 1e-5, "objective/kl_k3": 1e-5, "policy/clipfrac_avg": 0.0}, made[1]


# watcher, sign, what goes wrong, in how many rollouts it must be seen
TROUBLES = [
    ("explosion", "not finite", metric("loss/value_avg", lambda v, age: math.nan), 1),
    ("explosion", "gradient", metric("grad_norm", lambda v, age: 20 * v), 1),
    ("explosion", "policy loss", metric("loss/policy_avg", lambda v, age: 0.5), 1),
    ("explosion", "ratio", metric("val/ratio", lambda v, age: 1.5), 1),
    ("explosion", "step size", metric("policy/approxkl_avg", lambda v, age: 0.2), 1),
    ("explosion", "clip fraction", metric("policy/clipfrac_avg", lambda v, age: 0.3), 3),
    ("explosion", "negative KL", metric("objective/kl", lambda v, age: -2.0), 5),
    ("explosion", "KL runs away", metric("objective/kl", lambda v, age: 2.0**age), 5),
    ("explosion", "value loss", metric("loss/value_avg", lambda v, age: 5.0 * age), 3),
    ("reward hacking", "judge", judged(lambda scores, age: [g - 0.15 * age for g in scores]), 8),
    (
        "reward hacking",
        "agreement",
        judged(lambda scores, age: [g - 0.2 for g in random.Random(age).sample(scores, N)]),
        5,
    ),
    ("reward hacking", "length", texts(lambda a, age: {"lengths": [n + age for n in a.lengths]}), 8),
    ("reward hacking", "phrase spreads", texts(flattering), 6),
    ("reward hacking", "phrase", texts(flattering), 8),
    ("reward hacking", "KL budget", metric("objective/kl", lambda v, age: v + age), 12),
    ("mode collapse", "distinct-2", texts(droning), 5),
    ("mode collapse", "entropy", metric("policy/entropy_avg", lambda v, age: 0.05), 5),
    ("mode collapse", "same answer", texts(ignorant), 5),
    ("stalling", "too slow", unmoved, 10),
    ("stalling", "scores alike", alike, 3),
    ("sampling drift", "kl", metric("sampling/kl", lambda v, age: 0.02), 3),
    ("sampling drift", "ratio", metric("sampling/ratio_mean", lambda v, age: 0.9), 3),
]


@pytest.mark.parametrize("watcher, signal, change, delay", TROUBLES, ids=[f"{w}: {s}" for w, s, *_ in TROUBLES])
def test_each_sign_is_seen_soon_after_its_onset_and_not_before(watcher, signal, change, delay):
    for seed in range(3):
        found = watched(change, seed)
        assert min(alarm.step for alarm in found) >= ONSET
        own = [alarm for alarm in found if (alarm.watcher, alarm.signal) == (watcher, signal)]
        assert own and own[0].step <= ONSET + delay - 1


def test_every_sign_is_tried():
    tried = {(watcher, signal) for watcher, signal, *_ in TROUBLES}
    signs = {(m.NAME, s) for m in (explosion, reward_hacking, mode_collapse, stalling, sampling) for s in m.SIGNS}
    assert signs - tried == {("stalling", "plateau"), ("stalling", "never rose")}  # below: they need longer runs


@pytest.mark.parametrize("risen, sign", [(1.0, "plateau"), (0.0, "never rose")])
def test_a_score_that_has_stopped_moving_is_told_from_one_that_never_did(risen, sign):
    watcher = stalling.Stalling()
    found = []
    for step in range(1, 81):
        made = rollout(step, seed=0)[1]
        dice = random.Random(step)
        level = risen * min(step / 20, 1)
        found += watcher.observe(step, {}, replace(made, totals=[level + dice.gauss(0, 1) for _ in range(N)]))
    assert {alarm.signal for alarm in found} == {sign}
    assert all(alarm.severity == "notice" for alarm in found)


@pytest.mark.parametrize("onset", [1, ONSET])
def test_nothing_is_hacking_where_the_score_does_not_rise(onset):
    """From the start it stays where it was, or later it falls back half way, with the judge: the policy is just bad."""

    def falls(made: Rollout, age: int) -> Rollout:
        answers = made[1]
        totals = [t - sum(answers.totals) / N + 0.5 for t in answers.totals]
        gold = [g - 0.1 * age for g in answers.judges["gold"]]
        return made[0], replace(answers, totals=totals, judges={"gold": gold})

    def worse(made: Rollout, age: int) -> Rollout:
        made = falls(made, age)
        lengths = [n + age for n in made[1].lengths]
        return made[0], replace(made[1], lengths=lengths, **flattering(made[1], age))

    assert [a for a in watched(falls, 0, onset=onset) if a.watcher == "reward hacking"] == []
    if onset == 1:
        assert [a for a in watched(worse, 0, onset=onset) if a.watcher == "reward hacking"] == []


def test_one_bad_rollout_is_no_trend():
    def once(made: Rollout, age: int) -> Rollout:
        return (made[0] | {"policy/clipfrac_avg": 0.9, "loss/value_avg": 50.0}, made[1]) if age == 1 else made

    assert watched(once, seed=0) == []


def test_what_looks_like_trouble_and_is_none():
    def agree_less_and_both_rise(made: Rollout, age: int) -> Rollout:
        return judged(lambda scores, age: [g + 2 for g in random.Random(age).sample(scores, N)])(made, age)

    def rounding(made: Rollout, age: int) -> Rollout:
        return made[0] | {"objective/kl": -0.01, "objective/kl_k3": 1e-7}, made[1]

    def scale_grows(made: Rollout, age: int) -> Rollout:
        return made[0] | {"loss/value_avg": 30.0}, replace(made[1], totals=[10 * t for t in made[1].totals])

    for change in (agree_less_and_both_rise, rounding, scale_grows):
        assert watched(change, seed=0) == []


def test_what_was_so_from_the_start_is_no_collapse_and_a_few_prompts_show_none():
    assert watched(texts(lambda a, age: ignorant(a, age) if age % 2 else droning(a, age)), 0, onset=ONSET) != []
    assert watched(texts(ignorant), 0, onset=1) == []
    assert watched(texts(droning), 0, onset=1) == []
    few = texts(lambda a, age: {"prompts": [str(i % 6) for i in range(N)], "completions": ["No."] * N})
    assert [a for a in watched(few, 0) if a.signal == "same answer"] == []


def test_what_is_not_finite_leaves_no_trace():
    watchers = Watchers(of_ppo(OPTIONS))
    for step in range(1, 11):
        metrics, answers = rollout(step, seed=0)
        if step == 5:
            metrics, answers = metrics | {"objective/scores": math.nan}, replace(answers, totals=[math.nan] * N)
        assert len(watchers.observe(step, metrics, answers)) == (step == 5)
    json.dumps(watchers.state_dict(), allow_nan=False)


def test_a_source_that_is_trained_on_is_a_second_opinion_where_there_are_several():
    def trade(made: Rollout, age: int) -> Rollout:
        a = made[1].totals
        return made[0], replace(made[1], scores={"helpful": [t + 0.2 * age for t in a], "safe": [-0.2 * age] * N},
                                totals=[t + 0.1 * age for t in a], judges={})  # fmt: skip

    assert "safe fell" in next(a.seen for a in watched(trade, seed=0) if a.signal == "judge")


def test_the_kl_budget_can_be_moved_and_left_out():
    def far(made: Rollout, age: int) -> Rollout:
        return made[0] | {"objective/kl": 12.0, "objective/kl_k3": 12.0}, made[1]

    def past(budget: float | None) -> bool:
        options = SimpleNamespace(**{**vars(OPTIONS), "kl_budget": budget})
        return any(alarm.signal == "KL budget" for alarm in watched(far, 0, options))

    assert past(10.0) and past(0.5) and not past(13.0) and not past(None)


def test_a_warm_up_of_the_value_model_or_of_the_rate_is_no_stalling():
    still = {"objective/kl_k3": 0.0, "policy/clipfrac_avg": 0.0}
    answers = rollout(1, seed=0)[1]
    for watcher, rate in ((stalling.Stalling(30), lambda step: 1e-4), (stalling.Stalling(), lambda step: 1e-6 * step)):
        assert [a for step in range(1, 31) for a in watcher.observe(step, still | {"lr": rate(step)}, answers)] == []


def test_rollouts_of_the_value_model_alone_are_no_history_of_the_policy():
    """Its first gradients are an explosion beside the value model's, and there is no score to move before it does."""
    norms = [0.05 + 0.001 * (step % 4) for step in range(10)] + [0.6] * 3
    for warmup, expected in ((10, []), (0, ["gradient"] * 3)):
        watcher = explosion.Explosion(warmup)
        found = [
            a for step, norm in enumerate(norms, 1) for a in watcher.observe(step, {"grad_norm": norm}, NO_ANSWERS)
        ]
        assert [alarm.signal for alarm in found] == expected
    still = replace(rollout(1, seed=0)[1], totals=[float(i % 2) for i in range(400)])
    for warmup, expected in ((50, []), (0, ["never rose"])):
        watcher = stalling.Stalling(warmup)
        assert sorted({a.signal for step in range(1, 51) for a in watcher._plateau(step, still)}) == expected


def test_grouped_advantages_need_scores_that_differ_within_a_prompt():
    """Each prompt's two answers score alike: nothing to compare for rloo and grpo, but plenty for gae."""
    for grouped in (True, False):
        watcher, found = stalling.Stalling(grouped=grouped), []
        for step in range(1, 12):
            made = rollout(step, seed=0)[1]
            if step > 5:
                made = replace(made, totals=[made.totals[i // 2] for i in range(N)])
            found += watcher.observe(step, {}, replace(made, prompts=[str(i // 2) for i in range(N)]))
        assert [alarm.signal for alarm in found] == ["scores alike"] * (4 if grouped else 0)


@pytest.mark.parametrize("answers", [4, N])
@pytest.mark.parametrize("flatness", [0.95, 0.7])
def test_k1_of_true_samples_is_not_called_negative_and_that_of_others_is(flatness, answers):
    """Answers of 10 draws of 5 tokens each. The policy is flatter than the reference; drawn from the reference its k1
    is −KL(reference, policy)."""
    reference = [0.4, 0.3, 0.15, 0.1, 0.05]
    powers = [p**flatness for p in reference]
    policy = [p / sum(powers) for p in powers]
    batch = replace(rollout(1, seed=0)[1], completions=["a"] * answers)
    for drawn in (policy, reference):
        watcher, dice, found = explosion.Explosion(), random.Random(0), []
        for step in range(1, 101):
            logs = [math.log(policy[i] / reference[i]) for i in dice.choices(range(5), drawn, k=10 * answers)]
            k3 = sum(math.exp(-x) - 1 + x for x in logs) / answers
            found += watcher.observe(step, {"objective/kl": sum(logs) / answers, "objective/kl_k3": k3}, batch)
        if drawn is policy:
            assert found == []
        elif flatness == 0.7 and answers == N:
            assert found[0].signal == "negative KL"


@pytest.mark.parametrize("cut", [1, 4, 9, 27, 33])
def test_a_resumed_run_goes_on_exactly(cut):
    """Through JSON, as a state file holds it."""

    def trouble(made: Rollout, age: int) -> Rollout:
        for *_, change, _ in TROUBLES[1:]:
            made = change(made, age)
        return made

    def steps(watchers: Watchers, first: int, last: int) -> list[Alarm]:
        found = []
        for step in range(first, last + 1):
            made = rollout(step, seed=0)
            told = watchers.observe(step, *(trouble(made, step - 19) if step >= 20 else made))
            assert told == sorted(told, key=lambda alarm: alarm.severity, reverse=True)  # the serious ones first
            found += told
        return found

    whole = Watchers(of_ppo(OPTIONS))
    told = steps(whole, 1, LENGTH)
    before, after = Watchers(of_ppo(OPTIONS)), Watchers(of_ppo(OPTIONS))
    first = steps(before, 1, cut)
    state = before.state_dict()
    steps(before, cut + 1, LENGTH)  # the state is a copy: what its owner does later leaves it alone
    after.load_state_dict(json.loads(json.dumps(state, allow_nan=False)))
    assert first + steps(after, cut + 1, LENGTH) == told and len(told) > 10
    assert json.dumps(after.state_dict()) == json.dumps(whole.state_dict())


def test_the_same_sign_is_named_again_only_after_a_while_and_reported_once_each_time():
    reported: list[Alarm] = []
    watchers = Watchers(of_ppo(OPTIONS), reported.append)
    returned = []
    for step in range(1, 2 * REPEAT_AFTER + 5):
        metrics, answers = rollout(step, seed=0)
        returned += watchers.observe(step, metrics | {"val/ratio": 3.0, "policy/approxkl_avg": 1.0}, answers)
    assert reported == returned
    for signal in ("ratio", "step size"):
        assert [a.step for a in returned if a.signal == signal] == [1, 1 + REPEAT_AFTER, 1 + 2 * REPEAT_AFTER]


class Heard(Reporter):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


def test_stop_stops_at_a_serious_alarm_with_exit_6_and_not_at_a_notice():
    serious = Alarm("explosion", "ratio", 7, "serious", "the ratio is 3", "Too far", "Lower --lr")
    notice = replace(serious, severity="notice", signal="gradient")
    for mode in ("warn", "rollback"):
        heard = Heard()
        assert act([serious, notice], mode, heard) == [serious]
        assert heard.notices == ["explosion at rollout 7: the ratio is 3. Too far. Lower --lr."] * 2
    heard = Heard()
    assert act([notice], "stop", heard) == []
    with pytest.raises(AlarmError) as stopped:
        act([notice, serious], "stop", heard)
    assert len(heard.notices) == 3
    assert (stopped.value.exit_code, stopped.value.hint) == (6, "Lower --lr")
    assert str(stopped.value) == "explosion at rollout 7: the ratio is 3"


def test_the_page_names_every_sign():
    page = (Path(__file__).parent.parent / "docs" / "watchers.md").read_text(encoding="utf-8")
    table = page.split("## What each watches")[1].split("##")[0]
    for module in (explosion, reward_hacking, mode_collapse, stalling, sampling):
        part = table.split(f"**{module.NAME}**")[1].split("**")[0]
        named = [name for line in part.splitlines() if line.startswith("| ") for name in line.split("|")[1].split(",")]
        assert sorted(name.strip() for name in named if name.strip()) == sorted(module.SIGNS)


def test_nothing_heavy_is_imported():
    code = (
        "import prefcli.watch.watchers, sys; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_pooling_and_z_score_by_hand():
    values = [1.0, 2.0, 4.0, 8.0, 3.0]
    assert pooled([summary(values[:2]), summary(values[2:])]) == pytest.approx(summary(values))
    # means 0 and 1, errors 2/√4 and 3/√9
    assert z_score(Sample(4, 0.0, 4.0), Sample(9, 1.0, 9.0)) == pytest.approx(1 / math.sqrt(2))
    assert z_score(Sample(4, 1.0, 0.0), Sample(4, 1.0, 0.0)) == 0.0
    assert z_score(Sample(4, 1.0, 0.0), Sample(4, 0.0, 0.0)) == -math.inf


def test_a_mad_is_a_standard_deviation_of_normal_values_and_forgives_outliers():
    dice = random.Random(0)
    values = [dice.gauss(5, 2) for _ in range(2000)] + [1e6] * 20
    assert deviations_from(values, 9.0, 0.0) == pytest.approx(2.0, abs=0.15)
    assert deviations_from([1.0] * 5, 2.0, 0.5) == 2.0


def test_rank_correlation_by_hand():
    """1 − 6·Σd²/(n(n² − 1)) without ties; with ties Pearson's correlation of mean ranks."""
    assert rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 1, 2, 2], [1, 2, 3, 4]) == pytest.approx(2 / math.sqrt(5))  # ranks ½ ½ 2½ 2½
    assert rank_correlation([1, 1], [1, 2]) is None


def test_words_and_phrases_by_hand():
    assert answers_with(["a b c d", "x a b c", "a b c a b c", "q"], 3, 0.5) == {"a b c": 3}


def test_a_track_keeps_the_first_and_the_last():
    track = Track(2, 3)
    for value in range(6):
        assert track.ready == (value >= 5)
        track.add(value)
    assert (track.start, track.recent, track.ready) == ([0, 1], [3, 4, 5], True)
    longer = Track(4, 3)  # its first values are not those of the middle of a run that is resumed
    longer.load_state_dict(track.state_dict())
    longer.add(6)
    assert longer.start == [0, 1]

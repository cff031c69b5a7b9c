"""Watchers never end a run: none raises on any numbers, and one that does is isolated and says so."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from prefcli.progress import Reporter
from prefcli.watch import explosion, loss, mode_collapse, pairs, reward_hacking, sampling, stalling
from prefcli.watch.explosion import far_out
from prefcli.watch.records import Alarm, Answers
from prefcli.watch.series import Sample, deviations_from, pooled, summary, z_score
from prefcli.watch.watchers import Watchers, act, logged

STEPS, N = 60, 16
HUGE = 1e308
# kind of series → value at a step
SERIES = {
    "zeros": lambda dice, step: 0.0,
    "zeros, then one": lambda dice, step: float(step == 30),
    "a constant": lambda dice, step: 0.7,
    "a negative constant": lambda dice, step: -0.7,
    "NaN": lambda dice, step: math.nan,
    "infinity": lambda dice, step: math.inf,
    "both infinities": lambda dice, step: math.inf if step % 2 else -math.inf,
    "huge": lambda dice, step: HUGE,
    "huge of both signs": lambda dice, step: HUGE if step % 2 else -HUGE,
    "tiny": lambda dice, step: 5e-324,
    "any of these": lambda dice, step: dice.choice([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, HUGE, 5e-324]),
    "noise": lambda dice, step: dice.gauss(0, 1),
}
OF_PPO = {
    "explosion": explosion.Explosion,
    "reward hacking": reward_hacking.RewardHacking,
    "mode collapse": mode_collapse.ModeCollapse,
    "stalling": stalling.Stalling,
    "stalling, grouped": lambda: stalling.Stalling(2, grouped=True),
    "sampling drift": sampling.Sampling,
}
OF_TRAINING = {
    "loss": lambda: loss.Loss(N),
    "pairs": lambda: pairs.Pairs(N),
    "pairs, with a reference": lambda: pairs.Pairs(N, 0.1, from_reference=True),
    "pairs, with another reference": lambda: pairs.Pairs(N, 1e-6),
}
METRICS = {
    **dict.fromkeys(OF_PPO, (
        "grad_norm", "loss/policy_avg", "loss/value_avg", "val/ratio", "policy/approxkl_avg", "policy/clipfrac_avg",
        "policy/entropy_avg", "objective/kl", "objective/kl_k3", "lr",
        "sampling/kl", "sampling/ratio_mean")),
    **dict.fromkeys(OF_TRAINING, (
        "loss", "eval_loss", "grad_norm", "learning_rate", "accuracy", "margin", "rewards/accuracies",
        "rewards/margins", "rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected")),
}  # fmt: skip
TEXTS = ["", "a b c", "the very same", "a b c d e f"]


def answers(value: Any, dice: random.Random, step: int, n: int) -> Answers:
    def column() -> list[float]:
        return [value(dice, step) for _ in range(n)]

    return Answers([f"prompt {i // 2}" for i in range(n)], dice.choices(TEXTS, k=n), column(),
                   {"rm": column(), "other": column()}, [0 if i % 2 else 5 for i in range(n)], [True] * n,
                   {"judge": column()})  # fmt: skip


@pytest.mark.parametrize("n", [0, 1, N])
@pytest.mark.parametrize("kind", SERIES)
@pytest.mark.parametrize("name", [*OF_PPO, *OF_TRAINING])
def test_no_watcher_raises_whatever_the_numbers(name, kind, n):
    make = (OF_PPO | OF_TRAINING)[name]
    watcher, dice = make(), random.Random(0)
    for step in range(1, STEPS + 1):
        metrics = {metric: SERIES[kind](dice, step) for metric in METRICS[name]}
        for alarm in watcher.observe(step, metrics, answers(SERIES[kind], dice, step, n)):
            assert alarm.message
        if step == STEPS // 2:  # and a state goes through JSON
            state = json.loads(json.dumps(watcher.state_dict()))
            watcher = make()
            watcher.load_state_dict(state)


def test_the_first_gradient_after_many_of_exactly_0_is_no_explosion():
    """A 0/1 reward that nobody earned until now: its first success."""
    assert not far_out([0.0] * 8, 0.1)
    assert not far_out([0.0] * 12 + [0.1] * 4, 0.1)
    assert far_out([1.0] * 8, 10.1)
    assert deviations_from([0.0] * 8, 0.1, 0.0) == math.inf and deviations_from([0.0] * 8, 0.0, 0.0) == 0


def test_the_arithmetic_of_watchers_has_no_undefined_place():
    assert summary([]) == Sample(0, 0.0, 0.0) and pooled([]) == Sample(0, 0.0, 0.0)
    assert z_score(Sample(0, 0.0, 0.0), Sample(4, 1.0, 0.5)) == 0
    assert summary([HUGE, HUGE]).n == 2
    assert summary([1.0, 2.0, 4.0]).variance == pytest.approx(14 / 9)


class Broken:
    """Fails at every step from the third on."""

    def __init__(self) -> None:
        self.asked = 0

    def observe(self, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        self.asked += 1
        if step >= 3:
            raise ZeroDivisionError("float division by zero")
        return []

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise KeyError("norms")


class Sees:
    def observe(self, step: int, metrics: dict[str, float], answers: Answers) -> list[Alarm]:
        return [Alarm("sees", "it", step, "notice", "seen", "meant", "advised")]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Told(Reporter):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


def test_a_watcher_that_fails_is_named_once_and_the_others_go_on():
    watchers, reporter, rows = Watchers({"broken": Broken(), "sees": Sees()}), Told(), []
    for step in range(1, 6):
        alarms = watchers.observe(step, {"loss": 1.0})
        assert act(alarms, "stop", reporter) == []  # a fault of a watcher stops no run
        rows.append(logged(alarms))
    assert [text for text in reporter.notices if "ZeroDivisionError" in text] == [
        "the watcher of broken failed at rollout 3: ZeroDivisionError: float division by zero. This is a defect of "
        "prefcli, not of the run. The run continues without this watcher."
    ]
    assert rows[0] == {"alarm/sees": 1.0}
    assert rows[2] == {"watcher_failed/broken": 1.0}  # no alarm: nothing was seen of the run
    assert rows[3] == rows[4] == {}


def test_a_watcher_whose_state_does_not_load_starts_afresh():
    watchers = Watchers({"broken": Broken(), "sees": Sees()})
    watchers.load_state_dict({"watchers": {"broken": {}, "sees": {}}, "spoken": {}})
    found = watchers.observe(7, {"loss": 1.0})
    assert [alarm.watcher for alarm in found if alarm.failed] == ["broken"]
    assert [alarm.watcher for alarm in found if not alarm.failed] == ["sees"]


def test_a_number_of_the_answers_that_is_not_finite_is_seen_and_kept_out_of_all_histories():
    watchers = Watchers({"explosion": explosion.Explosion(), "reward hacking": reward_hacking.RewardHacking()})
    fine = Answers(["p"] * 4, ["a"] * 4, [0.1, 0.2, 0.3, 0.4], {"rm": [0.0] * 4}, [1] * 4, [True] * 4)
    bad = Answers(["p"] * 4, ["a"] * 4, [0.1, 0.2, 0.3, 0.4], {"rm": [0.0] * 4}, [1] * 4, [True] * 4,
                  {"judge": [0.0, math.nan, 0.0, 0.0]})  # fmt: skip
    assert watchers.observe(1, {"grad_norm": 1.0}, fine) == []
    assert [a.seen for a in watchers.observe(2, {"grad_norm": 1.0}, bad)] == ["not a finite number: scores of judge"]
    assert watchers.state_dict()["watchers"]["reward hacking"]["total"]["seen"] == 1

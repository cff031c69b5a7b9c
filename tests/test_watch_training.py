"""The watchers of sft, train-rm, dpo and kto, on made-up runs whose trouble has a known onset; what an alarm does to a
run; how much longer chosen answers are."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from prefcli import losses
from prefcli.config.dpo import DPOConfig
from prefcli.config.reward import RewardConfig
from prefcli.config.stages import STAGES
from prefcli.data.lengths import length_bias
from prefcli.stages import trl_trainer
from prefcli.stages.trl_trainer import watchers_of
from prefcli.watch import loss, pairs
from prefcli.watch.records import Alarm
from prefcli.watch.watchers import Watchers, of_training

BATCH, BETA, ONSET, LENGTH = 32, 0.1, 30, 80
Metrics = dict[str, float]


def dpo(step: int, seed: int) -> Metrics:
    """One step of a healthy run, its figures near those of `tiny` under the demo's options."""
    dice = random.Random(seed * 1000 + step)
    learnt = 0.0 if step < 3 else 1 - math.exp(-(step - 2) / 12)
    margin = learnt * dice.gauss(0.75, 0.12)
    chosen = learnt * dice.gauss(0.0, 0.04)
    return {
        "loss": math.log1p(math.exp(-margin)) + learnt * dice.gauss(0.1, 0.05),
        "grad_norm": dice.gauss(1, 0.12),
        "learning_rate": 1e-4 * min(1, step / 4) * (1 - step / 200),
        "rewards/chosen": chosen,
        "rewards/rejected": chosen - margin,
        "rewards/margins": margin,
        "rewards/accuracies": 0.0 if step < 3 else min(1.0, dice.gauss(0.82, 0.06)),
        "logps/chosen": dice.gauss(-4, 0.8) + chosen / BETA,
        "logps/rejected": dice.gauss(-9, 1.5) + (chosen - margin) / BETA,
        "mean_token_accuracy": dice.gauss(0.88, 0.01),
    }


def rm(step: int, seed: int) -> Metrics:
    made = dpo(step + 2, seed)
    return {name: made[name] for name in ("loss", "grad_norm", "learning_rate")} | {
        "accuracy": made["rewards/accuracies"], "margin": made["rewards/margins"], "mean_reward": 0.4,
    }  # fmt: skip


def sft(step: int, seed: int) -> Metrics:
    dice = random.Random(seed * 1000 + step)
    return {
        "loss": (0.8 + 4.5 * math.exp(-step / 10)) * dice.gauss(1, 0.15),
        "grad_norm": (1.2 + 8 * math.exp(-step / 10)) * dice.gauss(1, 0.15),
        "learning_rate": 1e-3 * (1 - step / 200),
        "mean_token_accuracy": dice.gauss(0.75, 0.05),
    }


def kto(step: int, seed: int) -> Metrics:
    made = dpo(step, seed)
    return {name: value for name, value in made.items() if name != "rewards/accuracies"} | {"kl": 0.3}


def watched(
    change: Callable[[Metrics, int], Metrics] | None, seed: int, healthy: Callable[[int, int], Metrics] = dpo,
    onset: int = ONSET,
) -> list[Alarm]:  # fmt: skip
    """All alarms of a run that is healthy but for `change`, which gets a step's metrics and the trouble's age."""
    watchers, found = Watchers(of_training(BATCH, BETA, from_reference=healthy in (dpo, kto))), []
    for step in range(1, LENGTH + 1):
        made = healthy(step, seed)
        found += watchers.observe(step, change(made, step - onset + 1) if change and step >= onset else made)
    return found


@pytest.mark.parametrize("healthy", [dpo, rm, sft, kto])
def test_silence_on_healthy_runs(healthy):
    for seed in range(6):
        assert watched(None, seed, healthy) == []


def metric(**values: float) -> Callable[[Metrics, int], Metrics]:
    """Metrics set to a value, `/` written as `__`."""
    return lambda made, age: made | {name.replace("__", "/"): value for name, value in values.items()}


def displaced(made: Metrics, age: int) -> Metrics:
    """Both sides lose half a nat a step, the rejected one twice as much."""
    lost = {"chosen": 0.5 * age, "rejected": age}
    return made | {f"{what}/{side}": made[f"{what}/{side}"] - scale * nats
                   for side, nats in lost.items() for what, scale in (("logps", 1), ("rewards", BETA))}  # fmt: skip


def evaluated(made: Metrics, age: int) -> Metrics:
    return {"eval_loss": 0.5 + 0.01 * age} if age % 10 == 0 else made


def apart(made: Metrics, age: int) -> Metrics:
    """The policy is 2 nats from what should be itself."""
    return made | {name: made[name] + 2 * BETA for name in ("rewards/chosen", "rewards/rejected")}


# watcher, sign, what goes wrong, at which step, in how many steps it must be seen
TROUBLES = [
    ("loss", "gradient", lambda made, age: made | {"grad_norm": 20 * made["grad_norm"]}, ONSET, 1),
    ("loss", "rises", lambda made, age: made | {"loss": 6 + 0.2 * age}, ONSET, 8),
    ("loss", "zero", metric(loss=0.0), 1, loss.START),
    ("loss", "saturated", metric(loss=0.002, rewards__accuracies=1.0), ONSET, loss.SATURATED_FOR),
    ("loss", "held-out", evaluated, ONSET, 20),
    ("pairs", "displacement begins", displaced, ONSET, 10),
    ("pairs", "displacement", displaced, ONSET, 12),
    ("pairs", "reference", apart, 1, 1),
    ("pairs", "too easy", metric(rewards__accuracies=1.0), 1, 2 + pairs.EASY_FOR),
    ("pairs", "guessing", lambda made, age: made | {"rewards/accuracies": 0.45 + age % 2 / 10}, ONSET, 20),
    ("pairs", "too slow", lambda made, age: made | {"rewards/margins": 1e-3 * made["rewards/margins"]}, 1, 25),
]


@pytest.mark.parametrize("watcher, signal, change, onset, delay", TROUBLES, ids=[f"{w}: {s}" for w, s, *_ in TROUBLES])
def test_each_sign_is_seen_soon_after_its_onset_and_not_before(watcher, signal, change, onset, delay):
    for seed in range(2):
        found = watched(change, seed, onset=onset)
        assert min(alarm.step for alarm in found) >= onset
        own = [alarm for alarm in found if (alarm.watcher, alarm.signal) == (watcher, signal)]
        assert own and own[0].step <= onset + delay - 1
        assert own[0].headline.startswith(f"{watcher} at step {own[0].step}: ")


def test_every_sign_is_tried():
    tried = {(watcher, signal) for watcher, signal, *_ in TROUBLES}
    assert {(m.NAME, s) for m in (loss, pairs) for s in m.SIGNS} - tried == {("pairs", "length")}  # below


def test_a_sign_speaks_whatever_else_is_logged():
    """train-rm, sft and kto have some of dpo's metrics: what is seen in these is seen there too."""
    rises = TROUBLES[1][2]
    assert {a.signal for a in watched(rises, 0, sft)} == {"rises"} == {a.signal for a in watched(rises, 0, rm)}
    assert "saturated" in {a.signal for a in watched(metric(loss=0.002, mean_token_accuracy=1.0), 0, sft)}
    assert {a.signal for a in watched(metric(accuracy=0.5), 0, rm)} == {"guessing"}
    assert {a.signal for a in watched(metric(accuracy=1.0), 0, rm, onset=1)} == {"too easy"}
    assert "displacement" in {a.signal for a in watched(displaced, 0, kto)}
    for name in dpo(1, 0):  # and none is needed

        def without(made: Metrics, age: int, name: str = name) -> Metrics:
            return {other: value for other, value in made.items() if other != name}

        assert watched(without, 0, onset=1) == []


def test_what_looks_like_trouble_and_is_none():
    def one_bad_batch(made: Metrics, age: int) -> Metrics:
        return made | {"loss": 2.0, "rewards/accuracies": 0.3, "logps/chosen": -12.0} if age == 1 else made

    assert watched(one_bad_batch, 0) == []
    assert watched(metric(loss=0.002), 0) == []  # some answers are still wrong
    warming = {"learning_rate": 0.0, "rewards/margins": 0.0, "rewards/accuracies": 0.5}
    slow = Watchers(of_training(BATCH, BETA, from_reference=True))
    for step in range(1, 100):  # a rate that still rises
        assert slow.observe(step, dpo(1, 0) | warming | {"learning_rate": step * 1e-9}) == []


def test_another_reference_is_no_alarm_where_it_was_asked_for():
    told = Watchers(of_training(BATCH, BETA, from_reference=False))
    assert told.observe(1, apart(dpo(1, 0), 1)) == []


@pytest.mark.parametrize(
    "references, expected",
    [({"reference": "start"}, 1), ({"reference": "other"}, 0), ({}, 0)],
)
def test_the_reference_is_checked_where_it_is_the_starting_model(references, expected):
    """`stages/trl_trainer.py` tells the watchers so."""
    config = DPOConfig(batch_size=BATCH, beta=BETA)
    inputs = SimpleNamespace(config=config, references={"model": "start", **references}, model="start")
    assert len(watchers_of(inputs).observe(1, apart(dpo(1, 0), 1))) == expected
    scorer = SimpleNamespace(config=RewardConfig(batch_size=BATCH), references={"model": "start"}, model="start")
    assert watchers_of(scorer).observe(1, rm(1, 0)) == []


@pytest.mark.parametrize("cut", [1, 4, 21, 43])
def test_a_resumed_run_goes_on_exactly(cut):
    def trouble(step: int) -> Metrics:
        made = dpo(step, 0)
        for *_, change, _, _ in TROUBLES if step >= 20 else []:
            made = made | change(made, step - 19)
        return made

    def steps(watchers: Watchers, start: int, end: int) -> list[Alarm]:
        return [alarm for step in range(start, end + 1) for alarm in watchers.observe(step, trouble(step))]

    whole, before, after = (Watchers(of_training(BATCH, BETA, from_reference=True)) for _ in range(3))
    told = steps(whole, 1, LENGTH)
    early = steps(before, 1, cut)
    after.load_state_dict(json.loads(json.dumps(before.state_dict(), allow_nan=False)))
    assert early + steps(after, cut + 1, LENGTH) == told and len(told) > 4
    assert after.state_dict() == whole.state_dict()


def test_length_bias_by_hand():
    """Two of four longer, one as long, one shorter: 1, 1, ½, 0. Differences of 3, 1, 0 and −2."""
    found = length_bias([(5, 2), (3, 2), (4, 4), (1, 3)])
    assert (found.pairs, found.share, found.difference, found.rejected) == (4, 0.625, 0.5, 2.75)
    half = 1.96 * math.sqrt((14 / 4 - 0.5**2) / 4)
    assert found.difference_ci95 == pytest.approx((0.5 - half, 0.5 + half), rel=1e-4)
    share, z = 0.625, 1.96  # the share's ends are where a test of it would turn: |p − share| = z·√(p(1 − p)/n)
    for end in found.share_ci95:
        assert abs(end - share) == pytest.approx(z * math.sqrt(end * (1 - end) / 4), rel=1e-4)


def test_length_bias_is_told_where_it_is_sure_and_large():
    dice = random.Random(0)

    def large(count: int, by: float) -> bool:
        return length_bias([(round(dice.gauss(20 + by, 5)), round(dice.gauss(20, 5))) for _ in range(count)]).large

    assert large(1000, 10) and not large(1000, 0) and not large(1000, -10)
    assert not length_bias([(30, 20)] * 3).large  # too few to be sure
    assert not length_bias([(101, 100)] * 1000).large  # always longer, and by nothing much


# Rates so high that the loss leaves its range, or the policy its reference, in a few steps.
WILD = ["--warmup", "0", "--lr-scheduler", "constant"]


def test_stop_ends_with_6_and_a_version_with_its_curves_that_can_be_used_and_is_not_reused(chain, prefcli):
    command = [*chain.args("dpo"), *WILD, "--lr", "0.05", "--max-steps", "40", "--on-alarm", "stop", "--name", "wild"]
    result = prefcli(*command)
    assert result.exit_code == 6 and result.stdout == ""
    for text in ("pairs at step 16: chosen answers lost", "wild@v1", "hint: Read some answers; lower --lr"):
        assert text in result.stderr
    version = chain.runs / "wild/v1"
    manifest = json.loads((version / "manifest.json").read_text())
    assert (manifest["status"], manifest["resources"]["steps"]) == ("stopped", 16)
    rows = [json.loads(line) for line in (version / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "alarm/pairs" in row] == [16] == [rows[-1]["step"]]
    assert (version / "report/curves.png").is_file()
    used = prefcli("eval", "--model", "wild@v1", "--prompts", chain.data("held_out_prompts"), "--max-new-tokens", "2")
    assert used.exit_code == 0, used.stderr
    again = prefcli(*command, "--dry-run")
    assert again.exit_code == 0 and "would be reused" not in again.stderr


def test_chosen_answers_that_are_longer_are_told_before_training_and_in_the_plan(chain, prefcli):
    rows = [json.loads(line) for line in open(chain.data("pairs"))]
    for row in rows:
        row["chosen"][-1]["content"] += " That is all that I can say about this at the moment."
    path = chain.folder / "padded.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    longer = "chosen answers are longer in 100% [89%, 100%] of 32 pairs"
    result = prefcli("dpo", "--model", "sft@v1", "--data", path, "--max-steps", "1", "--batch-size", "8")
    assert result.exit_code == 0 and f"note: pairs at step 0: {longer}" in result.stderr
    assert "step 0" not in chain["dpo"].stderr and "step 0" not in chain["rm"].stderr
    assert longer in prefcli("dpo", "--model", "sft@v1", "--data", path, "--dry-run").stderr


def test_warn_says_it_and_goes_on_and_a_tame_run_is_silent(chain, prefcli):
    wild = prefcli(*chain.args("sft"), *WILD, "--lr", "0.1", "--max-steps", "14", "--name", "wild")
    assert len((chain.path_of(wild) / "metrics.jsonl").read_text().splitlines()) == 14
    assert "loss at step" in wild.stderr
    for stage in ("sft", "rm", "dpo"):
        assert "at step" not in chain[stage].stderr


def test_a_loss_that_is_not_a_number_is_not_logged_as_0(chain, prefcli, monkeypatch):
    monkeypatch.setattr(losses, "logsigmoid", lambda margins: margins * torch.nan)
    result = prefcli(*chain.args("dpo"), "--force", "--name", "broken")
    assert result.exit_code == 6 and "not a number at step 1" in result.stderr


def test_the_best_held_out_loss_and_what_was_named_come_back_with_the_state():
    """Overfitting is judged against the best, which may lie before a stop; what was said is not said again."""
    before, after = Watchers(of_training(8)), Watchers(of_training(8))
    for step, found in enumerate((1.0, 0.5, 0.52), 1):
        assert before.observe(step, {"eval_loss": found}) == []
    (alarm,) = before.observe(4, {"eval_loss": 0.6})
    assert alarm.signal == "held-out" and "0.6, it was 0.5 at best" in alarm.seen
    state = json.loads(json.dumps(before.state_dict()))
    after.load_state_dict(state)
    assert after.observe(5, {"eval_loss": 0.7}) == []  # named a step ago
    fresh = Watchers(of_training(8))
    state["spoken"] = {}
    fresh.load_state_dict(state)
    assert [alarm.signal for alarm in fresh.observe(5, {"eval_loss": 0.7})] == ["held-out"]


@pytest.mark.parametrize(
    ("config", "beta"),
    [({"beta": 0.3}, 0.3), ({"reference_free": True, "beta": 0.3}, None), ({"loss": "simpo"}, None)],
)
def test_the_watchers_know_what_a_reward_is_worth_and_whether_the_reference_is_the_start(config, beta, monkeypatch):
    asked = []
    monkeypatch.setattr(trl_trainer, "of_training", lambda *args, **more: asked.append((args, more)) or {})
    for reference, same in (("start", True), ("another", False)):
        options = DPOConfig(batch_size=12, **config).resolved()
        references = {"model": "start"} if options.reference_free else {"model": "start", "reference": reference}
        trl_trainer.watchers_of(
            SimpleNamespace(config=options, references=references, model="start", stage=STAGES["dpo"])
        )
        assert asked.pop() == ((12, beta), {"from_reference": same and not options.reference_free})

"""Every rule of `advise` on both sides of each of its conditions, what it gives to whom, and what is decided by it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import PAIR, write

from prefcli.advice import situation as situations
from prefcli.advice.commands import commands
from prefcli.advice.decide import Decision, decide, reasons, why, would_change
from prefcli.advice.facts import METHODS, Facts
from prefcli.advice.hardware import STAGES, Fit, fits
from prefcli.advice.rules import RULES
from prefcli.artifacts.bases import Base
from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.cli.advise import cautions
from prefcli.cli.advise_questions import _reward
from prefcli.config.advise import AIMS, AdviseConfig
from prefcli.memory.gpus import Device
from prefcli.memory.shapes import typical
from prefcli.progress import SILENT
from prefcli.rewards.grammar import RewardSpec

WHOLE, ADAPTER = Fit(1), Fit(1, lora=True)
SPLIT = Fit(1, processes=8)


def fitting(**stages):
    """`fits`, all weights in one process but for these."""
    return dict.fromkeys(STAGES, WHOLE) | {name.replace("_", "-"): fit for name, fit in stages.items()}


def aim(name):
    return {"aims": frozenset({name})}


PROMPTS = {"files": {"prompts": ("p.jsonl",)}}
DPO = dict.fromkeys(("dpo", "robust-dpo", "ipo"), 2)
LEAN = dict.fromkeys(("dpo", "robust-dpo", "ipo", "kto"), 1)
SAMPLED = dict.fromkeys(("ppo", "rloo", "rejection", "rlaif", "iterative-dpo"))
# Rule → (facts with which it applies, facts with which it does not, what it gives; None: it rules out). Each condition
# of a rule is on both sides, at its limit where it has one.
CASES = {
    "no-pairs": ([{}], [{"pairs": 1}], dict.fromkeys(("dpo", "robust-dpo", "ipo"))),
    "no-labels": ([{}, {"pairs": 9}], [{"labels": 1}], {"kto": None}),
    "nothing-scores": ([{}, {"labels": 5}], [{"pairs": 1}, {"judge": "m"}, {"rewards": ("r",)}], SAMPLED),
    "no-labeller": ([{}, {"pairs": 9}], [{"judge": "m"}, {"rewards": ("r",)}], dict.fromkeys(("rlaif", "rejection"))),
    "no-prompts": (
        [{}, {"files": {"demos": ("d",)}}, {"files": {"prompts": ()}}],
        [PROMPTS, *({"files": {kind: ("x",)}} for kind in ("pairs", "labels", "answered"))],
        SAMPLED,
    ),
    "preferences-there": (
        [{"pairs": 1}, {"labels": 1}, {"judge": "m", **PROMPTS}, {"rewards": ("r",), **PROMPTS}],
        [{}, {"judge": "m"}, PROMPTS, {"demos": 9}],
        {"collect": None},
    ),
    "no-memory-dpo": (
        [{"fits": fitting(dpo=None)}],
        [{}, {"fits": fitting()}, {"fits": fitting(kto=None)}, {"fits": fitting(dpo=ADAPTER)}],
        dict.fromkeys(("dpo", "robust-dpo", "ipo", "rlaif", "collect")),
    ),
    "no-memory-dpo-rounds": (
        [{"fits": fitting(dpo_rounds=None)}],
        [{}, {"fits": fitting(dpo=None)}],
        {"iterative-dpo": None},
    ),
    "no-memory-kto": ([{"fits": fitting(kto=None)}], [{}, {"fits": fitting(dpo=None)}], {"kto": None}),
    "no-memory-sft": ([{"fits": fitting(sft=None)}], [{}, {"fits": fitting(dpo=None)}], {"rejection": None}),
    "no-memory-sample": (
        [{"fits": fitting(sample=None)}],
        [{}, {"fits": fitting(sample=SPLIT)}],
        dict.fromkeys(("rejection", "rlaif", "iterative-dpo", "collect")),
    ),
    "no-memory-to-judge": (
        [{"fits": fitting(sample=None), "judge": "m"}],
        [
            {"judge": "m"},
            {"fits": fitting(sample=SPLIT), "judge": "m"},
            {"fits": fitting(sample=None)},
            {"fits": fitting(sample=None), "judge": "m", "pairs": 1},
            {"fits": fitting(sample=None), "judge": "m", "rewards": ("r",)},
        ],
        {"ppo": None, "rloo": None},
    ),
    "no-memory-ppo": ([{"fits": fitting(ppo=None)}], [{}, {"fits": fitting(rloo=None)}], {"ppo": None}),
    "no-memory-rloo": ([{"fits": fitting(rloo=None)}], [{}, {"fits": fitting(ppo=None)}], {"rloo": None}),
    "collect": ([{}, {"demos": 9}], [{"pairs": 1}, {"labels": 1}, {"judge": "m"}, {"rewards": ("r",)}], {"collect": 3}),
    "no-prompts-yet": ([{"judge": "m"}, {"rewards": ("r",)}], [{}, {"judge": "m", **PROMPTS}], {"collect": 3}),
    "dpo-first": ([{}, {"pairs": 9}], [], {"dpo": 1}),
    "good-pairs": (
        [{"pairs": 200}, {"pairs": 200, "noise": 0.09}],
        [{"pairs": 199}, {"pairs": 900, "noise": 0.1}],
        DPO,
    ),
    "noisy-pairs": (
        [{"noise": 0.1, "noise_estimate": 0.2}],
        [{}, {"noise": 0.09, "noise_estimate": 0.3}],
        {"robust-dpo": 4, "ipo": 2},
    ),
    "few-pairs": ([{"pairs": 1}, {"pairs": 100}, {"pairs": 199}], [{}, {"pairs": 200}], {"ipo": 2}),
    "certain-pairs": ([{"confirmed": 20}], [{"confirmed": 19}, {"confirmed": 99, "contradicted": 1}], {"ipo": 2}),
    "only-labels": ([{"labels": 1}], [{}, {"labels": 9, "pairs": 1}], {"kto": 4}),
    "more-labels": (
        [{"pairs": 10, "labels": 21}],
        [{"pairs": 10, "labels": 20}, {"pairs": 20, "labels": 10}, {"labels": 30}],
        {"kto": 4},
    ),
    "judge": (
        [{"judge": "m"}],
        [{}, {"judge": "m", "pairs": 1}, {"judge": "m", "labels": 1}, {"rewards": ("r",)}],
        {"rlaif": 3, "iterative-dpo": 2, "rejection": 1},
    ),
    "reward": (
        [{"rewards": ("r",)}],
        [{}, {"rewards": ("r",), "pairs": 1}, {"rewards": ("r",), "labels": 1}, {"judge": "m"}],
        {"rejection": 3, "rlaif": 2, "iterative-dpo": 1, "ppo": 1, "rloo": 1},
    ),
    "reward-guesses": (
        [{"reward_right": (0.5, 0.4, 0.59)}],
        [{}, {"reward_right": (0.5, 0.4, 0.6)}, {"reward_right": (0.58, 0.5, 0.66)}],
        {"ppo": -3, "rloo": -3, "rejection": -3, "rlaif": -1},
    ),
    "little-memory": (
        [{"pairs": 9, "fits": fitting(ppo=ADAPTER)}],
        [
            {"pairs": 9, "fits": fitting(ppo=SPLIT)},
            {"pairs": 9},
            {"pairs": 9, "fits": fitting()},
            {"fits": fitting(ppo=ADAPTER)},
            {"pairs": 9, "fits": fitting(ppo=ADAPTER, dpo=ADAPTER)},
            {"pairs": 9, "fits": fitting(dpo=ADAPTER)},
        ],
        LEAN,
    ),
    "no-value-model": (
        [{"fits": fitting(ppo=ADAPTER)}, {"fits": fitting(ppo=None)}],
        [{}, {"fits": fitting()}, {"fits": fitting(ppo=ADAPTER, rloo=ADAPTER)}, {"fits": fitting(rloo=ADAPTER)}],
        {"rloo": 2},
    ),
    "one-device": ([{"pairs": 9}, {"pairs": 9, "gpus": 1}], [{"gpus": 1}, {"pairs": 9, "gpus": 2}], LEAN),
    "many-prompts": (
        [{"pairs": 10, "prompts": 100}],
        [{"pairs": 10, "prompts": 99}, {"prompts": 100}, {"pairs": 10, "prompts": 10}],
        {"ppo": 6, "rloo": 5, "rlaif": 3},
    ),
    "very-large": (
        [{"params": 30_000_000_000, "gpus": 8}, {"params": 30_000_000_000, "gpus": 1, **aim("team")}],
        [{}, {"params": 29_000_000_000, "gpus": 8}, {"params": 70_000_000_000, "gpus": 7}, {"gpus": 8, **aim("team")}],
        {"ppo": 6, "rloo": 5},
    ),
    "first-time": ([aim("first-time")], [{}, aim("team")], DPO | {"kto": 2, "rejection": 1, "rlaif": 1}),
    "stability": ([aim("stability")], [{}, aim("team")], DPO | {"kto": 2, "rejection": 1, "ppo": -1}),
    "little-time": ([aim("little-time")], [{}, aim("team")], DPO | {"kto": 2, "rejection": 1, "rloo": 1}),
    "research": ([aim("research")], [{}, aim("research-rlhf")], DPO | {"kto": 2, "rejection": 1}),
    "iterate-on-reward": ([aim("iterate-on-reward")], [{}, aim("online")], {"ppo": 6, "rloo": 5, "rejection": 1}),
    "several-objectives": ([aim("several-objectives")], [{}, aim("online")], {"ppo": 6, "rloo": 5, "rejection": 1}),
    "online": ([aim("online")], [{}, aim("team")], {"iterative-dpo": 5, "ppo": 4, "rloo": 3}),
    "team": ([aim("team")], [{}, aim("online")], {"ppo": 6, "rloo": 4}),
    "research-rlhf": ([aim("research-rlhf")], [{}, aim("research")], {"ppo": 6, "rloo": 4}),
}


def test_no_rule_is_left_out_here():
    assert [rule.name for rule in RULES if rule.name not in CASES] == []
    assert len({rule.name for rule in RULES}) == len(RULES) == len(CASES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_applies_where_it_should_and_nowhere_else_and_gives_what_it_says(rule):
    applies, does_not, given = CASES[rule.name]
    for known in applies:
        facts = Facts(device="a device", **known)
        assert rule.when(facts), known
        assert "{" not in rule.because.format(f=facts)
    for known in does_not:
        assert not rule.when(Facts(**known)), known
    assert dict(rule.favours) == {method: points for method, points in given.items() if points is not None}
    assert set(rule.rules_out) == {method for method, points in given.items() if points is None}


FILES = {"pairs": ("p.jsonl",), "prompts": ("q.jsonl",)}


def test_the_next_best_is_of_another_family_and_the_weightiest_reason_comes_first():
    facts = Facts(pairs=500, noise=0.2, noise_estimate=0.25, relabelled=90, contradicted=40, gpus=2, files=FILES,
                  **aim("team"))  # fmt: skip
    decision = decide(facts)
    # robust-dpo 4, ipo 2, dpo 1; ppo 6, rloo 4
    assert (decision.method, decision.runner_up) == ("ppo", "robust-dpo")
    assert decision.scores["robust-dpo"] == 4 and decision.scores["rloo"] == 4
    certain = Facts(pairs=500, confirmed=30, gpus=1, files=FILES, **aim("stability"))
    decision = decide(certain)
    assert decision.method == "ipo"  # 2 certain, 2 good, 2 stability, 1 one device
    points = [reason.points for reason in reasons(certain, decision)]
    assert points == sorted(points, key=abs, reverse=True) and points[0] == 2 and points[-1] == 0
    assert METHODS[decision.runner_up].family != "dpo"
    assert [entry["points"] for entry in why(certain, decision)] == points


def test_what_speaks_against_a_method_is_among_its_reasons_by_its_weight():
    facts = Facts(rewards=("r",), reward_right=(0.5, 0.4, 0.5), files=FILES, prompts=9, **aim("iterate-on-reward"))
    decision = decide(facts)
    assert decision.method == "ppo"  # 6 of the aim, 1 of the reward, −3 of its guesses
    assert [reason.points for reason in reasons(facts, decision)] == [6, -3, 1, 0]


def test_what_would_change_the_answer_is_tried_in_both_directions():
    """An aim that is there is taken away, one that is not is added; each change gives the method that it says."""
    facts = Facts(pairs=500, gpus=1, files=FILES, prompts=20, aims=frozenset({"online", "stability"}))
    assert decide(facts).method == "dpo"
    told = {change["if"]: change["then"] for change in would_change(facts, decide(facts))}
    assert told["not for --aim stability"] == METHODS["iterative-dpo"].title
    calm = Facts(pairs=500, gpus=1, files=FILES)
    told = {change["if"]: change["then"] for change in would_change(calm, decide(calm))}
    assert told["many labels of the pairs turned out to be wrong"] == METHODS["robust-dpo"].title
    assert any(text.endswith("(--aim iterate-on-reward)") and then == METHODS["ppo"].title
               for text, then in told.items())  # fmt: skip


# What the facts are made of


def situation(tmp_path, jsonl, rows, **options):
    return situations.situation(
        AdviseConfig(data=[str(jsonl("d.jsonl", *rows))], gpu="cpu", params="7B", **options), SILENT
    )


def labelled_twice(n, contradicted):
    rows = [{"prompt": f"Q {i}?", "chosen": f"Yes {i}.", "rejected": f"No {i}.", "by": "a"} for i in range(n)]
    again = [row | {"by": "b"} for row in rows]
    for row in again[:contradicted]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return rows + again


def test_what_the_labels_show_reaches_the_facts_each_in_its_place(own_folder, jsonl):
    facts = situation(own_folder, jsonl, labelled_twice(50, 15))
    assert (facts.pairs, facts.relabelled, facts.contradicted, facts.confirmed) == (100, 50, 15, 35)
    # 15 of 50 disagree: e = (1 − √(1 − 2·0.3)) / 2; the rules go by the lower end of the interval
    assert facts.noise_estimate == pytest.approx((1 - 0.4**0.5) / 2)
    assert 0.1 < facts.noise < facts.noise_estimate - 0.02
    assert facts.params == 7_000_000_000 or 6e9 < facts.params < 8e9
    assert facts.longer_chosen == 0.7 * 1.0 + 0.3 * 0.5  # "Yes" is longer; contradicted pairs half
    assert facts.gpus == 0 and facts.files["pairs"]


def test_one_reward_is_held_against_the_pairs_and_of_several_none(own_folder, jsonl):
    likes = "def {}(prompts, completions, **_):\n    return [{} * float('Yes' in c) for c in completions]\n"
    write(own_folder / "r.py", likes.format("a", 1) + likes.format("b", -1))
    rows = labelled_twice(20, 5)
    one = situation(own_folder, jsonl, rows, reward=["python:r.py:a"])
    assert one.reward_right[0] == 35 / 40 and one.reward_right[1] < 35 / 40 < one.reward_right[2]
    assert situation(own_folder, jsonl, rows, reward=["python:r.py:b"]).reward_right[0] == 5 / 40
    assert situation(own_folder, jsonl, rows, reward=["python:r.py:a", "python:r.py:b"]).reward_right is None
    assert situation(own_folder, jsonl, rows).reward_right is None


def test_a_reward_model_speaks_by_what_its_manifest_recorded(own_folder, jsonl, make_artifact):
    make_artifact("rm", metrics={"accuracy": 0.7, "accuracy_ci95": [0.6, 0.8]})
    assert situation(own_folder, jsonl, [PAIR], reward=["rm"]).reward_right == (0.7, 0.6, 0.8)
    make_artifact("other", stage="rm", metrics={"loss": 0.7})
    assert situation(own_folder, jsonl, [PAIR], reward=["other"]).reward_right is None


def test_a_reward_model_that_is_an_adapter_on_the_models_base_is_none_beside_it(own_folder, jsonl, monkeypatch):
    write(own_folder / "rm" / "adapter_config.json", '{"peft_type": "LORA"}')
    tiny, elsewhere = resolve("tiny", Store()), Reference("m", "directory", own_folder, "1", base=Base("m", own_folder))
    asked = []
    monkeypatch.setattr(situations, "fits", lambda *given: asked.append(given[3:]) or {})
    for base, config in ((tiny.base, {}), (elsewhere.base, {}), (tiny.base, {"params": "7B"})):
        rm = RewardSpec("rm", "rm", Reference("rm", "directory", own_folder / "rm", "2", base=base))
        monkeypatch.setattr(situations, "parse_rewards", lambda *_, rm=rm: [rm])
        data = [str(jsonl("d.jsonl", PAIR))]
        situations.situation(AdviseConfig(data=data, gpu="cpu", model="tiny", reward=["rm"], **config), SILENT)
    assert [(given > 0, apart == given) for given, apart in asked] == [(True, False), (True, True), (True, True)]
    assert asked[0][1] == 0


def test_aims_are_read_however_they_are_spelt():
    assert situations.aims_of(["First_Time", " team "]) == {"first-time", "team"} <= set(AIMS)


@pytest.mark.parametrize(("rewards", "judge", "by"), [
    (("gold=python:r.py:score",), None, "python:r.py:score"),
    (("rm@v1",), "m", "rm@v1"),
    (("https://host/x?a=b",), None, "https://host/x?a=b"),
    ((), "m", "judge:m"),
    ((), None, "human"),
])  # fmt: skip
def test_who_labels_is_the_first_reward_then_the_judge_then_a_person(rewards, judge, by):
    assert Facts(rewards=rewards, judge=judge).labeller == by


# Memory


def test_a_reward_model_with_weights_of_its_own_takes_them_beside_the_adapters():
    """On one base the reward model is an adapter more; elsewhere it is a whole model, of 2 bytes a parameter."""
    model, where = typical(7_000_000_000), Device("x", 60 * 10**9, 1, bf16=True)
    alone, beside = fits(model, where), fits(model, where, 0, model.scorer_parameters)
    assert alone["ppo"].lora and beside["ppo"].lora
    assert beside["ppo"].bytes - alone["ppo"].bytes == pytest.approx(2 * model.scorer_parameters, rel=1e-6)
    assert beside["dpo"] == alone["dpo"] and beside["train-rm"] == alone["train-rm"]
    tight = Device("x", 22 * 10**9, 1, bf16=True)  # where not even a base in 4 bits leaves room for it
    assert fits(model, tight)["ppo"] is not None and fits(model, tight, 0, model.scorer_parameters)["ppo"] is None


def test_every_reward_model_is_counted_and_a_function_takes_no_memory():
    model, where = typical(1_000_000_000), Device("x", 10**12, 1, bf16=True)
    none, one, three = (fits(model, where, trained)["ppo"].bytes for trained in (0, 1, 3))
    assert not fits(model, where, 3)["ppo"].lora
    assert one - none == 2 * model.scorer_parameters and three - one == 2 * (one - none)
    small = fits(model, where, 0, model.scorer_parameters // 2)["ppo"].bytes
    assert small - none == model.scorer_parameters
    objectives = Facts(aims=frozenset({"several-objectives"}), files={"pairs": ("a.jsonl", "b.jsonl")})
    assert (objectives.reward_models, Facts(files=objectives.files).reward_models) == (2, 1)


def test_rounds_of_dpo_hold_their_reference_beside_the_policy():
    """From the second round on the policy is another model than the reference, which so shares no base with it."""
    model, where = typical(7_000_000_000), Device("x", 60 * 10**9, 1, bf16=True)
    found = fits(model, where)
    assert found["dpo"].lora and found["dpo-rounds"].lora
    assert found["dpo-rounds"].bytes - found["dpo"].bytes == pytest.approx(2 * model.parameters, rel=0.01)
    tight = fits(model, Device("x", 24 * 10**9, 1, bf16=True))
    assert not tight["dpo"].in_4bit and tight["dpo-rounds"].in_4bit
    facts = Facts(model="sft@v1", files=FILES, rewards=("python:r.py:score",), fits=tight)
    rounds = [line for line in commands("iterative-dpo", facts)[0] if " dpo " in line]
    assert len(rounds) == 2 and all("--load-in-4bit" in line for line in rounds)


def test_a_given_adapter_on_the_models_base_takes_none_of_its_own_beside_an_adapter():
    model, where = typical(7_000_000_000), Device("x", 60 * 10**9, 1, bf16=True)
    shared, whole = (fits(model, where, 0, model.scorer_parameters, apart)["ppo"] for apart in (0, None))
    assert shared == fits(model, where)["ppo"] and shared.lora
    assert whole.bytes - shared.bytes == pytest.approx(2 * model.scorer_parameters, rel=1e-6)


def test_what_answers_is_split_where_its_weights_are_more_than_one_gpu_holds():
    model, gpu = typical(70_000_000_000), Device("x", 80 * 10**9, 1, bf16=True)
    found = {count: fits(model, replace(gpu, count=count)) for count in (1, 8)}
    assert found[1]["sample"] is None and found[1]["dpo"].in_4bit
    for method in ("dpo", "kto", "ppo", "rloo"):
        _, notes = commands(method, Facts(model="a/b-70B-it", files=FILES | PROMPTS["files"], fits=found[1]))
        assert sum("evaluate it on a larger device" in note for note in notes) == 1
    facts = Facts(model="a/b-70B-it", files=FILES | PROMPTS["files"], rewards=("r@v1", "s@v1"), fits=found[8])
    said, notes = commands("rlaif", facts)
    assert said[0].startswith("torchrun --nproc-per-node 8 -m prefcli sample ") and said[0].endswith(" --shard")
    assert said[1].startswith("prefcli label ")  # r@v1 is of another size
    assert any("first reward, r@v1" in note for note in notes)
    assert commands("iterative-dpo", replace(facts, rewards=()))[0][1].startswith("torchrun")
    small = fits(typical(7_000_000_000), gpu)
    assert commands("rlaif", replace(facts, fits=small))[0][0].startswith("prefcli sample")


def test_what_is_usable_is_less_than_what_the_device_has():
    model, needed = typical(1_000_000_000), None
    needed = fits(model, Device("x", 10**15, 1, bf16=True))["dpo"].bytes
    assert not fits(model, Device("x", int(needed / 0.9) + 10**6, 1, bf16=True))["dpo"].lora
    assert fits(model, Device("x", int(needed / 0.9) - 10**6, 1, bf16=True))["dpo"].options


# The commands


def lines(method, **known):
    return commands(method, Facts(**{"model": "sft@v1", "files": FILES, **known}))[0]


def test_robust_is_told_the_likeliest_share_of_wrong_labels():
    found = {share: lines("robust-dpo", noise=0.1, noise_estimate=share)[0] for share in (0.23, 0.7, None)}
    assert ["--label-smoothing 0.23" in found[0.23], "0.30" in found[0.7], "0.01" in found[None]] == [True] * 3


def test_rounds_of_dpo_keep_the_first_reference_and_go_on_from_the_last_policy():
    found = [line for line in lines("iterative-dpo", rewards=("python:r.py:score",)) if " dpo " in line]
    assert len(found) == 2 and all("--reference sft@v1" in line for line in found)
    assert "--model sft@v1" in found[0] and '--model "$POLICY1"' in found[1]


def test_the_notes_name_the_models_that_the_lines_made():
    for model, start in (("sft@v1", "sft@v1"), ("a/b-7B", '"$SFT"')):
        _, notes = commands("ppo", Facts(model=model, files=FILES, rewards=("r@v1",)))
        assert f'prefcli eval --against {start} --model "$PPO" --prompts FILE' in notes[-1]


@pytest.mark.parametrize(
    ("method", "option"),
    [("ppo", "--length-penalty"), ("rlaif", "--length-normalise"), ("kto", None), ("rejection", None)],
)
def test_an_option_against_length_is_named_where_the_stage_has_it(method, option):
    facts = Facts(longer_chosen=0.9, longer_interval=(0.8, 0.95))
    (said,) = cautions(facts, Decision(method, None, {}, {}, (), ()))
    assert option is None and "--" not in said or f"{option} works against it" in said


def test_a_reward_is_read_as_a_shell_reads_it(own_folder):
    (own_folder / "my score.py").write_text("def score(prompts, completions, **_):\n    return [0.0]\n")
    assert _reward(Store())("'python:my score.py:score'") == ["python:my score.py:score"]


def test_rejection_trains_on_the_best_answers_and_rlaif_on_pairs():
    best, made = lines("rejection", rewards=("python:r.py:score",)), lines("rlaif", rewards=("python:r.py:score",))
    assert any(" label " in line and "--to best" in line for line in best) and any(" sft " in line for line in best)
    assert not any("--to best" in line for line in made) and any(" dpo " in line for line in made)


def test_several_rewards_weigh_alike_and_a_single_one_is_not_weighed():
    two = lines("ppo", rewards=("a=python:r.py:a", "b=python:r.py:b"))
    assert "--reward-weight a=0.5 --reward-weight b=0.5" in two[-1]
    assert "--reward-weight" not in lines("ppo", rewards=("a=python:r.py:a",))[-1]
    assert "--advantage rloo" in lines("rloo", rewards=("r@v1",))[-1] and "rloo" not in two[-1]


def test_a_tuned_model_needs_no_fine_tuning_first_and_another_does():
    demos = FILES | {"demos": ("d.jsonl",)}
    for tuned in ("a/b-Instruct", "a/b-7b-it", "sft@v1", "a/openchat"):
        assert not any(" sft " in line for line in lines("dpo", model=tuned, files=FILES))
    assert any(" sft " in line for line in lines("dpo", model="a/llama-7b-italian"))
    assert any(" sft " in line and "p.jsonl" in line for line in lines("dpo", model="a/b-7B"))
    assert any(" sft " in line and "d.jsonl" in line for line in lines("dpo", model="a/b-7B", files=demos))


def test_a_file_of_the_users_is_never_written_over():
    taken = {"prompts": ("answers.jsonl",), "pairs": ("labelled.jsonl",)}
    found = "\n".join(lines("rlaif", rewards=("python:r.py:score",), files=taken))
    assert "--out answers2.jsonl" in found and "--out labelled2.jsonl" in found

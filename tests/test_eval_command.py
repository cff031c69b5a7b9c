"""`prefcli eval` beyond one row a model: differences, agreement, best of n, the steps of a run, a judge."""

from __future__ import annotations

import json
import os
import shutil
from itertools import pairwise

import pytest
import torch
from conftest import write
from matplotlib.figure import Figure
from test_label import endpoint, no_waiting_and_no_key  # noqa: F401  fixtures

from prefcli.artifacts.manifest import write_manifest
from prefcli.artifacts.references import expand
from prefcli.artifacts.store import Store, open_artifact
from prefcli.errors import ArtifactError
from prefcli.evaluation.judged import Wins, ask_both
from prefcli.evaluation.models import win_rate_of_many
from prefcli.files import digest_file
from prefcli.rewards.sources import ModelReward
from prefcli.statistics.intervals import wilson_interval


def keep_steps(chain, **models):
    """These are the kept states of ppo@v1, made of other stages' models."""
    ppo = open_artifact(chain.path("ppo"))
    shutil.rmtree(ppo.path / "state", ignore_errors=True)
    for name in [name for name in ppo.manifest.files if name.startswith("state/")]:
        del ppo.manifest.files[name]
    for step, stage in models.items():
        model = f"state/{step}/model"
        shutil.copytree(chain.path(stage) / "model", ppo.path / model, copy_function=os.link)
        ppo.manifest.files.update({f"{model}/{path.name}": digest_file(path) for path in (ppo.path / model).iterdir()})
    write_manifest(ppo.manifest, ppo.path)


@pytest.fixture
def deep(chain, prefcli):
    """`deep(*options)` evaluates on four prompts by gold and rm."""

    def run(*options):
        result = prefcli(
            "eval", "--prompts", chain.data("held_out_prompts"), "--max-prompts", "4", "--max-new-tokens", "6",
            "--reward", f"gold=python:{chain.sample_data}/gold.py:score", "--reward", "rm", *options,
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        return result

    return run


def test_steps_of_a_run_and_best_of_n_are_the_models_own_figures(chain, deep, own_folder, monkeypatch):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **more: (figures.append(self), save(self, *a, **more)))
    keep_steps(chain, step1="sft", step2="dpo")
    options = ["--model", "ppo@v1:steps", "--model", "ppo", "--against", "sft", "--best-of", "3", "--plot", "o.svg"]
    result = deep(*options, "--json")
    found = json.loads(result.stdout)
    refs = ["sft@v1", "ppo@v1:step1", "ppo@v1:step2", "ppo@v1"]
    models = {entry["ref"]: entry for entry in found["models"]}
    assert list(models) == refs and found["answers"] == 3
    assert models["ppo@v1:step1"]["kl"] == pytest.approx(0, abs=1e-6) and models["ppo@v1:step2"]["kl"] > 0
    for entry in found["differences"]:
        mean = {ref: models[ref]["reward"][entry["reward"]]["mean"] for ref in (entry["a"], entry["b"])}
        assert entry["mean"] == pytest.approx(mean[entry["a"]] - mean[entry["b"]])
        assert entry["ci95"][0] <= entry["mean"] <= entry["ci95"][1] and entry["p"] <= entry["p_holm"] <= 1
        assert entry["p"] >= 2 / 2**4
    assert len(found["differences"]) == 6 * 2
    best, training = found["overoptimisation"]
    assert (best["of"], best["kind"], training["of"], training["kind"]) == ("sft@v1", "best-of-n", "ppo", "rl")
    assert {curve["gold"] for curve in (best, training)} == {"gold"} and best["proxy"] == "rm"
    assert best["points"][0]["proxy"] == pytest.approx(models["sft@v1"]["reward"]["rm"]["mean"])
    assert best["points"][0]["gold"] == pytest.approx(models["sft@v1"]["reward"]["gold"]["mean"])
    assert all(a["proxy"] <= b["proxy"] for a, b in pairwise(best["points"])) and best["gold_fit"] is None
    for point in training["points"]:
        entry = models[point["ref"]]
        assert point["kl"] == pytest.approx(entry["kl"]) and point["gold_ci95"] == pytest.approx(
            entry["reward"]["gold"]["ci95"]
        )
    assert [point["ref"] for point in training["points"]] == refs
    (entry,) = found["agreement"]
    assert (entry["a"], entry["b"], entry["on"], entry["answers"]) == ("gold", "rm", "answers", 4 * 3 * 4)
    assert "<svg" in (own_folder / "o.svg").read_text() and "wrote o.svg" in result.stderr
    first, second = figures[0].axes
    assert first.get_title(loc="left") == "best of n: sft@v1" and second.get_title(loc="left") == "training: ppo"
    drawn = [point["proxy"] - training["points"][0]["proxy"] for point in training["points"]]
    assert list(second.lines[0].get_ydata()) == pytest.approx(drawn)


def test_the_tables_say_what_was_compared_and_with_a_judge_who_asked(chain, deep):
    result = deep("--model", "dpo", "--against", "sft", "--best-of", "2", "--judge", "tiny",
                  "--pairs", chain.data("held_out_pairs"))  # fmt: skip
    for piece in ("4 prompts, 2 answers each", "dpo@v1 − sft@v1", "best of n by rm (proxy)", "judge tiny, against sft",
                  "too few points", "gold, rm", "32 pairs", "p: paired sign-flip test over prompts."):  # fmt: skip
        assert piece in result.stdout, piece


def test_several_answers_stay_with_their_prompt(chain, prefcli, own_folder):
    """Of a reward that reads the prompt alone the best of n is worth what one answer is."""
    write(
        own_folder / "p.py",
        "def score(prompts, completions, **_):\n    return [float(sum(map(ord, p)) % 97) for p in prompts]\n",
    )
    result = prefcli("eval", "--model", "sft", "--prompts", chain.data("held_out_prompts"), "--max-prompts", "4",
                     "--max-new-tokens", "2", "--best-of", "3", "--reward", "a=python:p.py:score",
                     "--reward", "b=python:p.py:score", "--json")  # fmt: skip
    (curve,) = json.loads(result.stdout)["overoptimisation"]
    assert len({round(point["proxy"], 6) for point in curve["points"]}) == 1
    (entry,) = json.loads(result.stdout)["agreement"]
    assert entry["rho"] == pytest.approx(1) and entry["comparisons"] == 0 and entry["same_order"] is None


def test_a_win_rate_of_several_answers_takes_the_prompt_as_its_unit():
    rate, interval = win_rate_of_many([[1, 2], [3, 3], [0, 0]], [[0, 2], [4, 4], [0, 1]])
    assert rate == pytest.approx((0.75 + 0 + 0.25) / 3) and interval == wilson_interval(1.0, 3)


# The judge


class Stub:
    ref = digest = "stub"

    def __init__(self, verdict):
        self.verdict, self.asked = verdict, []

    def verdicts(self, questions):
        pieces = [question.split("[Answer A]\n")[1].split("\n\n[Question]")[0] for question in questions]
        both = [tuple(piece.split("\n\n[Answer B]\n")) for piece in pieces]
        self.asked += both
        return [self.verdict(*answers) for answers in both]


def judged_win_rate(judge, *texts):
    wins = Wins()
    wins.add(ask_both(judge, *texts))
    return wins.summary()


def test_a_judged_win_needs_both_orders_and_identical_answers_are_not_asked():
    answers = [f"{'long' if i % 3 else ''}mine" for i in range(40)]
    baseline = ["mine" if i % 4 == 0 else "middle" for i in range(40)]
    judge = Stub(lambda a, b: 1.0 if len(a) > len(b) else 0.0 if len(a) < len(b) else None)
    found = judged_win_rate(judge, ["p"] * 40, answers, baseline)
    outcomes = [(len(a) > len(b)) + (len(a) == len(b)) / 2 for a, b in zip(answers, baseline)]
    same = sum(a == b for a, b in zip(answers, baseline))
    assert found["win_rate"] == sum(outcomes) / 40 and found["win_rate_ci95"] == list(
        wilson_interval(sum(outcomes), 40)
    )
    assert found["identical"] == same > 0 and len(judge.asked) == 2 * (40 - same)
    assert {(b, a) for a, b in judge.asked} == set(judge.asked)
    assert (found["first_place"], found["same_place"], found["ties"]) == (0.5, 0.0, 0)


def test_a_judge_that_sees_the_place_alone_wins_nothing_and_shows():
    answers, baseline = ["a"] * 20, ["b"] * 20
    found = judged_win_rate(Stub(lambda *_: 0.0), ["p"] * 20, answers, baseline)
    assert (found["win_rate"], found["ties"], found["first_place"], found["same_place"]) == (0.5, 20, 0.0, 1.0)
    assert found["same_place_ci95"] == list(wilson_interval(20, 20))
    none = judged_win_rate(Stub(lambda *_: 1 / 0), ["p"] * 20, answers, answers)
    assert none["win_rate"] == 0.5 and none["identical"] == 20 and none["first_place"] is none["same_place"] is None


def test_an_endpoint_judges_the_first_answers(chain, deep, endpoint):  # noqa: F811
    url, seen = endpoint(lambda question: "A")
    found = json.loads(deep("--model", "dpo", "--against", "sft", "--judge", url, "--best-of", "2", "--samples", "4",
                            "--json").stdout)  # fmt: skip
    (entry,) = found["judge"]["models"]
    assert found["judge"]["against"] == "sft@v1" and entry["win_rate"] == 0.5
    texts = [[answer["text"] for answer in sample["answers"]] for sample in found["samples"]]
    differ = [pair for pair in texts if pair[0] != pair[1]]
    assert len(seen) == 2 * len(differ) and entry["identical"] == 4 - len(differ) and entry["same_place"] == 1
    asked = " ".join(body["messages"][0]["content"] for *_, body in seen)
    assert all(text in asked for pair in differ for text in pair)


# What is refused


def test_all_kept_steps_are_named_in_order_and_the_final_model_once(chain, prefcli):
    keep_steps(chain, step10="sft", step9="dpo")
    assert expand("ppo@v1:steps", Store()) == ["ppo@v1:step9", "ppo@v1:step10", "ppo@v1"]
    several = prefcli("eval", "--model", "sft", "--against", "ppo:steps", "--prompts", chain.data("held_out_prompts"))
    assert several.exit_code == 2 and "names several models" in several.stderr
    keep_steps(chain, step2="sft")
    assert expand("ppo:steps", Store()) == ["ppo@v1:step2"]  # it is the final one
    assert expand("sft", Store()) == ["sft"]
    for text in ("sft@v1:steps", "tiny:steps", "nosuch:steps", ":steps"):
        with pytest.raises(ArtifactError):
            expand(text, Store())


@pytest.mark.parametrize(
    ("args", "code", "piece"),
    [
        (["--model", "sft", "--reward", "rm", "--best-of", "2"], 2, "--best-of needs two --reward"),
        (["--model", "sft", "--best-of", "2"], 2, "--best-of needs two --reward"),
        (["--model", "sft", "--best-of", "257"], 2, "--best-of"),
        (["--model", "sft", "--plot", "o.pdf"], 2, ".png or .svg"),
        (["--model", "sft", "--plot", "no/o.png"], 2, "no directory"),
        (["--model", "sft", "--reward", "rm", "--plot", "o.png"], 2, "--plot needs two --reward"),
        (["--model", "dpo", "--against", "sft", "--reward", "rm", "--reward", "b=rm", "--plot", "o.png"], 2, "to draw"),
        (["--model", "sft", "--judge", "tiny"], 2, "--against"),
        (["--against", "sft", "--judge", "tiny"], 2, "--against"),
        (["--model", "dpo", "--against", "sft", "--judge", "http://h/v1"], 2, "no model is named"),
        (["--model", "dpo", "--against", "sft", "--judge", "rm"], 4, "score with it: --reward rm"),
        (["--model", "dpo", "--against", "sft", "--judge", "nobody"], 4, "nobody"),
        (["--model", "ppo:steps"], 4, "--keep-state"),
        (["--model", "dpo", "--against", "sft", "--judge", ""], 4, "model of that name"),
        (["--model", "dpo", "--against", "sft", "--judge", "judge:"], 4, "model of that name"),
        (["--model", "sft", "--against", "ppo:steps"], 4, "--keep-state"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_answer(chain, prefcli, monkeypatch, args, code, piece):
    monkeypatch.setattr("prefcli.models.generation.generate", lambda *_, **__: 1 / 0)
    result = prefcli("eval", "--prompts", chain.data("held_out_prompts"), *args)
    assert (result.exit_code, result.stdout) == (code, "") and piece in result.stderr, result.stderr


def test_scores_that_are_no_numbers_are_refused(chain, prefcli, monkeypatch):
    monkeypatch.setattr(ModelReward, "score", lambda self, answers: torch.full((len(answers),), torch.nan))
    monkeypatch.setattr("prefcli.models.generation.generate", lambda model, prompts, **_: [[7]] * len(prompts))
    prompts, pairs = chain.data("held_out_prompts"), chain.data("held_out_pairs")
    for args in (["--model", "sft", "--prompts", prompts, "--max-prompts", "2"], ["--pairs", pairs]):
        result = prefcli("eval", "--reward", "rm", *args)
        assert (result.exit_code, result.stdout) == (4, "") and "gives nan" in result.stderr, result.stderr


def test_kl_is_to_what_a_model_was_tied_to_and_only_without_that_to_the_baseline(chain, prefcli):
    asked = ["--prompts", chain.data("held_out_prompts"), "--max-prompts", "2", "--max-new-tokens", "2", "--json"]
    result = prefcli("eval", "--model", "dpo@v1", "--model", "sft@v1", "--against", "ppo@v1", *asked)
    assert result.exit_code == 0, result.stderr
    found = {entry["ref"]: entry["kl_to"] for entry in json.loads(result.stdout)["models"]}
    assert found == {"ppo@v1": "sft@v1", "dpo@v1": "sft@v1", "sft@v1": "ppo@v1"}

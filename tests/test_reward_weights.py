"""Several rewards: their grammar, their weights in a run, and standardising by what train-rm recorded."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import artifact_in, versions_below, write

from prefcli.artifacts.manifest import read_manifest
from prefcli.artifacts.store import Store
from prefcli.data.dataset import read_dataset
from prefcli.data.row import Row
from prefcli.errors import UsageError
from prefcli.progress import SILENT
from prefcli.rewards.grammar import Scale, parse_rewards, reward_scales
from prefcli.rewards.sources import PythonReward, load_reward
from prefcli.rl.roles import Prompt
from prefcli.stages.ppo import Scorer
from prefcli.stages.reward import split

SOURCE = "def score(prompts, completions, **_):\n    return [float(len(text)) for text in completions]\n"
CPU = {"dtype": torch.float32, "device": torch.device("cpu")}


@pytest.fixture
def specs(store, own_folder):
    """Two functions, a reward model with recorded scores of mean 3 and deviation 2, one without, one of deviation 0."""
    write(own_folder / "r.py", SOURCE)
    for name, metrics in {
        "good": {"score_mean": 3.0, "score_std": 2},
        "bare": {"loss": 0.5},
        "flat": {"score_mean": 3.0, "score_std": 0.0},
        "broken": {"score_mean": "x", "score_std": True},
    }.items():
        artifact_in(store, name, stage="rm", metrics=metrics)

    def make(*names):
        functions = {"a": "a=python:r.py:score", "b": "b=python:r.py:score"}
        return parse_rewards([functions.get(name, name) for name in names], store)

    return make


# Grammar


def test_weights_go_by_name_and_are_one_by_default(specs):
    assert reward_scales(specs("a", "b"), [], False) == {"a": Scale(), "b": Scale()}
    assert reward_scales(specs("a", "b"), ["b=-0.5"], False) == {"a": Scale(1.0), "b": Scale(-0.5)}
    assert reward_scales(specs("a", "b"), ["a=1e2", "b=0"], False) == {"a": Scale(100.0), "b": Scale(0.0)}


@pytest.mark.parametrize(
    ("weights", "parts"),
    [
        (["c=1"], ["no --reward is called 'c'", "known: a, b"]),
        (["A=1"], ["known: a, b"]),
        (["=1"], ["known: a, b"]),
        (["a"], ["NAME=NUMBER"]),
        (["0.5"], ["NAME=NUMBER"]),
        (["a="], ["NAME=NUMBER"]),
        (["a=heavy"], ["NAME=NUMBER"]),
        (["a=nan"], ["NAME=NUMBER"]),
        (["a=inf"], ["NAME=NUMBER"]),
        (["a=1", "a=2"], ["'a' is given twice"]),
    ],
)
def test_a_weight_that_is_none_names_the_known_sources(specs, weights, parts):
    with pytest.raises(UsageError, match="--reward-weight") as error:
        reward_scales(specs("a", "b"), weights, False)
    for part in parts:
        assert part in f"{error.value.message} {error.value.hint}"


def test_standardising_goes_by_the_manifest_and_comes_before_the_weight(specs):
    scale = reward_scales(specs("good"), ["good=10"], True)["good"]
    assert scale == Scale(10.0, 3.0, 2.0)
    assert scale.apply(torch.tensor([3.0, 5.0, 1.0])).tolist() == [0.0, 10.0, -10.0]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", ["a (python:r.py:score)", "not an artifact of train-rm"]),
        ("bare", ["bare (bare@v1)", "--eval-share"]),
        ("broken", ["broken (broken@v1)", "--eval-share"]),
        ("flat", ["flat (flat@v1)", "the same score"]),
    ],
)
def test_a_source_that_recorded_nothing_cannot_be_standardised(specs, name, parts):
    with pytest.raises(UsageError, match="--standardise-rewards") as error:
        reward_scales(specs("good", name), [], True)
    for part in parts:
        assert part in f"{error.value.message} {error.value.hint}"


def test_a_source_that_only_judges_need_not_be_standardised(specs):
    assert reward_scales(specs("good", "a"), ["a=0"], True) == {"good": Scale(1.0, 3.0, 2.0), "a": Scale(0.0)}
    with pytest.raises(UsageError, match="every reward has weight 0"):
        reward_scales(specs("a"), ["a=0"], True)


# What the trainer is handed


def test_scores_are_standardised_and_weighted_by_source():
    sources = [
        PythonReward("length", lambda prompts, completions, **_: [float(len(c)) for c in completions]),
        PythonReward("one", lambda prompts, completions, **_: [1.0 for _ in completions]),
    ]
    row = Row("p")
    score = Scorer(sources, {"length": Scale(0.5, mean=2.0, std=4.0), "one": Scale(-3.0)})
    found = score([Prompt([1], row)] * 2, [[1], [1]], ["ab", "abcdef"])
    assert {name: scores.tolist() for name, scores in found.items()} == {"length": [0.0, 0.5], "one": [-3.0, -3.0]}


def test_a_standardised_reward_model_has_mean_0_and_deviation_1_on_its_held_out_pairs(chain):
    """The very answers of which train-rm recorded mean and deviation: a quarter of the pairs, see tests/chain.py."""
    store = Store(chain.runs)
    specs = parse_rewards(["rm"], store)
    rows = split(read_dataset([chain.data("pairs")], "pairs").rows, 0.25, 0, False)[1]
    source = load_reward(specs[0], None, reporter=SILENT, **CPU)
    prompts = [Prompt([], row) for row in rows for _ in range(2)]
    answers = [text for row in rows for text in (row.chosen, row.rejected)]
    ids = [None] * len(answers)  # the source reads the text
    raw = Scorer([source], reward_scales(specs, [], False))(prompts, ids, answers)["rm"]
    scores = Scorer([source], reward_scales(specs, [], True))(prompts, ids, answers)["rm"]
    assert len(answers) == 16 and abs(raw.mean()) + abs(raw.std(correction=0) - 1) > 0.1  # there was something to do
    assert scores.mean().item() == pytest.approx(0, abs=1e-3)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    doubled = Scorer([source], reward_scales(specs, ["rm=2"], True))(prompts, ids, answers)["rm"]
    assert torch.equal(doubled, 2 * scores)


# In a run


@pytest.fixture
def ppo(chain, prefcli, own_folder):
    """`ppo(*options)` trains one rollout against rm and a function; the result."""
    write(own_folder / "r.py", SOURCE)

    def run(*options):
        return prefcli(
            "ppo", "--model", "sft@v1", "--reward", "rm@v1", "--reward", "len=python:r.py:score",
            "--prompts", chain.data("prompts"), "--max-new-tokens", "6", "--max-steps", "1", "--batch-size", "8",
            *options,
        )  # fmt: skip

    return run


def first_rollout(path):
    return json.loads((path / "metrics.jsonl").read_text().splitlines()[0])


def test_weights_change_the_result_and_no_reward_model_is_trained_again(chain, ppo):
    """The first rollout's answers are the same, whatever they are worth: so the scores can be worked out."""
    plain = chain.path_of(ppo())
    weighed = chain.path_of(ppo("--reward-weight", "len=0.5", "--reward-weight", "rm=-2"))
    one, other = first_rollout(plain), first_rollout(weighed)
    names = ("objective/scores/rm", "objective/scores/len")
    assert [other[name] for name in names] == pytest.approx([-2 * one[names[0]], 0.5 * one[names[1]]], rel=1e-5)
    change = sum(other[name] - one[name] for name in names)
    assert other["objective/scores"] == pytest.approx(one["objective/scores"] + change, rel=1e-4)
    tensors = [(path / "model" / "model.safetensors").read_bytes() for path in (plain, weighed)]
    assert tensors[0] != tensors[1]
    assert sorted(p.name for p in (chain.runs / "rm").iterdir() if p.is_dir()) == ["v1"]
    digests = [read_manifest(path).parents["reward/rm"]["digest"] for path in (plain, weighed)]
    assert digests[0] == digests[1]
    assert chain.path_of(ppo("--reward-weight", "len=0.5", "--reward-weight", "rm=-2")) == weighed  # reused by its key


def test_standardised_scores_are_those_of_the_manifest(chain, ppo, prefcli):
    metrics = read_manifest(chain.path("rm")).metrics
    args = ["--reward-weight", "rm=3", "--name", "alone"]
    result = prefcli(
        "ppo", "--model", "sft@v1", "--reward", "rm@v1", "--reward", "again=rm@v1", "--standardise-rewards", *args,
        "--prompts", chain.data("prompts"), "--max-new-tokens", "6", "--max-steps", "1", "--batch-size", "8",
    )  # fmt: skip
    found, raw = first_rollout(chain.path_of(result)), first_rollout(chain.path_of(ppo()))["objective/scores/rm"]
    expected = (raw - metrics["score_mean"]) / metrics["score_std"]
    assert found["objective/scores/again"] == pytest.approx(expected, rel=1e-4)
    assert found["objective/scores/rm"] == pytest.approx(3 * expected, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--reward-weight", "nobody=1"], "known: rm, len"),
        (["--reward-weight", "rm=x"], "NAME=NUMBER"),
        (["--standardise-rewards"], "len (python:r.py:score)"),
    ],
)
def test_what_cannot_be_weighed_is_refused_before_training(chain, ppo, options, part):
    before = versions_below(chain.folder)
    result = ppo(*options)
    assert (result.exit_code, result.stdout) == (2, "") and part in result.stderr
    assert "Traceback" not in result.stderr and versions_below(chain.folder) == before

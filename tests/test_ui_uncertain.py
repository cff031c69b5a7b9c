"""`ui --order uncertain`: which questions come first, by what, and how many labels a better reward model needs."""

from __future__ import annotations

import json
import math
import random
import time
from itertools import combinations
from pathlib import Path
from statistics import pstdev
from types import SimpleNamespace

import pytest
import torch
from conftest import write

from prefcli.artifacts.references import resolve
from prefcli.config.ui import UIConfig
from prefcli.data.encoder import Encoder
from prefcli.errors import ArtifactError, UsageError
from prefcli.labelling.human import digest_in
from prefcli.models.loading import load_policy
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT
from prefcli.statistics.growth import rows_for
from prefcli.ui import uncertain
from prefcli.ui.desk import opened
from prefcli.ui.needed import Needed, needed
from prefcli.ui.questions import by_uncertainty, questions

CPU = {"dtype": torch.float32, "device": torch.device("cpu"), "trainable": False}


def asked(rows=9, each=2, **more):
    """(options, questions) of answers to some prompts."""
    made = [{"prompt": f"Question {i}", "completion": f"answer {k} to {i}"} for i in range(rows) for k in range(each)]
    write(Path("data.jsonl"), "".join(json.dumps(row) + "\n" for row in made))
    config = UIConfig(label=["data.jsonl"], out="out.jsonl", order="uncertain", **more)
    return config, questions(config, SILENT)


# Which come first


def test_the_least_sure_come_first(own_folder):
    _, todo = asked()
    generator = random.Random(0)
    scores = [[generator.random(), generator.random()] for _ in todo]
    gaps = {q.digest: abs(a - b) for q, (a, b) in zip(todo, scores)}
    assert [gaps[q.digest] for q in by_uncertainty(todo, [scores], "pairs")] == sorted(gaps.values())
    alone = [[-5.0], [0.9], [4.0]]  # the mean is −0.03
    assert by_uncertainty(todo[:3], [alone], "binary") == [todo[1], todo[2], todo[0]]


def test_of_two_sources_those_come_first_on_which_they_disagree(own_folder):
    _, todo = asked(3)
    one = [[2.0, 0.0], [0.1, 0.0], [1.0, 0.0]]
    other = [[200.0, 0.0], [10.0, 0.0], [-100.0, 0.0]]  # of another scale: that says nothing
    assert by_uncertainty(todo, [one, other], "pairs") == [todo[2], todo[1], todo[0]]
    assert by_uncertainty(todo, [one, one], "pairs") == todo  # they agree on all: as it was
    assert by_uncertainty(todo, [[[5.0, 5.0]] * 3, one], "pairs") == [todo[0], todo[2], todo[1]]  # one sees none apart
    generator = random.Random(1)
    _, ranked = asked(5, 3, to="ranking")
    several = [[[generator.gauss(0, 1) for _ in range(3)] for _ in ranked] for _ in range(3)]
    size = [math.sqrt(sum((a - b) ** 2 for q in source for a, b in combinations(q, 2)) / 15) for source in several]
    unlike = {
        q.digest: max(pstdev((several[s][i][a] - several[s][i][b]) / size[s] for s in range(3))
                      for a, b in combinations(range(3), 2))
        for i, q in enumerate(ranked)
    }  # fmt: skip
    found = [unlike[q.digest] for q in by_uncertainty(ranked, several, "ranking")]
    assert found == sorted(unlike.values(), reverse=True)


def test_answers_are_scored_once_by_each_source_and_by_a_changed_one_again(own_folder):
    source = "def score(prompts, completions, **_):\n    open({!r}, 'a').write('x')\n    return [{}]\n"
    write(own_folder / "r.py", source.format("calls", "float(len(c)) for c in completions"))
    write(own_folder / "s.py", source.format("others", "1.0 for c in completions"))
    config, todo = asked(5, reward=["python:r.py:score"])
    lengths = [[float(len(text)) for text in question.answers] for question in todo]
    assert uncertain.scores(config, todo, SILENT) == [lengths]
    calls = Path("calls").read_text()
    both, _ = asked(5, reward=["s=python:s.py:score", "python:r.py:score"])
    for _ in range(2):
        assert uncertain.scores(both, todo, SILENT) == [[[1.0, 1.0]] * 5, lengths]
        assert Path("calls").read_text() == calls and len(Path("others").read_text()) == len(calls)
    write(own_folder / "r.py", source.format("calls", "0.0 for c in completions"))
    assert uncertain.scores(config, todo, SILENT) == [[[0.0, 0.0]] * 5] and Path("calls").read_text() > calls
    for damaged in ("{", "[]", '{"sources": []}', '{"reward": "x", "scores": {}}'):
        write(own_folder / "out.jsonl.scores", damaged)
        assert uncertain.scores(config, todo, SILENT) == [[[0.0, 0.0]] * 5]


def test_a_service_is_asked_again_each_time_since_it_may_be_another(own_folder, monkeypatch):
    config, todo = asked(2, reward=["http://nowhere/score"])
    for value in (1.0, 2.0):
        source = SimpleNamespace(name="http", score=lambda answers, value=value: torch.full((len(answers),), value))
        monkeypatch.setattr(uncertain, "_loaded", lambda *_, source=source: source)
        assert uncertain.scores(config, todo, SILENT) == [[[value, value]] * 2]


def test_a_function_is_handed_the_columns_of_each_answers_row_and_counts_by_them(own_folder):
    write(own_folder / "r.py", "def score(prompts, completions, worth, **_):\n    return worth\n")
    for worth in (1.0, 5.0):
        rows = [{"prompt": "Q", "completion": text, "worth": worth + k} for k, text in enumerate("ab")]
        write(Path("data.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
        config = UIConfig(label=["data.jsonl"], out="out.jsonl", order="uncertain", reward=["python:r.py:score"])
        assert uncertain.scores(config, questions(config, SILENT), SILENT) == [[[worth, worth + 1]]]


def test_a_policy_is_asked_how_much_more_likely_than_its_reference_it_makes_an_answer(chain, store):
    config, todo = asked(3, reward=["dpo"], dtype="float32", device="cpu")
    (found,) = uncertain.scores(config, todo, SILENT)
    tokenizer = load_tokenizer(resolve("dpo", store), SILENT)
    models = [load_policy(resolve(name, store), **CPU).eval() for name in ("dpo", "sft")]
    encoder = Encoder(tokenizer)
    for question, scores in zip(todo, found):
        for text, score in zip(question.answers, scores):
            prompt, answer = encoder.prompt_ids(question.prompt), encoder.completion_ids(question.prompt, text)
            ids = torch.tensor([prompt + answer])
            with torch.no_grad():  # token by token, one row at a time
                logps = [model(ids).logits[0].log_softmax(-1) for model in models]
            expected = sum(float(logps[0][i - 1, ids[0, i]] - logps[1][i - 1, ids[0, i]])
                           for i in range(len(prompt), ids.shape[1]))  # fmt: skip
            assert score == pytest.approx(expected, abs=2e-4)
    assert len({round(score, 4) for some in found for score in some}) > 3  # it is not the reference
    with pytest.raises(UsageError, match="judges each alone"):
        uncertain.scores(UIConfig(**{**vars(config), "to": "binary"}), todo, SILENT)
    with pytest.raises(ArtifactError, match="made by sft, and neither scores"):
        uncertain.scores(UIConfig(**{**vars(config), "reward": ["sft"]}), todo, SILENT)
    write(store.root / "sft" / "v2" / "x", "")  # another version is not the reference
    (store.root / "sft" / "v1").rename(store.root / "moved")
    with pytest.raises(ArtifactError, match="no longer there"):
        uncertain.scores(config, todo, SILENT)


# How many labels a better reward model needs


def test_of_mistakes_that_fall_by_a_power_law_the_rows_are_exact():
    runs = [(n, 1 - 0.5 * n**-0.25, 10**9) for n in (100, 400, 1600)]
    found = rows_for(runs, 1600, 0.1)
    assert found.exponent == pytest.approx(0.25) and found.rows == pytest.approx(1600 / 0.9**4)
    assert found.low < found.rows < found.high and found.high / found.low < 1.01
    assert rows_for(runs[:1] * 5, 100, 0.1) is None
    flat = rows_for([(n, 0.7, 400) for n in (100, 200)], 200, 0.1)
    assert flat.rows is flat.high is None and flat.low > 200
    worse = rows_for([(100, 0.9, 4000), (200, 0.7, 4000)], 200, 0.1)
    assert worse.rows is worse.low is worse.high is None
    assert rows_for([(100, 1.0, 50), (200, 1.0, 50)], 200, 0.1).rows is None  # no mistake at all
    fits = rows_for([(100, 0.8, 400), (200, 0.84, 400), (400, 0.87, 400)], 400, 0.1)
    scattered = rows_for([(100, 0.8, 400), (200, 0.94, 400), (400, 0.87, 400)], 400, 0.1)
    assert fits.high is not None and scattered.high is None


def test_the_interval_holds_the_true_number_of_rows_as_often_as_it_says():
    generator, held = random.Random(0), 0
    for _ in range(1000):
        runs = []
        for n in (200, 400, 800, 1600):
            right = sum(generator.random() > 0.5 * n**-0.3 for _ in range(500))
            runs.append((n, right / 500, 500))
        found, true = rows_for(runs, 1600, 0.1), 1600 * 0.9 ** (-1 / 0.3)
        held += found.low is not None and found.low <= true and (found.high is None or true <= found.high)
    assert 0.94 <= held / 1000 <= 0.99


@pytest.mark.parametrize("sizes", [(200, 800, 3200), (200, 400, 800, 1600)])
def test_so_it_does_of_few_runs_that_scatter_more_than_their_held_out_pairs_explain(sizes):
    """1.96 standard errors of a scatter with one degree of freedom hold it in 0.69 of cases."""
    generator, held = random.Random(1), 0
    for _ in range(1000):
        runs = [(n, 1 - 0.5 * n**-0.3 * math.exp(generator.gauss(0, 0.05)), 1_000_000) for n in sizes]
        found, true = rows_for(runs, sizes[-1], 0.1), sizes[-1] * 0.9 ** (-1 / 0.3)
        above = found.low is not None and found.low <= true
        held += above and (found.high is None or true <= found.high)
    assert 0.92 <= held / 1000 <= 0.98


@pytest.fixture
def reward_model(make_artifact):
    """`reward_model(rows, accuracy)` learned from so many pairs of pairs.jsonl; all have the same held-out ones."""

    def make(rows, accuracy, **more):
        data = [{"path": path, "format": "pairs", "rows": number, "digest": path}
                for path, number in (("out.jsonl", rows), ("held.jsonl", 400))]  # fmt: skip
        return make_artifact(
            "rm", stage="rm", files={"model/model.safetensors": f"{rows}"}, data=data, key=str(rows),
            config={"data": ["out.jsonl"], "eval_data": "held.jsonl", "max_rows": rows}, metrics={"accuracy": accuracy},
            model={"held_out_pairs": 400}, **more,
        )  # fmt: skip

    return make


def test_the_labels_still_needed_are_those_beyond_what_the_reward_model_learned_from(reward_model, store):
    alone = reward_model(200, 0.85)
    known = needed(["rm"], "out.jsonl", store)
    assert (known.ref, known.trained, known.here, known.growth) == (alone.ref, 200, 200, None)
    told = known.told(260, 0.5)  # 60 since then; twice the pairs are asked for
    assert (told["known"], told["labels"], told["minutes"]) == (False, 140, math.ceil(140 / 0.5 / 60))
    assert known.told(500, 0.5)["labels"] == 0 and known.told(260, 0.0)["minutes"] is None
    reward_model(400, 0.875)
    reward_model(800, 0.9)
    known = needed(["rm"], "out.jsonl", store)
    expected = rows_for([(200, 0.85, 400), (400, 0.875, 400), (800, 0.9, 400)], 800, 0.1)
    assert (known.trained, known.runs, known.growth) == (800, 3, expected)
    told = known.told(900, 1.0)
    assert told["labels"] == math.ceil(expected.rows) - 900 > 0 and told["low"] < told["labels"] < told["high"]
    unsure = Needed("rm@v1", 800, 0, 2, rows_for([(400, 0.87, 400), (800, 0.88, 400)], 800, 0.1)).told(0, 1.0)
    assert unsure["labels"] is unsure["high"] is None and unsure["minutes"] == math.ceil(unsure["low"] / 60) > 0
    worse = Needed("rm@v1", 800, 0, 2, rows_for([(400, 0.9, 4000), (800, 0.7, 4000)], 800, 0.1)).told(0, 1.0)
    assert [worse[name] for name in ("labels", "low", "high", "minutes")] == [None] * 4
    elsewhere = needed(["rm"], "other.jsonl", store)
    assert elsewhere.here == 0 and elsewhere.told(100, 1.0)["labels"] == told["labels"]  # a hundred of either are new


def test_only_a_reward_model_of_train_rm_is_asked_for_more_labels(chain, store):
    write(Path("r.py"), "def score(prompts, completions, **_):\n    return [0.0 for c in completions]\n")
    assert needed(["python:r.py:score", "dpo"], "out.jsonl", store) is None
    own = needed(["dpo", "rm"], "out.jsonl", store)
    assert (own.ref, own.trained, own.growth) == ("rm@v1", 24, None)  # of 32, it held out a quarter


def test_the_page_counts_labels_and_the_pace_of_all_who_are_at_work(own_folder):
    config, todo = asked(9)
    with opened(config, todo, SILENT, Needed("rm@v1", 10, 0, 0, None)) as desk:
        first = desk.next("ann")
        assert first["progress"]["needed"] == {"ref": "rm@v1", "trained": 10, "known": False, "runs": 0, "labels": 10,
                                               "low": None, "high": None, "minutes": None}  # fmt: skip
        for by, verdicts in (("ann", ("left", "tie")), ("bob", ("left", "left"))):
            state = desk.next(by)
            for verdict in verdicts:
                state = desk.decide(by, state["question"]["id"], {"verdict": verdict})
        desk._seconds = {"ann": [2.0, 2.0], "bob": [4.0, 4.0]}
        found = desk.next("bob")["progress"]["needed"]
        assert found["labels"] == 7  # a tie is none
        assert found["minutes"] == math.ceil(7 / ((1 / 2 + 1 / 4) * 3 / 4) / 60)
        assert desk.undo("bob")["progress"]["needed"]["labels"] == 8
    row = json.loads(Path("out.jsonl").read_text().splitlines()[0])  # of two
    own = [question for question in todo if question.digest == digest_in(row)]
    with opened(config, own, SILENT, Needed("rm@v1", 10, 0, 0, None)) as desk:  # the other row is of other data
        desk._seconds, desk._at_hand = {row["by"]: [2.0]}, {row["by"]: (own[0], time.monotonic())}
        assert desk._labels_a_second() == 1 / 2

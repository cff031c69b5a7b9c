"""`prefcli score`: its rows, its figures against ones worked out here, what it refuses."""

from __future__ import annotations

import itertools
import json
import random
import threading
from statistics import fmean, pstdev

import pytest
import torch
from conftest import write

from prefcli.artifacts.store import Store
from prefcli.data.formats import read_dataset
from prefcli.evaluation.rewards import pair_accuracy
from prefcli.evaluation.statistics import wilson_interval
from prefcli.progress import SILENT
from prefcli.rewards.grammar import parse_rewards
from prefcli.rewards.server import RewardServer
from prefcli.rewards.sources import load_reward

LENGTH = "def score(prompts, completions, **_):\n    return [float(len(text)) for text in completions]\n"
CPU = {"dtype": torch.float32, "device": torch.device("cpu")}
PAIRS = [
    {"prompt": "p", "chosen": "long", "rejected": "s", "source": "x"},
    {"prompt": "p", "chosen": "s", "rejected": "long", "source": "y"},
    {"prompt": "p", "chosen": "ab", "rejected": "cd", "source": None},
    {"prompt": "p", "chosen": "abc", "rejected": "d", "source": {"a": [1]}},
]


@pytest.fixture
def length(own_folder):
    write(own_folder / "r.py", LENGTH)
    return "length=python:r.py:score"


ANSWERS = [
    {"prompt": "p", "completion": "ab", "id": 1, "of": "x"},
    {"prompt": [{"role": "user", "content": "p"}], "completion": "alone", "of": "x"},
    {"prompt": "p", "completion": "abcd", "id": 2, "of": "x"},
    {"prompt": "q", "completion": "aa", "of": "x"},
    {"prompt": "q", "completion": "bb", "of": "x"},
    {"prompt": "p", "completion": "abc", "id": 3, "of": "x"},
    {"prompt": "r", "completion": "same", "of": "x"},
    {"prompt": "r", "completion": "same", "of": "x"},
]


def rows_of(result):
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def rows_in(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_of_every_form_are_scored_with_their_columns(prefcli, jsonl, length):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "four"}]
    a = jsonl("a.jsonl", {"prompt": "p", "completion": "abc", "id": 7}, {"prompt": "p", "completion": "é", "id": 8})
    b = jsonl("b.jsonl", {"messages": chat})
    c = jsonl("c.jsonl", {"text": "whole"})
    rows = rows_of(prefcli("score", "--data", a, "--data", b, "--data", c, "--reward", length))
    assert rows == [
        {"id": 7, "prompt": "p", "completion": "abc", "scores": {"length": 3.0}},
        {"id": 8, "prompt": "p", "completion": "é", "scores": {"length": 1.0}},
        {"prompt": chat[:1], "completion": "four", "scores": {"length": 4.0}},
        {"prompt": "", "completion": "whole", "scores": {"length": 5.0}},
    ]


def test_answers_that_are_labelled_bad_are_scored_too(prefcli, jsonl, length):
    data = jsonl(
        "k.jsonl",
        {"prompt": "p", "completion": "ab", "label": False},
        {"prompt": "p", "completion": "a", "label": True},
    )
    rows = rows_of(prefcli("score", "--data", data, "--reward", length))
    assert [(row["label"], row["scores"]["length"]) for row in rows] == [(False, 2.0), (True, 1.0)]


def test_pairs_are_scored_on_both_sides(prefcli, jsonl, length):
    rows = rows_of(
        prefcli("score", "--data", jsonl("pairs.jsonl", *PAIRS), "--reward", length, "--reward", "python:r.py:score")
    )
    assert [row["scores"]["length"] for row in rows] == [
        {"chosen": len(pair["chosen"]), "rejected": len(pair["rejected"])} for pair in PAIRS
    ]
    assert all(row["scores"]["score"] == row["scores"]["length"] for row in rows)
    assert [{name: row[name] for name in PAIRS[0]} for row in rows] == PAIRS and "completion" not in rows[0]


def test_a_column_that_no_stream_takes_is_written_as_json_has_it(prefcli, jsonl, length):
    row = {"prompt": "p", "completion": "a", "note": "\ud800"}
    assert rows_of(prefcli("score", "--data", jsonl("a.jsonl", row), "--reward", length))[0]["note"] == "\ud800"


def test_the_summary_is_worked_out_over_all_answers_and_pairs(prefcli, jsonl, length):
    data = ["--data", jsonl("pairs.jsonl", *PAIRS), "--data", jsonl("a.jsonl", {"prompt": "p", "completion": "a" * 9})]
    result = prefcli("score", *data, "--reward", length, "--json")
    values = [4, 1, 1, 4, 2, 2, 3, 1, 9]
    summary = json.loads(result.stdout)
    assert {name: summary[name] for name in ("rows", "out")} == {"rows": 5, "out": None}
    (entry,) = summary["rewards"]
    right = 1 + 0 + 0.5 + 1
    assert entry == {
        "name": "length", "ref": "python:r.py:score", "answers": 9, "pairs": 4,
        "mean": pytest.approx(fmean(values)), "std": pytest.approx(pstdev(values)), "min": 1.0, "max": 9.0,
        "accuracy": right / 4, "accuracy_ci95": pytest.approx(wilson_interval(right, 4)),
        "margin": pytest.approx((3 - 3 + 0 + 2) / 4),
    }  # fmt: skip
    told = result.stderr
    assert "scoring" in told and "mean 3" in told and "from 1 to 9" in told and "of 4 pairs" in told
    low, high = wilson_interval(right, 4)
    assert f"0.62 [{low:.2f}, {high:.2f}]" in told


def test_answers_alone_have_no_accuracy(prefcli, jsonl, length):
    result = prefcli(
        "score", "--data", jsonl("a.jsonl", {"prompt": "p", "completion": "a"}), "--reward", length, "--json"
    )
    assert not {"accuracy", "pairs", "margin"} & set(json.loads(result.stdout)["rewards"][0])
    assert "pairs" not in result.stderr


def test_out_takes_the_rows_and_stdout_its_path(prefcli, jsonl, length, own_folder):
    args = ["score", "--data", jsonl("pairs.jsonl", *PAIRS), "--reward", length]
    lines = prefcli(*args).stdout
    result = prefcli(*args, "--out", "scored.jsonl")
    assert result.stdout == "scored.jsonl\n" and (own_folder / "scored.jsonl").read_text() == lines
    assert json.loads(prefcli(*args, "--out", "scored.jsonl", "--json").stdout)["out"] == "scored.jsonl"
    again = rows_of(prefcli("score", "--data", "scored.jsonl", "--reward", length))  # what it writes it reads
    assert [row["scores"] for row in again] == [json.loads(line)["scores"] for line in lines.splitlines()]


def test_quiet_says_nothing_but_the_result(prefcli, jsonl, length):
    result = prefcli("score", "--data", jsonl("pairs.jsonl", *PAIRS), "--reward", length, "--quiet")
    assert result.stderr == "" and len(result.stdout.splitlines()) == 4


def test_a_reward_model_scores_as_it_does_in_eval(chain, prefcli):
    result = prefcli("score", "--data", chain.data("held_out_pairs"), "--reward", "rm", "--json")
    (entry,) = json.loads(result.stdout)["rewards"]
    rows = read_dataset([chain.data("held_out_pairs")], "pairs").rows
    source = load_reward(parse_rewards(["rm"], Store(chain.runs))[0], None, reporter=SILENT, **CPU)
    assert entry["ref"] == "rm@v1" and entry["answers"] == 2 * len(rows)
    for name, value in pair_accuracy(source, rows).items():
        assert entry[name] == pytest.approx(value, abs=1e-5), name


def test_a_service_with_the_template_gives_the_same_scores(chain, prefcli):
    server = RewardServer("127.0.0.1", 0)
    server.source = load_reward(parse_rewards(["rm"], Store(chain.runs))[0], None, reporter=SILENT, **CPU)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        sources = ["--reward", "rm", "--reward", f"far={server.url}/get_reward"]
        args = ["score", "--data", chain.data("held_out_pairs"), *sources]
        rendered, bare = prefcli(*args, "--tokenizer", "rm"), prefcli(*args)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    for row in rows_of(rendered):
        assert row["scores"]["far"] == pytest.approx(row["scores"]["rm"], abs=1e-5)
    assert any(row["scores"]["far"]["chosen"] != row["scores"]["rm"]["chosen"] for row in rows_of(bare))
    assert "paragraphs" in bare.stderr and "paragraphs" not in rendered.stderr


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        ([], 2, "--data is missing"),
        (["--data", "pairs.jsonl"], 2, "--reward is missing"),
        (["--data", "none.jsonl", "--reward", "{r}"], 3, "none.jsonl"),
        (["--data", "prompts.jsonl", "--reward", "{r}"], 3, "expected columns"),
        (["--data", "half.jsonl", "--reward", "{r}"], 3, "line 2: half of a surrogate pair"),
        (["--data", "hollow.jsonl", "--reward", "{r}"], 3, "line 2: 'completion' is empty"),
        (["--data", "pairs.jsonl", "--reward", "nobody"], 4, "nobody"),
        (["--data", "pairs.jsonl", "--reward", "tiny"], 4, "not a reward model"),
        (["--data", "pairs.jsonl", "--reward", "python:nan.py:score"], 4, "nan"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--tokenizer", "nobody"], 4, "nobody"),
        (["--data", "pairs.jsonl", "--reward", "http://127.0.0.1:1/x"], 7, "does not answer"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--out", "scored.json"], 2, ".jsonl"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--out", "no/scored.jsonl"], 2, "no directory no"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--out", "folder.jsonl"], 2, "is a directory"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--out", "./pairs.jsonl"], 2, "one of the files of --data"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--device", "warp"], 2, "--device"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--pairs-out", "made.json"], 2, "--pairs-out made.json"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--pairs-out", "no/made.jsonl"], 2, "no directory no"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--pairs-out", "./pairs.jsonl"], 2, "one of the files of --data"),
        (
            ["--data", "pairs.jsonl", "--reward", "{r}", "--out", "x.jsonl", "--pairs-out", "./x.jsonl"],
            2,
            "the file of --out",
        ),
        (
            ["--data", "alone.jsonl", "--reward", "http://127.0.0.1:1/x", "--pairs-out", "made.jsonl"],
            3,
            "no prompt of alone.jsonl has two different answers",
        ),  # before any is scored
        (["--data", "ties.jsonl", "--reward", "{r}", "--pairs-out", "made.jsonl"], 3, "alike (1 prompts)"),
    ],
)
def test_what_cannot_be_scored_is_refused(prefcli, jsonl, length, own_folder, monkeypatch, args, code, part):
    monkeypatch.setattr("prefcli.rewards.http.BACKOFF", 0.0)
    jsonl("pairs.jsonl", *PAIRS)
    jsonl("prompts.jsonl", {"prompt": "p"})
    jsonl("half.jsonl", {"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": "\ud800"})
    jsonl("hollow.jsonl", {"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": " "})
    jsonl("alone.jsonl", *ANSWERS[-2:], {"prompt": "p", "completion": "same"})
    jsonl("ties.jsonl", *ANSWERS[3:5])
    write(own_folder / "nan.py", LENGTH.replace("float(len(text))", "float('nan')"))
    (own_folder / "folder.jsonl").mkdir()
    result = prefcli("score", *[arg.format(r=length) for arg in args])
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert part in result.stderr and "Traceback" not in result.stderr
    assert not any((own_folder / name).exists() for name in ("scored.json", "made.jsonl", "x.jsonl"))


def test_bad_rows_are_left_out_where_that_is_asked_for(prefcli, jsonl, length):
    data = jsonl("h.jsonl", {"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": " "})
    result = prefcli("score", "--data", data, "--reward", length, "--skip-bad")
    assert len(rows_of(result)) == 1 and "1 of 2 rows left out" in result.stderr


def test_the_best_answer_to_each_prompt_against_its_worst(prefcli, jsonl, length, own_folder):
    args = ["score", "--data", jsonl("a.jsonl", *ANSWERS), "--reward", length, "--pairs-out", "made.jsonl"]
    result = prefcli(*args)
    assert result.stdout == "made.jsonl\n"
    assert rows_in(own_folder / "made.jsonl") == [
        {"of": "x", "prompt": "p", "chosen": "abcd", "rejected": "ab", "scores": {"chosen": 4.0, "rejected": 2.0}}
    ]
    assert "1, the best answer against the worst by length; 3 prompts gave none (2 with one answer, 1 tied)" in (
        result.stderr
    )
    assert prefcli(*args, "--out", "scored.jsonl").stdout == "scored.jsonl\nmade.jsonl\n"
    assert len(rows_in(own_folder / "scored.jsonl")) == len(ANSWERS)
    summary = json.loads(prefcli(*args, "--json").stdout)
    assert summary["pairs"] == {"rows": 1, "out": "made.jsonl", "one_answer": 2, "tied": 1}
    assert json.loads(prefcli(*args[:-2], "--json").stdout)["pairs"] is None


def test_pairs_are_those_of_a_search_over_all_answers(chain, prefcli, jsonl, own_folder):
    """Random scores from a few values, so that there are ties; prompts as strings and as dialogues, shuffled."""
    draw = random.Random(5)
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    prompts = ["p", "q", [chat[1]], chat, *[f"prompt {i}" for i in range(20)]]
    rows = [
        {"prompt": prompt, "completion": f"answer {i} ü", "s": draw.choice([-1.5, 0, 0.25, 2])}
        for prompt in prompts
        for i in range(draw.randint(1, 4))
    ]
    draw.shuffle(rows)
    write(own_folder / "s.py", "def score(prompts, completions, s):\n    return s\n\n"
                               "def other(prompts, completions, s):\n    return [-x for x in s]\n")  # fmt: skip
    sources = ["--reward", "python:s.py:score", "--reward", "python:s.py:other"]
    result = prefcli("score", "--data", jsonl("a.jsonl", *rows), *sources, "--pairs-out", "made.jsonl", "--json")
    made = {json.dumps(row["prompt"]): row for row in rows_in(own_folder / "made.jsonl")}
    known = {(json.dumps(row["prompt"]), row["completion"]): row["s"] for row in rows}
    tied = 0
    for prompt in map(json.dumps, prompts):
        scores = [s for (of, _), s in known.items() if of == prompt]
        margin = max((a - b for a, b in itertools.permutations(scores, 2)), default=None)
        tied += margin == 0
        assert (prompt in made) == bool(margin)
        if margin:
            pair = made[prompt]
            assert pair["scores"] == {side: known[prompt, pair[side]] for side in ("chosen", "rejected")}
            assert pair["scores"]["chosen"] - pair["scores"]["rejected"] == margin
    assert json.loads(result.stdout)["pairs"]["tied"] == tied > 0 and json.dumps(chat) in made
    for stage in ("dpo", "train-rm"):
        planned = prefcli(stage, "--model", "sft@v1", "--data", "made.jsonl", "--dry-run")
        assert planned.exit_code == 0 and f"{len(made)} rows" in planned.stderr, planned.stderr


def test_pairs_are_judged_anew_and_an_answer_counts_once(prefcli, jsonl, length, own_folder):
    write(own_folder / "s.py", "def score(prompts, completions, **_):\n    return list(range(len(completions)))\n")
    data = jsonl("a.jsonl", *PAIRS[:2], {"prompt": "q", "chosen": "a", "rejected": "bb", "id": 4})
    assert prefcli("score", "--data", data, "--reward", length, "--pairs-out", "made.jsonl").exit_code == 0
    assert rows_in(own_folder / "made.jsonl") == [
        {"source": "x", "prompt": "p", "chosen": "long", "rejected": "s", "scores": {"chosen": 4.0, "rejected": 1.0}},
        {"id": 4, "prompt": "q", "chosen": "bb", "rejected": "a", "scores": {"chosen": 2.0, "rejected": 1.0}},
    ]
    # A judge that gives one text two scores: the first counts, and no text is set against itself.
    data = jsonl("b.jsonl", *[{"prompt": "p", "completion": text} for text in ("same", "other", "same")])
    assert prefcli("score", "--data", data, "--reward", "python:s.py:score", "--pairs-out", "made.jsonl").exit_code == 0
    (pair,) = rows_in(own_folder / "made.jsonl")
    assert (pair["chosen"], pair["rejected"], pair["scores"]) == ("other", "same", {"chosen": 1.0, "rejected": 0.0})


def test_text_without_a_prompt_makes_no_pair(prefcli, jsonl, length):
    data = jsonl("t.jsonl", {"text": "a"}, {"text": "bb"})
    result = prefcli("score", "--data", data, "--reward", length, "--pairs-out", "made.jsonl")
    assert (result.exit_code, result.stdout) == (3, "") and "two different answers" in result.stderr


def test_scored_rows_are_kept_where_no_pair_comes_of_them(prefcli, jsonl, length, own_folder):
    data = jsonl("ties.jsonl", *ANSWERS[3:5])
    result = prefcli("score", "--data", data, "--reward", length, "--out", "s.jsonl", "--pairs-out", "made.jsonl")
    assert (result.exit_code, result.stdout) == (3, "") and not (own_folder / "made.jsonl").exists()
    assert len(rows_in(own_folder / "s.jsonl")) == 2


def test_a_model_whose_score_is_no_number_is_refused(chain, prefcli, monkeypatch):
    monkeypatch.setattr(
        "prefcli.rewards.sources.ModelReward.score", lambda self, answers: torch.full((len(answers),), float("nan"))
    )
    result = prefcli("score", "--data", chain.data("held_out_pairs"), "--reward", "rm")
    assert (result.exit_code, result.stdout) == (4, "") and "reward rm gives nan" in result.stderr

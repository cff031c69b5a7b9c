"""`prefcli score`: its rows, its figures against ones worked out here, what it refuses."""

from __future__ import annotations

import json
import threading
from statistics import fmean, pstdev

import pytest
import torch
from conftest import write

from prefcli.artifacts.store import Store
from prefcli.data.dataset import read_dataset
from prefcli.evaluation.rewards import about, pair_scores, summary
from prefcli.progress import SILENT
from prefcli.rewards.grammar import parse_rewards
from prefcli.rewards.server import RewardServer
from prefcli.rewards.sources import load_reward
from prefcli.statistics.intervals import wilson_interval

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


def rows_of(result):
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


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
    found = summary([about(row) for row in rows], pair_scores(source, rows))
    for name in ("accuracy", "accuracy_ci95", "margin", "pairs"):
        assert entry[name] == pytest.approx(found[name], abs=1e-5), name


def test_a_service_with_the_template_gives_the_same_scores(chain, prefcli):
    server = RewardServer("127.0.0.1", 0)
    server.source = load_reward(parse_rewards(["rm"], Store(chain.runs))[0], None, reporter=SILENT, **CPU)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        sources = ["--reward", "rm", "--reward", f"far={server.url}/get_reward"]
        args = ["score", "--data", chain.data("held_out_pairs"), *sources]
        rendered, bare = prefcli(*args, "--tokenizer", "rm"), prefcli(*args)
    finally:
        server.shutdown()
        thread.join()
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
        (["--data", "half.jsonl", "--reward", "{r}"], 3, "line 2: the text contains half of a surrogate pair"),
        (["--data", "hollow.jsonl", "--reward", "{r}"], 3, "line 2: 'completion' is empty"),
        (["--data", "pairs.jsonl", "--reward", "nobody"], 4, "nobody"),
        (["--data", "pairs.jsonl", "--reward", "tiny"], 4, "not a reward model"),
        (["--data", "pairs.jsonl", "--reward", "python:nan.py:score"], 4, "nan"),
        (["--data", "pairs.jsonl", "--reward", "http://127.0.0.1:1/x", "--tokenizer", "nobody"], 4, "nobody"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--tokenizer", "tiny"], 2, "--tokenizer has no effect"),
        (["--data", "pairs.jsonl", "--reward", "http://127.0.0.1:1/x"], 7, "does not answer"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--out", "scored.json"], 2, ".jsonl"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--out", "no/scored.jsonl"], 2, "no directory no"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--out", "folder.jsonl"], 2, "is a directory"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--out", "./pairs.jsonl"], 2, "one of the files of --data"),
        (["--data", "pairs.jsonl", "--reward", "{r}", "--device", "warp"], 2, "--device"),
    ],
)
def test_what_cannot_be_scored_is_refused(prefcli, jsonl, length, own_folder, monkeypatch, args, code, part):
    monkeypatch.setattr("prefcli.rewards.http.BACKOFF", 0.0)
    jsonl("pairs.jsonl", *PAIRS)
    jsonl("prompts.jsonl", {"prompt": "p"})
    jsonl("half.jsonl", {"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": "\ud800"})
    jsonl("hollow.jsonl", {"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": " "})
    write(own_folder / "nan.py", LENGTH.replace("float(len(text))", "float('nan')"))
    (own_folder / "folder.jsonl").mkdir()
    result = prefcli("score", *[arg.format(r=length) for arg in args])
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert part in result.stderr and "Traceback" not in result.stderr
    assert not (own_folder / "scored.json").exists()


def test_bad_rows_are_left_out_where_that_is_asked_for(prefcli, jsonl, length):
    data = jsonl("h.jsonl", {"prompt": "p", "completion": "a"}, {"prompt": "p", "completion": " "})
    result = prefcli("score", "--data", data, "--reward", length, "--skip-bad")
    assert len(rows_of(result)) == 1 and "1 of 2 rows left out" in result.stderr


def test_a_model_whose_score_is_no_number_is_refused(chain, prefcli, monkeypatch):
    monkeypatch.setattr(
        "prefcli.rewards.sources.ModelReward.score", lambda self, answers: torch.full((len(answers),), float("nan"))
    )
    result = prefcli("score", "--data", chain.data("held_out_pairs"), "--reward", "rm")
    assert (result.exit_code, result.stdout) == (4, "") and "reward rm gives nan" in result.stderr

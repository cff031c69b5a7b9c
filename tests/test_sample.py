"""`prefcli sample`: whose answers they are, their order and draws, what reads them, what is refused."""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest
import torch
from test_label import OLD

from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.data.encoder import Encoder
from prefcli.evaluation import placement
from prefcli.models import generation
from prefcli.models.loading import load_policy
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT
from prefcli.statistics.variety import distinct

CHAT = [
    [{"role": "user", "content": "Who has the kite?"}],
    [{"role": "user", "content": "Mira keeps the kite in the attic. Where is the kite?"}],
    [
        {"role": "user", "content": "Mira has the bell."},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "Who has the bell?"},
    ],
]
FEW = ["--max-new-tokens", "6"]


def rows_of(result):
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def prompts(jsonl):
    return jsonl("p.jsonl", *[{"id": i, "prompt": prompt} for i, prompt in enumerate(["The kite is", *CHAT])])


def test_the_answers_to_a_prompt_stand_by_each_other_with_its_columns(prefcli, prompts):
    rows = rows_of(prefcli("sample", "--model", "tiny", "--prompts", prompts, "--num-generations", "3", *FEW))
    assert [row["id"] for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [row["prompt"] for row in rows[::3]] == ["The kite is", *CHAT]
    assert all(list(row) == ["id", "prompt", "completion"] and isinstance(row["completion"], str) for row in rows)
    for start in range(0, 12, 3):
        assert len({row["completion"] for row in rows[start : start + 3]}) == 3


def test_one_answer_is_the_one_that_eval_measures(chain, prefcli):
    args = ["--model", "sft", "--prompts", chain.data("held_out_prompts"), "--max-prompts", "5", "--seed", "3", *FEW]
    rows = rows_of(prefcli("sample", *args))
    evaluated = json.loads(prefcli("eval", *args, "--samples", "5", "--json").stdout)
    assert [row["completion"] for row in rows] == [s["answers"][0]["text"] for s in evaluated["samples"]]
    summary = json.loads(prefcli("sample", *args, "--json").stdout)
    (entry,) = evaluated["models"]
    assert {n: summary[n] for n in ("length", "distinct_2", "ended")} == {
        n: entry[n] for n in ("length", "distinct_2", "ended")
    }
    assert set(summary) == {"rows", "out", "empty", "length", "distinct_2", "ended", "seconds"}
    assert (summary["rows"], summary["out"], summary["empty"]) == (5, None, 0)
    assert summary["distinct_2"] == distinct([row["completion"] for row in rows], 2)


def test_the_seed_alone_fixes_the_draws_and_the_batch_changes_nothing(prefcli, prompts):
    def answers(*more):
        return prefcli("sample", "--model", "tiny", "--prompts", prompts, "--num-generations", "3", *FEW, *more).stdout

    usual = answers()
    assert usual and all(answers("--batch-size", size) == usual for size in ("1", "5", "12"))
    assert answers("--seed", "1") != usual
    assert answers("--temperature", "0.001") != usual


def test_answers_are_drawn_from_the_model_and_apart_from_each_other(prefcli, jsonl):
    """First tokens of 500 answers against the model's softmax: how often each text comes, and how often twice."""
    temperature, n = 0.9, 500
    rows = rows_of(
        prefcli("sample", "--model", "tiny", "--prompts", jsonl("p.jsonl", {"prompt": CHAT[0]}), "--num-generations", n,
                "--max-new-tokens", "1", "--temperature", temperature, "--batch-size", n)
    )  # fmt: skip
    reference = resolve("tiny", Store())
    tokenizer = load_tokenizer(reference, SILENT)
    model = load_policy(reference, dtype=torch.float32, device=torch.device("cpu"), trainable=False)
    ids = Encoder(tokenizer).prompt_ids(CHAT[0])
    with torch.no_grad():
        likely = torch.softmax(model(torch.tensor([ids])).logits[0, -1].double() / temperature, -1).tolist()
    expected: Counter[str] = Counter()
    for token, p in enumerate(likely):
        expected[tokenizer.decode([token], skip_special_tokens=True)] += p
    shown = {text: p for text, p in expected.items() if text.strip()}  # an empty answer is no row
    total = sum(shown.values())
    found = Counter(row["completion"] for row in rows)
    for text, p in shown.items():
        share = p / total
        assert abs(found[text] / len(rows) - share) < 5 * (share / len(rows)) ** 0.5 + 2 / len(rows), text
    twice = sum(a["completion"] == b["completion"] for a, b in zip(rows[::2], rows[1::2])) / (len(rows) // 2)
    same = sum((p / total) ** 2 for p in shown.values())
    assert abs(twice - same) < 4 * (same * (1 - same) / (len(rows) // 2)) ** 0.5


def test_answers_go_on_to_score_to_sft_and_as_pairs_to_dpo_and_train_rm(chain, prefcli, prompts, own_folder):
    (own_folder / "r.py").write_text(
        "def score(prompts, completions, id, **_):\n    return [len(c) for c in completions]"
    )
    sampled = prefcli(
        "sample", "--model", "sft", "--prompts", prompts, "--num-generations", "3", *FEW, "--out", "a.jsonl"
    )
    assert sampled.stdout == "a.jsonl\n"
    reward = ["--reward", "python:r.py:score"]
    scored = rows_of(prefcli("score", "--data", "a.jsonl", *reward))
    answers = [json.loads(line) for line in (own_folder / "a.jsonl").read_text().splitlines()]
    assert scored == [row | {"scores": {"score": len(row["completion"])}} for row in answers]
    labelled = prefcli("label", "--data", "a.jsonl", "--by", reward[1], "--out", "pairs.jsonl")
    assert labelled.stdout == "pairs.jsonl\n"
    pairs = [json.loads(line) for line in (own_folder / "pairs.jsonl").read_text().splitlines()]
    assert {type(row["prompt"]) for row in pairs} == {str, list} and {row["id"] for row in pairs} <= {0, 1, 2, 3}
    for stage, file in (("sft", "a.jsonl"), ("dpo", "pairs.jsonl"), ("train-rm", "pairs.jsonl")):
        planned = prefcli(stage, "--model", "sft@v1", "--data", file, "--dry-run")
        assert planned.exit_code == 0, planned.stderr
        assert f"{len(answers if stage == 'sft' else pairs)} rows" in planned.stderr, stage


def test_what_belongs_to_an_earlier_answer_is_left_out(prefcli, jsonl):
    """Else `sft` would leave the new answer out for the old one's label, or train on the old one in its place."""
    dialogue, worse = ([*CHAT[0], {"role": "assistant", "content": text}] for text in ("Mira.", "No."))
    question = CHAT[0][0]["content"]
    data = [
        jsonl("kto.jsonl", {"prompt": CHAT[0], "completion": "Mira.", "label": False, "id": 1}),
        jsonl("scored.jsonl", {"prompt": CHAT[0], "completion": "Mira.", "scores": {"rm": 2.0}, "label": "Mira"}),
        jsonl("pairs.jsonl", {"prompt": question, "messages": dialogue, "chosen": dialogue, "rejected": worse}),
        jsonl("chat.jsonl", {"messages": dialogue}),
        jsonl("alpaca.jsonl", {"instruction": question, "output": "Mira.", "kto_tag": 0}),
        jsonl("both.jsonl", {"prompt": CHAT[0], "chosen": "Mira.", "rejected": "No."} | OLD),
        *(
            jsonl(f"{number}.jsonl", {"prompt": CHAT[0], "completion": "Mira.", name: bad})
            for number, (name, bad) in enumerate(
                [("label", "False"), ("label", "bad"), ("label", "👎"), ("label", -1), ("thumbs", "down"), ("label", 0)]
            )
        ),
    ]
    rows = rows_of(prefcli("sample", "--model", "tiny", *[w for d in data for w in ("--prompts", d)], *FEW))
    assert [set(row) - {"prompt", "completion"} for row in rows] == [
        {"id"}, {"label"}, *[set()] * 9, {"label"}
    ]  # fmt: skip
    assert all(row["prompt"] == CHAT[0] and row["completion"] != "Mira." for row in rows)


def test_empty_answers_are_no_rows_and_are_counted(prefcli, prompts, monkeypatch):
    usual = generation.generate

    def half_empty(model, asked, *, eos_ids, **more):
        found = usual(model, asked, eos_ids=eos_ids, **more)
        return [[min(eos_ids)] if i % 2 else ids for i, ids in enumerate(found)]

    args = ["sample", "--model", "tiny", "--prompts", prompts, "--num-generations", "2", *FEW]
    monkeypatch.setattr(generation, "generate", half_empty)
    result = prefcli(*args)
    assert [row["id"] for row in rows_of(result)] == [0, 1, 2, 3]
    assert "4 of 8 answers are empty and left out" in result.stderr
    summary = json.loads(prefcli(*args, "--json").stdout)
    assert (summary["rows"], summary["empty"], summary["ended"], summary["length"]) == (4, 4, 0.5, 3.5)
    monkeypatch.setattr(generation, "generate", lambda model, asked, *, eos_ids, **_: [[min(eos_ids)]] * len(asked))
    result = prefcli(*args, "--out", "a.jsonl")
    assert (result.exit_code, result.stdout) == (4, "") and "gave only empty answers" in result.stderr
    assert not os.path.exists("a.jsonl")


def test_prompts_that_are_too_long_are_left_out_and_counted(prefcli, prompts):
    encoder = Encoder(load_tokenizer(resolve("tiny", Store()), SILENT))
    longest = len(encoder.prompt_ids(CHAT[1]))
    kept = [i for i, p in enumerate(["The kite is", *CHAT]) if len(encoder.prompt_ids(p)) <= longest]
    assert 0 < len(kept) < 4
    result = prefcli("sample", "--model", "tiny", "--prompts", prompts, "--max-prompt-length", longest, *FEW)
    assert [row["id"] for row in rows_of(result)] == kept
    assert f"{4 - len(kept)} of 4 prompts are longer" in result.stderr


def test_the_rows_go_to_stdout_or_to_the_file_and_quiet_says_nothing(prefcli, prompts, own_folder):
    args = ["sample", "--model", "tiny", "--prompts", prompts, *FEW]
    result = prefcli(*args)
    assert "answering" in result.stderr and "4 to 4 prompts" in result.stderr
    quiet = prefcli(*args, "--quiet", "--out", "a.jsonl")
    assert quiet.stdout == "a.jsonl\n" and "answer" not in quiet.stderr
    assert (own_folder / "a.jsonl").read_text() == result.stdout
    assert json.loads(prefcli(*args, "--out", "a.jsonl", "--json").stdout)["out"] == "a.jsonl"


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (["--prompts", "{p}"], 2, "--model is missing"),
        (["--model", "sft"], 2, "--prompts is missing"),
        (["--model", "sft", "--prompts", "{p}", "--num-generations", "0"], 2, "--num-generations"),
        (["--model", "sft", "--prompts", "{p}", "--out", "a.json"], 2, ".jsonl"),
        (["--model", "sft", "--prompts", "{p}", "--out", "no/a.jsonl"], 2, "no directory no"),
        (["--model", "sft", "--prompts", "{p}", "--out", "./p.jsonl"], 2, "one of the files of --prompts"),
        (["--model", "sft", "--prompts", "{p}", "--device", "warp"], 2, "--device"),
        (["--model", "sft", "--prompts", "{p}", "--max-new-tokens", "1024"], 2, "the model reads 1024"),
        (["--model", "sft", "--prompts", "missing.jsonl"], 3, "missing.jsonl"),
        (["--model", "sft", "--prompts", "text.jsonl"], 3, "expected columns prompt"),
        (["--model", "sft", "--prompts", "{p}", "--max-prompt-length", "2"], 3, "--max-prompt-length"),
        (["--model", "nosuch", "--prompts", "{p}"], 4, "nosuch"),
        (["--model", "rm", "--prompts", "{p}"], 4, "reward model"),
        (["--model", "runs/rm/v1/model", "--prompts", "{p}"], 4, "reward model"),
    ],
)
def test_what_cannot_be_sampled_is_refused(chain, prefcli, prompts, jsonl, own_folder, args, code, part):
    jsonl("text.jsonl", {"text": "whole"})
    before = sorted(os.listdir(own_folder)), prompts.read_text()
    result = prefcli("sample", *[arg.format(p=prompts) for arg in args])
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert part in result.stderr and "Traceback" not in result.stderr
    assert (sorted(os.listdir(own_folder)), prompts.read_text()) == before


def test_a_place_that_cannot_be_written_is_refused_before_any_answer(prefcli, prompts, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    result = prefcli("sample", "--model", "tiny", "--prompts", prompts, "--out", "a.jsonl")
    assert result.exit_code == 7 and "no permission" in result.stderr and "answering" not in result.stderr


def test_a_model_whose_logits_are_no_numbers_is_refused(prefcli, prompts, monkeypatch):
    def damaged(*args, **more):
        model = load_policy(*args, **more)
        torch.nn.init.constant_(model.get_output_embeddings().weight, float("nan"))
        return model

    monkeypatch.setattr(placement, "load_policy", damaged)
    result = prefcli("sample", "--model", "tiny", "--prompts", prompts)
    assert (result.exit_code, result.stdout) == (4, "") and "logits are not finite" in result.stderr

"""Labelled answers as rows, rows weighted and mixed, and the commands that learn from them."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest
from conftest import data_of
from safetensors.torch import load_file

from prefcli.data.dataset import read_dataset
from prefcli.data.row import Row
from prefcli.data.weighting import first, mix, weigh
from prefcli.errors import DataError, UsageError
from prefcli.stages.kto import KTOSteps, answer_before
from prefcli.stages.reward import split
from prefcli.stages.steps import Steps

GOOD = {"prompt": "Where is the cup?", "completion": "On the shelf.", "label": True}


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_labels_are_read_as_they_are_spelt_and_pairs_are_taken_apart(jsonl):
    spelt = [{**GOOD, "label": label} for label in (True, False, 1, 0, "true", " FALSE ", "1")]
    rows = read_dataset([str(jsonl("a.jsonl", *spelt))], "labelled").rows
    assert [row.label for row in rows] == [True, False, True, False, True, False, True]
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (row,) = read_dataset([str(jsonl("m.jsonl", {"messages": messages, "label": False}))], "labelled").rows
    assert (row.prompt, row.completion, row.label) == (messages[:1], "Hello", False)
    pair = {"prompt": "Where is the cup?", "chosen": "There.", "rejected": "No.", "n": 3}
    rows = read_dataset([str(jsonl("p.jsonl", pair))], "labelled").rows
    assert [(r.completion, r.label, r.chosen, r.columns) for r in rows] == [
        ("There.", True, None, {"n": 3}), ("No.", False, None, {"n": 3}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({**GOOD, "label": "maybe"}, "'label' must be true or false, good or bad, 1 or -1, and is 'maybe'"),
        ({**GOOD, "label": None}, "'label' must be true or false"),
        ({**GOOD, "completion": ""}, "'completion'"),
        ({"prompt": "a", "completion": "b"}, "expected columns prompt, completion and label"),
    ],
)
def test_what_is_no_label_is_said(jsonl, row, said):
    with pytest.raises(DataError) as error:
        read_dataset([str(jsonl("a.jsonl", row))], "labelled")
    assert said in error.value.message and "a.jsonl, line 1" in error.value.message


def dataset(*sizes):
    return data_of(**{name: [Row(f"{name}{i}") for i in range(size)] for name, size in zip("abc", sizes)})


def test_files_are_mixed_by_weight_and_no_row_is_drawn_twice_more_than_another():
    found = mix(dataset(30, 10), [0.25, 0.75], seed=1)
    counts = {row.prompt: 0 for row in dataset(30, 10).rows}
    for row in found.rows:
        counts[row.prompt] += 1
    assert len(found.rows) == 40 and sum(n for name, n in counts.items() if name[0] == "a") == 10
    assert {n for name, n in counts.items() if name[0] == "a"} == {0, 1}
    assert {n for name, n in counts.items() if name[0] == "b"} == {3}
    assert [source["drawn"] for source in found.sources] == [10, 30] and "30 rows in a pass, from 10" in found.notes[1]
    again, other = mix(dataset(30, 10), [0.25, 0.75], seed=1), mix(dataset(30, 10), [0.25, 0.75], seed=2)
    assert [r.prompt for r in again.rows] == [r.prompt for r in found.rows] != [r.prompt for r in other.rows]
    assert list(mix(dataset(3, 1), [], seed=0).rows) == list(dataset(3, 1).rows)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_seed_no_row_is_drawn_twice_more_than_another_of_its_file(seed):
    """10 of 30 rows, and 29 of 9: three times each, and two of them once more."""
    found = mix(dataset(30, 9), [0.25, 0.75], seed).rows
    counts = [sorted(Counter(row.prompt for row in found if row.prompt[0] == name).values()) for name in "ab"]
    assert counts == [[1] * 10, [3] * 7 + [4] * 2] and len(found) == 39
    other = mix(dataset(30, 9), [0.25, 0.75], seed + 1).rows
    assert {row.prompt for row in found if row.prompt[0] == "a"} != {r.prompt for r in other if r.prompt[0] == "a"}


def test_the_first_rows_of_all_files_together_are_taken_and_counted_for_each():
    assert first(dataset(3, 2), None).sources == dataset(3, 2).sources
    for most, used in ((1, [1, 0]), (3, [3, 0]), (4, [3, 1]), (5, [3, 2]), (9, [3, 2])):
        found = first(dataset(3, 2), most)
        assert [row.prompt for row in found.rows] == [row.prompt for row in dataset(3, 2).rows][:most]
        assert [source["rows"] for source in found.sources] == used
        assert [source["rows_in_file"] for source in found.sources] == [3, 2]
        assert bool(found.notes) == (most < 5)
    assert len(mix(first(dataset(3, 2), 4), [1.0, 1.0], seed=0).rows) == 4
    assert len(mix(first(dataset(3, 2), 2), [1.0, 0.0], seed=0).rows) == 2
    with pytest.raises(UsageError, match="--max-rows leaves no row of b"):
        mix(first(dataset(3, 2), 2), [1.0, 1.0], seed=0)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0], [1.0, 1.0, 1.0]])
def test_weights_that_do_not_go_with_the_files_are_refused(weights):
    with pytest.raises(UsageError, match="--data-weight"):
        mix(dataset(3, 1), weights, seed=0)


def test_a_row_that_is_drawn_several_times_is_held_out_whole():
    mixed = mix(dataset(20, 4), [1.0, 3.0], seed=0)
    training, held_out = split(mixed.rows, 0.25, 0, False)
    assert held_out and not set(map(id, training)) & set(map(id, held_out))
    assert len({id(row) for row in held_out}) == len(held_out)


def test_rows_are_weighed_by_a_column():
    data = data_of(a=[Row("a", columns={"w": "0.5"}), Row("b", columns={"w": 2})])
    weigh(data, "w")
    assert [row.weight for row in data.rows] == [0.5 / 1.25, 2.0 / 1.25]
    for bad, said in (({}, "no column 'w'"), ({"w": "x"}, "is 'x'"), ({"w": -1}, "is -1"), ({"w": None}, "is None")):
        with pytest.raises(DataError, match=said):
            weigh(data_of(a=[Row("a", columns=bad)]), "w")
    with pytest.raises(DataError, match="every weight is 0"):
        weigh(data_of(a=[Row("a", columns={"w": 0})]), "w")


FEW = ["--model", "sft@v1", "--max-steps", "2", "--batch-size", "8", "--lr", "1e-3"]


def test_kto_learns_from_binary_feedback(chain, prefcli, jsonl):
    labelled = [json.loads(line) for line in open(chain.sample_data / "binary.jsonl")][:8]  # all in each batch
    good = sum(row["label"] for row in labelled)
    assert 0 < good < 8
    command = ["kto", "--data", jsonl("eight.jsonl", *labelled), *FEW, "--lr-scheduler", "constant", "--warmup", "0"]
    result = prefcli(*command, "--eval-data", chain.data("held_out_pairs"), "--desirable-weight", "0.1")
    path = chain.path_of(result)
    assert "desirable answers weigh" in result.stderr and "--desirable-weight" in result.stderr
    first, second, held_out = metrics(path)
    assert first["loss"] == pytest.approx(0.5 * (0.1 * good + (8 - good)) / 8, abs=1e-4)
    assert first["kl"] == pytest.approx(0, abs=1e-4)
    assert abs(second["rewards/chosen"]) > 1e-4 and "eval_rewards/margins" in held_out
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["stage"] == "kto" and manifest["data"][0]["format"] == "prompt/completion/label"
    assert manifest["parents"]["reference"]["ref"] == "sft@v1"
    assert "nothing to do" in prefcli(*command, "--eval-data", chain.data("held_out_pairs"),
                                      "--desirable-weight", "0.1").stderr  # fmt: skip


def test_kto_trains_an_adapter_against_the_model_below_it_and_takes_pairs(chain, prefcli):
    path = chain.path_of(prefcli("kto", "--data", chain.data("pairs"), *FEW, "--lora-rank", "2"))
    assert (path / "model/adapter_model.safetensors").exists()
    assert metrics(path)[0]["loss"] == pytest.approx(0.5, abs=1e-4)
    dry = prefcli("kto", "--data", chain.data("pairs"), *FEW, "--dry-run")
    assert dry.exit_code == 0 and "example undesirable" in dry.stderr


def test_kto_refuses_one_kind_of_label_and_batches_of_one(chain, prefcli, jsonl):
    one_kind = jsonl("good.jsonl", GOOD, GOOD)
    result = prefcli("kto", "--data", one_kind, *FEW)
    assert result.exit_code == 3 and "every row is labelled true" in result.stderr
    result = prefcli("kto", "--data", chain.data("pairs"), *FEW, "--batch-size", "1")
    assert result.exit_code == 2 and "raise --batch-size" in result.stderr


@pytest.mark.parametrize("command", ["dpo", "kto"])
def test_doubling_all_weights_changes_nothing(command, chain, prefcli, jsonl):
    rows = [json.loads(line) for line in open(chain.data("pairs"))][:16]
    found = []
    for name, factor in (("once", 1), ("twice", 2), ("other", -1)):
        weighed = [row | {"w": factor * (1 + i % 3) if factor > 0 else 5 - i % 3} for i, row in enumerate(rows)]
        data = jsonl(f"{command}-{name}.jsonl", *weighed)
        options = ["--weight-column", "w", "--max-steps", "1", "--optim", "sgd", "--warmup", "0"]
        result = prefcli(command, "--data", data, *FEW[:2], "--batch-size", "8", *options, "--max-grad-norm", "0",
                         "--lr", "1", "--name", f"{command}-{name}")  # fmt: skip
        found.append(load_file(chain.path_of(result) / "model/model.safetensors"))
    once, twice, other = found
    assert all(once[name].equal(twice[name]) for name in once)
    assert any(not once[name].equal(other[name]) for name in once)


def test_another_objective_moves_the_pairs_margin(chain, prefcli):
    """A reward that is all against the chosen side turns the first step's direction round."""
    source = chain.folder / "against.py"
    chosen = [row.chosen for row in read_dataset([chain.data("pairs")], "pairs").rows]
    source.write_text(
        f"CHOSEN = {chosen!r}\ndef score(prompts, completions, **columns):\n"
        "    return [-9.0 if c in CHOSEN else 9.0 for c in completions]\n"
    )
    common = ["dpo", "--data", chain.data("pairs"), *FEW, "--lr-scheduler", "constant", "--warmup", "0"]
    plain = metrics(chain.path_of(prefcli(*common)))
    reward = ["--reward", f"other=python:{source}:score", "--reward-weight", "other=0.5"]
    turned = metrics(chain.path_of(prefcli(*common, *reward)))
    assert turned[0]["loss"] == pytest.approx(4e-8, abs=1e-6)  # z = (0 + 0.5·18) / 0.5
    assert plain[-1]["rewards/margins"] > turned[-1]["rewards/margins"]
    result = prefcli(*common, "--reward", f"other=python:{source}:score")
    assert result.exit_code == 2 and "no weight is left for the pair labels" in result.stderr


def test_without_a_reference_none_is_named_or_opened(chain, prefcli, monkeypatch):
    monkeypatch.setattr("prefcli.stages.reference.load_policy", lambda *_, **__: pytest.fail("opened"))
    result = prefcli("dpo", "--data", chain.data("pairs"), *FEW, "--loss", "simpo")
    path = chain.path_of(result)
    assert list(json.loads((path / "manifest.json").read_text())["parents"]) == ["model"]
    assert "simpo, beta 2, on log-probabilities (mean a token); simpo-gamma 1" in result.stderr


def test_padded_rows_make_the_same_steps_where_trl_has_no_such_loss(chain, prefcli):
    common = ["dpo", "--data", chain.data("pairs"), *FEW, "--loss", "ipo", "--sft-weight", "0.3"]
    packed, padded = (chain.path_of(prefcli(*common, way)) for way in ("--packed", "--no-packed"))
    for mine, theirs in zip(metrics(packed), metrics(padded), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    one, two = (load_file(path / "model/model.safetensors") for path in (packed, padded))
    assert all((one[name] - two[name]).abs().max() < 1e-3 for name in one)


def kto_row(row, prompt):
    return {"row": row, "prompt_ids": [prompt], "completion_ids": [row]}


def test_a_prompt_is_mismatched_with_the_answer_to_another_one():
    rows = [kto_row(row, prompt) for row, prompt in enumerate([7, 7, 8, 8, 8, 7])]
    assert [answer_before(rows, row) for row in rows] == [[4], [4], [1], [1], [1], [4]]
    rows = [kto_row(row, 7) for row in range(3)]
    assert [answer_before(rows, row) for row in rows] == [[2], [0], [1]]


def test_a_step_of_one_row_takes_the_answer_of_another_row(monkeypatch):
    steps = object.__new__(KTOSteps)
    steps.accelerator = SimpleNamespace(num_processes=1, process_index=0)
    steps.train_dataset = [kto_row(row, row) for row in range(4)]
    monkeypatch.setattr(steps, "_mismatched", lambda model, examples, batch: [row["other_ids"] for row in examples])
    monkeypatch.setattr(steps, "_point", lambda found: found)
    for parts, expected in (([[2]], [[1]]), ([[2, 3]], [[3], [2]]), ([[2], [0]], [[0], [2]])):
        steps.begin(None, [[kto_row(row, row) for row in part] for part in parts])
        assert steps._kl == expected


def test_held_out_rows_have_a_reference_point_of_their_own_and_leave_the_steps(monkeypatch):
    """A run that resumes takes its step's first, and then measures what it owes."""
    steps, seen = object.__new__(KTOSteps), []
    steps.model, steps.eval_dataset, steps._kl = None, [kto_row(row, row) for row in range(2)], "of the step"
    monkeypatch.setattr(steps, "own_rows", lambda examples: examples)
    monkeypatch.setattr(steps, "_mismatched", lambda *_: {"ratio": (2.0, 2.0)})
    monkeypatch.setattr(steps, "_point", lambda found: found["ratio"])
    monkeypatch.setattr(Steps, "evaluation_loop", lambda self, *_: seen.append(self._kl) or "measured")
    assert steps.evaluation_loop([{"examples": steps.eval_dataset}]) == "measured"
    assert seen == [(2.0, 2.0)] and steps._kl == "of the step"


def test_a_batch_of_one_kind_of_answers_alone_has_no_margin(chain, prefcli, jsonl):
    rows = [{"prompt": "Where?", "completion": f"Here {i}.", "label": i > 0} for i in range(6)]
    result = prefcli("kto", "--data", jsonl("labels.jsonl", *rows), "--model", "tiny", "--batch-size", "2")
    assert sorted("rewards/margins" in row for row in metrics(chain.path_of(result))) == [False, False, True]

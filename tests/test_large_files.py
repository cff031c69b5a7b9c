"""Large files: rows that are read, converted and tokenised when a step needs them are those of a small file."""

from __future__ import annotations

import json
import os
import random
import shutil
from functools import partial

import pyarrow
import pytest
from conftest import DEMO, PAIR, write
from safetensors.torch import load_file

from prefcli.config.dpo import DPOConfig
from prefcli.data import records
from prefcli.data import rows as held_rows
from prefcli.data.dataset import read_dataset
from prefcli.data.rows import Examples
from prefcli.data.weighting import first, mix, weigh
from prefcli.data.writing import write_rows
from prefcli.errors import DataError
from prefcli.stages.inputs import prepare
from prefcli.stages.metrics_log import MetricsLog
from prefcli.stages.plan import run_of, summary


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def large(monkeypatch):
    """From now on every file is a large one, of which two rows are checked at the start."""

    def lower(checked=2):
        monkeypatch.setattr(records, "LARGE", 0)
        monkeypatch.setattr(held_rows, "CHECKED", checked)
        monkeypatch.setattr("prefcli.data.dataset.CHECKED", checked)

    return lower


PAIRS = [PAIR | {"prompt": f"q{i}", "w": i / 2} for i in range(7)]
FILES = {
    "pairs": lines(*PAIRS),
    "demos": "\n" + lines(*(DEMO | {"prompt": f"q{i}", "label": i != 3} for i in range(7))),
    "labelled": lines(*PAIRS),
    "prompts": lines(*PAIRS),
}


@pytest.mark.parametrize("purpose", FILES)
def test_the_rows_are_those_of_a_small_file(own_folder, large, purpose):
    write(own_folder / "a.jsonl", FILES[purpose])
    write(own_folder / "b.jsonl", FILES[purpose].replace("q", "r"))
    eager = read_dataset(["a.jsonl", "b.jsonl"], purpose, lazily=True)
    large()
    held = read_dataset(["a.jsonl", "b.jsonl"], purpose, lazily=True)
    assert eager.rows.whole and not held.rows.whole
    assert list(held.rows) == list(eager.rows) and held.digests == eager.digests
    assert [source["format"] for source in held.sources] == [source["format"] for source in eager.sources]
    if purpose != "demos":  # of which one is left out
        assert len(held.rows) == len(eager.rows) == (28 if purpose == "labelled" else 14)
        assert [held.rows[i] for i in range(len(held.rows))] == list(eager.rows)
        assert list(held.rows[3:5]) == list(eager.rows[3:5]) and held.rows[-1] == eager.rows[-1]
        with pytest.raises(IndexError):
            held.rows[len(held.rows)]
    assert any("read as they are needed" in note for note in held.notes)


@pytest.mark.parametrize(
    ("purpose", "row", "column", "values", "said"),
    [
        ("pairs", {"prompt": "q", "a": "x", "b": "y"}, "winner", ["a", "b", "tie"], "6 of 9 rows are ties"),
        ("labelled", PAIR | {"score_chosen": 1}, "score_rejected", [0, 0, 1], "6 of 9 rows are ties"),
        ("labelled", DEMO, "label", [1, -1, 0], "6 of 9 rows are ties"),
        ("demos", DEMO, "label", [True, True, False], "6 rows labelled false"),
    ],
)
def test_ties_and_what_is_labelled_false_take_no_place(own_folder, large, purpose, row, column, values, said):
    used = [values[i] for i in (0, 1, 2, 2, 2, 2, 0, 2, 2)]
    write(own_folder / "a.jsonl", lines(*(row | {"prompt": f"q{i}", column: one} for i, one in enumerate(used))))
    eager = read_dataset(["a.jsonl"], purpose, lazily=True)
    large()
    held = read_dataset(["a.jsonl"], purpose, lazily=True)
    assert [held.rows[i] for i in range(len(held.rows))] == list(eager.rows) and not held.rows.whole
    assert any(said in note for note in held.notes) and held.sources[0]["rows"] == len(eager.rows)
    assert len(first(held, 2).rows) == 2


def test_mixing_weighing_and_holding_out_choose_the_same_rows(own_folder, large):
    from prefcli.stages.reward import split

    write(own_folder / "a.jsonl", FILES["pairs"])
    write(own_folder / "b.jsonl", lines(*(PAIR | {"prompt": f"r{i}", "w": 1} for i in range(3))))

    def chosen(most):
        data = read_dataset(["a.jsonl", "b.jsonl"], "pairs", lazily=True)
        data = first(data, most)
        weigh(data, "w")
        data = mix(data, [0.3, 0.7], seed=3)
        training, held_out = split(data.rows, 0.3, 1, False)
        return [[(row.prompt, row.weight) for row in part] for part in (data.rows, training, held_out)], data.sources

    before = chosen(None), chosen(9)
    large()
    assert (chosen(None), chosen(9)) == before
    assert all(len(part) > 1 for part in before[0][0])


def test_few_rows_of_a_large_file_are_all_checked(own_folder, large, monkeypatch):
    large()
    monkeypatch.setattr(records, "LARGE", 5)
    write(own_folder / "a.jsonl", lines(*PAIRS[:3], PAIR | {"chosen": ""}, *PAIRS))
    data = read_dataset(["a.jsonl"], "pairs", lazily=True)
    assert not data.rows.whole
    few = list(data.rows[:3])
    assert list(first(data, 3).rows) == few and data.rows.whole
    with pytest.raises(DataError, match="a.jsonl, line 4: 'chosen' is empty"):
        first(data, 4)
    skipping = first(read_dataset(["a.jsonl"], "pairs", True, lazily=True), 4)
    assert [row.prompt for row in skipping.rows] == ["q0", "q1", "q2"] and skipping.sources[0]["rows"] == 3


def test_a_bad_row_stops_where_it_is_met_or_the_next_one_takes_its_place(own_folder, large):
    large()
    bad = '{"prompt": "half'
    write(own_folder / "a.jsonl", lines(*PAIRS[:3]) + bad + "\n" + lines(PAIR | {"chosen": 3}, *PAIRS[3:]) + bad)
    rows = read_dataset(["a.jsonl"], "pairs", lazily=True).rows
    assert [rows[i].prompt for i in (0, 1, 2, 5)] == ["q0", "q1", "q2", "q3"]
    for index, said in ((3, "a.jsonl, line 4: not valid JSON"), (4, "line 5: 'chosen' must be"), (9, "line 10")):
        with pytest.raises(DataError, match=said):
            rows[index]
    data = read_dataset(["a.jsonl"], "pairs", True, lazily=True)
    assert data.left_out is None
    assert [data.rows[i].prompt for i in (2, 3, 4, 5, 9)] == ["q2", "q3", "q3", "q3", "q0"]
    assert data.left_out.startswith("3 of the rows read do not fit") and "line 4" in data.left_out
    assert [row.prompt for row in data.rows] == [f"q{i}" for i in range(7)]


def test_a_bad_row_among_the_first_is_told_at_once(own_folder, large):
    large()
    write(own_folder / "a.jsonl", lines(PAIR, PAIR | {"chosen": ""}, PAIR))
    with pytest.raises(DataError, match="line 2"):
        read_dataset(["a.jsonl"], "pairs", lazily=True)
    found = read_dataset(["a.jsonl"], "pairs", True, lazily=True)
    assert "1 of 2 rows left out" in found.notes[0] and len(found.rows) == 3


def test_a_file_in_which_nothing_can_be_used_ends(own_folder, large):
    large(checked=1)
    write(own_folder / "a.jsonl", lines(PAIR) + "x\n" * 5)
    rows = read_dataset(["a.jsonl"], "pairs", True, lazily=True).rows
    assert rows[3].prompt == PAIR["prompt"]  # in a circle
    with pytest.raises(DataError, match="no row of a.jsonl can be used"):
        rows[1:4][0]


def test_a_weight_that_is_none_stops_the_run_at_its_row(own_folder, large):
    large()
    write(own_folder / "a.jsonl", lines(*PAIRS[:4], PAIR | {"w": "much"}))
    data = read_dataset(["a.jsonl"], "pairs", lazily=True)
    with pytest.raises(DataError, match="a.jsonl, line 5: --weight-column w is 'much'"):
        weigh(data, "w")  # before the run, since all are read for their mean
    with pytest.raises(DataError, match="line 1: there is no column 'v'"):
        weigh(data, "v")


def test_rows_are_taken_and_told_apart_by_their_places(own_folder, large):
    large()
    write(own_folder / "a.jsonl", FILES["pairs"])
    rows = read_dataset(["a.jsonl"], "pairs", lazily=True).rows
    again = rows.take([2, 2, 5])
    assert [row.prompt for row in again] == ["q2", "q2", "q5"] and list(again.positions) == [2, 2, 5]
    assert [row.prompt for row in again.take([2, 0])] == ["q5", "q2"]


def test_places_in_a_csv_are_those_of_its_rows(own_folder):
    """Fields of several lines, quotes, blank lines and every line end, against Python's reader of the whole."""
    import csv
    import io

    draw = random.Random(0)
    for _ in range(100):
        rows = [["".join(draw.choices(["a", "é", '"', ",", "\n", "\r", "\r\n", " ", "\u2028"], k=6)) + "x"
                 for _ in range(3)] for _ in range(5)]  # fmt: skip
        out = io.StringIO(newline="")
        end = draw.choice(["\n", "\r\n", "\r"])
        writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerow(["prompt", "chosen", "rejected"])
        for number, row in enumerate(rows):
            out.write(draw.choice(["", end]))
            writer.writerow([f"{number}{row[0]}", *row[1:]])
        write(own_folder / "a.csv", draw.choice([b"", b"\xef\xbb\xbf"]) + out.getvalue().encode())
        found = read_dataset(["a.csv"], "pairs", skip_bad=True)
        assert [[row.prompt, row.chosen, row.rejected] for row in found.rows] == [
            [f"{number}{row[0]}", *row[1:]] for number, row in enumerate(rows) if row[1] != row[2]
        ]


# Training


def tensors(path):
    return {name: load_file(path / name) for name in ("model/model.safetensors",)}


def same(one, other):
    return (
        all(one[file][name].equal(other[file][name]) for file in one for name in one[file] | other[file])
        and one.keys() == other.keys()
    )


@pytest.mark.parametrize("stage", ["sft", "rm", "dpo", "ppo"])
def test_a_run_on_a_large_file_ends_bit_for_bit_where_it_does_on_a_small_one(chain, prefcli, large, stage):
    large()
    path = chain.path_of(prefcli(*chain.args(stage), "--name", "large"))
    assert same(tensors(path), tensors(chain.path(stage)))
    both = [json.loads((found / "manifest.json").read_text()) for found in (path, chain.path(stage))]
    assert both[0]["key"] == both[1]["key"] and both[0]["data"][0]["rows"] == both[1]["data"][0]["rows"]
    assert both[0]["metrics"] == both[1]["metrics"]


def other_words(text):
    """As long, with other words."""
    return text.replace("e", "o").replace("a", "i").replace("chison", "chosen").replace("rojoctod", "rejected")


def put(path, text):
    """Into the very file, as an editor or `>` would."""
    with open(path, "r+") as file:
        file.write(text)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_row_that_was_changed_is_not_read(own_folder, large, name):
    large()
    long = "a" * (1 << 18)  # more than a buffer holds
    text = "prompt,chosen,rejected\n" + "".join(f"q{i},{long},b\n" for i in range(7))
    if name == "a.jsonl":
        text = lines(*(row | {"chosen": long} for row in PAIRS))
    path = write(own_folder / name, text)
    rows = read_dataset([name], "pairs", lazily=True).rows
    assert rows[5].prompt == "q5"
    before = path.stat()
    put(path, text.replace("q5", "z5"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert rows[4].prompt == "q4"
    with pytest.raises(DataError, match=rf"{name}, line \d was changed"):
        rows[5]
    put(path, text)
    assert rows[5].prompt == "q5"


def test_a_file_that_was_written_to_is_found_and_one_that_was_moved_is_the_same(own_folder, large):
    large()
    for name in ("a.jsonl", "a.csv", "a.parquet", "a.arrow", "a.jsonl.gz", "a.json"):
        made = table(own_folder / name)
        found = read_dataset([name], "pairs", lazily=True)
        found.check()
        os.chmod(made, 0o600)
        os.rename(made, own_folder / f"moved-{name}")
        shutil.copy(own_folder / f"moved-{name}", made)
        found.check()
        assert found.rows[6].prompt == "q6"
        os.utime(own_folder / f"moved-{name}")
        if name in ("a.jsonl", "a.csv", "a.arrow"):  # of the others nothing is read again
            with pytest.raises(DataError, match=name):
                found.check()
        else:
            found.check()


def table(path):
    """The pairs in a file of this kind."""
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in PAIRS]
    if path.name.endswith(".arrow"):
        made = pyarrow.Table.from_pylist(rows)
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, made.schema) as writer:
            writer.write_table(made)
    else:
        write_rows(path, lambda: rows)
    return path


@pytest.mark.parametrize("stage", ["dpo", "ppo"])
def test_rows_that_change_while_a_run_reads_them_end_it(chain, prefcli, large, own_folder, monkeypatch, stage):
    """After the second step the words of the last rows, which no step reads, are others: nothing becomes a version."""
    large()
    option = "--data" if stage == "dpo" else "--prompts"
    with open(chain.data("pairs" if stage == "dpo" else "prompts")) as file:
        text = file.read()
    path = write(own_folder / "rows.jsonl", text)
    command = [*chain.args(stage), option, path, "--name", "cut", "--max-steps", "4", "--save-every", "2"]
    write_metrics = MetricsLog.write

    def written(self, step, metrics):
        if step == 3:
            put(path, text[: len(text) // 2] + other_words(text[len(text) // 2 :]))
        write_metrics(self, step, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", written)
        result = prefcli(*command)
    assert result.exit_code == 3 and "rows.jsonl" in result.stderr and "was changed" in result.stderr, result.stderr
    assert [entry.name for entry in (chain.runs / "cut").iterdir() if entry.name[0] == "v"] == ["v1.partial"]
    assert [entry.name for entry in (chain.runs / "cut/v1.partial/state").iterdir()] == ["step2"]
    put(path, text)
    result = prefcli(*command)
    assert result.exit_code == 0 and "resuming from step 2" in result.stderr, result.stderr


def tiny_encoder():
    from transformers import AutoTokenizer

    from prefcli.artifacts.references import TINY
    from prefcli.data.encoder import Encoder

    return Encoder(AutoTokenizer.from_pretrained(TINY))


def test_kto_sees_the_same_answers(chain, large):
    from prefcli.data.tokenising import encode_labelled
    from prefcli.stages.trl_trainer import dataset

    encoder = tiny_encoder()
    encode = partial(encode_labelled, encoder=encoder, max_length=64)
    small = Examples(read_dataset([chain.data("pairs")], "labelled", lazily=True).rows, encode)
    large()
    held = Examples(read_dataset([chain.data("pairs")], "labelled", lazily=True).rows, encode)
    assert list(small) == list(dataset(held)) == list(dataset(small))


def test_a_row_whose_prompt_is_too_long_gives_its_place_to_the_next(chain, large, own_folder):
    from prefcli.data.tokenising import encode_pair
    from prefcli.stages.trl_trainer import dataset

    encoder = tiny_encoder()
    long = PAIR | {"prompt": "where is the cup " * 40}
    write(own_folder / "a.jsonl", lines(PAIRS[0], long, PAIRS[1], long))
    encode = partial(encode_pair, encoder=encoder, max_length=64)
    small = Examples(read_dataset(["a.jsonl"], "pairs").rows, encode)
    assert (small.cut, small.dropped, len(small)) == (0, 2, 2)
    large()
    held = Examples(read_dataset(["a.jsonl"], "pairs", lazily=True).rows, encode)
    assert (held.cut, held.dropped, len(held), len(held.first)) == (0, 1, 4, 1)
    assert [row["row"] for row in dataset(held)] == [0, 2, 2, 0]
    assert [row["prompt_ids"] for row in held[0:3]] == [small[i]["prompt_ids"] for i in (0, 1, 1)]


def test_a_bad_row_met_while_training_ends_with_its_line(chain, prefcli, large, own_folder):
    large()
    with open(chain.data("pairs")) as file:
        rows = file.readlines()
    path = write(own_folder / "pairs.jsonl", "".join([*rows[:8], "{\n", *rows[8:]]))
    command = ["dpo", "--model", "sft@v1", "--data", path, "--batch-size", "11", "--max-steps", "3", "--name", "large"]
    result = prefcli(*command)
    assert (result.exit_code, result.stdout) == (3, "") and "line 9: not valid JSON" in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    result = prefcli(*command, "--skip-bad")
    assert result.exit_code == 0 and "do not fit, later ones were used instead" in result.stderr, result.stderr


def test_the_plan_and_the_estimate_read_no_row_of_a_large_file(large, own_folder, monkeypatch):
    large()
    write(own_folder / "a.jsonl", lines(*PAIRS) + "{")  # a row that cannot be read is met when a step needs it
    inputs = prepare(DPOConfig(data=["a.jsonl"], model="tiny"))
    monkeypatch.setattr(held_rows.Source, "row", lambda *_: 1 / 0)
    assert "estimated" in summary(inputs)["memory"]
    assert run_of(inputs, "cpu").max_length == inputs.config.max_length


def test_a_dry_run_tokenises_the_first_rows_and_checks_all(prefcli, large, own_folder):
    large()
    for command in ("dpo", "kto", "sft"):
        write(own_folder / "a.jsonl", lines(*PAIRS) + "{")
        result = prefcli(command, "--data", "a.jsonl", "--model", "tiny", "--dry-run")
        assert result.exit_code == 3 and "read as they are needed" in result.stderr  # the plan is shown, and the place:
        assert f"a.jsonl:{len(PAIRS) + 1}  not valid JSON" in result.stderr, result.stderr
        write(own_folder / "a.jsonl", lines(*PAIRS))
        result = prefcli(command, "--data", "a.jsonl", "--model", "tiny", "--dry-run")
        assert result.exit_code == 0 and "read as they are needed" in result.stderr, result.stderr
        assert "of 2 cut" in result.stderr

"""A file in two with no prompt on both sides, and what `data stats` says of files."""

from __future__ import annotations

import gzip
import json
import random
import statistics
from pathlib import Path

import pytest
from conftest import PAIR, write
from typer.testing import CliRunner

from prefcli.cli.main import app
from prefcli.data import reading
from prefcli.data.scan import scan
from prefcli.data.splitting import split
from prefcli.data.stats import histogram, measure
from prefcli.errors import DataError


def rows(count: int, prompts: int, seed: int = 0) -> list[dict[str, str]]:
    """Prompts that stand there several times, in other case and with other white space."""
    dice = random.Random(seed)
    shapes = ["question {}", "Question {}", " question  {}", "question\t{}\n"]
    return [PAIR | {"prompt": dice.choice(shapes).format(dice.randrange(prompts)), "chosen": f"answer {i}"}
            for i in range(count)]  # fmt: skip


def plain(prompt: str) -> str:
    return " ".join(prompt.lower().split())


@pytest.fixture
def made(own_folder):
    def write_all(name: str = "pairs.jsonl", found=None) -> Path:
        found = rows(200, 60) if found is None else found
        lines = b"".join(json.dumps(row).encode() + b"\n" for row in found)
        return write(own_folder / name, gzip.compress(lines) if name.endswith(".gz") else lines)

    return write_all


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_no_prompt_is_on_both_sides_and_every_row_is_on_one(made, seed, share):
    found = rows(200, 60)
    parts = split(scan(str(made(found=found))), share, seed, False)
    assert sorted(parts.train + parts.held_out) == list(range(200))
    assert parts.train == sorted(parts.train) and parts.held_out == sorted(parts.held_out)
    sides = [{plain(found[i]["prompt"]) for i in part} for part in (parts.train, parts.held_out)]
    assert not sides[0] & sides[1] and all(sides) and parts.prompts == tuple(map(len, sides))
    smallest = min(sum(plain(row["prompt"]) == one for row in found) for one in sides[1])
    assert len(parts.held_out) <= max(share * 200 + 0.5, smallest)
    if share == 0.1:
        assert len(parts.held_out) >= 18  # within a prompt of it


def test_the_seed_decides_and_rows_that_are_added_move_hardly_any_prompt(made):
    few, more = rows(2000, 700), rows(2000, 700) + rows(200, 1400, seed=1)
    held = [
        {plain(found[i]["prompt"]) for i in split(scan(str(made(found=found))), 0.2, seed, False).held_out}
        for found, seed in ((few, 0), (few, 0), (few, 1), (more, 0))
    ]
    assert held[0] == held[1] != held[2]
    known = {plain(row["prompt"]) for row in few}
    assert len((held[0] ^ held[3]) & known) < 0.12 * len(held[0])
    assert len(held[0] ^ held[2]) > 0.5 * len(held[0])


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_lines_stay_as_they_are_byte_for_byte(prefcli, own_folder, name):
    lines = [b'{"rejected":"b", "prompt" : "%d", "chosen":"\\u00e9\xc3\xa9"}  ' % i for i in range(9)]
    text = b"\xef\xbb\xbf" + b"\n\n".join(lines)  # a mark at the start, blank lines, none at the end
    write(own_folder / name, gzip.compress(text) if name.endswith("gz") else text)
    result = prefcli("data", "split", name, "--held-out", 0.3)
    assert result.exit_code == 0, result.stderr
    files = result.stdout.split()
    assert files == [name.replace("pairs", "pairs.train"), name.replace("pairs", "pairs.held_out")]
    read = gzip.open if name.endswith("gz") else open
    written = [read(file, "rb").read().split(b"\n") for file in files]
    assert sorted(line for part in written for line in part if line) == sorted(lines)
    assert [len(part) - 1 for part in written] == [6, 3]


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_other_files_are_written_as_what_they_are(prefcli, own_folder, made, suffix):
    found = rows(40, 20)
    assert prefcli("data", "convert", made(found=found), f"other{suffix}", "--to", "pairs-plain").exit_code == 0
    result = prefcli("data", "split", f"other{suffix}", "--held-out", 0.25, "--json")
    told = json.loads(result.stdout)
    kept = [row for part in ("train", "held_out") for _, row in scan(told[part]["path"], "pairs")]
    assert sorted(row.chosen for row in kept) == sorted(row["chosen"] for row in found)
    assert told["train"]["path"] == f"other.train{suffix}" and told["train"]["rows"] + told["held_out"]["rows"] == 40


@pytest.mark.parametrize("name", ["q.txt", "s.tsv", "-"])
def test_what_is_no_json_is_written_as_rows(own_folder, name):
    sheet = "prompt\tchosen\trejected\n" + "".join(f"q{n}\ta\tb\n" for n in range(20))
    text = "".join(f"q{n}\n" for n in range(20)) if name == "q.txt" else sheet
    if name != "-":
        write(own_folder / name, text)
    reading._kept_input.cache_clear()
    result = CliRunner().invoke(app, ["data", "split", name], input=text)
    assert result.exit_code == 0, result.stderr
    files = result.stdout.split()
    found = [row.prompt for file in files for _, row in scan(file)]
    assert sorted(found) == sorted(f"q{n}" for n in range(20)) and all(file.endswith(".jsonl") for file in files)


def test_nothing_is_written_over_and_nothing_is_left_of_a_refusal(prefcli, own_folder, made):
    made()
    write(own_folder / "pairs.held_out.jsonl", "mine")
    result = prefcli("data", "split", "pairs.jsonl")
    assert result.exit_code == 2 and "pairs.held_out.jsonl exists already" in result.stderr
    assert not (own_folder / "pairs.train.jsonl").exists()
    assert prefcli("data", "split", "pairs.jsonl", "--force").exit_code == 0
    assert prefcli("data", "split", "pairs.jsonl", "--out-dir", "nowhere").exit_code == 2
    assert prefcli("data", "split", "nothing.jsonl").exit_code == 3


def test_rows_that_do_not_fit_end_with_3_or_are_left_out_and_counted(prefcli, own_folder, made):
    made(found=[*rows(20, 20), PAIR | {"chosen": 5}])
    result = prefcli("data", "split", "pairs.jsonl")
    assert result.exit_code == 3 and "pairs.jsonl, line 21" in result.stderr
    told = json.loads(prefcli("data", "split", "pairs.jsonl", "--skip-bad", "--json").stdout)
    assert told["left_out"] == 1 and told["train"]["rows"] + told["held_out"]["rows"] == 20


def test_a_file_of_one_prompt_cannot_be_split(made):
    with pytest.raises(DataError, match="all rows have one prompt"):
        split(scan(str(made(found=rows(5, 1)))), 0.5, 0, False)


# Stats


def test_stats_count_what_is_there(prefcli, own_folder, made):
    found = [*rows(50, 30), *rows(50, 30)[:3], PAIR | {"chosen": 5}]
    made(found=found)
    told = json.loads(prefcli("data", "stats", "pairs.jsonl", "--json").stdout)
    assert (told["rows"], told["bad"], told["duplicates"], told["unit"]) == (53, 1, 3, "characters")
    assert told["prompts"] == len({row["prompt"] for row in found[:-1]}) and told["turns"] == {"0": 53}
    lengths = sorted(len(row["chosen"]) for row in found[:-1])
    assert told["lengths"]["chosen"]["q50"] == statistics.median(lengths)
    assert told["lengths"]["chosen"]["mean"] == pytest.approx(statistics.fmean(lengths))
    assert (told["lengths"]["chosen"]["q0"], told["lengths"]["chosen"]["q100"]) == (lengths[0], lengths[-1])
    assert told["agreement"]["contradicted"] == 0 and told["length_bias"]["pairs"] == 53
    shown = prefcli("data", "stats", "pairs.jsonl", "--plot", "l.svg")
    assert "█" in shown.stdout and "median" in shown.stdout and (own_folder / "l.svg").read_text().startswith("<?xml")


def test_stats_of_labelled_rows_and_in_tokens(prefcli, own_folder, made):
    made("l.jsonl", [{"prompt": "the kite", "completion": "in the barn", "label": i < 2} for i in range(5)])
    told = json.loads(prefcli("data", "stats", "l.jsonl", "--model", "tiny", "--json").stdout)
    assert told["labels"] == {"true": 2, "false": 3} and told["unit"] == "tokens"
    assert told["lengths"]["answer"]["q50"] < len("in the barn")
    assert prefcli("data", "stats", "l.jsonl", "--plot", "l.gif").exit_code == 2


@pytest.mark.parametrize("seed", range(5))
def test_the_bars_hold_every_row_once(seed):
    dice = random.Random(seed)
    values = [int(dice.lognormvariate(3, 1)) for _ in range(dice.randint(1, 500))]
    bins = histogram(values)
    assert len(bins) <= 13 and bins[0][0] == min(values) and bins[-1][1] == max(values)
    for start, end, count in bins:
        assert count == sum(start <= value <= end for value in values)
    assert sum(count for *_, count in bins) == len(values)


def test_of_pairs_read_as_demonstrations_the_chosen_side_is_measured(made):
    stats = measure([str(made())], "demos")
    assert set(stats.lengths) == {"prompt", "answer"} and len(stats.lengths["answer"]) == 200


def test_a_place_that_takes_no_file_is_named_and_not_its_draft(made, prefcli, monkeypatch):
    made()

    def refuse(*_):
        raise PermissionError(13, "Permission denied", ".x.jsonl.8h84suzm")

    monkeypatch.setattr("prefcli.files.secrets.token_hex", refuse)
    for line, named in (
        ("convert pairs.jsonl x.jsonl", "OUT x.jsonl: "),
        ("split pairs.jsonl", "error: pairs.train.jsonl: "),
    ):
        refused = prefcli("data", *line.split())
        assert refused.exit_code == 7 and named in refused.stderr and "choose another place" in refused.stderr
        assert "8h84" not in refused.stderr and "--runs" not in refused.stderr


def test_stats_mark_what_is_counted_together(prefcli, made, monkeypatch):
    turns = [{"role": "assistant" if i % 2 else "user", "content": "hm"} for i in range(23)]
    made(found=[{"messages": [*turns, {"role": "assistant", "content": "ah"}]}])
    assert "20 or more messages: 1" in prefcli("data", "stats", "pairs.jsonl").stdout
    titles = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_title", lambda _, text, **style: titles.append(text))
    made(found=[PAIR | {"prompt": "x" * 10}] * 299 + [PAIR | {"prompt": "x" * 5000}])
    prefcli("data", "stats", "pairs.jsonl", "--plot", "l.svg")
    assert "1 beyond" in titles[0] and titles[0].endswith("up to 5,000") and "beyond" not in titles[1]


def test_stats_say_what_they_count(prefcli, made):
    made(found=[{"prompt": "x", "completion": "y", "label": i > 0} for i in range(3)])
    labelled = prefcli("data", "stats", "pairs.jsonl")
    assert "1 answer, 1 both ways" in labelled.stdout and "duplicates      1 row\n" in labelled.stdout
    assert "reading pairs.jsonl: 3 rows" in labelled.stderr
    made(found=[PAIR])
    assert "ties counted half" in prefcli("data", "stats", "pairs.jsonl").stdout

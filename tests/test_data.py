"""Data files: every form of row, every kind of file, and every way in which they can be wrong."""

from __future__ import annotations

import errno
import gzip
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import PAIR, write

from prefcli.data import records
from prefcli.data.checks.rows import odd
from prefcli.data.dataset import read_dataset
from prefcli.data.row import Row, text_of
from prefcli.data.weighting import set_apart
from prefcli.data.writing import write_rows
from prefcli.errors import DataError


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


QUESTION, GOOD, BAD = "Where is the cup?", "On the shelf.", "I do not know."
TALK = [user("Hello."), assistant("Hi."), user(QUESTION)]


@pytest.fixture
def read(own_folder):
    """`read(purpose, row, row…)` writes the rows as .jsonl and reads them; `read(purpose, name=content)` a file."""

    def run(purpose, *rows, skip_bad=False, file="rows.jsonl", content=None):
        if content is None:
            content = "".join(json.dumps(row) + "\n" for row in rows)
        write(own_folder / file, content)
        return read_dataset([file], purpose, skip_bad)

    return run


def refused(read, purpose, *rows, **more):
    with pytest.raises(DataError) as error:
        read(purpose, *rows, **more)
    assert error.value.hint
    return error.value.message


# Forms

PAIR_FORMS = {
    "plain": ({"prompt": QUESTION, "chosen": GOOD, "rejected": BAD}, QUESTION, "prompt/chosen/rejected"),
    "conversational": (
        {"prompt": [user(QUESTION)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]},
        [user(QUESTION)],
        "prompt/chosen/rejected",
    ),
    "a dialogue, and answers as strings": (
        {"prompt": TALK, "chosen": GOOD, "rejected": BAD},
        TALK,
        "prompt/chosen/rejected",
    ),
    "UltraFeedback: sides repeat the prompt's turns": (
        {"prompt": TALK, "chosen": [*TALK, assistant(GOOD)], "rejected": [*TALK, assistant(BAD)]},
        TALK,
        "prompt/chosen/rejected",
    ),
    "UltraFeedback: the prompt in words": (
        {"prompt": QUESTION, "chosen": [user(QUESTION), assistant(GOOD)], "rejected": [user(QUESTION), assistant(BAD)]},
        [user(QUESTION)],
        "prompt/chosen/rejected",
    ),
    "answers as messages that stand alone": (
        {"prompt": QUESTION, "chosen": assistant(GOOD), "rejected": assistant(BAD)},
        QUESTION,
        "prompt/chosen/rejected",
    ),
    "axolotl": (
        {"messages": TALK, "chosen": assistant(GOOD), "rejected": [assistant(BAD)]},
        TALK,
        "messages/chosen/rejected",
    ),
    "implicit prompt": (
        {"chosen": [*TALK, assistant(GOOD)], "rejected": [*TALK, assistant(BAD)]},
        TALK,
        "implicit prompt",
    ),
    "HH dialogues": (
        {
            "chosen": f"\n\nHuman: Hello.\n\nAssistant: Hi.\n\nHuman: {QUESTION}\n\nAssistant: {GOOD}",
            "rejected": f"\n\nHuman: Hello.\n\nAssistant: Hi.\n\nHuman: {QUESTION}\n\nAssistant: {BAD}",
        },
        TALK,
        "HH dialogues",
    ),
    "HH, one side speaks twice running": (
        {
            "chosen": f"\n\nHuman: Hello.\n\nHuman: {QUESTION}\n\nAssistant: {GOOD}",
            "rejected": f"\n\nHuman: Hello.\n\nHuman: {QUESTION}\n\nAssistant: {BAD}",
        },
        [user(f"Hello.\n\n{QUESTION}")],
        "HH dialogues",
    ),
}


@pytest.mark.parametrize("form", PAIR_FORMS)
def test_every_form_of_pair_becomes_the_same_row(read, form):
    raw, prompt, name = PAIR_FORMS[form]
    found = read("pairs", raw | {"score": 3}, raw | {"score": 4})
    assert list(found.rows) == [Row(prompt, chosen=GOOD, rejected=BAD, columns={"score": n}) for n in (3, 4)]
    assert [(s["path"], s["format"], s["rows"]) for s in found.sources] == [("rows.jsonl", name, 2)]
    assert any("no chat template" in note for note in found.notes) == isinstance(prompt, str)


@pytest.mark.parametrize("form", PAIR_FORMS)
def test_pairs_give_prompts_and_demonstrations_too(read, form):
    raw, prompt, name = PAIR_FORMS[form]
    assert read("prompts", raw).rows[0].prompt == prompt
    demos = read("demos", raw)
    assert (demos.rows[0].prompt, demos.rows[0].completion) == (prompt, GOOD)
    assert demos.sources[0]["format"] == f"{name}, the chosen side"


DEMO_FORMS = {
    "messages": ({"messages": [*TALK, assistant(GOOD)]}, TALK, GOOD, "messages"),
    "messages after a system's": (
        {"messages": [{"role": "system", "content": "Be kind."}, user(QUESTION), assistant(GOOD)]},
        [{"role": "system", "content": "Be kind."}, user(QUESTION)],
        GOOD,
        "messages",
    ),
    "prompt/completion": ({"prompt": QUESTION, "completion": GOOD}, QUESTION, GOOD, "prompt/completion"),
    "prompt/completion, conversational": (
        {"prompt": TALK, "completion": [assistant(GOOD)]},
        TALK,
        GOOD,
        "prompt/completion",
    ),
    "text": ({"text": "Once upon a time."}, "", "Once upon a time.", "text"),
}


@pytest.mark.parametrize("form", DEMO_FORMS)
def test_every_form_of_demonstration(read, form):
    raw, prompt, completion, name = DEMO_FORMS[form]
    found = read("demos", raw | {"topic": "cups"})
    assert list(found.rows) == [Row(prompt, completion=completion, columns={"topic": "cups"})]
    assert found.sources[0]["format"] == name


def test_messages_win_over_pairs_in_demonstrations_only(read):
    raw = {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD, "messages": [user("Other?"), assistant("Yes.")]}
    assert read("demos", raw).rows[0].completion == "Yes."
    assert read("pairs", raw).rows[0].chosen == GOOD
    assert read("prompts", raw).rows[0].prompt == QUESTION


@pytest.mark.parametrize(
    ("raw", "prompt", "columns"),
    [
        ({"prompt": QUESTION, "answer": "cup"}, QUESTION, {"answer": "cup"}),
        ({"prompt": TALK}, TALK, {}),
        ({"prompt": QUESTION, "completion": GOOD, "label": True}, QUESTION, {"label": True}),
        (
            {"prompt": [user(QUESTION)], "completion": [assistant(GOOD)], "label": False},
            [user(QUESTION)],
            {"label": False},
        ),
        ({"messages": [*TALK, assistant(GOOD)]}, TALK, {}),
    ],
)
def test_prompts_come_from_any_row_that_holds_one(read, raw, prompt, columns):
    (row,) = read("prompts", raw).rows
    assert (row.prompt, row.columns) == (prompt, columns)


def test_what_a_python_reward_sees_of_a_prompt():
    assert text_of("plain") == text_of([user("plain")]) == "plain"
    assert text_of(TALK) == "user: Hello.\n\nassistant: Hi.\n\nuser: Where is the cup?"


def test_several_files_are_mixed_each_in_its_own_form(own_folder):
    write(own_folder / "a.jsonl", json.dumps(PAIR) + "\n")
    write(
        own_folder / "b.jsonl",
        json.dumps({"chosen": [user("Q"), assistant("a")], "rejected": [user("Q"), assistant("b")]}),
    )
    found = read_dataset(["a.jsonl", "b.jsonl"], "pairs")
    assert [row.chosen for row in found.rows] == [PAIR["chosen"], "a"]
    assert [source["format"] for source in found.sources] == ["prompt/chosen/rejected", "implicit prompt"]
    assert len(set(found.digests)) == 2


# Kinds of files


def as_csv(rows):
    import csv

    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_parquet(rows):
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return out.getvalue()


ROWS = [
    {"prompt": 'One, "two"\nthree?', "chosen": "Yes.\u2028And more.", "rejected": "No.\x85\x0b\x1c"},
    {"prompt": "Vier äöü 😀?", "chosen": "Ja.\r\nDoch.", "rejected": "Nein."},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
FILES = {
    "rows.jsonl": LINES,
    "crlf.jsonl": LINES.replace("\n", "\r\n"),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "blank.jsonl": "\n\n" + LINES.replace("\n", "\n\n  \n"),
    "no-newline-at-the-end.jsonl": LINES.rstrip("\n"),
    "ascii.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "rows.jsonl.gz": gzip.compress(LINES.encode(), mtime=0),
    "members.jsonl.gz": gzip.compress(LINES[:50].encode(), mtime=0) + gzip.compress(LINES[50:].encode(), mtime=0),
    "rows.json": json.dumps(ROWS, indent=2),
    "data.json": json.dumps({"version": 1, "data": ROWS}),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "rows.csv": as_csv(ROWS),
    "bom.csv": b"\xef\xbb\xbf" + as_csv(ROWS).encode(),
    "rows.parquet": as_parquet(ROWS),
}


@pytest.mark.parametrize("file", FILES)
def test_every_kind_of_file_holds_the_same_rows(read, file):
    found = read("pairs", file=file, content=FILES[file])
    assert list(found.rows) == [Row(r["prompt"], chosen=r["chosen"], rejected=r["rejected"]) for r in ROWS]


def test_parquet_holds_dialogues(read):
    raw = {"prompt": TALK, "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)], "score": 1.5}
    found = read("pairs", file="rows.parquet", content=as_parquet([raw]))
    assert list(found.rows) == [Row(TALK, chosen=GOOD, rejected=BAD, columns={"score": 1.5})]


def test_cells_without_a_name_are_passed_over_and_a_tsv_needs_no_tab(own_folder):
    write(own_folder / "a.csv", "prompt,chosen,rejected,,\nq,a,b,,\n")
    (row,) = read_dataset(["a.csv"], "pairs").rows
    assert (row.prompt, row.chosen, row.rejected, row.columns) == ("q", "a", "b", {})
    write(own_folder / "a.tsv", "prompt\nq, and more\n")
    assert [row.prompt for row in read_dataset(["a.tsv"], "prompts").rows] == ["q, and more"]


@pytest.mark.parametrize("number", [10**400, "1e400"])
def test_numbers_that_no_float_holds_are_named(jsonl, number):
    data = read_dataset([str(jsonl("a.jsonl", PAIR | {"margin": number}))], "pairs")
    assert list(odd(data.rows[0])) == []
    with pytest.raises(DataError, match="--margin-column margin is"):
        set_apart(data, "margin")
    with pytest.raises(DataError, match="do not fit a table"):
        write_rows(Path("a.parquet"), lambda: [{"x": 1}, {"x": 2**64}])


def test_a_full_disk_is_no_broken_table(own_folder, monkeypatch):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([PAIR] * 3), own_folder / "a.parquet")
    monkeypatch.setattr(records, "LARGE", 1)
    monkeypatch.setattr("tempfile.mkstemp", raising(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        read_dataset(["a.parquet"], "pairs")


def raising(error):
    def raise_it(*_, **__):
        raise error

    return raise_it


def test_a_csv_field_may_be_long(read):
    long = "word " * 40_000  # 200,000 characters; Python's own limit is 131,072
    assert read("demos", file="a.csv", content=f"prompt,completion\nq,{long}\n").rows[0].completion == long


# What is wrong


@pytest.mark.parametrize(
    ("file", "content", "parts"),
    [
        ("a.jsonl", "", ["a.jsonl holds no rows"]),
        ("a.jsonl", "\n \n", ["holds no rows"]),
        ("a.json", "[]", ["holds no rows"]),
        ("a.csv", "prompt,chosen,rejected\n", ["holds no rows"]),
        ("a.csv", "", ["holds no rows"]),
        ("a.parquet", as_parquet([PAIR])[:-9], ["a.parquet is not a readable parquet file"]),
        ("a.parquet", b"", ["not a readable parquet file"]),
        ("a.txt", "hello", ["a.txt, line 1: expected columns", "found: prompt"]),
        ("a", "hello", ["unknown kind of file"]),
        ("a.jsonl", LINES + '{"prompt": "q", "cho\n' + LINES, ["a.jsonl, line 3: not valid JSON"]),
        ("a.jsonl", LINES + "[1]\n", ["line 3: expected an object", "found a list"]),
        ("a.jsonl", "null\n1\n", ["line 1: expected an object", "found null", "line 2", "found a number"]),
        ("a.jsonl", "{\n" * 10, ["line 1", "line 2", "line 3", "… and 7 more"]),
        ("a.jsonl", "[" * 100_000, ["line 1: not valid JSON"]),
        ("a.jsonl", '{"a": 1' + "0" * 5000 + "}", ["line 1: not valid JSON"]),
        ("a.jsonl", json.dumps(ROWS, indent=1), ["line 1: not valid JSON"]),
        ("a.jsonl", LINES.encode() + b'{"prompt": "\xff"}\n', ["a.jsonl, line 3: not valid UTF-8"]),
        ("a.jsonl", b"\xef\xbb\xbf\n\xff", ["line 2: not valid UTF-8"]),
        ("a.jsonl", LINES.encode("utf-16"), ["line 1: not valid UTF-8"]),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-10], ["a.jsonl.gz is not a whole gzip file"]),
        ("a.jsonl.gz", LINES, ["not a whole gzip file"]),
        ("a.jsonl.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"\xff" * 20, ["not a whole gzip file"]),
        ("a.jsonl.gz", gzip.compress(b"\n\n\xff", mtime=0), ["line 3: not valid UTF-8"]),
        ("a.json", LINES, ["a.json, line 2: not valid JSON"]),
        ("a.json", '{"prompt": "q"}', ["expected an array of objects, found an object"]),
        ("a.json", "3", ["found a number"]),
        ("a.json", json.dumps([PAIR, 3, None]), ["row 2: expected an object", "found a number", "row 3"]),
        ("a.json", "[" * 100_000, ["not valid JSON"]),
        ("a.csv", "prompt,chosen,rejected\nq,a,b\nq,a\n\nq,a,b,c\n",
         ["line 3: 2 columns", "has 3", "line 5: 4 columns"]),
        ("a.csv", 'prompt,chosen,rejected\n"q\n2",a,b\n"q,a,b\n', ["a.csv, line 4"]),
        ("a.csv", 'prompt,chosen,rejected\nq,a,b\nq,a,"b\n', ["a.csv, line 3"]),
        ("a.csv", "prompt,chosen,chosen\nq,a,b\n", ["line 1: the column 'chosen' occurs twice"]),
        ("a.csv", "prompt,chosen,rejected,,\nq,a,b,,\nq,a,c,d,\n", ["line 3: a cell is filled"]),
        ("a.csv", "q;a;b\n1;2;3\n", ["line 2: expected columns", "found: a, b, q"]),
        ("a.csv", "prompt;chosen;rejected\nq;a;b\nq,a,b\n", ["line 3: 1 columns, and the header has 3"]),
        ("a.jsonl", '{"prompt": "q", "chosen": "a", "chosen": "b"}\n', ["line 1: the key 'chosen' occurs twice"]),
        ("a.json", '[{"prompt": "q", "chosen": {"a": 1, "a": 2}}]', ["a.json: the key 'a' occurs twice"]),
        ("a.jsonl", "[\n" + LINES, ["a file that is one array is a .json file"]),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_says_where(read, file, content, parts):
    message = refused(read, "pairs", file=file, content=content)
    assert message.startswith(file)
    for part in parts:
        assert part in message


def test_a_path_that_is_no_file(read, own_folder):
    for path, part in (
        ("no.jsonl", "no.jsonl: no such file"),
        (str(own_folder), "is not a file"),
        ("", "no such file"),
        ("x" * 5000 + ".jsonl", "no such file"),
        ("a\0.jsonl", "no such file"),
        ("/dev/null", "is not a file"),
    ):
        with pytest.raises(DataError) as error:
            read_dataset([path], "pairs")
        assert part in error.value.message and error.value.hint


@pytest.mark.parametrize(
    ("purpose", "row", "found"),
    [
        ("pairs", {"prompt": "q", "chosen": "a"}, "chosen, prompt"),
        ("pairs", {"question": "q"}, "question"),
        ("pairs", {}, "none"),
        ("demos", {"prompt": "q"}, "prompt"),
        ("demos", {"prompt": "q", "response": "a"}, "prompt, response"),
        ("prompts", {"question": "q"}, "question"),
        ("prompts", {"text": "t"}, "text"),
    ],
)
def test_missing_columns_are_said_with_those_that_are_there(read, purpose, row, found):
    message = refused(read, purpose, row)
    assert message.startswith("rows.jsonl, line 1: expected columns") and message.endswith(f"found: {found}")


def test_the_line_of_the_first_row_is_its_own(read):
    assert "a.jsonl, line 3: expected columns" in refused(read, "pairs", file="a.jsonl", content='\n\n{"x": 1}\n')
    assert "a.parquet, row 1: " in refused(read, "pairs", file="a.parquet", content=as_parquet([{"x": 1}]))


BAD_ROWS = {
    "pairs": [
        (PAIR | {"chosen": ""}, "'chosen' is empty"),
        (PAIR | {"rejected": " \n"}, "'rejected' is empty"),
        (PAIR | {"prompt": ""}, "'prompt' is empty"),
        (PAIR | {"prompt": None}, "'prompt' must be a list of messages"),
        (PAIR | {"chosen": None}, "'chosen' must be a string or a list of messages, not NoneType"),
        (PAIR | {"chosen": 3}, "not int"),
        (PAIR | {"chosen": PAIR["rejected"]}, "'chosen' and 'rejected' are the same"),
        ({"prompt": "q", "chosen": "a"}, "there is no 'rejected'"),
        (PAIR | {"prompt": [assistant("x")]}, "'prompt' must end before the assistant's answer"),
        (PAIR | {"prompt": []}, "'prompt' must be a list of messages"),
        (PAIR | {"prompt": [{"role": "human", "content": "x"}]},
         "the role 'human'; known: system, developer, user, assistant, tool"),
        (PAIR | {"prompt": [{"content": "x"}]}, "the role None"),
        (PAIR | {"prompt": [{"role": [], "content": "x"}]}, "the role []"),
        (PAIR | {"prompt": [user(None)]}, "with text in them"),
        (PAIR | {"prompt": ["x"]}, "with text in them"),
        (PAIR | {"prompt": [user(" ")]}, "the last message of 'prompt' is empty"),
        (PAIR | {"chosen": [user("x")]}, "'chosen' must be one assistant message"),
        (PAIR | {"chosen": [user("other?"), assistant("x")], "rejected": [user("other?"), assistant("y")]},
         "no user says the 'prompt'"),
        (PAIR | {"chosen": [user("x"), assistant("y")]}, "'rejected' must be a list of messages"),
        (PAIR | {"chosen": "half \ud83d"}, "surrogate"),
        (PAIR | {"prompt": [user("half \udcff")]}, "surrogate"),
    ],
    "demos": [
        ({"messages": [user("x"), assistant("y") | {"weight": 0}]}, "its answer is marked as not to be trained"),
        ({"messages": [user("x"), assistant("y") | {"loss": False}]}, "('loss': false)"),
        ({"messages": [user("x"), assistant("y") | {"weight": 0}, user("z"), assistant("a") | {"weight": 1}]},
         "an earlier answer of 'messages' is marked"),
        ({"messages": TALK}, "must end with the assistant's answer"),
        ({"messages": [assistant("x")]}, "an answer and no question"),
        ({"messages": []}, "'messages' must be a list of messages"),
        ({"messages": "x"}, "'messages' must be a list of messages"),
        ({"messages": [user("x"), assistant("")]}, "the last message of 'messages' is empty"),
        ({"messages": [user("x"), assistant("\ud800")]}, "surrogate"),
    ],
    "prompts": [
        ({"prompt": ""}, "'prompt' is empty"),
        ({"prompt": 3}, "'prompt' must be a list of messages"),
        ({"prompt": [user("q"), assistant("a")]}, "'prompt' must end before the assistant's answer"),
    ],
}  # fmt: skip
FIRST = {"pairs": PAIR, "demos": {"messages": [user("q"), assistant("a")]}, "prompts": {"prompt": "q"}}


@pytest.mark.parametrize(("purpose", "row", "part"), [(p, *case) for p, cases in BAD_ROWS.items() for case in cases])
def test_a_row_that_does_not_fit_is_named_and_can_be_skipped(read, purpose, row, part):
    good = FIRST[purpose]
    message = refused(read, purpose, good, row, good)
    assert message.startswith("rows.jsonl, line 2: ") and part in message
    skipped = read(purpose, good, row, good, skip_bad=True)
    assert len(skipped.rows) == 2 and skipped.sources[0]["rows"] == 2
    assert any("1 of 3 rows left out" in note and "line 2" in note for note in skipped.notes)


def hh(*turns):
    return "".join(f"\n\n{who}: {text}" for who, text in turns)


@pytest.mark.parametrize(
    ("rejected", "part"),
    [
        (hh(("Human", "Q"), ("Assistant", "b")), "differ before"),
        (hh(("Human", "q"), ("Assistant", "")), "is empty"),
        (hh(("Human", "q"), ("Assistant", "b"), ("Human", "c")), "ends with the assistant"),
        (hh(("Human", "q")), "ends with the assistant"),
        (hh(("Human", "q"), ("Assistant", "a")), "are the same"),
        ("no turns", "must start with"),
        (None, "'rejected' must be a string"),
    ],
)
def test_an_hh_dialogue_that_does_not_fit(read, rejected, part):
    good = PAIR_FORMS["HH dialogues"][0]
    message = refused(read, "pairs", good, {"chosen": hh(("Human", "q"), ("Assistant", "a")), "rejected": rejected})
    assert "line 2: " in message and part in message


def test_plain_sides_without_a_prompt_are_refused(read):
    assert "expected columns prompt, chosen and rejected" in refused(read, "pairs", {"chosen": "a", "rejected": "b"})


def test_three_rows_are_described_and_the_others_counted(read):
    rows = [PAIR, *[PAIR | {"chosen": ""}] * 9, PAIR]
    message = refused(read, "pairs", *rows)
    assert [f"line {n}:" in message for n in range(1, 12)] == [False, True, True, True] + [False] * 7
    assert message.endswith("… and 6 more")
    assert len(read("pairs", *rows, skip_bad=True).rows) == 2


def test_skipping_leaves_no_empty_data_set(read):
    assert "'chosen' is empty" in refused(read, "pairs", PAIR | {"chosen": ""}, skip_bad=True)
    assert "not valid JSON" in refused(read, "pairs", file="a.jsonl", content="{\n{\n", skip_bad=True)
    assert "not valid JSON" in refused(read, "pairs", file="a.json", content=json.dumps(ROWS)[:-1], skip_bad=True)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.jsonl", LINES.encode() + b'{"prompt": \n' + LINES.encode()),
        ("a.jsonl", LINES.encode() + b'{"prompt": "\xff"}\n' + LINES.encode()),
        ("a.jsonl", b"[1]\n" + LINES.encode() * 2),
        ("a.jsonl.gz", gzip.compress(LINES.encode() + b"null\n" + LINES.encode(), mtime=0)),
        ("a.csv", as_csv(ROWS * 2).encode() + b"q,a\n"),
        ("a.csv", as_csv(ROWS).encode() + b"q,\xff,b\n" + as_csv(ROWS).partition("\n")[2].encode()),
        ("a.json", json.dumps([*ROWS, "text", *ROWS]).encode()),
    ],
)
def test_what_is_no_row_at_all_can_be_skipped_like_one_that_does_not_fit(read, file, content):
    found = read("pairs", file=file, content=content, skip_bad=True)
    assert [row.prompt for row in found.rows] == [row["prompt"] for row in ROWS] * 2
    assert "1 of 5 rows left out" in found.notes[0]


def test_a_row_number_counts_rows_where_a_file_has_no_lines(read):
    rows = [PAIR, PAIR, PAIR | {"chosen": ""}]
    assert "a.json, row 3: 'chosen'" in refused(read, "pairs", file="a.json", content=json.dumps(rows, indent=1))
    assert "a.parquet, row 3: 'chosen'" in refused(read, "pairs", file="a.parquet", content=as_parquet(rows))
    text = as_csv([PAIR | {"prompt": "two\nlines"}, PAIR | {"prompt": "and\ntwo", "chosen": ""}])
    assert "a.csv, line 4: 'chosen'" in refused(read, "pairs", file="a.csv", content=text)

"""Every form of rows in every kind of file, splits and other names for columns, data of the hub, and conversion."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from conftest import PAIR, write
from datasets import ClassLabel, Dataset, Features, Value

from prefcli.data import records
from prefcli.data.dataset import read_dataset
from prefcli.data.formats.registry import FORMS
from prefcli.data.row import Row
from prefcli.data.scan import scan
from prefcli.data.splits import split_of
from prefcli.errors import DataError, UsageError

QUESTION, GOOD, BAD = "Where is the cup?", "On the shelf.", "No idea."


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


# Forms

PLAIN = {"prompt/chosen/rejected", "prompt/completion", "prompt/completion/label", "prompt", "two answers and a winner",
         "ranked answers", "rated generations"}  # fmt: skip
FINE, RANKS = {"score_chosen": 4.5, "score_rejected": 1.0}, {"score_chosen": -1.0, "score_rejected": -2.0}
COLUMNS = {
    "UltraFeedback completions": FINE, "scored completions": FINE, "rated generations": FINE, "ranked answers": RANKS,
    "RewardBench": {"id": "1", "subset": "llmbar-natural", "chosen_model": "a", "rejected_model": "b"},
    "RewardBench 2": {"id": "1", "subset": "Focus", "num_correct": 1, "total_completions": 3, "all_chosen": [GOOD],
                      "all_rejected": [BAD, "What?"]},
    "OASST trees": {"score_chosen": 0.0, "score_rejected": -1.0, "message_tree_id": "1"},
}  # fmt: skip


def golden(form, example):
    """What the example of a form says, by hand: all forms tell of one question, its good and its bad answer."""
    plain = form.name in PLAIN and not any(isinstance(example.get(name), list) for name in ("prompt", "chosen"))
    plain = plain and not {"context", "conversation_a"} & set(example)
    prompt = QUESTION if plain else [user(QUESTION)]
    if form.gives == "pairs":
        return Row(prompt, chosen=GOOD, rejected=BAD, columns=COLUMNS.get(form.name, {}))
    if form.gives == "labelled":
        return Row(prompt, completion=GOOD, label=example.get("label", example.get("kto_tag")))
    if form.gives == "prompts":
        return Row(prompt)
    return Row("", completion="The cup is on the shelf.") if form.name == "text" else Row(prompt, completion=GOOD)


EXAMPLES = [(form, example) for form in FORMS if not form.grouped for example in form.examples]
IDS = [f"{form.name} {number}" for form in FORMS if not form.grouped for number in range(len(form.examples))]


@pytest.mark.parametrize(("form", "example"), EXAMPLES, ids=IDS)
def test_every_form_is_found_by_itself_and_tells_the_same(own_folder, form, example):
    write(own_folder / "a.jsonl", lines(example, example))
    found = scan("a.jsonl")
    assert (found.format, found.purpose, found.notes) == (form.name, form.gives, [])
    assert [row for _, row in found] == [golden(form, example)] * 2


@pytest.mark.parametrize(("form", "example"), EXAMPLES, ids=IDS)
def test_other_columns_stay_with_the_rows(own_folder, form, example):
    write(own_folder / "a.jsonl", lines(example | {"topic": "cups"}))
    ((_, row),) = scan("a.jsonl")
    assert row.columns["topic"] == "cups"


def test_the_names_of_forms_are_told_apart():
    assert len({form.name for form in FORMS}) == len(FORMS) > 20


def tabled(rows):
    return pyarrow.Table.from_pylist(rows)


def as_stream(rows, file):
    with pyarrow.ipc.new_stream(str(file), tabled(rows).schema) as writer:
        writer.write_table(tabled(rows))


def as_arrow_file(rows, file):
    with pyarrow.ipc.new_file(str(file), tabled(rows).schema) as writer:
        writer.write_table(tabled(rows))


def as_saved(rows, folder):
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(folder))


CONTAINERS = {
    "a.jsonl": lambda rows, file: write(file, lines(*rows)),
    "a.jsonl.gz": lambda rows, file: write(file, gzip.compress(lines(*rows).encode(), mtime=0)),
    "a.json": lambda rows, file: write(file, json.dumps(rows)),
    "a.parquet": lambda rows, file: pyarrow.parquet.write_table(tabled(rows), file),
    "stream.arrow": as_stream,
    "file.arrow": as_arrow_file,
    "saved": as_saved,
    "folder": lambda rows, file: file.mkdir() or write(file / "train.jsonl", lines(*rows)),
}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_form_is_read_from_every_container(own_folder, monkeypatch, container, large):
    if large:  # mapped, spooled, unpacked: what a file of a million rows is
        monkeypatch.setattr(records, "LARGE", 1)
    for number, (form, example) in enumerate(EXAMPLES):
        folder = own_folder / str(number)
        folder.mkdir()
        CONTAINERS[container]([example, example], folder / container)
        found = scan(str(folder / container))
        assert found.format == form.name
        assert [row for _, row in found] == [golden(form, example)] * 2
        assert len(found.digest) == 64


def test_a_csv_file_holds_the_forms_that_are_text(own_folder):
    import csv

    held = 0
    for form, example in EXAMPLES:
        if all(isinstance(value, str | bool) for value in example.values()):
            out = io.StringIO(newline="")
            writer = csv.DictWriter(out, list(example))
            writer.writeheader()
            writer.writerow(example)
            write(own_folder / "a.csv", out.getvalue())
            ((_, row),) = scan("a.csv")
            assert row == golden(form, example)
            held += 1
    assert held > 8


# What single forms say more


def read_one(row, purpose=None):
    write(Path("one.jsonl"), lines(row))
    ((_, found),) = scan("one.jsonl", purpose)
    return found


def test_the_best_completion_is_held_against_the_worst_by_the_finer_score():
    def row(*completions):
        return {"instruction": "q", "completions": [{"response": text} | scores for text, scores in completions]}

    fine, overall = "fine-grained_score", "overall_score"
    found = read_one(row(("b", {fine: 3.0, overall: 10}), ("a", {fine: 4.0}), ("a2", {fine: 4.0}), ("c", {fine: 1.5}),
                         ("c2", {fine: 1.5}), ("none", {fine: None, overall: "N/A"})))  # fmt: skip
    assert (found.chosen, found.rejected) == ("a", "c")
    assert found.columns == {"score_chosen": 4.0, "score_rejected": 1.5}
    assert (read_one(row(("a", {overall: 7.5}), ("b", {overall: 8}))).chosen) == "b"
    for bad, part in (
        (row(("a", {fine: 2}), ("b", {fine: 2})), "all 2 answers have the score 2"),
        (row(("a", {fine: 2}), ("b", {fine: "nan"})), "1 answers with a score"),
        (row(("a", {fine: 2}), ("a", {fine: 1})), "are the same"),
        (row(("a", {fine: 2}), ("b", {overall: 8})), "scales cannot be compared"),
        (row(("", {fine: 2}), ("a", {fine: 1})), "1 answers with a score"),
    ):
        assert part in str(read_one(bad))


def test_alpaca_and_sharegpt_carry_a_system_message_and_earlier_turns():
    turns = [{"role": "system", "content": "Be kind."}, user("Hi"), assistant("Hello"), user("Sum.\n1, 2")]
    alpaca = {"instruction": "Sum.", "input": "1, 2", "output": "3", "system": "Be kind.", "history": [["Hi", "Hello"]]}
    assert read_one(alpaca) == Row(turns, completion="3")
    assert read_one(alpaca | {"input": None, "system": "", "history": None}).prompt == [user("Sum.")]
    said = [
        {"from": name, "value": text} for name, text in (("human", "Hi"), ("gpt", "Hello"), ("human", "Sum.\n1, 2"))
    ]
    sharegpt = {"conversations": [*said, {"from": "gpt", "value": "3"}], "system": "Be kind."}
    assert read_one(sharegpt) == Row(turns, completion="3")
    own = {"from": "system", "value": "Own."}
    assert read_one(sharegpt | {"conversations": [own, *sharegpt["conversations"]]}).prompt[0]["content"] == "Own."
    renamed = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    assert read_one({"conversations": [*renamed, assistant("3")]}) == Row(turns, completion="3")
    assert "from 'robot'" in str(read_one({"conversations": [{"from": "robot", "value": "x"}]}))
    assert "'history'" in str(read_one(alpaca | {"history": [["Hi"]]}))


CALL = {"function": {"name": "find", "arguments": {"of": "cup"}}}


def test_calls_are_read_in_the_layouts_of_other_tools():
    asked = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", **CALL}]}
    found = {"role": "tool", "content": "shelf"}
    written = json.dumps(CALL["function"])
    swift = [
        user("q"),
        {"role": "tool_call", "content": written},
        {"role": "tool_response", "content": "shelf"},
        assistant("a"),
    ]
    sharegpt = [{"from": name, "value": text} for name, text in
                (("human", "q"), ("function_call", written), ("observation", "shelf"), ("gpt", "a"))]  # fmt: skip
    tools = json.dumps([{"name": "find"}])
    for row in ({"messages": swift, "tools": tools}, {"conversations": sharegpt, "tools": tools}):
        prompt = [user("q") | {"tools": [{"name": "find"}]}, asked, found]
        assert read_one(row) == Row(prompt, completion="a", columns={"tools": tools})
    openai = {"input": {"messages": [user("q")], "tools": [{"name": "find"}]},
              "preferred_output": [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
              "non_preferred_output": [assistant("a")]}  # fmt: skip
    row = read_one(openai)
    assert row.prompt[0]["tools"] == [{"name": "find"}] and row.chosen.message["tool_calls"] == [CALL]
    assert "needs a prompt of messages" in str(read_one({"prompt": "q", "completion": openai["preferred_output"]}))
    assert "'tools' must be a list of objects" in str(read_one({"messages": swift, "tools": "find"}))


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet"])
def test_what_is_read_of_messages_is_written_again(own_folder, prefcli, ending):
    answer = {"role": "assistant", "content": "On the shelf.", "reasoning_content": "Hm."}
    turns = [
        {"role": "developer", "content": "Be kind."},
        user("q"),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": [{"type": "text", "text": "shelf"}], "name": "find", "tool_call_id": "1"},
    ]
    write(own_folder / "a.jsonl", lines({"messages": [*turns, answer], "tools": [{"name": "find"}]}))
    assert prefcli("data", "convert", "a.jsonl", f"b.{ending}").exit_code == 0
    ((_, one),), ((_, other),) = scan("a.jsonl"), scan(f"b.{ending}")
    assert one == other and one.completion.message == other.completion.message == answer
    assert prefcli("data", "convert", "a.jsonl", "b.csv").exit_code == 3
    refused = prefcli("data", "convert", lines_file(own_folder, [*turns[1:2], turns[2]]), "c.jsonl", "--to", "text")
    assert refused.exit_code == 3


def lines_file(folder, messages):
    return write(folder / "calls.jsonl", lines({"messages": messages}))


@pytest.mark.parametrize("row", [
    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}, assistant("a")]},
    {"messages": [user("<image>q"), assistant("a")], "images": ["cup.png"]},
    {"prompt": "q", "audio": {"path": "cup.wav"}},
])  # fmt: skip
def test_pictures_and_sound_are_refused_with_a_sentence(own_folder, prefcli, row):
    write(own_folder / "a.jsonl", lines(row))
    refused = prefcli("data", "convert", "a.jsonl", "b.jsonl")
    assert refused.exit_code == 3 and not (own_folder / "b.jsonl").exists()
    assert "images, audio and video are not read, a model is trained on text alone" in refused.stderr


def test_an_answer_that_is_marked_is_none_to_learn_in_sharegpt_too(own_folder):
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0}]
    write(own_folder / "a.jsonl", lines({"conversations": turns}))
    with pytest.raises(DataError, match="is marked as not to be trained"):
        read_dataset(["a.jsonl"], "demos")


@pytest.mark.parametrize("column", ["messages", "conversations"])
def test_dialogues_that_await_an_answer_are_prompts_whether_others_are_answered_or_not(own_folder, column):
    open_row, answered = {column: [user("q")], "constraint": "x"}, {column: [user("q"), assistant("a")]}
    write(own_folder / "a.jsonl", lines(open_row, answered))
    assert [row.prompt for row in read_dataset(["a.jsonl"], "prompts").rows] == [[user("q")]] * 2
    assert [row.prompt for row in read_dataset(["a.jsonl"], "demos", skip_bad=True).rows] == [[user("q")]]
    assert scan("a.jsonl").purpose == "demos"
    write(own_folder / "a.jsonl", lines(open_row))
    assert scan("a.jsonl").purpose == "prompts"
    with pytest.raises(DataError) as refused:
        read_dataset(["a.jsonl"], "demos")
    assert "end before the answer are prompts" in refused.value.hint


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]},
        {"messages": [user("q"), assistant("a")]},
    ],
)
def test_messages_that_are_written_as_text_are_messages(own_folder, row):
    written = {name: json.dumps(value) for name, value in row.items()}
    assert read_one(written) == read_one(row)
    printed = {"prompt": "q"} | {name: str(value) for name, value in row.items()}
    assert "as Python prints them: save the rows as .jsonl" in str(read_one(printed, "demos"))
    assert read_one({"prompt": "q", "completion": '[{"role": "admin", "content": "x"}]'}).completion[0] == "["


def test_what_stands_beside_a_message_is_neither_a_call_nor_another_turn(own_folder):
    said = [user("q") | {"id": 1}, assistant("a") | {"tokens": 3}], [user("q") | {"id": 2}, assistant("b")]
    row = read_one(dict(zip(("chosen", "rejected"), said)))
    assert [turn["content"] for turn in row.prompt] == ["q"] and (row.chosen, row.rejected) == ("a", "b")
    assert read_one(PAIR | {"chosen": said[0][1:], "rejected": "b"}).chosen == "a"


def test_a_null_in_a_call_is_left_out_of_a_table_alone(own_folder):
    """Where it may be there only since another row has that key."""
    calls = [{"function": {"name": "find", "arguments": {"of": None, "at": [{"x": None}]}}}]
    row = {"messages": [user("q"), {"role": "assistant", "content": "", "tool_calls": calls}], "other": [{"x": None}]}
    assert read_one(row).completion.message["tool_calls"] == calls
    pyarrow.parquet.write_table(tabled([row]), own_folder / "a.parquet")
    ((_, found),) = scan("a.parquet")
    expected = {"function": {"name": "find", "arguments": {"at": [{}]}}}
    assert found.completion.message["tool_calls"] == [expected] and found.columns["other"] == [{"x": None}]


def test_an_answer_that_was_left_empty_is_none_of_the_list():
    answers = [{"response": " ", "score": 9}, {"response": "a", "score": 2}, {"response": "b", "score": 1}]
    assert read_one({"instruction": "q", "completions": answers}).chosen == "a"


def test_a_system_column_is_the_first_message_or_is_said_not_to_be_read(own_folder):
    system = {"role": "system", "content": "Be kind."}
    row = {"messages": [user("q"), assistant("a")], "system": "Be kind."}
    assert read_one(row).prompt == [system, user("q")] and scan("one.jsonl").notes == []
    own = {"role": "system", "content": "Own."}
    assert read_one(row | {"messages": [own, user("q"), assistant("a")]}).prompt == [own, user("q")]
    assert "of their own" in scan("one.jsonl").notes[0]
    assert read_one(PAIR | {"system": "Be kind."}).prompt == PAIR["prompt"]
    assert "'system' is not read: a plain prompt" in scan("one.jsonl").notes[0]


def test_a_label_that_is_null_in_the_first_row_is_a_bad_row_of_labelled_ones(own_folder):
    row = {"prompt": "q", "completion": "a", "label": None}
    write(own_folder / "a.jsonl", lines(row, row | {"label": True}, row | {"label": False}))
    found = scan("a.jsonl")
    assert found.purpose == "labelled" and "must be true or false" in str(found.row(0))
    assert read_one(row).label is None and scan("one.jsonl").purpose == "demos"


def test_an_answer_that_a_kto_tag_calls_bad_is_no_demonstration(own_folder):
    good = {"instruction": "q", "output": "a", "kto_tag": True}
    write(own_folder / "a.jsonl", lines(good, good | {"kto_tag": False}))
    found = read_dataset(["a.jsonl"], "demos")
    assert len(found.rows) == 1 and "1 rows labelled false" in found.notes[0]


@pytest.mark.parametrize(
    ("row", "purpose", "taken", "said"),
    [
        ({"messages": [user("q"), assistant("a")], "prompt": "p", "completion": "c"}, "demos", "messages",
         "prompt/completion"),
        ({"messages": [user("q"), assistant("a")], "prompt": "p", "chosen": "c", "rejected": "r"}, "demos", "messages",
         "own answers go before the chosen side"),
        ({"messages": [user("q"), assistant("a")], "prompt": "p"}, "prompts", "messages to answer",
         "fit prompt: the prompts of pairs go first"),
        ({"messages": [user("q"), assistant("a")], "query": "p", "response": "r"}, "prompts", "messages to answer",
         "fit ms-swift queries: of two such formats the more common one"),
        ({"prompt": "p", "completion": "c", "label": True, "chosen": "c", "rejected": "r"}, "labelled",
         "prompt/completion/label", "own labels go before"),
        ({"messages": [user("q"), assistant("a")], "prompt": "p", "chosen": "c", "rejected": "r"}, None,
         "prompt/chosen/rejected", "fit messages: pairs go first"),
        ({"instruction": "i", "output": "o", "prompt": "p", "completion": "c"}, None, "prompt/completion", "Alpaca"),
    ],
)  # fmt: skip
def test_of_two_forms_that_fit_one_is_taken_and_why_is_said(own_folder, row, purpose, taken, said):
    write(own_folder / "a.jsonl", lines(row))
    found = scan("a.jsonl", purpose)
    assert found.format == taken
    (note,) = found.notes
    assert note.startswith(f"a.jsonl: read as {taken}, though") and said in note


@pytest.mark.parametrize(
    ("chosen", "rejected", "form"),
    [
        ("a", "b", "messages/chosen/rejected"),
        (assistant("a"), [assistant("b")], "messages/chosen/rejected"),
        ([user("q"), assistant("a")], [user("q"), assistant("b")], "messages/chosen/rejected"),
        ([{"role": "system", "content": "s"}, user("q"), assistant("a")],
         [{"role": "system", "content": "s"}, user("q"), assistant("b")], "implicit prompt"),
        ("\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b", "HH dialogues"),
    ],
)  # fmt: skip
def test_messages_are_the_prompt_of_answers_and_not_of_other_dialogues(own_folder, chosen, rejected, form):
    write(own_folder / "a.jsonl", lines({"messages": [user("q")], "chosen": chosen, "rejected": rejected}))
    found = scan("a.jsonl", "pairs")
    assert (found.format, found.first().chosen, found.first().rejected) == (form, "a", "b")
    assert found.first().prompt[-1] == user("q")


def test_a_table_of_lists_is_a_list_of_messages(own_folder):
    """As `datasets` once wrote lists of objects: {"role": […], "content": […]}."""
    talk = {"role": ["user", "assistant"], "content": ["q", "a"]}
    assert read_one({"messages": talk}) == Row([user("q")], completion="a")
    given = {"response": ["a", "b"], "score": [1, 2]}
    assert read_one({"instruction": "q", "completions": given}).chosen == "b"


SIDED = {"prompt": "q", "cand_a": "x", "cand_b": "y"}
ZERO_BASED = {"prompt": "q", "response_0": "x", "response_1": "y"}
# Columns beside two answers that say nothing of them, or the opposite.
NO_VOTES = [{"rank_a": 1, "rank_b": 2}, {"ranking_a": 1, "ranking_b": 2}, {"downvotes_a": 1, "downvotes_b": 2},
            {"toxicity_score_a": 1, "toxicity_score_b": 2}, {"feedback_a": "Too short.", "feedback_b": "a"},
            {"cand_a_rating": 1}, {"rating": 1}, {"worse": "a"}, {"worse_answer": "b"}, {"least_preferred": "a"},
            {"cand_a_rank": 1, "cand_b_rank": 2}, {"is_a_better": "1"}]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "purpose", "hint"),
    [
        ({"prompt": "q", "response": "a"}, "demos", "--map completion=response; "),
        ({"prompt": "q", "output": "a", "tools": []}, "demos", "--map completion=output; "),
        ({"question": "q", "answer": "a"}, "demos", "--map prompt=question --map completion=answer; "),
        ({"question": "q", "x": "a"}, "prompts", "--map prompt=question; "),
        ({"query": "q", "response": "a", "rating": 4}, "labelled", "numbers are not labels"),
        (
            {"input": "q", "cand1": "a", "cand2": "b", "who": "a"},
            "pairs",
            "--map prompt=input --map a=cand1 --map b=cand2 --map winner=COLUMN; ",
        ),
        ({"prompt": "q", "response": "a", "rating": 4}, "pairs", "rename columns with --map"),
        ({"instruction": "q", "chosen": "a"}, "pairs", "nearest format is Alpaca pairs, but rejected is missing"),
        ({"x": 1}, "pairs", "rename columns with --map"),
        ({"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, "pairs", "--map prompt=question; "),
        (
            {"instruction": "q", "context": "c", "response": "a"},
            "demos",
            "--map input=context --map output=response; ",
        ),
        (
            {"prompt": "q", "answer_1": "a", "answer_2": "b", "rating_answer_1": 5, "rating_answer_2": 2},
            "pairs",
            ": --map a=answer_1 --map b=answer_2 --map score_a=rating_answer_1 --map score_b=rating_answer_2; ",
        ),
        ({"prompt": "q", "cand1": "a", "cand2": "b", "rating": 5}, "pairs", "--map winner=COLUMN; "),
        (SIDED | {"cand_a_rating": 1, "cand_b_rating": 2}, "pairs", "score_a=cand_a_rating --map score_b=cand_b"),
        *((SIDED | more, "pairs", "--map winner=COLUMN") for more in NO_VOTES),
        (SIDED | NO_VOTES[0], "pairs", "(rank_a and rank_b would be read the wrong way round); "),
        (
            {"question": "q", "chosen_text": "a", "rejected_text": "b"},
            "pairs",
            "--map prompt=question --map chosen=chosen_text --map rejected=rejected_text; ",
        ),
        (
            {"question": "q", "response_j": "a", "response_k": "b"},
            "demos",
            "--map prompt=question --map chosen=response_j --map rejected=response_k, if response_j is the better",
        ),
        ({"conversation": [user("q"), assistant("a")]}, "demos", "--map messages=conversation; "),
        ({"talk": json.dumps([user("q"), assistant("a")]), "label": True}, "labelled", "--map messages=talk; "),
        ({"talk": [{"from": "human", "value": "q"}]}, "prompts", "--map conversations=talk; "),
        ({"talk": [{"from": "human", "value": "q"}], "chosen": "a", "rejected": "b"}, "pairs", "conversations=talk; "),
        ({"talk": [user("q")], "chosen": "a", "rejected": "b"}, "pairs", "--map messages=talk; "),
        ({"talk": [user("q")], "a": "a", "b": "b", "winner": "a"}, "pairs", "--map prompt=talk; "),
        ({"talk": [{"input": "q", "output": "a"}]}, "demos", "rename columns with --map"),
        (ZERO_BASED | {"choice_id": "response_1"}, "pairs", "a vote: --map winner=choice_id; "),
        (ZERO_BASED | {"stars_0": 1, "stars_1": 2}, "pairs", "scores: --map score_a=stars_0 --map score_b=stars_1; "),
    ],
)
def test_the_nearest_form_is_named_where_none_fits(own_folder, row, purpose, hint):
    write(own_folder / "a.jsonl", lines(row))
    with pytest.raises(DataError) as error:
        scan("a.jsonl", purpose)
    assert hint in error.value.hint and "prefcli data formats" in error.value.hint


# Splits


@pytest.fixture
def saved(own_folder):
    """A saved DatasetDict of pairs; the prompt is the name of the split."""
    import datasets

    def make(*splits):
        parts = {split: datasets.Dataset.from_list([PAIR | {"prompt": split}]) for split in splits}
        datasets.DatasetDict(parts).save_to_disk(str(own_folder / "saved"))
        return "saved"

    return make


@pytest.mark.parametrize(
    ("splits", "split", "held_out", "read"),
    [
        (("train", "test"), None, False, "train"),
        (("train", "test"), "test", False, "test"),
        (("train", "test"), None, True, "test"),
        (("train", "validation"), "train", True, "validation"),
        (("train_sft", "test_sft", "train_prefs", "test_prefs"), "train_prefs", False, "train_prefs"),
        (("train_sft", "test_sft", "train_prefs", "test_prefs"), "train_prefs", True, "test_prefs"),
        (("all",), None, False, "all"),
    ],
)
def test_the_split_that_is_meant_is_read(saved, splits, split, held_out, read):
    found = read_dataset([saved(*splits)], "pairs", split=split, held_out=held_out)
    assert [row.prompt for row in found.rows] == [read]
    other = read_dataset([f"saved/{read}"], "pairs")
    assert other.digests == found.digests  # the digest is of the rows that were read


def test_a_split_that_is_not_there_is_refused_with_those_that_are(saved, prefcli, jsonl):
    saved("train_prefs", "test_prefs")
    for args, parts in (
        ([], ["train_prefs, test_prefs", "--split"]),
        (["--split", "train_pref"], ["no split 'train_pref'", "--split train_prefs"]),
    ):
        result = prefcli("dpo", "--data", "saved", "--model", "tiny", *args, "--dry-run")
        assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr
        assert all(part in result.stderr for part in parts)
    result = prefcli("dpo", "--data", jsonl("a.jsonl", PAIR), "--split", "test", "--model", "tiny", "--dry-run")
    assert result.exit_code == 2 and "has no splits" in result.stderr


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train.jsonl", "train"),
        ("data/train-00000-of-00002.parquet", "train"),
        ("data/test_prefs-00000-of-00001-1a2b.parquet", "test_prefs"),
        ("test/part1.jsonl", "test"),
        ("a/validation/0.csv", "validation"),
        ("trainers.jsonl", "train"),
        ("pairs.jsonl", "train"),
        ("testament.jsonl", "train"),
        ("pairs.train.jsonl", "train"),
        ("pairs.held_out.jsonl.gz", "held_out"),
        ("foo_test.jsonl", "test"),
        ("foo-Train-v2.jsonl", "train"),
        ("training.csv", "train"),
        ("testing.csv", "test"),
        ("cups evaluation.csv", "eval"),
        ("contest.csv", "train"),
        ("data/raw-00000-of-00001.parquet", "raw"),
        ("test/part-00000-of-00002.parquet", "test"),
        ("my-validation-set/rows.jsonl", "validation"),
        ("train-2.jsonl", "train"),
        ("train2.csv", "train"),
        ("train_extra.jsonl", "train_extra"),
    ],
)
def test_a_file_of_a_folder_belongs_to_the_split_in_its_name(path, split):
    assert split_of(Path(path).parts) == split


def test_a_downloaded_repository_is_read_like_a_saved_data_set(own_folder):
    folder = own_folder / "repository"
    for number, split in enumerate(("train", "train", "test")):
        name = f"{split}-0000{number}-of-00003.parquet"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(tabled([PAIR | {"prompt": f"{split} {number}"}]), folder / "data" / name)
    write(folder / "dataset_infos.json", "{}")
    write(folder / ".cache" / "train.parquet", "unfinished")
    assert [row.prompt for row in read_dataset([str(folder)], "pairs").rows] == ["train 0", "train 1"]
    assert [row.prompt for row in read_dataset([str(folder)], "pairs", split="test").rows] == ["test 2"]
    write(folder / "data" / "train-00009-of-00003.parquet", "broken")
    with pytest.raises(DataError, match="train-00009-of-00003.parquet is not a readable parquet file"):
        read_dataset([str(folder)], "pairs")


def test_files_that_a_folder_is_not_read_with_are_named(own_folder):
    for name in ("train.jsonl", "train-2.jsonl", "train_extra.jsonl", "test.jsonl"):
        write(own_folder / "folder" / name, lines(PAIR))
    data = read_dataset(["folder"], "pairs")
    assert len(data.rows) == 2 and any("train_extra.jsonl (--split train_extra)" in note for note in data.notes)
    assert len(read_dataset(["folder"], "pairs", split="train_extra").rows) == 1


def test_a_folder_holds_files_of_one_format(own_folder):
    write(own_folder / "folder" / "a.jsonl", lines(PAIR))
    write(own_folder / "folder" / "b.jsonl", "broken\n" + lines({"transcript": "x"}))
    with pytest.raises(DataError, match="as folder/a.jsonl is, and folder/b.jsonl is not .* columns transcript$"):
        read_dataset(["folder"], "pairs")
    write(own_folder / "folder" / "b.jsonl", "broken\n" + lines(PAIR | {"source": "x"}))
    assert len(read_dataset(["folder"], "pairs", skip_bad=True).rows) == 2


def test_held_out_rows_are_no_training_rows_of_a_folder(own_folder, prefcli):
    folder = own_folder / "data"
    write(folder / "pairs.jsonl", lines(*(PAIR | {"prompt": f"q{number}"} for number in range(20))))
    assert prefcli("data", "split", "data/pairs.jsonl").exit_code == 0
    with pytest.raises(DataError, match=r"data holds data/pairs.jsonl and a part of it, data/pairs\.\w+\.jsonl"):
        read_dataset(["data"], "pairs")
    (folder / "pairs.jsonl").unlink()
    write(folder / "more.jsonl", lines(PAIR))
    held_out = {row.prompt for row in read_dataset(["data/pairs.held_out.jsonl"], "pairs").rows}
    train = read_dataset(["data"], "pairs")
    assert len(train.rows) == 21 - len(held_out) and not held_out & {row.prompt for row in train.rows}
    assert "data: 2 files are read as one: more.jsonl, pairs.train.jsonl" in train.notes
    assert {row.prompt for row in read_dataset(["data"], "pairs", held_out=True).rows} == held_out


def test_a_folder_with_files_of_two_kinds_is_refused(own_folder):
    write(own_folder / "folder" / "a.jsonl", lines(PAIR))
    write(own_folder / "folder" / "b.csv", "prompt,chosen,rejected\nq,a,b\n")
    with pytest.raises(DataError, match=r"^folder holds \.jsonl and \.csv files$"):
        read_dataset(["folder"], "pairs")


def test_a_bad_row_of_a_folder_is_named_by_its_file_and_line(own_folder):
    (own_folder / "folder").mkdir()
    write(own_folder / "folder" / "a.jsonl", lines(PAIR))
    write(own_folder / "folder" / "b.jsonl", lines(PAIR, PAIR | {"chosen": ""}))
    with pytest.raises(DataError, match=r"^folder, folder/b.jsonl, line 2: 'chosen' is empty"):
        read_dataset(["folder"], "pairs")


@pytest.mark.parametrize(
    ("name", "text"),
    [("state.json", "{"), ("state.json", '{"_data_files": 3}'), ("dataset_dict.json", "[]"), ("a.arrow", "no arrow")],
)
def test_a_saved_data_set_that_is_broken_is_named(own_folder, name, text):
    (own_folder / "saved").mkdir()
    write(own_folder / "saved" / name, text)
    with pytest.raises(DataError, match=name):
        read_dataset(["saved"], "pairs")


# Other names for columns

OTHER = {"question": "q?", "good": "a", "bad": "b", "prompt": "not this"}


def test_columns_are_read_under_our_names_for_them(own_folder, prefcli):
    write(own_folder / "a.jsonl", lines(OTHER))
    names = ["prompt=question", "chosen=good", "rejected=bad"]
    (row,) = read_dataset(["a.jsonl"], "pairs", names=names).rows
    assert (row.prompt, row.chosen, row.rejected, row.columns) == ("q?", "a", "b", {})
    # Files that have our names already go with others that do not.
    write(own_folder / "b.jsonl", lines(PAIR))
    assert len(read_dataset(["a.jsonl", "b.jsonl"], "pairs", names=names).rows) == 2
    write(own_folder / "c.yaml", "map: [prompt=question, chosen=good, rejected=bad]\n")
    for args in (["--config", "c.yaml"], [word for name in names for word in ("--map", name)]):
        result = prefcli("dpo", "--data", "a.jsonl", "--model", "tiny", "--dry-run", *args)
        assert result.exit_code == 0 and "q?" in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("name", "code", "parts"),
    [
        ("chosen=goood", 3, ["no column 'goood'", "question, good, bad", "did you mean --map chosen=good?"]),
        ("chosen=xyzzy", 3, ["no column 'xyzzy'"]),
        ("chosen", 2, ["expected OURS=THEIRS"]),
        ("=good", 2, ["expected OURS=THEIRS"]),
        ("chosen=", 2, ["expected OURS=THEIRS"]),
    ],
)
def test_a_column_that_is_not_there_is_said_with_the_nearest(own_folder, prefcli, name, code, parts):
    write(own_folder / "a.jsonl", lines(OTHER))
    for command in (["dpo", "--data", "a.jsonl", "--model", "tiny"], ["data", "convert", "a.jsonl", "b.jsonl"]):
        result = prefcli(*command, "--map", name)
        assert (result.exit_code, result.stdout) == (code, ""), result.stderr
        assert all(part in result.stderr for part in parts) and not Path("b.jsonl").exists()
    with pytest.raises(UsageError, match="twice"):
        scan("a.jsonl", names=["chosen=good", "chosen=bad"])


def test_a_name_that_nothing_has_is_refused_though_ours_is_there(own_folder, prefcli):
    write(own_folder / "a.jsonl", lines(PAIR | {"better": "x"}))
    write(own_folder / "b.jsonl", lines(PAIR))
    for command in (["dpo", "--model", "tiny", "--data", "a.jsonl"], ["data", "check", "a.jsonl", "b.jsonl"]):
        for name, code, part in (
            ("chosen=bettr", 3, "--map chosen=better?"),
            ("chosn=better", 2, "--map chosen=better?"),
        ):
            result = prefcli(*command, "--map", name)
            assert result.exit_code == code and part in result.stderr, result.stderr
    assert scan("a.jsonl", names=["prompt_id=better"]).names  # may be read by a reward
    write(own_folder / "c.jsonl", lines(PAIR, PAIR | {"late": "y"}))
    assert [row.chosen for _, row in scan("c.jsonl", names=["chosen=late"])] == [PAIR["chosen"], "y"]


def test_other_names_are_in_the_key_and_splits_by_their_rows(saved, prefcli, monkeypatch, own_folder):
    from prefcli.artifacts.store import Store

    keys = []
    monkeypatch.setattr(Store, "find", lambda self, name, key: keys.append(key))
    saved("train", "test")
    write(own_folder / "a.jsonl", lines({"prompt": "q", "chosen": "a", "rejected": "b", "good": "a"}))

    def key(*args):
        result = prefcli("dpo", "--model", "tiny", *args, "--dry-run")
        assert result.exit_code == 0, result.stderr
        return keys.pop()

    assert key("--data", "a.jsonl") != key("--data", "a.jsonl", "--map", "chosen=good")
    assert key("--data", "saved") == key("--data", "saved", "--split", "train") == key("--data", "saved/train")
    assert key("--data", "saved") != key("--data", "saved", "--split", "test")


# The hub


@pytest.fixture
def hub(monkeypatch):
    """`hub(what)`: what `datasets.load_dataset` returns, or raises."""
    import datasets

    def put(what):
        def load(name):
            if isinstance(what, Exception):
                raise what
            return what

        monkeypatch.setattr(datasets, "load_dataset", load)

    return put


def test_a_data_set_of_the_hub_is_read_and_a_path_goes_before_it(hub, own_folder):
    import datasets

    parts = {split: datasets.Dataset.from_list([PAIR | {"prompt": split}] * 2) for split in ("train", "test")}
    hub(datasets.DatasetDict(parts))
    assert [row.prompt for row in read_dataset(["owner/name"], "pairs").rows] == ["train"] * 2
    assert [row.prompt for row in read_dataset(["owner/name"], "pairs", split="test").rows] == ["test"] * 2
    assert read_dataset(["owner/name"], "pairs").digests == read_dataset(["owner/name"], "pairs").digests
    datasets.DatasetDict(parts).save_to_disk("cache")
    hub(datasets.load_from_disk("cache"))  # mapped files, as the hub's cache has them
    assert read_dataset(["owner/name"], "pairs").digests == read_dataset(["cache"], "pairs").digests
    (own_folder / "owner").mkdir()
    CONTAINERS["saved"]([PAIR], own_folder / "owner" / "name")
    assert [row.prompt for row in read_dataset(["owner/name"], "pairs").rows] == [PAIR["prompt"]]


def test_without_a_network_a_hub_id_says_what_to_do(prefcli, hub):
    import datasets

    for error, code, part in (
        (ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled)"), 7, "--local-dir"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'owner/name' doesn't exist"), 3, "no such data set"),
        (ValueError("Config name is missing.\nPlease pick one"), 3, "Config name is missing."),
    ):
        hub(error)
        result = prefcli("dpo", "--data", "owner/name", "--model", "tiny")
        assert (result.exit_code, result.stdout) == (code, "")
        assert (
            part in result.stderr and "Traceback" not in result.stderr and "no such file" in result.stderr or code == 3
        )


# Conversion

DIALOGUE = [
    {"role": "system", "content": "Be kind.\r\n"},
    user("Hi 😀"),
    assistant("Hello,\u2028you"),
    user('"Cup"?\n'),
]
KEPT = {
    "pairs": [Row(DIALOGUE, chosen="a\n", rejected=" b", columns={"n": 1}), Row([user("q")], chosen="c", rejected="d")],
    "pairs-plain": [Row('One, "two"\n', chosen="a\r\n", rejected=" b", columns={"n": "1"}),
                    Row("q", chosen="c", rejected="d", columns={"n": ""})],
    "messages": [Row(DIALOGUE, completion="a", columns={"n": 1}), Row([user("q")], completion="b")],
    "prompt-completion": [Row("q ", completion=" a\n", columns={"n": "x"}),
                          Row("r", completion="b", columns={"n": "y"})],
    "labelled": [Row("q", completion="a", label=True), Row("q", completion="b", label=False)],
    "prompts": [Row(DIALOGUE, columns={"answer": 3.5}), Row("plain", columns={"answer": 4.0})],
    "text": [Row("", completion="Once, \n upon"), Row("", completion="Twice")],
}  # fmt: skip
AS_TEXT = {"pairs-plain", "prompt-completion", "labelled", "text"}


@pytest.mark.parametrize("to", KEPT)
@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "csv", "parquet"])
def test_what_is_converted_reads_as_the_same_rows(own_folder, monkeypatch, to, ending):
    from prefcli.data import converting, writing

    rows = KEPT[to]
    if ending == "csv" and to not in AS_TEXT:
        pytest.skip("a cell is text")
    if ending == "parquet" and to in ("prompts",):
        rows = rows[:1]  # a column of one type
    monkeypatch.setattr(writing, "BATCH", 1)
    path = own_folder / f"out.{ending}"
    writing.write_rows(path, lambda: (writing.in_form(row, to) for row in rows))
    purpose = writing.READ_AS[to]
    found = read_dataset([str(path)], purpose)
    for row, before in zip(found.rows, rows, strict=True):
        row.columns = {name: value for name, value in row.columns.items() if value is not None}  # a column of nulls
        assert row == before
    # And again by itself, from the file: the form is the one that keeps most.
    again = converting.convert(str(path), own_folder / "again.jsonl")
    assert (again.rows, again.left_out) == (len(rows), 0)
    if to != "prompts":
        assert again.to == to or (ending != "jsonl" and to == "pairs")
    assert len(read_dataset(["again.jsonl"], purpose).rows) == len(rows)


@pytest.mark.parametrize(("form", "example"), EXAMPLES, ids=IDS)
def test_every_form_can_be_converted_to_ours(prefcli, own_folder, form, example):
    write(own_folder / "a.jsonl", lines(example))
    told = json.loads(prefcli("data", "convert", "a.jsonl", "b.jsonl", "--json").stdout)
    assert told["format"] == form.name and told["rows"] == 1 and told["left_out"] == 0
    ((_, row),) = scan("b.jsonl", form.gives)
    assert row == golden(form, example)


def test_a_conversion_says_what_it_changes(prefcli, own_folder):
    write(own_folder / "a.jsonl", lines(PAIR, PAIR | {"rejected": PAIR["chosen"]}))
    assert prefcli("data", "convert", "a.jsonl", "b.jsonl").exit_code == 3
    assert sorted(path.name for path in own_folder.iterdir()) == ["a.jsonl"]  # nothing, not even a draft
    result = prefcli("data", "convert", "a.jsonl", "b.jsonl", "--to", "pairs", "--skip-bad")
    assert (result.exit_code, result.stdout) == (0, "b.jsonl\n")
    assert "1 of 2 rows left out" in result.stderr and "became a user's message" in result.stderr
    assert json.loads(Path("b.jsonl").read_text())["prompt"] == [user(PAIR["prompt"])]
    result = prefcli("data", "convert", "b.jsonl", "c.jsonl", "--to", "labelled")
    assert [json.loads(line)["label"] for line in Path("c.jsonl").read_text().splitlines()] == [True, False]
    result = prefcli("data", "convert", "c.jsonl", "d.jsonl", "--to", "messages")
    assert "1 rows labelled false" in result.stderr and len(Path("d.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "code", "part"),
    [
        (["a.jsonl", "there.jsonl"], 2, "exists already"),
        (["a.jsonl", "a.jsonl", "--force"], 2, "is what is read"),
        (["a.jsonl", "folder.jsonl"], 2, "is a directory"),
        (["a.jsonl", "no/b.jsonl"], 2, "no directory no"),
        (["a.jsonl", "b.txt"], 2, "unknown kind of file"),
        (["no.jsonl", "b.jsonl"], 3, "no such file"),
        (["a.jsonl", "b.jsonl", "--to", "labels"], 2, "--to"),
        (["dialogue.jsonl", "b.csv"], 3, "a .csv cell is text"),
        (["dialogue.jsonl", "b.jsonl", "--to", "pairs-plain"], 3, "not a plain prompt"),
        (["text.jsonl", "b.jsonl", "--to", "messages"], 3, "no prompt"),
        (["mixed.jsonl", "b.parquet"], 3, "do not fit a table"),
        (["mixed.jsonl", "b.csv"], 3, "row 2 has a column 'm'"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_nothing_is_written(prefcli, own_folder, args, code, part):
    write(own_folder / "a.jsonl", lines(PAIR))
    write(own_folder / "there.jsonl", "kept")
    write(own_folder / "dialogue.jsonl", lines(PAIR | {"prompt": DIALOGUE}))
    write(own_folder / "text.jsonl", lines({"text": "t"}))
    write(own_folder / "mixed.jsonl", lines(PAIR | {"n": 1}, PAIR | {"n": "x", "m": 2}))
    (own_folder / "folder.jsonl").mkdir()
    before = sorted(path.name for path in own_folder.iterdir())
    result = prefcli("data", "convert", *args)
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert part in result.stderr and "Traceback" not in result.stderr
    assert sorted(path.name for path in own_folder.iterdir()) == before
    assert Path("there.jsonl").read_text() == "kept"


def test_force_writes_over_a_file(prefcli, own_folder):
    write(own_folder / "a.jsonl", lines(PAIR))
    write(own_folder / "b.jsonl", "old")
    assert prefcli("data", "convert", "a.jsonl", "b.jsonl", "--force").exit_code == 0
    assert list(read_dataset(["b.jsonl"], "pairs").rows) == list(read_dataset(["a.jsonl"], "pairs").rows)


def test_the_forms_are_listed_with_the_commands_that_take_them(prefcli):
    shown = prefcli("data", "formats").stdout
    assert all(form.name in shown and form.about in shown for form in FORMS)
    told = json.loads(prefcli("data", "formats", "--json").stdout)
    assert [entry["name"] for entry in told] == [form.name for form in FORMS]
    takes = {entry["name"]: entry["for"] for entry in told}
    assert takes["text"] == ["sft"] and takes["prompt"] == ["ppo"]
    assert takes["prompt/chosen/rejected"] == ["sft", "train-rm", "ppo", "dpo", "orpo", "kto"]


def test_the_page_on_data_has_every_form():
    from prefcli.cli.data_formats import commands

    page = (Path(__file__).parent.parent / "docs" / "data.md").read_text(encoding="utf-8")
    for form in FORMS:
        columns = ", ".join(f"`{column}`" for column in form.columns)
        row = f"| {form.name} | {columns} | {', '.join(commands(form))} | {form.about} |\n"
        assert row in page, f"docs/data.md has no row {row}"


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_the_names_of_a_class_label_count_and_not_its_numbers(own_folder, kind):
    rows = {"prompt": ["q", "q"], "completion": ["a", "b"], "label": [0, 1]}
    for names, expected in ((["true", "false"], [True, False]), (["fair", "fine"], None)):
        features = Features(prompt=Value("string"), completion=Value("string"), label=ClassLabel(names=names))
        data = Dataset.from_dict(rows, features=features)
        data.to_parquet("one.parquet") if kind == "parquet" else data.save_to_disk("one.arrow.d")
        found = [row for _, row in scan("one.parquet" if kind == "parquet" else "one.arrow.d", "labelled")]
        if expected is None:
            assert "good or bad, 1 or -1, and is 'fair'" in str(found[0])
        else:
            assert [row.label for row in found] == expected


@pytest.mark.parametrize(("column", "asks", "answers"), [
    ("messages", user("q"), assistant("a") | {"weight": 0}),
    ("conversations", {"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0}),
])  # fmt: skip
def test_prompts_are_dialogues_with_and_without_an_answer_in_any_order(own_folder, column, asks, answers):
    """Whichever comes first, in one file or two; nor does it matter whether the answer is to be trained."""
    open_one, answered = {column: [asks]}, {column: [asks, answers]}
    for first, second in ((open_one, answered), (answered, open_one)):
        write(own_folder / "a.jsonl", lines(first, second))
        write(own_folder / "both/a.jsonl", lines(first))
        write(own_folder / "both/b.jsonl", lines(second))
        for source in ("a.jsonl", "both"):
            assert [row.prompt for row in read_dataset([source], "prompts").rows] == [[user("q")]] * 2


def test_an_answer_that_is_a_list_of_numbers_stays_one(own_folder):
    row = read_one({"prompt": '["Sort"]', "response_a": "[1]", "response_b": "[2]", "winner": "b"})
    assert (row.prompt, row.chosen) == ('["Sort"]', "[2]")

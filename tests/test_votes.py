"""Votes, ranks and labels as people and tools write them, and the kinds of files that sheets come in."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import pytest
from conftest import PAIR, write
from typer.testing import CliRunner

from prefcli.cli.main import app
from prefcli.config.dpo import DPOConfig
from prefcli.data import reading
from prefcli.data.checks.rows import margin_of
from prefcli.data.dataset import read_dataset
from prefcli.data.formats.ranked import RankedRecords
from prefcli.data.formats.registry import maps
from prefcli.data.row import BadRow, Row, Tie
from prefcli.data.scan import scan
from prefcli.errors import DataError
from prefcli.stages.inputs import prepare

SIDES = {"prompt": "q", "a": "yes", "b": "no"}
STEERED = "q\n<extra_id_1>Assistant\na\n<extra_id_1>User\nwhy?"  # as HelpSteer2 writes a dialogue


def read(jsonl, *rows, purpose="pairs", **options):
    found = scan(str(jsonl("rows.jsonl", *rows)), purpose, **options)
    return [row for _, row in found]


# Two answers and who won


@pytest.mark.parametrize(
    ("vote", "chosen"),
    [
        *((vote, "yes") for vote in ("a", "A", " a ", "model_a", "Answer A", "response_a", 1, "1", 1.0, "left",
                                    "first", "yes", ["a"], ["a", "b", "a"], {"selected": "left"}, '{"value": "left"}',
                                      [{"value": "a", "rank": 1}, {"value": "b", "rank": 2}])),
        *((vote, "no") for vote in ("b", "B", "model_b", 2, "2.0", "right", "second", "no", [{"value": "b"}])),
        *((vote, Tie) for vote in ("tie", "Tie (bothbad)", "both_bad", "equal", "neither", ["a", "b"],
                                    [{"value": "a", "rank": 1}, {"value": "b", "rank": 1}])),
        *((vote, "says neither") for vote in ("", None, "c", 3, [], True, "abstain")),
    ],
)  # fmt: skip
def test_a_vote_is_read_as_people_write_it(jsonl, vote, chosen):
    _, row = read(jsonl, SIDES | {"winner": "a"}, SIDES | {"winner": vote})
    if isinstance(row, Row):
        assert (row.chosen, {row.chosen, row.rejected}) == (chosen, {"yes", "no"})
    else:
        assert isinstance(row, Tie) if chosen is Tie else chosen in str(row) and row.kind == "bad label"


@pytest.mark.parametrize(
    ("row", "chosen"),
    [
        ({"prompt": "q", "response_1": "x", "response_2": "y", "preference_strength": -1}, "x"),
        ({"prompt": "q", "response_1": "x", "response_2": "y", "preference_strength": 3}, "y"),
        ({"prompt": "q", "response_1": "x", "response_2": "y", "preference_strength": 0}, Tie),
        ({"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 0}, "x"),
        ({"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 1}, "y"),
        ({"history": "q", "human_ref_A": "x", "human_ref_B": "y", "labels": 1}, "x"),
        ({"history": "q", "human_ref_A": "x", "human_ref_B": "y", "labels": 0}, "y"),
        ({"prompt": '["q"]', "response_a": '["x"]', "response_b": '["y"]', "model_a": "m", "model_b": "n",
          "winner_model_a": 0, "winner_model_b": 1, "winner_tie": 0}, "y"),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "model_a": "m", "model_b": "n", "winner": "n"}, "y"),
        ({"prompt": "q", "response_a": "x", "response_b": "y", "preference.responses": ["response_b"]}, "y"),
    ],
)  # fmt: skip
def test_a_number_means_what_it_means_in_its_layout(jsonl, row, chosen):
    (found,) = read(jsonl, row)
    assert isinstance(found, Tie) if chosen is Tie else (found.prompt, found.chosen) == ("q", chosen)


@pytest.mark.parametrize(
    ("row", "vote", "chosen"),
    [
        ({"answer_1": "2", "answer_2": "1"}, "1", "may mean either"),
        ({"answer_1": "2", "answer_2": "1"}, "answer_1", "2"),
        ({"answer_1": "2", "answer_2": "1"}, "a", "2"),
        ({"answer_1": "1", "answer_2": "2"}, "1", "1"),
        ({"a": "b", "b": "a"}, "a", "may mean either"),
        ({"a": "b", "b": "a"}, ["model_b"], "a"),
        ({"a": "tie", "b": "x"}, "tie", "may mean either"),
        ({"a": "x", "b": "y", "model_a": "b", "model_b": "m"}, "b", "may mean either"),
        ({"a": "x", "b": "y", "model_a": {"id": 1}, "model_b": "m"}, "m", "y"),
        ({"a": "x", "b": "y", "model_a": "m", "model_b": "m"}, "m", "may mean either"),
        ({"response_0": "x", "response_1": "y"}, "response_1", "y"),
        ({"response_0": "x", "response_1": "y"}, [0, 1, 1], "y"),
        ({"response_0": "x", "response_1": "y"}, "1.0", "y"),
        ({"response_0": "x", "response_1": "y"}, 0.5, Tie),
        *(({"response_0": "x", "response_1": "y"}, vote, "says neither") for vote in (2, -1, 0.4, 1.5, "2", "nan")),
        *(({"a": "x", "b": "y"}, vote, "says neither") for vote in (float("nan"), float("inf"), 0.5, 10**400)),
    ],
)  # fmt: skip
def test_a_vote_that_may_mean_either_answer_is_a_bad_row(jsonl, row, vote, chosen):
    (found,) = read(jsonl, {"prompt": "What is 1+1?", **row, "winner": vote})
    if isinstance(found, Row):
        assert found.chosen == chosen
    else:
        assert isinstance(found, Tie) if chosen is Tie else chosen in str(found) and found.kind == "bad label"


@pytest.mark.parametrize(("label", "chosen"), [(1, "x"), (0.0, "y"), (0.5, Tie), (2, None), (float("nan"), None)])
def test_shps_labels_are_0_and_1(jsonl, label, chosen):
    (found,) = read(jsonl, {"history": "q", "human_ref_A": "x", "human_ref_B": "y", "labels": label})
    assert found.chosen == chosen if isinstance(found, Row) else isinstance(found, Tie) == (chosen is Tie)


def test_scores_say_who_won_whatever_the_answers_are_called(jsonl):
    sides = {"prompt": "What is 1+1?", "a": "b", "b": "a"}
    won, *bad = read(jsonl, *(sides | {"score_a": 2, "score_b": b} for b in (1, float("nan"), "inf", None)))
    assert (won.chosen, won.columns) == ("b", {"score_chosen": 2.0, "score_rejected": 1.0})
    assert [row.kind for row in bad] == ["bad label"] * 3


@pytest.mark.parametrize(
    ("name", "value", "chosen"),
    [("feedback", "The second is better because", "no"), ("label", "train", "no"), ("comparison", {"of": "two"}, "no"),
     ("feedback", "a", "yes"), ("label", 1, "yes"), ("labels", ["a", "a", "b"], "yes"), ("label", None, "no"),
     ("labels", [], "no"), ("label", "m", "yes"), ("preference", "I like the second", None)],
)  # fmt: skip
def test_scores_count_beside_a_column_that_is_called_a_vote_and_holds_none(jsonl, name, value, chosen):
    (row,) = read(jsonl, SIDES | {"score_a": 1, "score_b": 5, "model_a": "m", "model_b": "n", name: value})
    assert row.kind == "bad label" if chosen is None else row.chosen == chosen
    assert chosen != "no" or row.columns[name] == value


@pytest.mark.parametrize(
    ("name", "values", "chosen"),
    [
        ("feedback", ("", "The second is better.", None), ["no"] * 3),
        ("label", ("none", "math", "a"), ["no"] * 3),
        ("feedback", ("a", "b", ""), ["yes", "no", None]),
        ("winner", ("a", "math", ""), ["yes", None, None]),
    ],
)
def test_whether_scores_or_votes_count_is_the_same_in_the_whole_file(jsonl, name, values, chosen):
    rows = (SIDES | {"score_a": 1, "score_b": 5, name: value} for value in values)
    assert [row.chosen if isinstance(row, Row) else None for row in read(jsonl, *rows)] == chosen


def test_equal_scores_of_two_answers_are_a_tie_whatever_stands_beside_them(jsonl):
    (row,) = read(jsonl, SIDES | {"score_a": 2, "score_b": 2.0, "margin": 1})
    assert isinstance(row, Tie) and str(row) == "both answers have the score 2"


def test_a_0_that_may_mean_three_things_is_refused_for_the_whole_file(jsonl):
    with pytest.raises(DataError, match="'winner': 0 may mean the first answer, the second, or a tie$") as error:
        read(jsonl, SIDES | {"winner": 1}, SIDES | {"winner": 0})
    assert "a, b and tie, or 1 and 2" in error.value.hint and "preference_strength" not in str(error.value)


@pytest.mark.parametrize("vote", [-2, "-1", [-1, 1], "[-3, 1, 1]"])
def test_a_1_beside_a_number_below_0_may_mean_either_answer(jsonl, vote):
    rows = SIDES | {"preference": 1}, SIDES | {"preference": vote}
    for some in (rows, (SIDES | {"preference": 0}, *rows)):
        with pytest.raises(DataError, match="'preference': .* a 1 may mean either answer; --map .* and 0 as a tie"):
            read(jsonl, *some)
    *found, tie = read(jsonl, *rows, SIDES | {"preference": 0}, names=["preference_strength=preference"])
    assert found[0].chosen == "no" and isinstance(tie, Tie)
    won = {"[-1, 1]": Tie, "[-3, 1, 1]": "no"}.get(str(vote), "yes")
    assert isinstance(found[1], Tie) if won is Tie else found[1].chosen == won


@pytest.mark.parametrize("vote", [1, [1, 1, -1], [{"value": 1}], "[1, 2]", {"value": 3}])
@pytest.mark.parametrize("column", ["preference_strength", "overall_preference"])
def test_a_number_with_a_sign_means_the_same_in_a_list(jsonl, column, vote):
    assert read(jsonl, SIDES | {column: vote})[0].chosen == "no"


def test_helpsteers_numbers_mean_what_they_do_under_map_too(jsonl):
    sides = {"context": "q", "response1": "x", "response2": "y"}
    rows = [sides | {"preference": "a", "overall_preference": vote} for vote in (1, -2, 0)]
    right, left, tie = read(jsonl, *rows, names=["winner=overall_preference"])
    assert (right.chosen, left.chosen) == ("y", "x") and isinstance(tie, Tie)
    assert str(tie) == "'winner': 0 is a tie"
    assert read(jsonl, *rows)[0].chosen == "x"  # by the plainer name
    path = str(jsonl("own.jsonl", sides | {"winner": "a", "overall_preference": 1}))
    found = scan(path, "pairs", names=["winner=overall_preference"])
    assert (found.first().chosen, found.first().columns, found.notes) == ("y", {}, [])


@pytest.mark.parametrize("large", [False, True])
def test_what_a_0_means_is_not_decided_by_the_first_rows_alone(jsonl, monkeypatch, large):
    monkeypatch.setattr("prefcli.data.records.LARGE", 10 if large else 1000)
    labels = [1] * 150 + [0] * 5 + [-1] * 5
    found = read(jsonl, *({"prompt": "q", "completion": "c", "label": n} for n in labels), purpose="labelled")
    assert [isinstance(row, Tie) for row in found] == [n == 0 for n in labels]
    for votes in ([1] * 150 + [0] * 5, ["1"] * 150 + ["0"] * 5):
        with pytest.raises(DataError, match="may mean the first answer, the second, or a tie"):
            read(jsonl, *(SIDES | {"winner": vote} for vote in votes))


def test_a_0_of_a_large_file_that_was_taken_for_something_else_is_refused_when_it_is_met(jsonl, monkeypatch):
    monkeypatch.setattr("prefcli.data.records.LARGE", 10)
    monkeypatch.setattr("prefcli.data.scan.LOOKED_AT", 2)
    labels = [1, 0, *[1] * 5, -1, *[1] * 92]
    with pytest.raises(DataError, match="line 8: the label is -1"):
        read(jsonl, *({"prompt": "q", "completion": "c", "label": n} for n in labels), purpose="labelled")
    with pytest.raises(DataError, match="'winner': 0 may mean"):
        read(jsonl, *(SIDES | {"winner": vote} for vote in (1, 1, *[1] * 5, 0, *[1] * 92)))


@pytest.mark.parametrize(
    ("good", "odd"),
    [
        ({"prompt": "q", "a": "x", "b": "y", "winner": [{"value": "a", "rank": 1}, {"value": "b", "rank": 2}]},
         {"winner": [{"value": "a", "rank": None}, {"value": "b", "rank": 2}]}),
        ({"data": {"prompt": "q", "a": "x", "b": "y"},
          "annotations": [{"result": [{"type": "pairwise", "value": "a"}]}]}, {"annotations": [5]}),
        ({"prompt": "q", "answers": [{"answer": "x", "rank": 1}, {"answer": "y", "rank": 2}]}, {"answers": None}),
        ({"prompt": "q", "answers": [{"answer": "x", "rank": 1}, {"answer": "y", "rank": 2}]}, {"answers": 5}),
        ({"prompt": "q", "a": "x", "b": "y", "winner": "a"}, {"winner": 10**400}),
        ({"prompt": "q", "a": "x", "b": "y", "score_a": 1, "score_b": 2}, {"score_a": 10**400}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pairs_of", ["best-worst", "all"])
def test_a_row_whose_parts_are_odd_is_a_bad_row_wherever_it_stands(jsonl, good, odd, pairs_of):
    for rows in ((good, good | odd), (good | odd, good)) if "answers" not in odd else ((good, good | odd),):
        found = read(jsonl, *rows, pairs_of=pairs_of)
        assert [isinstance(row, Row) for row in found] == [row is good for row in rows]


@pytest.mark.parametrize("error", [TypeError, AttributeError, KeyError, ValueError, OverflowError])
def test_what_a_conversion_does_not_get_through_is_a_bad_row(jsonl, monkeypatch, error):
    def fails(raw):
        raise error("odd")

    found = scan(str(jsonl("a.jsonl", {"prompt": "q", "generations": ["x", "y"], "ratings": [1, 2]})), "pairs")
    broken = replace(found, recognised=replace(found.recognised, convert=fails))
    form = replace(found.recognised.form, lists=fails)
    ranked = replace(found, records=RankedRecords(found.records, {}, form, True, "pairs"))
    for row in (broken.row(0), ranked.row(0)):
        assert row.kind == "wrong type" and "odd" in str(row)


def test_a_sheet_of_votes_under_its_own_names(prefcli, own_folder):
    sheet = "frage;erste;zweite;wer\nq1;good;bad;A\nq2;bad;good;B\nq3;good;bad;unentschieden\nq4;good;bad;tie\n"
    write(own_folder / "votes.csv", sheet)
    names = [f"--map={ours}={theirs}" for ours, theirs in
             (("prompt", "frage"), ("a", "erste"), ("b", "zweite"), ("winner", "wer"))]  # fmt: skip
    shown = prefcli("data", "convert", "votes.csv", "pairs.jsonl", *names, "--skip-bad", "--to", "pairs-plain")
    assert shown.exit_code == 0, shown.stderr
    assert "1 of 4 rows are ties, and left out" in shown.stderr and "1 of 4 rows left out (--skip-bad)" in shown.stderr
    written = [json.loads(line) for line in (own_folder / "pairs.jsonl").read_text().splitlines()]
    assert written == [{"prompt": q, "chosen": "good", "rejected": "bad"} for q in ("q1", "q2")]


def test_the_hint_for_two_answers_names_the_columns_and_a_vote_that_is_passed_over_is_refused(prefcli, own_folder):
    write(own_folder / "votes.csv", "question,answer_a,answer_b,who\nq,x,y,a\n")
    told = prefcli("data", "check", "votes.csv", "--kind", "pairs").stderr
    assert "--map a=answer_a --map b=answer_b --map winner=COLUMN" in told
    write(own_folder / "votes.csv", "question,answer_a,answer_b,winner\nq,x,y,b\n")
    names = ["--map=prompt=question", "--map=chosen=answer_a", "--map=rejected=answer_b"]
    refused = prefcli("data", "check", "votes.csv", *names)
    assert refused.exit_code == 3 and "the column 'winner' says which one is" in refused.stderr
    assert "--map a=answer_a --map b=answer_b --map winner=winner" in refused.stderr
    assert prefcli("data", "check", "votes.csv", *names, "--map=unused=winner").exit_code == 0
    assert prefcli("data", "check", "votes.csv").exit_code == 0


def test_ties_are_left_out_everywhere_and_all_of_them_are_nothing_to_learn(jsonl, prefcli, own_folder, monkeypatch):
    path = str(
        jsonl(
            "votes.jsonl", SIDES | {"winner": "tie"}, *({**SIDES, "prompt": f"q{i}", "winner": "b"} for i in range(4))
        )
    )
    for large in (False, True):
        if large:
            monkeypatch.setattr("prefcli.data.records.LARGE", 1)
        data = read_dataset([path], "pairs", lazily=True)
        assert [row.chosen for row in data.rows] == ["no"] * 4
        assert any("1 of 5 rows are ties" in note for note in data.notes)
    assert prefcli("data", "check", path).exit_code == 0
    assert prefcli("data", "split", path).exit_code == 0
    assert sum(len(file.read_text().splitlines()) for file in own_folder.glob("votes.*.jsonl")) == 4
    only = str(jsonl("ties.jsonl", SIDES | {"winner": "tie"}, PAIR | {"score_chosen": 1, "score_rejected": 1}))
    with pytest.raises(DataError, match="every row is a tie"):
        read_dataset([str(jsonl("ties.jsonl", SIDES | {"winner": "tie"}))], "pairs")
    assert prefcli("data", "convert", only, "out.jsonl").exit_code == 3


@pytest.mark.parametrize(
    ("rest", "purpose", "unread"),
    [
        ({"output_1": "a", "output_2": "b", "preference": 1}, "pairs", None),
        ({"generations": ["a", "b"], "ratings": [2, 1]}, "pairs", None),
        ({"completions": [{"response": "a", "score": 2}, {"response": "b", "score": 1}]}, "pairs", None),
        ({"context": "of the barn"}, "prompts", "context"),
        ({"system_prompt": "Be brief."}, "prompts", "system_prompt"),
        ({"output_1": "a", "output_2": "b", "preference": 1, "context": "of the barn"}, "pairs", "context"),
    ],
)
def test_a_question_is_read_whole_or_what_is_left_of_it_is_named(jsonl, rest, purpose, unread):
    rows = {"instruction": "Who?", "input": ""} | rest, {"instruction": "Which?", "input": "cup or hat"} | rest
    found = scan(str(jsonl("rows.jsonl", *rows)), purpose)
    assert [row.prompt_text for _, row in found] == ["Who?", "Which?\ncup or hat"]
    assert not any("input" in row.columns for _, row in found)
    assert unread is None and found.notes == [] or f"'{unread}'" in found.notes[0]


def test_dialogues_that_are_written_as_text_are_turns(jsonl):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
             {"role": "user", "content": "why?"}]  # fmt: skip
    rated = [{"prompt": STEERED, "response": text, "helpfulness": score} for text, score in (("x", 4), ("y", 1))]
    (row,) = read(jsonl, *rated)
    assert row.prompt == turns
    (row,) = read(jsonl, {"prompt": STEERED, "response_1": "x", "response_2": "y", "preference_strength": 2})
    assert row.prompt == turns
    human = "\n\nHuman: q\n\nAssistant: a\n\nHuman: why?\n\nAssistant:"
    (row,) = read(jsonl, PAIR | {"prompt": human}, as_chat=True)
    assert row.prompt == turns
    path = str(jsonl("rows.jsonl", PAIR | {"prompt": human}))
    (note,) = read_dataset([path], "pairs").notes
    assert "--as-chat makes messages of their turns, \\n\\nHuman:" in note


@pytest.mark.parametrize("row", [{"response_1": "x", "response_2": "y", "preference_strength": 2},
                                 {"answers": [{"answer": "x", "rank": 2}, {"answer": "y", "rank": 1}]}])  # fmt: skip
def test_all_prompts_of_a_file_are_dialogues_where_some_are_or_the_plain_are_counted(jsonl, row):
    plain, turns = row | {"prompt": "q"}, row | {"prompt": STEERED}
    found = read_dataset([str(jsonl("a.jsonl", plain, turns, plain))], "pairs")
    assert [len(one.prompt) for one in found.rows] == [1, 3, 1]
    assert found.rows[0].prompt == [{"role": "user", "content": "q"}]
    (note,) = found.notes
    assert "plain ones become user's messages" in note
    late = read_dataset([str(jsonl("b.jsonl", *[plain] * 100, turns))], "pairs")
    assert "100 of 101 prompts are plain strings, so no chat template is applied to these" in late.notes[0]
    assert [type(late.rows[at].prompt) for at in (0, 100)] == [str, list]


@pytest.mark.parametrize("named", ["data", "eval_data"])
def test_prompts_of_all_files_are_dialogues_where_some_of_one_are(jsonl, named):
    votes = {"response_1": "x", "response_2": "y", "preference_strength": 2}
    plain = str(jsonl("plain.jsonl", votes | {"prompt": "q"}))
    turns = str(jsonl("turns.jsonl", *(votes | {"prompt": text} for text in ("q", STEERED))))
    if named == "data":
        for paths in ([plain, turns], [turns, plain]):
            assert all(isinstance(row.prompt, list) for row in read_dataset(paths, "pairs").rows)
        other = str(jsonl("other.jsonl", PAIR))
        assert [type(row.prompt) for row in read_dataset([other, turns], "pairs").rows] == [str, list, list]
    else:
        held_out = prepare(DPOConfig(data=[turns], model="tiny", eval_data=plain)).eval_data
        assert [row.prompt for row in held_out.rows] == [[{"role": "user", "content": "q"}]]
        notes = prepare(DPOConfig(data=[plain], model="tiny", eval_data=turns)).notes
        assert any("those of --data are plain strings; --as-chat makes messages of both" in note for note in notes)


def test_an_answer_that_is_a_json_list_is_one_where_the_prompt_is_none(jsonl):
    (row,) = read(jsonl, {"prompt": "List it", "a": '["Paris"]', "b": '["Rome", "Oslo"]', "winner": "a"})
    assert (row.chosen, row.rejected) == ('["Paris"]', '["Rome", "Oslo"]')


@pytest.mark.parametrize(
    "name", ["score_{}", "{}_score", "rating_{}", "{}_rating", "{}-rating", "{}_avg_rating", "{}-avg-rating"]
)
def test_equal_scores_are_no_pair(jsonl, name):
    scores = ((2, 1), (1, 1.0), ("4", "4.0"), (None, None), (True, True))
    columns = [{name.format("chosen"): one, name.format("rejected"): other} for one, other in scores]
    found = scan(str(jsonl("rows.jsonl", *(PAIR | more for more in columns))), "pairs")
    assert [isinstance(row, Tie) for _, row in found] == [False, True, True, False, False]
    assert not found.notes and found.leaves_out


@pytest.mark.parametrize(
    ("columns", "tie"),
    [
        ({"score_chosen": 4.5, "score_rejected": 3.0, "chosen_rating": 5, "rejected_rating": 5}, False),
        ({"score_chosen": 5, "score_rejected": 5, "chosen-rating": "4", "rejected-rating": "3"}, False),
        ({"chosen_rating": 0, "rejected_rating": 0, "margin": 1.5}, False),
        ({"chosen_rating": 0, "rejected_rating": 0, "margin": 0}, True),
        ({"score_chosen": 5, "score_rejected": 5, "chosen_rating": 4, "rejected_rating": 4}, True),
        ({"margin": 0}, False),
    ],
)
def test_a_pair_is_a_tie_only_where_nothing_beside_it_tells_the_sides_apart(jsonl, columns, tie):
    (row,) = read(jsonl, PAIR | columns)
    assert isinstance(row, Tie) if tie else margin_of(row) >= 0


@pytest.mark.parametrize("pairs_of", ["best-worst", "all"])
def test_the_scores_of_a_list_go_before_what_stands_beside_it(jsonl, pairs_of):
    rated = {"prompt": "q", "generations": ["x", "y"], "ratings": [1, 2], "chosen_rating": 3, "rejected_rating": 3}
    (row,) = read(jsonl, rated, pairs_of=pairs_of)
    assert (row.chosen, row.rejected) == ("y", "x")


def test_an_answer_that_is_none_is_no_text_in_a_list_of_turns(jsonl):
    for texts in ('["x", null]', "[null]"):
        (row,) = read(jsonl, {"prompt": texts, "a": texts, "b": texts.replace("x", "y"), "winner": "a"})
        assert isinstance(row, BadRow)


# Ranked lists


def test_all_pairs_of_a_list_are_every_two_that_differ(jsonl, prefcli):
    ranks = {"w": 1, "x": 2, "y": 2, "z": 4}
    nectar = {"prompt": "\n\nHuman: q\n\nAssistant: ", "answers": [{"answer": a, "rank": r} for a, r in ranks.items()]}
    expected = {(a, b) for a, b in combinations(ranks, 2) if ranks[a] < ranks[b]}
    (one,) = read(jsonl, nectar)
    assert (one.prompt, one.chosen, one.rejected) == ([{"role": "user", "content": "q"}], "w", "z")
    rows = read(jsonl, nectar, nectar | {"answers": [{"answer": "a", "rank": 1}]}, nectar, pairs_of="all")
    found = [(row.chosen, row.rejected) if isinstance(row, Row) else row for row in rows]
    assert set(found[:5]) == expected == set(found[6:]) and len(found) == 11 and "a pair needs two" in str(found[5])
    source = scan("rows.jsonl", "pairs", pairs_of="all")
    assert (
        source.place(0) == "line 1, pair 1" and source.place(10) == "line 3, pair 5" and source.records.number(10) == 3
    )
    plan = prefcli("dpo", "--model", "tiny", "--data", jsonl("rows.jsonl", nectar), "--pairs-of", "all", "--dry-run")
    assert plan.exit_code == 0 and "5 rows (ranked answers, all pairs)" in plan.stderr, plan.stderr
    assert len(read(jsonl, nectar, purpose="prompts", pairs_of="all")) == 1


def test_a_tree_has_a_pair_for_each_prompt_with_ranked_replies(jsonl):
    def said(role, text, *replies, **more):
        return {"role": role, "text": text, "replies": list(replies), **more}

    more = said("prompter", "And?", said("assistant", "m", rank=1), said("assistant", "n", rank=0))
    tree = said("prompter", "q", said("assistant", "x", more, rank=1), said("assistant", "y", rank=0),
                said("assistant", "gone", rank=2, deleted=True), said("assistant", "unranked"))  # fmt: skip
    rows = read(
        jsonl, {"message_tree_id": "1", "prompt": tree}, {"message_tree_id": "2", "prompt": said("prompter", "alone")}
    )
    assert [(len(row.prompt), row.chosen, row.rejected) for row in rows[:2]] == [(1, "y", "x"), (3, "n", "m")]
    assert rows[1].prompt[1] == {"role": "assistant", "content": "x"} and isinstance(rows[2], Tie)
    assert [row.completion for row in read(jsonl, {"message_tree_id": "1", "prompt": tree}, purpose="demos")] == [
        "y",
        "n",
    ]
    source = {"message_tree_id": "1", "prompt": said("prompter", "q"), "completion": "of the source"}
    (alone,) = read(jsonl, source, purpose="prompts")
    assert alone.completion is None
    with pytest.raises(DataError) as error:
        read(jsonl, {"message_id": "1", "parent_id": None, "text": "q", "role": "prompter"}, purpose="demos")
    assert "files of trees" in error.value.hint


def test_a_trees_only_reply_is_a_demonstration_and_its_prompts_are_prompts(jsonl):
    def tree(*replies, text="q", **more):
        return {"role": "prompter", "text": text, "replies": list(replies), **more}

    def reply(text, rank=None, *replies, **more):
        return {"role": "assistant", "text": text, "rank": rank, "replies": list(replies), **more}

    refused = reply("bad", 0, tree(text="after it"), review_result=False)
    later = tree(refused, reply("a", 1), reply("b", 2), text="later")
    trees = [tree(reply("only", None, later)), tree(reply("sole")), tree(review_result=False),
             tree(reply("same", 0), reply("same", 1))]  # fmt: skip
    rows = [{"message_tree_id": str(n), "prompt": one} for n, one in enumerate(trees)]
    pair, sole, gone, same = read(jsonl, *rows)
    assert (pair.chosen, pair.rejected) == ("a", "b") and "no two answers" in str(sole)
    assert isinstance(sole, Tie) and isinstance(gone, Tie) and same.kind == "same sides"
    demos = [row.completion for row in read(jsonl, *rows[:2], purpose="demos")]
    assert demos == ["only", "a", "sole"]
    prompts = [row.prompt[-1]["content"] for row in read(jsonl, *rows[:2], purpose="prompts")]
    assert prompts == ["q", "later", "q"]


# Labels


@pytest.mark.parametrize(
    ("good", "bad"),
    [(True, False), (1, -1), (1.0, -1.0), (1.0, 0.0), ("1", "0"), ("up", "down"), ("thumbs_up", "thumbs-down"),
     ("Thumbs Up", "THUMBS DOWN"), ("good", "bad"), ("yes", "no"), ("like", "dislike"), ("👍", "👎"), ("👍🏽", "👎️")],
)  # fmt: skip
def test_a_label_is_read_as_people_write_it(jsonl, good, bad):
    rows = read(
        jsonl, *({"prompt": "q", "completion": "c", "label": label} for label in (good, bad)), purpose="labelled"
    )
    assert [row.label for row in rows] == [True, False]


def test_the_hint_for_thumbs_names_their_column(jsonl):
    with pytest.raises(DataError) as error:
        read(jsonl, {"prompt": "q", "completion": "c", "userThumb": 1}, purpose="labelled")
    assert "--map label=userThumb" in error.value.hint


@pytest.mark.parametrize("bad", [False, -1, "down", "👎"])
def test_what_people_call_bad_is_no_demonstration_and_a_class_is_named(jsonl, bad):
    rows = [{"prompt": "q", "completion": "c", "label": label} for label in (True, bad)]
    found = read_dataset([str(jsonl("a.jsonl", *rows))], "demos")
    assert len(found.rows) == 1 and any("1 rows labelled false" in note for note in found.notes)
    assert not any("'label'" in note for note in found.notes)
    classes = read_dataset(
        [str(jsonl("b.jsonl", *(row | {"label": number} for number, row in enumerate(rows))))], "demos"
    )
    assert len(classes.rows) == 2 and any("may matter: 'label'" in note for note in classes.notes)


def test_a_0_between_1_and_minus_1_is_neither(jsonl):
    pairs = read(jsonl, *(PAIR | {"label": label} for label in (0, 1, -1)), purpose="pairs")
    assert all(isinstance(row, Row) for row in pairs)  # whatever that label is of
    rows = read(
        jsonl, *({"prompt": "q", "completion": "c", "label": label} for label in (0, 1, -1)), purpose="labelled"
    )
    assert isinstance(rows[0], Tie) and [row.label for row in rows[1:]] == [True, False]


# Columns that are left


def test_columns_that_look_like_labels_are_named_where_they_are_not_read(jsonl, prefcli):
    rows = {
        "prompt": "q",
        "completion": "c",
        "thumb": -1,
        "quality_rating": 3,
        "topic": "x",
        "tools": [{"name": "f"}],
        "image": None,
    }
    path = jsonl("rows.jsonl", rows)
    (note,) = (note for note in scan(str(path), "demos").notes)
    assert "'thumb', 'quality_rating', 'tools' (--map" in note
    assert [note for note in scan(str(path), "prompts").notes if "'tools' (" in note and "thumb" not in note]
    told = json.loads(prefcli("data", "check", path, "--json").stdout)
    assert [one["example"] for one in told["findings"]] == ["thumb, quality_rating, tools"]
    assert "'thumb'" in prefcli("sft", "--model", "tiny", "--data", path, "--dry-run").stderr
    assert "'thumb'" in prefcli("sft", "--model", "tiny", "--data", path, "--dry-run", "--json").stdout + note


# Plain prompts as dialogues


def test_as_chat_makes_a_plain_prompt_a_users_message_and_ends_the_note(jsonl, prefcli, own_folder):
    path = jsonl("rows.jsonl", {**PAIR, "system": "Be kind."})
    plain = prefcli("dpo", "--model", "tiny", "--data", path, "--dry-run").stderr
    assert (
        "no chat template is applied; --as-chat makes each a user's message" in plain
        and "(--as-chat makes one)" in plain
    )
    chat = prefcli("dpo", "--model", "tiny", "--data", path, "--as-chat", "--dry-run").stderr
    assert "no chat template" not in chat and "<|user|>" in chat.split("example chosen")[1], chat
    (row,) = read(jsonl, PAIR | {"system": "Be kind."}, as_chat=True)
    assert [message["role"] for message in row.prompt] == ["system", "user"]
    write(own_folder / "prompts.txt", "Where is it?\n\n Who has it? \n")
    assert prefcli("data", "convert", "prompts.txt", "out.jsonl", "--as-chat").exit_code == 0
    assert [json.loads(line)["prompt"] for line in (own_folder / "out.jsonl").read_text().splitlines()] == [
        [{"role": "user", "content": text}] for text in ("Where is it?", "Who has it?")
    ]


def test_calls_stay_where_answers_are_scored_and_labelled(jsonl, prefcli, own_folder):
    def call(of):
        return [
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"of": of}}}]}
        ]

    asked = [{"role": "user", "content": "q"}]
    path = jsonl(
        "rows.jsonl", {"prompt": asked, "chosen": call("a"), "rejected": call("bcd"), "tools": [{"name": "f"}]}
    )
    write(
        own_folder / "r.py",
        "def score(prompts, completions, **columns):\n    return [float(len(c)) for c in completions]\n",
    )
    for command, chosen in ((["score", "--reward"], "a"), (["label", "--by"], "bcd")):
        made = prefcli(*command, "python:r.py:score", "--data", path, "--out", "out.jsonl", "--quiet")
        assert made.exit_code == 0, made.stderr
        row = json.loads((own_folder / "out.jsonl").read_text())
        assert row["chosen"] == call(chosen) and row["prompt"][0]["tools"] == [{"name": "f"}]
        (own_folder / "out.jsonl").unlink()


# Kinds of files


def test_sheets_are_read_whatever_stands_between_their_cells(own_folder):
    for name, mark in (("a.csv", ","), ("b.csv", ";"), ("c.csv", "\t"), ("d.tsv", "\t")):
        write(
            own_folder / name,
            mark.join(["prompt", '"chosen,"', "rejected"]) + "\n" + mark.join(["q", '"x;\ty"', "z"]) + "\n",
        )
        (row,) = read_dataset([name], "pairs", names=["chosen=chosen,"]).rows
        assert (row.prompt, row.chosen, row.rejected) == ("q", "x;\ty", "z")


@pytest.mark.parametrize(
    "text", [json.dumps(PAIR) + "\n", json.dumps([PAIR]), "prompt,chosen,rejected\n" + ",".join(PAIR.values())]
)
def test_rows_come_from_standard_input(own_folder, text):
    reading._kept_input.cache_clear()
    try:
        result = CliRunner().invoke(app, ["data", "convert", "-", "out.jsonl", "--to", "pairs-plain"], input=text)
        assert result.exit_code == 0, result.stderr
        assert json.loads((own_folder / "out.jsonl").read_text()) == PAIR
    finally:
        reading._kept_input.cache_clear()


def test_nothing_and_broken_rows_on_standard_input_are_told_under_its_name(own_folder):
    for text, part in (
        ("", "- holds no rows"),
        ('{"prompt": 1}\nx\n', "-, line 1: "),
        ("[1", "-, line 1: not valid JSON"),
    ):
        reading._kept_input.cache_clear()
        result = CliRunner().invoke(app, ["data", "convert", "-", "out.jsonl"], input=text)
        assert result.exit_code == 3 and part in result.stderr, result.stderr
    reading._kept_input.cache_clear()


# Names that are not ours

ANSWER = {"prompt": "q", "answer": "x"}


@pytest.mark.parametrize(
    ("columns", "good", "bad"),
    [
        ({"prompt": "q", "answer": "x"}, {"feedback": "👍"}, {"feedback": "👎"}),
        ({"prompt": "q", "response": "x"}, {"rating": 1}, {"rating": 0}),
        ({"prompt": "q", "text": "x"}, {"vote": 1}, {"vote": -1}),
        ({"question": "q", "response": "x"}, {"thumb": "up"}, {"thumb": "down"}),
        ({"Question": "q", "Model Response": "x"}, {"User Feedback": "good"}, {"User Feedback": "bad"}),
        ({"instruction": "q", "input": "", "output": "x"}, {"thumb": True}, {"thumb": False}),
        *(
            ({"prompt": "q", "answer": "x"}, {name: 1}, {name: 0})
            for name in ("thumbs_up_down", "thumbUpDown", "vote (up/down)", "liked_or_not", "better_or_worse")
        ),
    ],
)
@pytest.mark.parametrize("purpose", [None, "labelled"])
def test_an_answer_beside_a_label_is_a_labelled_one_whatever_they_are_called(jsonl, columns, good, bad, purpose):
    found = scan(str(jsonl("a.jsonl", columns | good, columns | bad)), purpose)
    rows = [row for _, row in found]
    assert [(row.prompt_text, row.completion, row.label) for row in rows] == [("q", "x", True), ("q", "x", False)]
    assert any("read with --map" in note for note in found.notes)
    mapped = found.notes[0].partition("read with ")[2].replace("'", "").split("--map ")[1:]
    again = scan("a.jsonl", purpose, names=[name.strip() for name in mapped])
    assert [row for _, row in again] == rows and not again.notes


@pytest.mark.parametrize("names", [("chosen_response", "rejected_response"), ("Answer Chosen", "Answer Rejected")])
@pytest.mark.parametrize("purpose", [None, "pairs", "demos"])
def test_sides_that_are_called_chosen_need_no_map(jsonl, names, purpose):
    row = {"instruction": "q", **dict(zip(names, ("x", "y"))), "preference": 1}
    found = scan(str(jsonl("a.jsonl", row)), purpose)
    assert (found.first().chosen, found.first().rejected) == ("x", "y")
    assert found.notes[0].endswith(f"read with {maps(dict(zip(('chosen', 'rejected'), names)))}")
    assert scan("a.jsonl", "prompts").first().chosen is None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([ANSWER | {"rating": 4}, {"prompt": "r", "answer": "y", "rating": 1}], "numbers are not labels"),
        (
            [ANSWER | {"rating": 4}, ANSWER | {"rating": 1}],
            "--map response=answer --map helpfulness=rating makes pairs",
        ),
        (
            [ANSWER | {"rank": 1}, ANSWER | {"rank": 3}],
            "--map helpfulness=COLUMN makes pairs of the answers to one prompt by these numbers, of which the highest",
        ),
        ([ANSWER | {"rank": 1}, ANSWER | {"rank": 0}], "--map helpfulness=COLUMN makes pairs"),  # not labels
        *(
            ([ANSWER | {name: 1}, {"prompt": "r", "answer": "y", name: 0}], "numbers are not labels")
            for name in ("thumb_down", "not_liked", "isNotBetter", "best_rank")
        ),
        ([ANSWER | {"vote": 1}] * 2, "--map completion=answer --map label=vote"),  # perhaps a count: none says 0
        ([ANSWER | {"thumb": "up", "vote": "up"}], "--map completion=answer --map label=thumb"),  # which of the two?
        ([ANSWER], "'answer' (--map completion=answer)"),
    ],
)
def test_what_is_not_surely_a_label_is_named_and_not_guessed(jsonl, prefcli, rows, said):
    path = jsonl("a.jsonl", *rows)
    checked = prefcli("data", "check", path)
    assert "for prompts" in checked.stderr and said in checked.stderr and "unread columns" in checked.stdout
    if len(rows[0]) > 2:
        assert said in prefcli("kto", "--model", "tiny", "--data", path, "--dry-run").stderr
    assert all(row.columns["answer"] == "x" for _, row in scan(str(path), "prompts") if row.prompt == "q")


def test_helpsteers_answers_to_one_prompt_are_compared(jsonl, prefcli):
    def rated(prompt, response, helpfulness, **more):
        return {"prompt": prompt, "response": response, "helpfulness": helpfulness, "verbosity": 2, **more}

    rows = [rated("p", "a", 1), rated("p", "b", 3), rated("p", "c", 2, verbosity=0), rated("q", "d", 2),
            rated("q", "e", 2), rated("r", "f", 4), rated("p", "g", 4), rated("p", "h", 0)]  # fmt: skip
    made = read(jsonl, *rows)
    pairs = [(row.prompt, row.chosen, row.rejected) if isinstance(row, Row) else type(row) for row in made]
    assert pairs == [("p", "b", "a"), Tie, Tie, ("p", "g", "h")]
    every = [(row.chosen, row.rejected) for row in read(jsonl, *rows, pairs_of="all") if isinstance(row, Row)]
    assert set(every) == {("b", "a"), ("b", "c"), ("c", "a"), ("g", "h")} and len(every) == 4
    assert [row.prompt for row in read(jsonl, *rows, purpose="prompts")] == ["p", "q", "r", "p"]
    assert scan("rows.jsonl").place(1) == "line 4" and scan("rows.jsonl").records.number(3) == 7
    told = json.loads(prefcli("data", "check", "rows.jsonl", "--json").stdout)
    assert {one["finding"] for one in told["findings"]} == {"tie"} and told["files"][0]["for"] == "pairs"
    jsonl("two.jsonl", *rows[:3], rated("s", "i", 1), rated("s", "j", 2))
    assert prefcli("data", "split", "two.jsonl").exit_code == 0
    parts = [row for part in ("train", "held_out") for row in read_dataset([f"two.{part}.jsonl"], "pairs").rows]
    assert sorted((row.prompt, row.chosen, row.rejected) for row in parts) == [("p", "b", "a"), ("s", "j", "i")]
    demos = scan("rows.jsonl", "demos", names=["completion=response"])
    assert len(demos) == 8 and "'helpfulness', 'verbosity'" in demos.notes[0]
    own = [{"question": row["prompt"], "reply": row["response"], "stars": row["helpfulness"]} for row in rows]
    jsonl("own.jsonl", *own)
    names = ["prompt=question", "response=reply", "helpfulness=stars"]
    assert [row.chosen for _, row in scan("own.jsonl", names=names) if isinstance(row, Row)] == ["b", "g"]


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("Prompt,Answer A,Answer B,Winner", ("q,x,y,B", "q,x,y,Tie")),
        ("QUESTION,Response-1,Response-2,Better", ("q,x,y,2", "q,x,y,tie")),
        ("input,left,right,choice", ("q,x,y,right", "q,x,y,neither")),
        ("prompt,a,b,score_a,score_b", ("q,x,y,1,2.5", "q,x,y,2,2")),
        ("Prompt,Answer 1,Answer 2,Rating 1,Rating 2", ("q,x,y,1,5", "q,x,y,5,5.0")),
    ],
)
def test_a_sheets_header_is_read_as_people_write_it_and_ties_keep_their_prompt(own_folder, header, cells):
    write(own_folder / "a.csv", "\n".join([header, *cells]) + "\n")
    won, tie = (row for _, row in scan("a.csv"))
    assert (won.prompt, won.chosen, won.rejected) == ("q", "y", "x") and isinstance(tie, Tie)
    assert scan("a.csv").notes == [] and not [name for name in won.columns if "winner" in name.lower()]
    prompts = [row for _, row in scan("a.csv", "prompts")]
    assert [row.prompt for row in prompts] == ["q", "q"] and all(not row.answers for row in prompts[1:])


def test_a_score_that_is_none_is_a_bad_row(jsonl):
    _, bad = read(jsonl, *({"prompt": "q", "a": "x", "b": "y", "score_a": 1, "score_b": b} for b in (2, None)))
    assert bad.kind == "bad label" and "'score_b': null" in str(bad)


def test_prompts_of_ties_are_prompts(jsonl):
    talks = {side: [{"role": "user", "content": "q"}, {"role": "assistant", "content": side}] for side in "xy"}
    arena = {"conversation_a": talks["x"], "conversation_b": talks["y"], "winner": "tie"}
    ranked = {"prompt": "q", "answers": [{"answer": "x", "rank": 1}, {"answer": "y", "rank": 1}]}
    for row in (arena, ranked, PAIR | {"prompt": "q", "score_chosen": 1, "score_rejected": 1}):
        (found,) = read(jsonl, row, purpose="prompts")
        assert found.prompt_text == "q" and found.chosen is None
    rows = [{"prompt": "q", "completion": "c", "label": label} for label in (0, 1, -1)]
    assert len(read_dataset([str(jsonl("a.jsonl", *rows))], "prompts").rows) == 3


def test_a_rank_that_is_mapped_as_a_score_is_told(jsonl):
    rows = [SIDES | {"rank_a": 1, "rank_b": 2, "stars_a": 2, "stars_b": 1}]
    told = scan(str(jsonl("a.jsonl", *rows)), names=["score_a=rank_a", "score_b=rank_b"]).notes
    assert "--map score_a=rank_a takes the higher number" in told[0] and "--map score_b=rank_b" in told[1]
    assert not any("takes" in note for note in scan("a.jsonl", names=["score_a=stars_a", "score_b=stars_b"]).notes)
    path = jsonl("b.jsonl", PAIR | {"good_stars": 2, "rejected_stars": 1})
    assert not scan(str(path), names=["score_chosen=good_stars", "score_rejected=rejected_stars"]).notes


def test_of_two_votes_it_is_told_which_is_read(jsonl):
    row = {"prompt": "q", "response_0": "x", "response_1": "y", "better_response_id": 0, "safer_response_id": 1}
    path = str(jsonl("a.jsonl", row))
    for names, chosen, other in (
        ([], "x", "safer_response_id"),
        (["winner=safer_response_id"], "y", "better_response_id"),
    ):
        found = scan(path, "pairs", names=names)
        assert found.first().chosen == chosen
        assert f"and not {other!r}, which may say otherwise (--map winner={other} reads it)" in found.notes[0]
    assert not any("and not" in note for note in scan(path, "prompts").notes)
    alone = scan(str(jsonl("b.jsonl", {name: value for name, value in row.items() if "better" not in name})), "pairs")
    assert alone.first().chosen == "y" and not alone.notes


def test_a_label_of_safety_is_named_and_not_guessed(jsonl):
    rows = [{"prompt": "q", "response": "x", "is_safe": safe} for safe in (True, False)]
    path = str(jsonl("a.jsonl", *rows))
    for purpose in ("labelled", "demos"):
        with pytest.raises(DataError) as error:
            scan(path, purpose)
        assert "--map completion=response --map label=is_safe; " in error.value.hint
    (note,) = scan(path, "demos", names=["completion=response"]).notes
    assert "'is_safe' (--map label=is_safe)" in note
    labelled = read(jsonl, *rows, purpose="labelled", names=["completion=response", "label=is_safe"])
    assert [row.label for row in labelled] == [True, False]


def test_sides_that_are_crossed_by_map_are_told(jsonl):
    jsonl("a.jsonl", {"prompt": "q", "answer_a": "x", "answer_b": "y", "winner": "a"})
    crossed = scan("a.jsonl", names=["a=answer_b", "b=answer_a"])
    assert "a vote for a counts for 'answer_b'" in crossed.notes[0] and crossed.first().chosen == "y"
    assert scan("a.jsonl", names=["a=answer_a", "b=answer_b"]).notes == []


def test_ties_are_counted_apart_from_bad_rows(jsonl, prefcli):
    votes = ({**SIDES, "prompt": f"q{number}", "winner": vote} for number, vote in enumerate(("a", "b", "tie", "x")))
    path = jsonl("a.jsonl", *votes)
    for command in ("check", "stats"):
        told = json.loads(prefcli("data", command, path, "--json").stdout)
        assert [told["files"][0][name] for name in ("rows", "bad", "ties")] == [2, 1, 1], command
    assert "ties" in prefcli("data", "stats", path).stdout


# What no reader takes


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.json",
            '[{"prompt": "a", "chosen": "b"},\n{"prompt": "c", "cho',
            "line 2: not valid JSON: truncated at byte 53",
        ),
        ("a.json", '[{"prompt": "a", "label": tr', "truncated at byte 28"),
        ("a.json", "[1, 2}]", "use .jsonl"),
        ("a.json", '{"prompt": "a"}\n{"prompt": "b"}\n', "use .jsonl"),
        ("a.xlsx", "PK", "save the sheet as CSV or Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_says_what_to_do(own_folder, prefcli, name, content, said):
    write(own_folder / name, content)
    told = prefcli("data", "check", name)
    assert told.exit_code == 3 and said in told.stderr and (("truncated" in said) <= ("use .jsonl" not in told.stderr))


def test_a_folder_of_several_kinds_names_its_files_as_they_are_typed(own_folder, prefcli):
    for name in ("a.jsonl", "b.json", "c d.tsv", "dataset_info.json"):
        write(own_folder / name, "")
    told = prefcli("data", "check", own_folder).stderr
    assert told.count("--data") == 3 and f"--data '{own_folder}/c d.tsv'" in told

"""`ui`, labelling: who is asked what, what is written, that nothing is lost, that the terminal goes on with it."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import httpx
import pyarrow.parquet
import pytest
from conftest import write
from rich.console import Console
from test_annotators import brute_force

from prefcli.config.ui import UIConfig
from prefcli.data.dataset import read_dataset
from prefcli.data.row import message_of
from prefcli.errors import DataError, SurroundingsError, UsageError
from prefcli.labelling import human
from prefcli.progress import SILENT
from prefcli.statistics.intervals import wilson_interval
from prefcli.ui import desk as desks
from prefcli.ui.desk import Stale, _edited, _habits, opened
from prefcli.ui.questions import questions

CHAT = [{"role": "user", "content": "Who sings?"}]


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()] if Path(path).exists() else []


def answers(prompts, each=2):
    return [
        {"prompt": f"Question {i}", "completion": f"answer {k} to {i}"} for i in range(prompts) for k in range(each)
    ]


@pytest.fixture
def at_desk(own_folder):
    """`with at_desk(rows, to="pairs") as desk:` the desk of those rows; the same again goes on."""

    @contextmanager
    def make(rows=None, **more):
        if rows is not None:
            write(own_folder / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        config = UIConfig(label=["data.jsonl"], out="out.jsonl", **more)
        with opened(config, questions(config, SILENT), SILENT) as desk:
            yield desk

    return make


def terminal(keys, by="tess"):
    """A session of `label --by human` on the same files."""
    pressed = iter(keys)
    config = UIConfig(label=["data.jsonl"], out="out.jsonl")
    os.environ["PREFCLI_ANNOTATOR"] = by
    try:
        screen = Console(file=io.StringIO(), width=120)
        return human.run(_Asked(config), SILENT, keys=lambda: next(pressed, "q"), console=screen)
    finally:
        del os.environ["PREFCLI_ANNOTATOR"]


class _Asked:
    def __init__(self, config):
        self.data, self.out, self.seed, self.skip_bad = config.label, config.out, 0, False
        self.split, self.map, self.as_chat = None, [], False


def decide_all(desk, by, choose=lambda question: "left", most=1000):
    state = desk.next(by)
    for _ in range(most):
        if state["question"] is None:
            break
        state = desk.decide(by, state["question"]["id"], {"verdict": choose(state["question"])})
    return state


# What is written


def test_each_verdict_is_the_row_that_the_terminal_writes(at_desk):
    with at_desk(answers(4) + [{"prompt": CHAT, "completion": text} for text in ("Mira.", "Nobody.")]) as desk:
        shown = []
        for said in ({"verdict": "left"}, {"verdict": "right", "comment": "so", "reasons": []}, {"verdict": "tie"},
                     {"verdict": "skip"}, {"verdict": "left", "text": "better"}):  # fmt: skip
            question = desk.next("ann")["question"]
            shown.append(question)
            desk.decide("ann", question["id"], said)
            assert len(rows_of("out.jsonl")) + len(rows_of("out.jsonl.skipped")) == len(shown)  # on disk by then
        assert desk.next("ann") == {"question": None, "progress": {"mine": 5, "left": 0, "total": 5, "minutes": 0}}
    left, right, edited = rows_of("out.jsonl")
    tie, skip = rows_of("out.jsonl.skipped")
    assert [left["chosen"], left["rejected"]] == shown[0]["answers"] and left["shown"] == ["chosen", "rejected"]
    assert [right["rejected"], right["chosen"]] == shown[1]["answers"] and right["shown"] == ["rejected", "chosen"]
    assert right["comment"] == "so" and "reasons" not in right and "comment" not in left
    assert (edited["chosen"], edited["edited"], edited["rejected"]) == ("better", *shown[4]["answers"])
    assert (tie["answers"], tie["verdict"], skip["verdict"]) == (shown[2]["answers"], "tie", "skip")
    assert all(row["by"] == "ann" and row["seconds"] >= 0 and row["at"].endswith("+00:00") for row in (left, tie))
    assert terminal("")["open"] == 0  # it knows all of them
    assert len(read_dataset(["out.jsonl"], "pairs").rows) == 3


def test_the_terminal_and_the_page_go_on_with_each_others_files(at_desk):
    with at_desk(answers(6)) as desk:
        decide_all(desk, "ann", most=2)
        with pytest.raises(SurroundingsError, match="another process"):
            terminal("l")
    result = terminal("lt")
    assert (result["rows"], result["ties"], result["open"]) == (3, 1, 2)
    with at_desk() as desk:
        assert desk.next("ann")["progress"] | {"minutes": 0} == {"mine": 2, "left": 2, "total": 6, "minutes": 0}
        assert desk.undo("tess")["progress"]["left"] == 3  # what was decided at the terminal can be taken back here
        decide_all(desk, "ann")
        decide_all(desk, "tess")  # what she took back was still hers
    assert terminal("")["open"] == 0
    assert Counter(row["by"] for row in rows_of("out.jsonl") + rows_of("out.jsonl.skipped")) == {"ann": 4, "tess": 2}


def test_what_no_person_made_is_refused(at_desk, jsonl):
    jsonl("out.jsonl", {"prompt": "a", "chosen": "b", "rejected": "c"})
    with pytest.raises(DataError, match="no person made"), at_desk(answers(1)):
        pass
    Path("out.jsonl").unlink()
    with at_desk(answers(1), to="binary") as desk:
        decide_all(desk, "ann", lambda _: "good")
    with pytest.raises(DataError, match="no person made"), at_desk():
        pass


def test_thumbs_are_rows_for_kto(at_desk):
    with at_desk(answers(3), to="binary") as desk:
        state = decide_all(desk, "ann", lambda q: {"0": "good", "1": "bad", "2": "skip"}[q["answers"][0][-1]])
        assert state["progress"]["mine"] == 6
        with pytest.raises(UsageError, match="not a verdict"):
            desk.undo("ann")
            desk.decide("ann", desk.next("ann")["question"]["id"], {"verdict": "left"})
    with at_desk(to="binary") as desk:
        assert decide_all(desk, "bob", lambda _: "good")["progress"]["mine"] == 1
    found = read_dataset(["out.jsonl"], "labelled").rows
    assert all(row.label == row.completion.endswith("0") for row in found if row.columns["by"] == "ann")
    assert {row["verdict"] for row in rows_of("out.jsonl.skipped")} == {"skip"}


def test_a_ranking_is_the_pairs_that_it_implies_written_at_once(at_desk):
    with at_desk(answers(2, 4), to="ranking") as desk:
        question = desk.next("ann")["question"]
        texts = question["answers"]
        for wrong in ([0, 1, 2], [0, 1, 2, 2], [0, 1, 2, 4], [0, 1, 2, True], "left"):
            with pytest.raises(UsageError):
                desk.decide("ann", question["id"], {"verdict": wrong})
        desk.decide("ann", question["id"], {"verdict": [2, 0, 3, 1]})
        rows = rows_of("out.jsonl")
        order = [texts[place] for place in (2, 0, 3, 1)]
        assert [(row["chosen"], row["rejected"]) for row in rows] == [
            (order[i], order[j]) for i in range(4) for j in range(i + 1, 4)
        ]
        for row in rows:
            first = min(("chosen", "rejected"), key=lambda side: texts.index(row[side]))
            assert row["shown"][0] == first
        assert desk.undo("ann")["question"]["answers"] == texts and rows_of("out.jsonl") == []
        desk.decide("ann", question["id"], {"verdict": "skip"})
        assert desk.next("ann")["progress"]["left"] == 1
    assert terminal("")["open"] == 6  # of 12 comparisons: the skipped ones are decided


def test_bad_requests_change_nothing(at_desk):
    with at_desk(answers(2), reason=["wrong fact"]) as desk:
        question = desk.next("ann")["question"]
        good, bad = question["answers"]
        for said in ({}, {"verdict": "up"}, {"verdict": ["left"]}, {"verdict": "left", "text": " "}, {"verdict": None},
                     {"verdict": "left", "text": good}, {"verdict": "left", "text": bad},
                     {"verdict": "left", "text": 3},
                     {"verdict": "left", "text": "x" * 200_001}, {"verdict": "left", "comment": "x" * 10_001},
                     {"verdict": "left", "comment": 1}, {"verdict": "left", "reasons": ["other"]},
                     {"verdict": "left", "reasons": "wrong fact"}):  # fmt: skip
            with pytest.raises(UsageError):
                desk.decide("ann", question["id"], said)
        with pytest.raises(UsageError, match="unchanged"):  # a text field gives a CR LF back as a newline
            _edited("a\r\nb", "c", "a\nb")
        for by in ("", "  ", "x" * 61, None, 3, ["ann"]):
            with pytest.raises(UsageError):
                desk.next(by)
        for by, digest in (("ann", "other"), ("bob", question["id"]), ("ann", None)):
            with pytest.raises(Stale):
                desk.decide(by, digest, {"verdict": "left"})
        with pytest.raises(UsageError, match="take back"):
            desk.undo("ann")
        assert rows_of("out.jsonl") == [] and desk.next("ann")["question"] == question
        desk.decide(" ann ", question["id"], {"verdict": "left", "reasons": ["wrong fact"]})
        assert rows_of("out.jsonl")[0]["reasons"] == ["wrong fact"] and rows_of("out.jsonl")[0]["by"] == "ann"
        with pytest.raises(Stale):  # sent twice
            desk.decide("ann", question["id"], {"verdict": "left"})


def test_a_full_disk_keeps_the_question(at_desk, monkeypatch):
    with at_desk(answers(2)) as desk:
        question = desk.next("ann")["question"]
        real = os.write
        monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            desk.decide("ann", question["id"], {"verdict": "left"})
        monkeypatch.setattr(os, "write", real)
        assert desk.next("ann")["question"] == question
        desk.decide("ann", question["id"], {"verdict": "left"})
    assert len(rows_of("out.jsonl")) == 1


@pytest.mark.parametrize("kind", ["pairs", "binary", "ranking"])
def test_messages_with_a_date_are_asked_once(at_desk, kind):
    sent = datetime(2026, 1, 2, 3, 4)
    rows = [
        {"prompt": [{"role": "user", "content": f"Q {i}", "sent": sent}], "completion": text}
        for i in range(2) for text in ("one", "two")
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "a.parquet")
    config = UIConfig(label=["a.parquet"], out="out.jsonl", to=kind)
    said = {"pairs": "left", "binary": "good", "ranking": [1, 0]}[kind]
    for done in (0, 1):
        with opened(config, questions(config, SILENT), SILENT) as desk:
            state = desk.next("ann")
            assert state["progress"]["mine"] == done and state["question"]["prompt"][0]["sent"] == sent
            desk.decide("ann", state["question"]["id"], {"verdict": said})
    assert rows_of("out.jsonl")[0]["prompt"][0]["sent"] == str(sent)


CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "find", "arguments": {"a": "ü"}}}]}
THOUGHT = {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."}


@pytest.mark.parametrize("kind", ["pairs", "binary", "ranking", "terminal"])
def test_answers_keep_their_calls_and_thoughts_and_are_known_again(at_desk, kind):
    rows = [{"prompt": CHAT, "chosen": [CALL], "rejected": [THOUGHT]}]
    write(Path("data.jsonl"), json.dumps(rows[0]) + "\n")
    if kind == "terminal":
        terminal("l")
    else:
        said = {"pairs": "left", "binary": "good", "ranking": [1, 0]}[kind]
        with at_desk(rows, to=kind) as desk:
            decide_all(desk, "ann", lambda _: said)
            assert all(entry["alpha"] is None for entry in desk.report()["agreement"]["annotators"])
    made = rows_of("out.jsonl")
    if kind == "binary":
        assert [row["completion"] for row in made] in ([[CALL], [THOUGHT]], [[THOUGHT], [CALL]])
        found = [row.completion for row in read_dataset(["out.jsonl"], "labelled").rows]
    else:
        assert [made[0]["chosen"], made[0]["rejected"]] in ([[CALL], [THOUGHT]], [[THOUGHT], [CALL]])
        found = read_dataset(["out.jsonl"], "pairs").rows[0].answers
        assert terminal("")["open"] == 0
    assert [message_of(answer) for answer in found] in ([CALL, THOUGHT], [THOUGHT, CALL])
    if kind != "terminal":
        with at_desk(to=kind) as desk:
            assert desk.next("ann")["question"] is None


# Who is asked what


def test_the_sides_are_drawn_for_each_annotator_and_stay_the_same(at_desk):
    def lefts(by):
        found = {}
        with at_desk(answers(200), overlap=1.0) as desk:
            for _ in range(200):
                question = desk.next(by)["question"]
                assert desk.next(by)["question"] == question  # a page that is loaded again
                found[question["prompt"]] = question["answers"][0]
                desk.decide(by, question["id"], {"verdict": "tie"})
        os.unlink("out.jsonl.skipped")
        return found

    ann, bob = lefts("ann"), lefts("bob")
    assert ann == lefts("ann")
    for found in (ann, bob):
        assert 70 < sum(text.startswith("answer 0") for text in found.values()) < 130
    assert 70 < sum(ann[prompt] == bob[prompt] for prompt in ann) < 130


def test_every_prompt_comes_once_before_any_comes_twice_and_not_in_the_order_of_the_file(at_desk):
    config = UIConfig(label=["data.jsonl"], out="out.jsonl")
    write(Path("data.jsonl"), "".join(json.dumps(row) + "\n" for row in answers(20, 3)))
    for kind, each in (("pairs", 3), ("binary", 3), ("ranking", 1)):
        asked = [question.prompt for question in questions(replace(config, to=kind), SILENT)]
        assert len(asked) == 20 * each
        for start in range(0, len(asked), 20):
            assert len(set(asked[start : start + 20])) == 20
        assert asked[:20] != sorted(asked[:20], key=lambda text: int(text.split()[1]))
        other = [question.prompt for question in questions(replace(config, to=kind, seed=1), SILENT)]
        assert other != asked


def test_the_order_of_the_file_does_not_say_whose_answer_is_shown(at_desk):
    """Neither on the page, round by round, nor at the terminal."""
    rows = [{"prompt": f"Q {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(100)]
    write(Path("data.jsonl"), "".join(json.dumps(row) + "\n" for row in rows))
    config = UIConfig(label=["data.jsonl"], out="out.jsonl")
    first = questions(replace(config, to="binary"), SILENT)[:100]
    assert 25 < sum(question.answers[0].startswith("good") for question in first) < 75  # five deviations of a fair coin
    write(Path("data.jsonl"), "".join(json.dumps(row) + "\n" for row in answers(90, 3)))
    for asked in (questions(config, SILENT)[:90], human.comparisons(["data.jsonl"], 0, False, SILENT)[:90]):
        sides = [sorted(q.answers if hasattr(q, "answers") else (q.left, q.right)) for q in asked]
        assert 8 < sum(one[:8] == "answer 0" and two[:8] == "answer 1" for one, two in sides) < 52  # 30 of 90


def test_two_annotators_share_the_questions_and_meet_in_the_overlap(at_desk):
    with at_desk(answers(100), overlap=0.3) as desk:
        seen = {"ann": [], "bob": []}
        states = {by: desk.next(by) for by in seen}
        while any(state["question"] for state in states.values()):
            for by, state in states.items():
                if state["question"]:
                    seen[by].append(state["question"]["id"])
                    states[by] = desk.decide(by, state["question"]["id"], {"verdict": "left"})
        both = set(seen["ann"]) & set(seen["bob"])
        assert len(set(seen["ann"]) | set(seen["bob"])) == 100 and 15 < len(both) < 45
        assert abs(len(seen["ann"]) - len(seen["bob"])) < 10
        assert all(len(some) == len(set(some)) for some in seen.values())
        third = decide_all(desk, "cy")
        assert third["progress"]["mine"] == len(both)
    with at_desk(overlap=0.3) as desk:  # the same, read again
        for by in seen:
            state = desk.next(by)
            assert state["question"] is None and state["progress"]["mine"] == len(seen[by])
    assert terminal("")["open"] == 0


def test_what_one_annotator_looks_at_is_asked_of_nobody_else_until_they_left(at_desk, monkeypatch):
    with at_desk(answers(1)) as desk:
        question = desk.next("ann")["question"]
        assert desk.next("bob")["question"] is None and desk.next("bob")["progress"]["left"] == 1
        monkeypatch.setattr(desks, "HELD", 0)
        assert desk.next("bob")["question"]["id"] == question["id"]


def test_undo_takes_back_ones_own_whatever_others_did_since(at_desk):
    with at_desk(answers(10), overlap=0.5) as desk:
        decide_all(desk, "ann", most=3)
        mine = desk.next("ann")["question"]
        desk.decide("ann", mine["id"], {"verdict": "left"})
        decide_all(desk, "bob", lambda _: "tie", most=2)
        decide_all(desk, "bob", most=2)
        before = [row for row in rows_of("out.jsonl") if row["by"] == "bob"]
        state = desk.undo("ann")
        assert state["question"] == mine and state["progress"]["mine"] == 3
        after = rows_of("out.jsonl")
        assert [row for row in after if row["by"] == "bob"] == before and len(after) == 5
        for left in (2, 1, 0):
            assert desk.undo("ann")["progress"]["mine"] == left
        with pytest.raises(UsageError):
            desk.undo("ann")
        assert rows_of("out.jsonl") == before and len(rows_of("out.jsonl.skipped")) == 2
    with at_desk(overlap=0.5) as desk:
        assert desk.next("bob")["progress"]["mine"] == 4 and desk.next("ann")["progress"]["mine"] == 0


def test_a_ranking_adds_to_what_was_decided_pair_by_pair(at_desk):
    with at_desk(answers(1, 4)):
        pass
    terminal("lr", by="ann")
    before = rows_of("out.jsonl")
    with at_desk(to="ranking") as desk:
        question = desk.next("ann")["question"]
        assert desk.next("ann")["progress"]["mine"] == 0
        desk.decide("ann", question["id"], {"verdict": [0, 1, 2, 3]})
        assert rows_of("out.jsonl")[:2] == before
    assert max(Counter(human.digest_in(row) for row in rows_of("out.jsonl")).values()) == 1
    assert len(rows_of("out.jsonl")) == 6 and terminal("")["open"] == 0
    with at_desk(to="ranking") as desk:
        assert desk.next("ann")["progress"]["mine"] == 1
        desk.undo("ann")
        assert rows_of("out.jsonl") == before
        desk.decide("ann", question["id"], {"verdict": [3, 2, 1, 0]})
        assert rows_of("out.jsonl")[:2] == before and len(rows_of("out.jsonl")) == 6


def test_what_is_taken_back_is_asked_of_others_unless_they_have_decided_it(at_desk, monkeypatch):
    with at_desk(answers(3)) as desk:
        decide_all(desk, "ann", most=1)
        decide_all(desk, "bob")
        question = desk.undo("ann")["question"]
        decide_all(desk, "bob")
        assert desk.next("bob")["question"] is None  # ann looks at it
        monkeypatch.setattr(desks, "HELD", 0)
        assert desk.next("bob")["question"]["id"] == question["id"]
        desk.decide("bob", question["id"], {"verdict": "right"})
        with pytest.raises(Stale):
            desk.decide("ann", question["id"], {"verdict": "left"})
        assert desk.next("ann")["question"] is None
    rows = rows_of("out.jsonl")
    assert [row["by"] for row in rows] == ["bob"] * 3
    with Path("out.jsonl").open("a") as file:  # both have decided it in a file that was put together
        file.write(json.dumps(rows[-1] | {"by": "ann", "at": "2999" + rows[-1]["at"][4:]}) + "\n")
    with at_desk() as desk:
        desk.undo("ann")
        assert desk.next("ann")["question"] is None and desk.next("cy")["question"] is None


# Agreement


def test_the_agreement_is_that_of_the_decisions_counted_independently(at_desk):
    generator = random.Random(3)
    given = {}  # what was meant, whatever side it stood on
    with at_desk(answers(60), overlap=0.6) as desk:
        for by in ("ann", "bob", "cy"):
            while question := desk.next(by)["question"]:
                said = generator.choices(["left", "right", "tie", "skip"], [5, 3, 1, 1])[0]
                if generator.random() < 0.6 and said in ("left", "right"):  # mostly for the same answer
                    better = f"answer {int(question['prompt'].split()[1]) % 2}"
                    said = "left" if question["answers"][0].startswith(better) else "right"
                value = question["answers"][0 if said == "left" else 1] if said in ("left", "right") else said
                if said != "skip":
                    given.setdefault(question["id"], {})[by] = value
                other = "answer 1" if value.startswith("answer 0") else "answer 0"
                text = other + "!" if said == "left" and generator.random() < 0.5 else None  # sorts to the other side
                desk.decide(by, question["id"], {"verdict": said, "text": text} if text else {"verdict": said})
        found = desk.report()
    units = [dict(unit) for unit in given.values()]
    # Nominal categories: which answer of its own pair, so "the first" and "the second" by their texts.
    coded = [{by: value if value == "tie" else value.startswith("answer 0") for by, value in unit.items()}
             for unit in units]  # fmt: skip
    assert found["agreement"]["all"]["alpha"] == pytest.approx(brute_force(coded), abs=1e-12)
    assert 0.1 < found["agreement"]["all"]["alpha"] < 0.9
    assert found["agreement"]["all"]["units"] == sum(len(unit) > 1 for unit in coded)
    for entry in found["agreement"]["pairs"]:
        a, b = entry["by"]
        both = [{a: unit[a], b: unit[b]} for unit in coded if a in unit and b in unit]
        assert entry["alpha"] == pytest.approx(brute_force(both), abs=1e-12)
    rows = rows_of("out.jsonl")
    for person in found["annotators"]:
        own = [row["shown"][0] == "chosen" for row in rows if row["by"] == person["by"]]
        assert person["first"] == sum(own) / len(own)


def test_a_rankings_pairs_count_once_for_the_pace():
    ranking = [{"at": "1", "seconds": 60.0, "shown": ["chosen", "rejected"]}] * 6
    others = [{"at": at, "seconds": 5.0, "verdict": "skip"} for at in "23"]
    assert _habits("ann", ranking + others)["seconds"] == 5.0


def test_objectives_are_rated_beside_the_verdict_and_have_their_own_agreement(at_desk):
    generator, meant = random.Random(5), {}
    with at_desk(answers(40), overlap=1.0, objective=["helpful", "harmless"]) as desk:
        for by in ("ann", "bob"):
            while question := desk.next(by)["question"]:
                want = f"answer {int(question['prompt'].split()[1]) % 2}"
                side = "left" if question["answers"][0].startswith(want) else "right"
                side = generator.choices([side, "equal", "left"], [6, 1, 1])[0]
                value = side if side == "equal" else question["answers"][side == "right"]
                meant.setdefault(question["id"], {})[by] = value
                verdict = generator.choice(["left", "right", "tie", "skip"])
                text = {"text": "0"} if verdict == "left" else {}
                desk.decide(by, question["id"], {"verdict": verdict, "objectives": {"helpful": side}, **text})
        helpful, harmless = desk.report()["agreement"]["objectives"]
        coded = [
            {by: v if v == "equal" else v.startswith("answer 0") for by, v in unit.items()} for unit in meant.values()
        ]
        assert helpful["alpha"] == pytest.approx(brute_force(coded), abs=1e-12) and helpful["alpha"] > 0.1
        assert harmless == {"objective": "harmless", "alpha": None, "ci95": None, "units": 0, "same": None}
        desk.undo("bob")
        question = desk.next("bob")["question"]["id"]
        for wrong in ({"honest": "left"}, {"helpful": "up"}, {"helpful": None}, ["helpful"], {"helpful": ["left"]}):
            with pytest.raises(UsageError, match="objective"):
                desk.decide("bob", question, {"verdict": "left", "objectives": wrong})
        desk.decide("bob", question, {"verdict": "right", "objectives": {"helpful": "right", "harmless": "left"}})
        desk.undo("ann")
        question = desk.next("ann")["question"]["id"]
        desk.decide("ann", question, {"verdict": "skip", "objectives": {"helpful": "right", "harmless": "equal"}})
    assert rows_of("out.jsonl")[-1]["objectives"] == {"helpful": "chosen", "harmless": "rejected"}
    assert rows_of("out.jsonl.skipped")[-1]["objectives"] == {"helpful": "second", "harmless": "equal"}
    assert terminal("")["open"] == 0


def test_a_ranking_is_one_decision_in_the_report(at_desk):
    with at_desk(answers(3, 4), overlap=1.0, to="ranking") as desk:
        for by in ("ann", "bob"):
            for verdict in ([0, 1, 2, 3], "skip", "skip"):
                desk.decide(by, desk.next(by)["question"]["id"], {"verdict": verdict})
        found = desk.report()
    for person in found["annotators"]:
        assert (person["decisions"], person["ties"], person["skips"], person["first"]) == (3, 0, 2, 1.0)
        assert person["first_ci95"] == list(wilson_interval(1, 1))  # of one ranking, not of its six pairs
    both = found["agreement"]["all"]
    assert both["units"] == 6 and both["alpha"] is not None and both["ci95"] is None


# Nothing is lost


@contextmanager
def served(folder, *options):
    words = [sys.executable, "-m", "prefcli", "ui", "--no-browser", "--port", "0", "--label", "data.jsonl", "--out",
             "out.jsonl", *options]  # fmt: skip
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def test_four_annotators_and_kill_9_lose_nothing(own_folder):
    write(own_folder / "data.jsonl", "".join(json.dumps(row) + "\n" for row in answers(400)))
    confirmed: dict[str, list[str]] = {by: [] for by in ("ann", "bob", "cy", "di")}

    def work(by, url, most):
        origin = url[: url.index("/", 8)]
        with httpx.Client(base_url=url.removesuffix("label"), headers={"Origin": origin}, trust_env=False) as client:
            try:
                state = client.post("label/next", json={"by": by}).json()
                while state["question"] and len(confirmed[by]) < most:
                    said = {"by": by, "id": state["question"]["id"], "verdict": "left"}
                    state = client.post("label/decide", json=said).json()
                    confirmed[by].append(said["id"])
            except httpx.HTTPError:  # it was killed
                pass

    def all_work(url, most):
        threads = [threading.Thread(target=work, args=(by, url, most)) for by in confirmed]
        for thread in threads:
            thread.start()
        return threads

    with served(own_folder) as (process, url):
        threads = all_work(url, 10_000)
        while sum(map(len, confirmed.values())) < 60:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    written = Counter(human.digest_in(row) for row in whole_rows("out.jsonl"))
    told = {digest for some in confirmed.values() for digest in some}
    assert told <= set(written) and max(written.values()) == 1
    assert len(written) <= len(told) + len(confirmed)  # at most one each that was written and not confirmed
    with served(own_folder) as (process, url):
        before = sum(map(len, confirmed.values()))
        for thread in all_work(url, before // 4 + 30):
            thread.join()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    found = Counter(human.digest_in(row) for row in whole_rows("out.jsonl"))
    assert max(found.values()) == 1 and len(found) > before


def whole_rows(path):
    *lines, _ = Path(path).read_bytes().split(b"\n")
    return [json.loads(line) for line in lines]

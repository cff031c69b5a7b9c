"""Labelling by a person: what is shown, what is written, and that no decision is ever lost."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import write
from rich.console import Console

from prefcli.data import appending
from prefcli.data.appending import JsonLines
from prefcli.data.dataset import read_dataset
from prefcli.errors import DataError, SurroundingsError
from prefcli.labelling import human
from prefcli.progress import Reporter

ANSWERS = [
    {"prompt": "Where is the cup?", "completion": "On the shelf."},
    {"prompt": "Where is the cup?", "completion": "I do not know."},
    {"prompt": "Where is the cup?", "completion": "Under the bed."},
    {"prompt": [{"role": "user", "content": "Who sings?"}], "completion": "Mira sings."},
    {"prompt": [{"role": "user", "content": "Who sings?"}], "completion": "Nobody."},
]  # 3 + 1 comparisons
TIMES = ("at", "seconds")


class Told(Reporter):
    def __init__(self):
        self.notices, self.plans = [], []

    def notice(self, text):
        self.notices.append(text)

    def plan(self, plan):
        self.plans.append(plan)


@pytest.fixture
def label(own_folder, monkeypatch):
    """`label("lrt", *rows)` is a session in which those keys are pressed: the result, and the screen as `.screen`."""
    monkeypatch.setenv("PREFCLI_ANNOTATOR", "ann")

    def run(keys, *rows, out="pairs.jsonl", seed=0, width=100, reporter=None):
        if rows:
            write(own_folder / "data.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        console = Console(file=io.StringIO(), width=width)
        run.screen = console.file
        config = SimpleNamespace(data=["data.jsonl"], out=out, seed=seed, skip_bad=False, split=None, map=[])
        pressed = iter(keys)
        return human.run(config, reporter or Told(), keys=lambda: next(pressed, "q"), console=console)

    return run


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_times(rows):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def numbered(n):
    return [{"prompt": f"Question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(n)]


# What is written


def test_left_and_right_choose_what_stood_there(label, own_folder):
    for key, side in (("l", 0), ("r", 1), ("\x1b[D", 0), ("\x1b[C", 1), ("left\n", 0), ("RIGHT", 1)):
        label([key], ANSWERS[0], ANSWERS[1])
        (line,) = [line for line in label.screen.getvalue().splitlines() if "On the shelf." in line]
        on_screen = [cell.strip() for cell in line.strip("│").split("│")]
        (row,) = rows_of(own_folder / "pairs.jsonl")
        assert (row["chosen"], row["rejected"]) == (on_screen[side], on_screen[1 - side])
        assert row["shown"] == (["chosen", "rejected"] if side == 0 else ["rejected", "chosen"])
        assert row["prompt"] == "Where is the cup?" and row["by"] == "ann" and row["seconds"] >= 0
        assert row["at"].endswith("+00:00") and set(row) == {"prompt", "chosen", "rejected", "shown", "by", *TIMES}
        os.unlink("pairs.jsonl")


def test_out_is_a_file_that_dpo_reads_and_ties_and_skips_stand_beside_it(label, own_folder):
    result = label("ltsr", *ANSWERS)
    pairs = read_dataset(["pairs.jsonl"], "pairs").rows
    assert [pair.prompt for pair in pairs] == ["Where is the cup?", "Where is the cup?"]
    beside = rows_of(own_folder / "pairs.jsonl.skipped")
    assert [row["verdict"] for row in beside] == ["tie", "skip"]
    assert beside[0]["prompt"] == ANSWERS[3]["prompt"] and sorted(beside[0]["answers"]) == ["Mira sings.", "Nobody."]
    counts = {name: result[name] for name in ("rows", "edited", "ties", "skips", "open")}
    assert counts == {"rows": 2, "edited": 0, "ties": 1, "skips": 1, "open": 0}


def test_every_prompt_comes_once_before_any_comes_twice(label):
    todo = human.comparisons([str(write(Path("data.jsonl"), lines(ANSWERS)))], 0, False, Told())
    assert [c.prompt for c in todo] == ["Where is the cup?", ANSWERS[3]["prompt"], *["Where is the cup?"] * 2]
    assert len({frozenset((c.left, c.right)) for c in todo}) == 4


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_the_order_is_blind_seeded_and_the_same_however_the_rows_stand():
    def lefts(rows, seed):
        path = write(Path("data.jsonl"), lines(rows))
        return {c.prompt: c.left for c in human.comparisons([str(path)], seed, False, Told())}

    rows = numbered(400)
    usual = lefts(rows, 0)
    good = sum(left.startswith("good") for left in usual.values())
    assert 150 < good < 250  # five deviations of a fair coin
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in reversed(rows)]
    assert lefts(swapped, 0) == usual
    other = lefts(rows, 1)
    assert 150 < sum(other[prompt] == left for prompt, left in usual.items()) < 250


def test_the_summary_counts_position_and_pace(label, monkeypatch):
    clock = iter(range(0, 1000, 1))
    monkeypatch.setattr(human.time, "monotonic", lambda: next(clock) ** 2)
    told = Told()
    result = label("lllrts", *numbered(8), reporter=told)
    # between reads of the clock: 1−0, 9−4, 25−16, 49−36, 81−64, 121−100, and a ninth that is not decided
    assert result["median_seconds"] == (9 + 13) / 2
    assert result["left_share"] == 3 / 4 and result["open"] == 2
    (plan,) = told.plans
    assert "75%" in plan["position"] and "2 comparisons" in plan["left to do"]
    assert "6 of 8 done, about 1 min left" in label.screen.getvalue()


def test_a_session_without_a_decision_ends_well(label):
    result = label("q", *ANSWERS)
    assert (result["rows"], result["left_share"], result["median_seconds"], result["open"]) == (0, None, None, 4)
    assert not os.path.exists("pairs.jsonl")
    write(Path("pairs.jsonl"), "")  # who made it keeps it
    label("q")
    assert os.path.exists("pairs.jsonl")


# Nothing is lost


def test_each_decision_is_on_disk_before_the_next_question(label, own_folder, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_size))
    seen = []

    class Keys:
        def __iter__(self):
            for key in "lrt":
                seen.append((len(synced), len(rows_of(own_folder / "pairs.jsonl"))))
                yield key
            seen.append((len(synced), len(rows_of(own_folder / "pairs.jsonl"))))

    label(Keys(), *ANSWERS)
    assert seen == [(0, 0), (1, 1), (2, 2), (3, 2)]
    assert synced[1] == (own_folder / "pairs.jsonl").stat().st_size


def test_ctrl_c_keeps_what_was_decided(label, own_folder):
    def keys():
        yield "l"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(keys(), *ANSWERS)
    assert len(rows_of(own_folder / "pairs.jsonl")) == 1
    assert label("rrr")["open"] == 0  # the file is not held any more, and the rest is asked


def test_a_file_cut_at_any_byte_keeps_every_whole_line(own_folder):
    path = own_folder / "pairs.jsonl"
    rows = [{"chosen": "Größe\n\u2028", "n": 1}, {"chosen": "b", "n": 2}]
    with JsonLines(path) as file:
        for row in rows:
            file.append(row)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        complete = (cut >= first - 1) + (cut >= len(whole) - 1)  # a line may lack its newline alone
        start = (0, first, len(whole))[complete]
        with JsonLines(path) as file:
            assert file.rows == rows[:complete], cut
            assert file.cut == max(0, cut - start), cut
        assert path.read_bytes() == whole[:start]


@pytest.mark.parametrize(
    "last", ['[{"a": 1}, {"a": 2}]', "{'a': 1}", '{"a": 1}, {"a": 2}', "notes", "5", '{"a": 1} {', '[{"a": 1']
)
def test_a_last_line_that_is_no_row_cut_short_is_refused_and_stays(own_folder, last):
    for before in ("", '{"a": 0}\n'):
        path = write(own_folder / "mine.jsonl", before + last)
        with pytest.raises(DataError, match=f"mine.jsonl, line {1 + bool(before)}: not a JSON object"):
            JsonLines(path)
        assert path.read_text() == before + last


def test_a_row_is_cut_off_wherever_it_ends(own_folder):
    row = json.dumps({"a": [1.25e-07, -2, True, None, '\u00fc\\\n"'], "b": {"c": float("nan"), "d": 0.5}})
    for cut in range(1, len(row)):
        with JsonLines(write(own_folder / "rows.jsonl", row[:cut])) as file:
            assert (file.rows, file.cut) == ([], cut), row[:cut]


def test_a_half_written_decision_is_told_and_asked_again(label, own_folder):
    label("llll", *ANSWERS)
    path = own_folder / "pairs.jsonl"
    whole = rows_of(path)
    path.write_bytes(path.read_bytes()[:-20])
    told = Told()
    result = label("l", reporter=told)
    assert any("half-written" in note for note in told.notices) and result["open"] == 0
    assert without_times(rows_of(path)) == without_times(whole)


def test_kill_9_loses_nothing(own_folder):
    write(own_folder / "data.jsonl", lines(numbered(6)))
    code = (
        "import sys\nfrom types import SimpleNamespace\nfrom prefcli.labelling.human import run\n"
        "from prefcli.progress import SILENT\n"
        "given = dict(data=['data.jsonl'], out='pairs.jsonl', seed=0, skip_bad=False, split=None, map=[])\n"
        "run(SimpleNamespace(**given), SILENT)\n"
        "assert 'torch' not in sys.modules, 'a person waits for torch'"
    )

    def start():
        return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE)

    process = start()
    process.stdin.write(b"l\nr\nt\n")
    process.stdin.flush()
    until = time.monotonic() + 60
    while not rows_of(own_folder / "pairs.jsonl.skipped") and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = rows_of(own_folder / "pairs.jsonl")
    assert len(before) == 2
    again = start()
    _, errors = again.communicate(b"l\nl\nl\n")  # and the input ends, which is quitting
    assert again.returncode == 0, errors
    assert rows_of(own_folder / "pairs.jsonl")[:2] == before
    prompts = [row["prompt"] for name in ("", ".skipped") for row in rows_of(own_folder / f"pairs.jsonl{name}")]
    assert sorted(prompts) == [f"Question {i}" for i in range(6)]


def test_what_was_decided_is_known_again_in_other_rows(label, own_folder):
    rows = numbered(6)
    label("ltr", *rows)
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    random.Random(0).shuffle(swapped)
    more = {"prompt": "Question 0", "chosen": "good 0", "rejected": "another"}
    told = Told()
    result = label("llll", *swapped, more, seed=5, reporter=told)
    assert "resuming after 3 decisions" in told.notices[0]
    assert result["open"] == 1  # of Question 0 there are three comparisons now, and two were open
    shown = [
        (row["prompt"], frozenset((row["chosen"], row["rejected"]))) for row in rows_of(own_folder / "pairs.jsonl")
    ]
    assert len(set(shown)) == len(shown) == 6


# Undo


def test_undo_takes_back_one_decision_after_the_other_from_both_files(label, own_folder):
    label("ltrl", *ANSWERS)
    whole = rows_of(own_folder / "pairs.jsonl")
    result = label("q")
    assert result["open"] == 0  # all is decided, and so nothing is asked
    write(own_folder / "data.jsonl", lines([*ANSWERS, *[{**row, "prompt": "New?"} for row in ANSWERS[:2]]]))
    label("uq")
    assert rows_of(own_folder / "pairs.jsonl") == whole[:-1]
    label("uuq")
    assert rows_of(own_folder / "pairs.jsonl") == whole[:1]
    assert (own_folder / "pairs.jsonl.skipped").read_text() == ""
    label("uuuq")
    assert (own_folder / "pairs.jsonl").read_text() == ""
    assert "nothing of yours to undo" in label.screen.getvalue()


def test_what_was_taken_back_is_asked_again(label, own_folder):
    label("lulr", *ANSWERS)
    (first, second) = rows_of(own_folder / "pairs.jsonl")
    assert first["prompt"] == "Where is the cup?" and first["shown"] == ["chosen", "rejected"]
    assert second["prompt"] == ANSWERS[3]["prompt"] and second["shown"] == ["rejected", "chosen"]


def test_undo_leaves_another_person_s_decisions_alone(label, own_folder, monkeypatch):
    label("lq", *ANSWERS)
    monkeypatch.setenv("PREFCLI_ANNOTATOR", "bob")
    label("luuq")
    assert [row["by"] for row in rows_of(own_folder / "pairs.jsonl")] == ["ann"]
    monkeypatch.delenv("PREFCLI_ANNOTATOR")
    monkeypatch.setenv("USER", "eve")
    label("lq")
    assert rows_of(own_folder / "pairs.jsonl")[-1]["by"] == "eve"


# Edit


def test_the_edited_text_becomes_chosen_and_is_not_asked_again(label, own_folder, monkeypatch):
    monkeypatch.setenv("EDITOR", "sed -i -e s/[.]/!/")
    label("er", *ANSWERS[:2])
    (row,) = rows_of(own_folder / "pairs.jsonl")
    assert row["chosen"] == row["edited"].replace(".", "!")
    assert {row["edited"], row["rejected"]} == {"On the shelf.", "I do not know."}
    assert label("q")["open"] == 0


@pytest.mark.parametrize(
    ("editor", "said"),
    [
        ("true", "unchanged"),
        ("false", "ended with 1"),
        ("no-such-editor-here", "does not work"),
        ("'unbalanced", "does not work"),
        ("truncate -s 0", "empty"),
        ("cp other.txt", "the other answer"),
    ],
)
def test_an_edit_that_comes_to_nothing_records_nothing(label, own_folder, monkeypatch, editor, said):
    todo = [{"prompt": "p", "completion": "one"}, {"prompt": "p", "completion": "two"}]
    write(own_folder / "data.jsonl", lines(todo))
    (comparison,) = human.comparisons(["data.jsonl"], 0, False, Told())
    write(own_folder / "other.txt", comparison.right + "\n")
    monkeypatch.setenv("EDITOR", editor)
    before = signal.getsignal(signal.SIGINT)
    label("elq")
    assert said in " ".join(label.screen.getvalue().split())
    assert rows_of(own_folder / "pairs.jsonl") == []
    assert signal.getsignal(signal.SIGINT) is before
    label("eul")  # going back from the question which is the better one
    assert len(rows_of(own_folder / "pairs.jsonl")) == 1


def test_a_path_with_backslashes_is_the_editor_s_on_windows():
    path = Path("a b/answer.txt")
    assert human.editing(r"C:\bin\code.exe --wait", path, windows=True) == rf'C:\bin\code.exe --wait "{path}"'
    assert human.editing("code --wait", path, windows=False) == ["code", "--wait", str(path)]


@pytest.mark.parametrize("end", ["q", "\x04", "quit"])
def test_the_end_of_the_input_after_edit_is_quitting(label, own_folder, monkeypatch, end):
    monkeypatch.setenv("EDITOR", "sed -i -e s/[.]/!/")

    def keys():
        yield from ("e", end)
        raise AssertionError("it asks on")

    assert label(keys(), *ANSWERS[:2])["open"] == 1 and rows_of(own_folder / "pairs.jsonl") == []


# What is shown


def test_nothing_that_moves_the_cursor_reaches_the_terminal(label):
    evil = "a\x1b[2Jb\x07c\rd\x9b31me\u202ef\x7f"
    label("q", {"prompt": f"[red]{evil}", "chosen": f"[bold]{evil}[/bold]", "rejected": "[/] [link=x]y"})
    screen = label.screen.getvalue()
    assert all(char == "\n" or char.isprintable() for char in screen)
    assert "[bold]a␛[2Jb␇c␍d�31me�f␡[/bold]" in screen and "[red]a␛" in screen and "[/] [link=x]y" in screen


def test_a_narrow_terminal_has_the_answers_one_below_the_other(label):
    for width, together in ((100, True), (60, False)):
        label("q", *ANSWERS[:2], width=width)
        shown = label.screen.getvalue().splitlines()
        assert max(map(len, shown)) <= width
        assert any("On the shelf." in line and "I do not know." in line for line in shown) == together


def test_a_key_that_means_nothing_is_said_and_asked_again(label, own_folder):
    label(["x", "", "\x1b[A", "é", "l"], *ANSWERS[:2])
    assert label.screen.getvalue().count("is not a key here") == 4 and "\x1b" not in label.screen.getvalue()
    assert len(rows_of(own_folder / "pairs.jsonl")) == 1


# Keys


def test_one_key_is_read_from_a_terminal_and_its_modes_come_back(monkeypatch):
    master, slave = os.openpty()
    with open(slave, closefd=True) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        usual = termios.tcgetattr(slave)

        def press(data):
            while termios.tcgetattr(slave)[3] & termios.ICANON:  # until it waits for a key
                time.sleep(0.001)
            os.write(master, data)

        for data, key in ((b"l", "l"), (b"\x1b[C", "\x1b[C"), (b"lll", "l"), (b"\x04", "\x04"), (b"\xff", "\ufffd")):
            os.write(master, b"r")  # typed before the answers were seen
            assert os.read(master, 10) == b"r"  # its echo: it has arrived
            thread = threading.Thread(target=press, args=(data,))
            thread.start()
            assert human.next_key() == key
            thread.join()
            assert termios.tcgetattr(slave) == usual
        os.close(master)
        assert human.next_key() == "q"  # the terminal is gone


def test_without_a_terminal_a_line_is_a_key_and_the_end_is_quitting(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"left\n\xff\n\nr")))
    assert [human.next_key() for _ in range(5)] == ["left\n", "\ufffd\n", "\n", "r", "q"]
    monkeypatch.setattr(sys, "stdin", None)
    assert human.next_key() == "q"


# Bad input


def test_a_file_that_is_held_or_not_of_people_is_refused_and_left_alone(label, own_folder):
    write(own_folder / "data.jsonl", lines(ANSWERS))
    with JsonLines(own_folder / "pairs.jsonl"), pytest.raises(SurroundingsError, match="another process"):
        label("l")
    for text, error in (
        (lines(numbered(1)), "no person made"),
        ('{"prompt": "p", "chosen": "a", "rejected": "b", "by": "x", "at": 1, "seconds": 2}\n', "no person made"),
        ('{"prompt": "p", "answers": "ab", "verdict": "tie", "by": "x", "at": "", "seconds": 2}\n', "no person made"),
        ("[1]\n", "line 1: not a JSON object"),
        ('{"a": 1}\n{"prompt": \n{"b": 2}\n', "line 2: not a JSON object"),
    ):
        write(own_folder / "pairs.jsonl", text)
        with pytest.raises(DataError, match=error):
            label("l")
        assert (own_folder / "pairs.jsonl").read_text() == text


def test_answers_of_which_no_two_are_different_are_refused(label, own_folder):
    with pytest.raises(DataError, match="two different answers"):
        label("l", ANSWERS[0], ANSWERS[0], ANSWERS[3])
    assert not (own_folder / "pairs.jsonl").exists()


# The file, for those who write it for hours


def test_a_row_in_the_middle_is_taken_back_and_the_rest_stays_under_the_same_lock(own_folder):
    real = write(own_folder / "there" / "rows.jsonl", lines([{"n": n} for n in range(4)]))
    real.chmod(0o640)
    os.symlink(real, own_folder / "rows.jsonl")
    with JsonLines(own_folder / "rows.jsonl") as file:
        assert file.take_back(1) == {"n": 1}
        file.append({"n": "ä"}, {"n": 5})
        assert file.take_back(0) == {"n": 0}
        assert file.take_back() == {"n": 5}
        assert rows_of(real) == file.rows == [{"n": 2}, {"n": 3}, {"n": "ä"}]
        with pytest.raises(SurroundingsError):
            JsonLines(real)
    assert (own_folder / "rows.jsonl").is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert list(real.parent.iterdir()) == [real]
    with JsonLines(real) as file:
        assert file.rows == [{"n": 2}, {"n": 3}, {"n": "ä"}]


def test_a_file_that_was_written_anew_while_it_was_opened_is_not_taken_for_it(own_folder, monkeypatch):
    path = write(own_folder / "rows.jsonl", lines([{"n": 0}, {"n": 1}]))
    real_flock = appending.fcntl.flock

    def late(handle, how):  # between opening and locking another process renames its own file there
        os.replace(write(own_folder / "new", lines([{"n": 1}])), path)
        real_flock(handle, how)

    monkeypatch.setattr(appending.fcntl, "flock", late)
    with pytest.raises(SurroundingsError, match="another process"):
        JsonLines(path)


def test_a_full_disk_leaves_the_file_as_it_was_and_the_next_row_is_written(own_folder, monkeypatch):
    path = own_folder / "rows.jsonl"
    with JsonLines(path) as file:
        file.append({"n": 0})
        real, left = os.write, [5]

        def full(handle, data):
            if not left:
                raise OSError(28, "No space left on device")
            return real(handle, data[: left.pop()])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            file.append({"n": 1})
        monkeypatch.setattr(os, "write", real)
        assert path.read_text() == '{"n": 0}\n'
        file.append({"n": 2})
        assert rows_of(path) == file.rows == [{"n": 0}, {"n": 2}]

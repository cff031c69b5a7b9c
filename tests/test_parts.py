"""Work in parts: stopped and resumed, damaged, another command's, divided over processes, and never all in memory."""

from __future__ import annotations

import json
import signal
import subprocess
import weakref

import pytest
import torch
from conftest import write
from forked import PREFCLI, SCRIPT, TORCHRUN

from prefcli import stopping
from prefcli.artifacts.parts import FAILED, Share, Work, open_beside, unfinished
from prefcli.data.rows import Source
from prefcli.errors import DataError, PrefcliError, SurroundingsError
from prefcli.evaluation import models, run, score
from prefcli.evaluation.variety import Distinct
from prefcli.labelling import run as labelling
from prefcli.progress import SILENT, Reporter
from prefcli.rewards.sources import PythonReward
from prefcli.statistics.variety import distinct

STOPS = """\
import os
def score(prompts, completions, **_):
    if os.path.exists("stop"):
        how, left = open("stop").read().split()
        open("stop", "w").write(f"{how} {int(left) - 1}")
        if left == "0" and how == "kill":
            os.kill(os.getpid(), 9)
        if left == "0":
            raise KeyboardInterrupt
    return [float(len(text)) for text in completions]
"""
ROWS = [{"prompt": f"p{i // 2}", "completion": f"a{'b' * (i * 7 % 13)}", "id": i} for i in range(60)]


class Said(Reporter):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def ten(work, name="rows", made=None):
    """A job of ten items, three a part, each its number in words."""
    job = work.job(name, 10, 3, "items")

    def make(span):
        if made is not None:
            made.append(span.start)
        return "".join(f"{i}\n" for i in span).encode(), list(span)

    return job, job.run(make)


def partials(folder):
    return sorted(folder.glob("*.partial"))


def test_parts_that_are_there_are_not_made_again_and_what_is_damaged_is(own_folder):
    out, causes = own_folder / "x.jsonl", {"a": 1}
    with pytest.raises(DataError), unfinished(Share(), SILENT) as work:
        open_beside(work, out, causes)
        _, parts = ten(work)
        assert [next(parts).noted for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        raise DataError("x")
    (folder,) = partials(own_folder)
    assert stopping.made is None
    names = [f"rows-{number:08}.part" for number in range(3)]
    (folder / names[0]).write_bytes((folder / names[0]).read_bytes()[:-1])  # torn
    whole = (folder / names[2]).read_text()
    (folder / names[2]).write_text(whole.replace("7", "9"))  # in the notes and in the rows
    (folder / ".rows-00000003.part.0a1b").write_text("half")
    made = []
    with unfinished(Share(), SILENT) as work:
        open_beside(work, out, causes)
        _, parts = ten(work, made=made)
        assert b"".join(part.lines for part in parts) == "".join(f"{i}\n" for i in range(10)).encode()
        assert made == [0, 6, 9] and not list(folder.glob(".rows*"))
        work.remove()
    assert partials(own_folder) == []


def test_another_command_starts_anew_and_says_so_and_two_of_one_kind_do_not_meet(own_folder):
    out, said = own_folder / "x[1].jsonl", Said()
    with unfinished(Share(), said) as work:
        open_beside(work, out, {"seed": 0, "model": "a"})
        next(ten(work)[1])
        with pytest.raises(SurroundingsError, match="another process"), unfinished(Share(), SILENT) as second:
            open_beside(second, out, {"seed": 0, "model": "a"})
        assert said.notices == []
        with unfinished(Share(), said) as other:
            open_beside(other, out, {"seed": 1, "model": "a"})
            assert other.there == {} and len(said.notices) == 1
            assert "another command (seed differ)" in said.notices[0] and str(work.folder) in said.notices[0]
    assert partials(own_folder) == [work.folder]  # that of the other held nothing
    write(work.folder / "work.json", "{}")
    with pytest.raises(SurroundingsError, match="not written by prefcli"), unfinished(Share(), SILENT) as work:
        open_beside(work, out, {"seed": 0, "model": "a"})


def test_missing_parts_are_divided_and_an_error_of_one_process_ends_the_first(own_folder):
    with unfinished(Share(0, 2), SILENT) as first:
        first.open(own_folder / "x.partial", {})
        _, parts = ten(first, "answers")
        with unfinished(Share(1, 2), SILENT) as second:
            second.folder, second.there = first.folder, first.there
            assert list(ten(second, "answers")[1]) == []
        assert {path.name for path in first.folder.glob("*.part")} == {f"answers-0000000{i}.part" for i in (1, 3)}
        assert [part.noted[0] for part in parts] == [0, 3, 6, 9]
        with pytest.raises(DataError) as raised, unfinished(Share(1, 2), SILENT) as second:
            second.folder = first.folder
            raise DataError("of the second", "do this")
        assert raised.value.told and (first.folder / FAILED).is_file()
        with pytest.raises(PrefcliError, match="of the second") as error:
            next(ten(first, "more")[1])
        assert (error.value.exit_code, error.value.hint, error.value.told) == (3, "do this", False)


def test_jobs_of_one_part_each_are_divided_too():
    """The answers of several models to few prompts."""
    works = [Work(Share(rank, 3)) for rank in range(3)]
    todo = [[work.job(f"model {k}", 48, 64, "prompts").todo for k in range(4)] for work in works]
    assert todo == [[[0], [], [], [0]], [[], [], [0], []], [[], [0], [], []]]


def test_draws_do_not_depend_on_how_answers_are_divided():
    whole = torch.rand(9000, 3, generator=torch.Generator().manual_seed(5))
    draws = models.Draws(5, 3)
    for span in (range(8990, 9000), range(0, 1), range(1, 4500), range(5000, 5001)):
        assert torch.equal(draws.of(span), whole[span.start : span.stop])


def test_variety_is_that_of_all_texts_together(monkeypatch):
    monkeypatch.setattr("prefcli.evaluation.variety.ROOM", 5)
    texts = [" ".join(str(i * k % 11) for k in range(i % 7)) for i in range(200)]
    found = Distinct(2)
    for start in range(0, 200, 9):
        found.add(texts[start : start + 9])
    assert found.value == distinct(texts, 2) > 0
    assert Distinct(2).value == 0


@pytest.fixture
def small(monkeypatch, own_folder):
    """Parts of a few rows, one thread; a reward that stops its process after so many calls, where a file says so."""
    for module in (score, labelling, run):
        monkeypatch.setattr(module, "A_PART", 8)
    write(own_folder / "r.py", STOPS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


COMMANDS = {
    "score": ["score", "--data", "a.jsonl", "--reward", "python:r.py:score"],
    "label": ["label", "--data", "a.jsonl", "--by", "python:r.py:score", "--to", "best"],
    "eval": ["eval", "--model", "tiny", "--prompts", "p.jsonl", "--reward", "python:r.py:score", "--json", "--pairs",
             "d.jsonl", "--max-new-tokens", "2", "--batch-size", "1", "--samples", "3"],
    "sample": ["sample", "--model", "tiny", "--prompts", "p.jsonl", "--max-new-tokens", "2", "--batch-size", "1"],
}  # fmt: skip


@pytest.fixture
def files(jsonl):
    jsonl("a.jsonl", *ROWS)
    jsonl("p.jsonl", *[{"prompt": f"Who has kite {i}?" + " Say it." * (i % 3), "id": i} for i in range(25)])
    jsonl("d.jsonl", *[{"prompt": "p", "chosen": "a" * (i % 5 + 1), "rejected": "bbb"} for i in range(20)])


def figures(result, out):
    assert result.exit_code == 0, result.stderr
    if out.exists():
        return out.read_bytes()
    found = json.loads(result.stdout)
    for entry in found["models"]:
        del entry["seconds"]
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stopped_command_says_what_is_kept_and_resumes_to_the_same_bytes(
    prefcli, small, files, own_folder, monkeypatch, command
):
    def args(name):
        return COMMANDS[command] + (["--out", name] if command != "eval" else [])

    whole = figures(prefcli(*args("whole.jsonl")), own_folder / "whole.jsonl")
    usual, calls = models.answer, []

    def answer(*args, **more):
        calls.append(1)
        if (own_folder / "stop").exists() and len(calls) == 4:
            raise KeyboardInterrupt
        return usual(*args, **more)

    monkeypatch.setattr(models, "answer", answer)
    write(own_folder / "stop", "interrupt 6")  # one call tries the function
    stopped = prefcli(*args("x.jsonl"))
    assert (stopped.exit_code, stopped.stdout) == (130, "")
    kept = 12 if command in ("sample", "eval") else 40
    assert f"interrupted: kept {kept} of" in stopped.stderr, stopped.stderr
    assert "the same command resumes" in stopped.stderr and not (own_folder / "x.jsonl").exists()
    (own_folder / "stop").unlink()
    before = len(calls)
    assert figures(prefcli(*args("x.jsonl")), own_folder / "x.jsonl") == whole
    if command in ("sample", "eval"):
        assert len(calls) - before == 7 - 3
    assert not partials(own_folder) and not list(own_folder.glob("runs/.cache*"))
    assert figures(prefcli(*args("x.jsonl")), own_folder / "x.jsonl") == whole  # written over, as ever


def test_rows_on_stdout_are_not_resumed_and_that_is_said(prefcli, small, files, own_folder):
    write(own_folder / "stop", "interrupt 6")  # one call tries the function
    stopped = prefcli(*COMMANDS["score"])
    assert stopped.exit_code == 130 and len(stopped.stdout.splitlines()) == 40
    assert "with --out FILE.jsonl the same command resumes" in stopped.stderr


def test_verdicts_and_scores_are_kept_for_another_kind_of_rows(prefcli, small, files, own_folder):
    same = [*COMMANDS["label"][:-2], "--out", "x.jsonl"]
    none = prefcli(*same, "--to", "best", "--threshold", "99")
    assert none.exit_code == 3 and "kept 60 of 60 rows" in none.stderr and len(partials(own_folder)) == 1
    write(own_folder / "stop", "interrupt 6")  # it would stop where it scored again
    assert prefcli(*same, "--to", "pairs").exit_code == 0 and not partials(own_folder)


def test_a_killed_process_loses_a_part_at_most(prefcli, small, files, own_folder, monkeypatch, forked):
    """There the parts have 512 rows, eight calls of the reward."""
    write(own_folder / "a.jsonl", "".join(json.dumps(row | {"id": n}) + "\n" for n in range(10) for row in ROWS))
    args = [*COMMANDS["score"], "--out", "x.jsonl"]
    whole = figures(prefcli(*args[:-1], "whole.jsonl"), own_folder / "whole.jsonl")
    write(own_folder / "stop", "kill 9")
    killed = forked.start(PREFCLI, *args, stderr=subprocess.PIPE)
    said = killed.communicate()[1]
    assert killed.returncode == -signal.SIGKILL, said
    (folder,) = partials(own_folder)
    assert [path.name for path in folder.glob("*.part")] == ["scores-00000000.part"]
    (own_folder / "stop").unlink()
    monkeypatch.setattr(score, "A_PART", 512)
    usual, scored = PythonReward.score, []
    monkeypatch.setattr(PythonReward, "score", lambda self, answers: scored.extend(answers) or usual(self, answers))
    assert figures(prefcli(*args), own_folder / "x.jsonl") == whole
    assert len(scored) == 600 - 512


def test_rows_are_not_held(prefcli, small, jsonl, own_folder, monkeypatch):
    """However many there are, those of one part are in memory."""
    jsonl("a.jsonl", *[{"prompt": f"p{i // 4}", "completion": "x" * (i % 5 + 1)} for i in range(400)])
    read, held = [], []
    row, usual = Source.row, score.Scores.add

    def reading(self, position):
        found = row(self, position)
        read.append(weakref.ref(found))
        return found

    def add(self, noted):
        held.append(sum(known() is not None for known in read))
        usual(self, noted)

    monkeypatch.setattr(Source, "row", reading)
    monkeypatch.setattr(score.Scores, "add", add)
    for command in ("score", "label"):
        assert prefcli(*COMMANDS[command], "--out", "x.jsonl").exit_code == 0
    assert len(held) == 100 and max(held) <= 2 * 8 and len(read) > 2 * 400


ALL = """
import json, sys
from typer.testing import CliRunner
from prefcli.cli.main import app
from prefcli.evaluation import score
from prefcli.evaluation import run
from prefcli.labelling import run as labelling
for module in (score, labelling, run):
    module.A_PART = 8
for args in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.stderr
    print(result.stdout, end="", flush=True)
"""


def test_two_processes_write_the_bytes_of_one(prefcli, small, files, own_folder, forked):
    one = {name: figures(prefcli(*words, *([] if name == "eval" else ["--out", f"{name}1.jsonl"])),
                         own_folder / f"{name}1.jsonl") for name, words in COMMANDS.items()}  # fmt: skip
    two = [[*words, *([] if name == "eval" else ["--out", f"{name}2.jsonl"])] for name, words in COMMANDS.items()]
    words = ["--standalone", "--nproc-per-node", "2", SCRIPT, ALL, json.dumps(two)]
    launched = forked.start(TORCHRUN, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, said = launched.communicate()
    assert launched.returncode == 0, said[-3000:]
    paths = [line for line in out.splitlines() if line.endswith(".jsonl")]
    assert paths == ["score2.jsonl", "label2.jsonl", "sample2.jsonl"]  # one process speaks
    for name in ("score", "label", "sample"):
        assert (own_folder / f"{name}2.jsonl").read_bytes() == one[name], name
    found = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    assert [model.pop("seconds") for model in found["models"]]
    assert found == one["eval"] and not partials(own_folder)


@pytest.mark.parametrize(("args", "part"), [
    (["sample", "--model", "tiny", "--prompts", "p.jsonl"], "--out is missing"),
    (["score", "--data", "a.jsonl", "--reward", "python:r.py:score"], "--out is missing"),
    (["label", "--data", "a.jsonl", "--by", "human", "--out", "x.jsonl"], "in one process"),
    (["label", "--data", "a.jsonl", "--by", "judge:http://127.0.0.1:1/v1#m", "--out", "x.jsonl"], "in one process"),
])  # fmt: skip
def test_what_several_processes_cannot_do_is_refused(prefcli, args, part):
    result = prefcli(*args, env={"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})
    assert result.exit_code == 2 and part in result.stderr and "hint:" in result.stderr


def test_work_without_a_folder_keeps_nothing():
    work = Work()
    job, parts = ten(work)
    assert [part.noted[-1] for part in parts] == [2, 5, 8, 9] and job.kept == 10 and work.kept_in_words() is None
    assert models.BATCHES > 1

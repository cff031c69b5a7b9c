"""stdout is the result's alone, on real processes: whatever a reward, a library or a child process writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import PAIR, write
from forked import PREFCLI

LOUD = """
import os, subprocess, sys
print("printed at the top")
def score(prompts, completions, **columns):
    print("printed")
    sys.__stdout__.write("written\\n")
    os.write(1, b"raw\\n")
    subprocess.run(["echo", "child"])
    return [float(len(text)) for text in completions]
"""
SAID = {"printed at the top", "printed", "written", "raw", "child"}


def run(*args, **more):
    command = [sys.executable, "-m", "prefcli", *map(str, args)]
    return subprocess.run(command, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **more)


@pytest.fixture
def loud(own_folder, jsonl):
    write(own_folder / "loud.py", LOUD)
    return ["score", "--data", jsonl("pairs.jsonl", PAIR), "--reward", "python:loud.py:score"]


def test_what_a_reward_prints_goes_to_stderr(loud, forked):
    process = forked.start(PREFCLI, *map(str, loud), "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, told = process.communicate()
    assert process.returncode == 0, told
    assert json.loads(out)["rows"] == 1 and len(out.splitlines()) == 1
    assert SAID <= set(told.splitlines())


def test_a_result_that_cannot_be_written_is_7_and_a_reader_that_left_is_none(loud):
    with open("/dev/full", "w") as full:
        done = run(*loud, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 7 and "No space left" in done.stderr and "Exception ignored" not in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    done = run("ls", "--json", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0)])
def test_a_stream_that_is_closed_from_the_start_ends_nothing(make_artifact, closed, code):
    make_artifact("sft")
    command = f"exec {sys.executable} -m prefcli ls --json {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert ("sft" in done.stdout) == (closed == "2>&-") and "sft" not in done.stderr


def test_a_stderr_that_takes_nothing_changes_no_outcome(own_folder, jsonl, forked):
    with open("/dev/full", "w") as full:
        assert run("show", "sft", stderr=full, stdout=subprocess.PIPE).returncode == 4
    write(own_folder / "r.py", "def score(prompts, completions):\n    print('printed')\n    return [1.0, 0.0]\n")
    reader, writer = os.pipe()
    os.close(reader)  # whoever read the notes has left
    words = ["score", "--data", str(jsonl("p.jsonl", PAIR)), "--reward", "python:r.py:score", "--json"]
    process = forked.start(PREFCLI, *words, stderr=writer, stdout=subprocess.PIPE)
    os.close(writer)
    out, _ = process.communicate()
    assert process.returncode == 0 and json.loads(out)["rows"] == 1


def test_a_usage_error_is_no_result_where_stderr_is_closed():
    done = subprocess.run(["sh", "-c", f"exec {sys.executable} -m prefcli show 2>&-"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")


MIXED = """
from prefcli.cli import stdout
stdout.claim()
stdout.set_aside()
stdout.print_result("é" + chr(0xDCFF))
stdout.write_rows("ü\\n".encode())
"""


def test_a_result_in_a_pipe_is_utf_8_whatever_the_encoding_and_a_path_the_bytes_it_is():
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", MIXED], capture_output=True, env=env)
    assert (done.stdout, done.stderr) == ("é".encode() + b"\xff\n" + "ü\n".encode(), b"")


def test_help_and_version_are_results_too():
    for words in (["--version"], ["--help"], ["ls", "--help"]):
        done = run(*words, capture_output=True)
        assert done.returncode == 0 and "prefcli" in done.stdout and done.stderr == ""

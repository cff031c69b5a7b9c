"""`prefcli chat`: what the models read and answer, what is kept of it, what is refused."""

from __future__ import annotations

import atexit
import io
import json
import os
import select
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import write
from typer.testing import CliRunner

from prefcli.artifacts.references import TINY
from prefcli.cli import chat as command
from prefcli.cli.main import app
from prefcli.config.chat import ChatConfig
from prefcli.data.dataset import read_dataset
from prefcli.errors import DataError, UsageError
from prefcli.evaluation import chat as chats
from prefcli.progress import Reporter

QUESTION = "Mira keeps the kite in the attic. Where is the kite?"
FEW = ["--max-new-tokens", "8"]


class Told(Reporter):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def say(*args, lines):
    """The command with these lines piped into it."""
    return CliRunner().invoke(app, ["chat", *map(str, args)], input="".join(line + "\n" for line in lines))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def opened(ref="tiny", ref2=None, **options):
    told = Told()
    return chats.open_chat(ChatConfig(ref, ref2, **({"max_new_tokens": 8} | options)), told, atexit.register), told


@pytest.fixture
def answering(monkeypatch):
    """Models that answer what is listed, in turn; `answering.asked` are their prompts."""

    def run(*texts):
        left = iter(texts)
        run.asked = []

        def answer(model, tokenizer, rows, *, on_token=None, **_):
            run.asked.append(rows[0].prompt)
            found = next(left)
            if isinstance(found, BaseException):
                raise found
            return SimpleNamespace(completions=[found])

        monkeypatch.setattr(chats, "answer", answer)

    return run


def test_the_first_answer_is_the_one_that_sample_gives(prefcli, jsonl):
    prompts = jsonl("p.jsonl", {"prompt": [user(QUESTION)]})
    for more in (["--seed", "3"], ["--temperature", "0.2"]):
        sampled = json.loads(prefcli("sample", "--model", "tiny", "--prompts", prompts, *FEW, *more).stdout)
        result = say("tiny", *FEW, *more, lines=[QUESTION])
        assert (result.exit_code, result.stdout) == (0, sampled["completion"].strip() + "\n"), result.stderr


def test_what_is_streamed_is_the_answer_piece_by_piece():
    chat, _ = opened(max_new_tokens=16)
    pieces = []
    (answer,) = chat.ask(QUESTION, pieces.append)
    assert "".join(pieces) == answer and sum(map(bool, pieces)) > 4
    (silent,) = opened(max_new_tokens=16)[0].ask(QUESTION)
    assert silent == answer


def test_no_piece_ends_inside_a_character(monkeypatch):
    chat, _ = opened()
    word = "a ü 🙂 z".encode()
    monkeypatch.setattr(
        chat.speakers[0].tokenizer, "decode", lambda ids, **_: bytes(ids).decode("utf-8", "replace"), raising=False
    )

    def answer(*_, on_token, **__):
        for byte in word:
            on_token(0, byte)
        return SimpleNamespace(completions=[word.decode()])

    monkeypatch.setattr(chats, "answer", answer)
    pieces = []
    chat.ask("?", pieces.append)
    assert "".join(pieces) == word.decode() and not any("\ufffd" in piece for piece in pieces)


def test_the_dialogue_grows_by_each_turn_and_can_be_forgotten(answering):
    answering(" one ", "two", "three", "four")
    chat, _ = opened()
    chat.ask("a")
    chat.ask("b")
    chat.instruct("Be brief.")
    chat.ask("c")
    chat.reset()
    chat.ask("d")
    system = {"role": "system", "content": "Be brief."}
    assert answering.asked == [
        [user("a")],
        [user("a"), assistant("one"), user("b")],
        [system, user("a"), assistant("one"), user("b"), assistant("two"), user("c")],
        [system, user("d")],
    ]


def test_retry_asks_the_same_and_draws_anew():
    chat, _ = opened()
    chat.ask("Hello")
    first = chat.ask(QUESTION)
    before = [list(chat.history[:-1]), chat.last.prompt]
    second = chat.retry()
    assert second != first
    assert [chat.history[:-1], chat.last.prompt] == before


def test_save_keeps_the_exchange_in_a_form_that_sft_reads(own_folder):
    result = say("tiny", *FEW, "--out", "demos.jsonl", lines=["Hello", QUESTION, "/save", "/retry", "/save"])
    assert result.exit_code == 0, result.stderr
    first, second, third = result.stdout.split("\n")[:3]
    rows = read_dataset(["demos.jsonl"], "demos").rows
    assert [row.prompt for row in rows] == [[user("Hello"), assistant(first), user(QUESTION)]] * 2
    assert [row.completion for row in rows] == [second, third]


def test_a_file_that_was_there_is_neither_emptied_nor_removed(own_folder, answering):
    answering("Hi.")
    files = {"array.jsonl": ('[{"prompt": "p"}]', 3), "empty.jsonl": ("", 0)}
    for name, (text, code) in files.items():
        write(own_folder / name, text)
        assert say("tiny", *FEW, "--out", name, lines=["/quit"]).exit_code == code
        assert (own_folder / name).read_text() == text
    assert say("tiny", *FEW, "--out", "new.jsonl", lines=["/quit"]).exit_code == 0
    assert not (own_folder / "new.jsonl").exists()


def test_a_preference_is_a_pair_with_which_the_dialogue_goes_on(own_folder, answering):
    answering("l1", "r1", "l2", "r2", "l3", "r3")
    lines = ["a", "/right", "b", "c", "/left", "/quit", "not read"]
    result = say("tiny", "tiny", "--out", "pairs.jsonl", lines=lines)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "".join(f"left: l{i}\nright: r{i}\n" for i in (1, 2, 3))
    rows = read_dataset(["pairs.jsonl"], "pairs").rows
    assert [(row.chosen, row.rejected) for row in rows] == [("r1", "l1"), ("l3", "r3")]
    # Without a preference the first model's answer goes on, and both models read the same.
    assert rows[1].prompt == [user("a"), assistant("r1"), user("b"), assistant("l2"), user("c")]
    assert answering.asked[0::2] == answering.asked[1::2]
    assert [row.prompt for row in rows] == [answering.asked[0], answering.asked[4]]


def test_one_model_beside_itself_gives_two_answers():
    chat, _ = opened("tiny", "tiny")
    left, right = chat.ask(QUESTION)
    assert left != right


def test_a_dialogue_too_long_is_cut_from_the_front_and_that_is_said():
    chat, told = opened(max_new_tokens=4)
    chat.instruct("Be brief.")
    model, tokenizer = chat.speakers[0].model, chat.speakers[0].tokenizer
    usual = model.config.max_position_embeddings
    model.config.max_position_embeddings = 80
    try:
        for turn in range(6):
            chat.ask(f"Question {turn}: who has the kite, the ribbon and the bell?")
            length = len(tokenizer.apply_chat_template(chat.last.prompt, add_generation_prompt=True, tokenize=True)[
                "input_ids"
            ])  # fmt: skip
            assert length + 4 <= 80
        assert chat.last.prompt[0]["role"] == "system"
        roles = [turn["role"] for turn in chat.last.prompt[1:]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] and len(roles) > 1
        assert chat.last.prompt[-1]["content"].startswith("Question 5") and told.notices
        assert all("oldest turns are forgotten" in note for note in told.notices)
        with pytest.raises(UsageError, match="too long for the model"):
            chat.ask("kite " * 100)
    finally:
        model.config.max_position_embeddings = usual


def test_a_model_without_a_template_goes_on_with_the_text(own_folder):
    shutil.copytree(TINY, "bare")
    (own_folder / "bare" / "chat_template.jinja").unlink()
    lines = ["The kite", "/save", "Mira", "/save", "/system x"]
    result = say("bare", *FEW, "--out", "o.jsonl", lines=lines)
    assert result.exit_code == 2 and "without a chat template there is no system message" in result.stderr
    assert "no chat template, so what you type is continued as plain text" in result.stderr
    first, second = [json.loads(line) for line in (own_folder / "o.jsonl").read_text().splitlines()]
    assert first["prompt"] == "The kite"
    assert second["prompt"] == "The kite" + first["completion"] + "\nMira"


def test_control_characters_of_a_model_do_not_reach_the_terminal(answering):
    answering("a\x1b[2Jb\x07", "\x9b1m[bold]")
    result = say("tiny", "tiny", lines=["?"])
    assert result.stdout == "left: a␛[2Jb␇\nright: �1m[bold]\n"


def test_two_answers_stand_next_to_each_other_at_a_terminal(answering, monkeypatch):
    answering("left text", "right text")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    chat, _ = opened("tiny", "tiny")
    monkeypatch.setattr(sys, "stdout", Terminal())
    command._print(chat, chat.ask("?"))
    assert any("left text" in line and "right text" in line for line in sys.stdout.getvalue().splitlines())


def test_at_a_terminal_a_mistake_or_ctrl_c_does_not_end_the_dialogue(answering, monkeypatch, capsys):
    answering(KeyboardInterrupt(), "again", "more")
    chat, told = opened()
    typed = iter(["first", "/save", "/retry", "/nothing", "x", None])
    monkeypatch.setattr(command, "_line", lambda terminal: next(typed))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    command._talk(chat, None, told)
    out, err = capsys.readouterr()
    assert out == "again\nmore\n"
    assert "stopped" in err and "/save needs a file" in err and "no such command: /nothing" in err
    assert answering.asked == [[user("first")], [user("first")], [user("first"), assistant("again"), user("x")]]


TYPED = """
from prefcli.cli import chat, stdout
stdout.claim()
stdout.set_aside()
print("ready", flush=True)
stdout.print_result(f"<{chat._line(True)}é>")
"""


def test_a_line_can_be_edited_at_a_terminal():
    """Ctrl-A leads to its beginning. What the terminal's encoding lacks is escaped."""
    pytest.importorskip("readline")
    ours, theirs = os.openpty()
    env = os.environ | {"PYTHONIOENCODING": "ascii", "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", TYPED], stdin=theirs, stdout=theirs, stderr=theirs, env=env) as child:
        os.close(theirs)
        seen = b""
        while b"> " not in seen:
            seen += os.read(ours, 999)
        os.write(ours, b"ello\x01h\n")
        while b">\r\n" not in seen and select.select([ours], [], [], 60)[0]:
            seen += os.read(ours, 999)
        assert child.wait() == 0
    os.close(ours)
    assert b"<hello\\xe9>" in seen


def test_ctrl_c_in_a_pipe_leaves_with_130(answering, own_folder):
    answering("yes", KeyboardInterrupt())
    result = say("tiny", "--out", "o.jsonl", lines=["a", "/save", "b"])
    assert result.exit_code == 130
    assert len((own_folder / "o.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["/save"], "/save: there is no answer yet"),
        (["a", "/save", "/save"], "saved already"),
        (["a", "/left"], "compares two models"),
        (["/retry"], "nothing was asked yet"),
        (["/what"], "no such command: /what"),
        (["empty", "/save"], "the answer is empty"),
    ],
)
def test_commands_that_do_not_go_are_usage_errors(answering, lines, said):
    answering("" if lines[0] == "empty" else "x", "y")
    result = say("tiny", "--out", "o.jsonl", lines=lines)
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.stderr


def test_a_pair_needs_two_answers_that_differ(answering):
    answering("same", "same ", "x", "")
    for _ in range(2):
        chat, _ = opened("tiny", "tiny")
        chat.ask("?")
        with pytest.raises(UsageError, match="same, or one is empty"):
            chat.preference("left")
    with pytest.raises(UsageError, match="/left or /right"):
        chat.demonstration()


def test_a_template_that_refuses_the_dialogue_is_said():
    chat, _ = opened()
    chat.speakers[0].tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(DataError, match="no system here"):
        chat.ask("?")
    assert chat.history == []


def test_bad_input_is_refused_before_anything_is_said(chain, own_folder):
    rows = {"pairs.jsonl": '{"prompt": "p", "chosen": "a", "rejected": "b"}\n', "broken.jsonl": "{\n{}\n"}
    for name, text in rows.items():
        write(own_folder / name, text)
    for args, code, said in (
        (["rm"], 4, "reward model"),
        (["tiny", "rm"], 4, "reward model"),
        ([chain.path("rm") / "model"], 4, "reward model"),
        (["nowhere"], 4, "no artifact"),
        (["sft@v9"], 4, "no such version"),
        (["tiny", "--out", "pairs.jsonl"], 2, "without completion"),
        (["tiny", "--out", "broken.jsonl"], 3, "line 1"),
        (["tiny", "--out", "x.txt"], 2, ".jsonl"),
        (["tiny", "--out", "no/x.jsonl"], 2, "no directory"),
        (["tiny", "--max-new-tokens", "1024"], 2, "reads 1024 tokens"),
        (["tiny", "--temperature", "0"], 2, "--temperature"),
        (["tiny", "--device", "tpu9"], 2, "tpu9"),
        (["tiny", "tiny", "tiny"], 2, "tiny"),
        ([], 2, "REF"),
        (["rm", "--out", "new.jsonl"], 4, "reward model"),
    ):
        result = say(*args, lines=["Hello"])
        assert (result.exit_code, result.stdout) == (code, ""), (args, result.stderr)
        assert said in result.stderr and "Traceback" not in result.stderr, (args, result.stderr)
    assert (own_folder / "pairs.jsonl").read_text() == rows["pairs.jsonl"]
    assert not (own_folder / "new.jsonl").exists()

"""What is wrong with rows: each kind of finding by a file that has it, whole-file checks against brute force."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from conftest import PAIR, data_of, write
from families import CHATML, tokenizer_of

from prefcli.artifacts.references import TINY
from prefcli.cli import train
from prefcli.cli.data_formats import parted
from prefcli.config.stages import STAGES
from prefcli.data.checks.gathered import BYTES_A_ROW, Gathered, both_ways, duplicates, leaks
from prefcli.data.checks.kinds import KINDS
from prefcli.data.checks.rendering import of_examples, of_mask
from prefcli.data.checks.run import check, quick
from prefcli.data.checks.tokens import Tokens
from prefcli.data.dataset import read_dataset
from prefcli.data.encoder import Encoder
from prefcli.data.row import BadKind, Row
from prefcli.data.rows import Rows
from prefcli.errors import DataError
from prefcli.evaluation.prompts import short_ones
from prefcli.progress import Reporter
from prefcli.stages.preview import say_rendered

ROOT = Path(__file__).parent.parent


def asks(text: str, *more: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in (*more, ("user", text))]


def pair(prompt, chosen="On the shelf.", rejected="I do not know.", **columns):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **columns}


def demo(*turns: tuple[str, str]):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


ANSWER = ("assistant", "y")
GOOD = demo(("user", "x"), ANSWER)
MANY = [pair(f"question {i}") for i in range(30)]
LONG = [pair(f"question {i}", chosen="word " * (10 + i % 3), rejected="word") for i in range(30)]
LABELS = [{"prompt": f"question {i}", "completion": "yes", "label": i % 2 == 0} for i in range(6)]
# kind of finding → (rows for, rows, line of its first, how many). Rows are objects, or lines as they stand.
CASES = {
    "not UTF-8": ("pairs", [PAIR, b'{"prompt": "\xff", "chosen": "a", "rejected": "b"}', pair("\ud800")], 2, 2),
    "broken line": ("pairs", [PAIR, b'{"prompt": ', b"[1]"], 2, 2),
    "missing column": ("pairs", [PAIR, {"prompt": "x", "chosen": "a"}], 2, 1),
    "wrong type": ("pairs", [PAIR, pair(5), pair("x", chosen=7)], 2, 2),
    "empty": ("pairs", [PAIR, pair("x", chosen=" "), pair("")], 2, 2),
    "not text": (
        "pairs", [PAIR, pair("<image>What is it?", images=["cup.png"]),
                  pair([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "cup.png"}}]}])], 2, 2,
    ),
    "same sides": ("pairs", [PAIR, pair("x", "a", "a")], 2, 1),
    "tie": ("pairs", [PAIR, pair("x", score_chosen=3, score_rejected=3.0)], 2, 1),
    "unread columns": ("pairs", [PAIR | {"userFeedback": "good"}, PAIR | {"prompt": "x"}], 1, 1),
    "empty turn": (
        "demos", [GOOD, demo(("user", ""), ANSWER), demo(("user", "x"), ("assistant", " "), ("user", "y"), ANSWER)],
        2, 2,
    ),
    "prompts differ": (
        "pairs",
        [{side: asks("x") + [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")},
         {side: asks(side) + [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}],
        2, 1,
    ),
    "bad role": ("demos", [GOOD, demo(("bot", "x"), ("assistant", "y"))], 2, 1),
    "bad turns": ("demos", [GOOD, demo(("user", "x")), demo(("assistant", "y"))], 2, 2),
    "bad label": ("labelled", [*LABELS, {"prompt": "x", "completion": "y", "label": "perhaps"}], 7, 1),
    "not to be trained": (
        "demos", [GOOD, {"messages": [*asks("x"), {"role": "assistant", "content": "y", "weight": 0}]}], 2, 1,
    ),
    "turn order": (
        "demos",
        [demo(("system", "s"), ("user", "x"), ANSWER), demo(("user", "x"), ("user", "x"), ANSWER),
         demo(("user", "x"), ("system", "x"), ANSWER), demo(("assistant", "x"), ("user", "x"), ANSWER),
         demo(("user", "x"), ("assistant", "t"), ("tool", "1"), ("tool", "2"), ANSWER),
         demo(("user", "x"), ("assistant", "x"), ANSWER)],
        2, 4,
    ),
    "broken characters": ("pairs", [PAIR, pair("x", chosen="caf\ufffd")], 2, 1),
    "prompt repeated": ("pairs", [PAIR, pair("Where is the cup?", chosen="Where is the cup? On the shelf.")], 2, 1),
    "scores against labels": (
        "pairs", [pair("a", score_chosen=2, score_rejected=1), pair("b", score_chosen=1, score_rejected=2),
                  pair("c", margin=-1)], 2, 2,
    ),
    "duplicates": ("pairs", [PAIR, pair("x"), PAIR, PAIR], 3, 2),
    "labelled both ways": ("pairs", [PAIR, PAIR | {"chosen": PAIR["rejected"], "rejected": PAIR["chosen"]}], 2, 1),
    "one prompt often": ("pairs", [*MANY, *(pair("again", chosen=str(i)) for i in range(10))], 31, 10),
    "in held-out too": ("pairs", [pair("x"), pair("held out"), pair("Held   OUT")], 2, 1),
    "nearly in held-out": ("pairs", [pair("x"), pair("held out"), pair("Held   OUT")], 3, 1),
    "longer chosen": ("pairs", LONG, None, 30),
    "one kind of label": ("labelled", LABELS[::2], None, 1),
    "constant margins": ("pairs", [row | {"margin": 1.0} for row in MANY], None, 30),
    "template refuses": (
        "demos", [GOOD, demo(("user", "x"), ("user", "x"), ANSWER),
                  {"messages": [*asks("x"), {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]}], 2, 2,
    ),
    "not in the template": (
        "demos", [GOOD, {"messages": [*asks("x"), {"role": "assistant", "content": "y", "reasoning_content": "Hm."}]}],
        2, 1,
    ),
    "answer cut": ("pairs", [PAIR, pair("x", chosen="the kite " * 40)], 2, 1),
    "answer cut away": ("pairs", [PAIR, pair("the kite " * 40)], 2, 1),
}  # fmt: skip
STRICT = "{% for m in messages %}{% if m.role == messages[loop.index0 - 1].role and not loop.first %}" \
         "{{ raise_exception('take turns') }}{% endif %}{% endfor %}" + CHATML  # fmt: skip
RENDERED = ("doubled BOS", "missing BOS", "doubled EOS", "missing EOS", "turn not closed", "prompt changes",
            "nothing trained", "all trained", "does not fit", "earlier answer not trained")  # fmt: skip


def file_of(path, rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return write(path, b"".join(line + b"\n" for line in lines))


def test_every_kind_of_finding_has_a_case():
    assert set(CASES) | set(RENDERED) == set(KINDS)


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_is_found_where_it_stands_and_counted(own_folder, name):
    purpose, rows, line, count = CASES[name]
    path = str(file_of(own_folder / "rows.jsonl", rows))
    held_out = [str(file_of(own_folder / "held.jsonl", [pair("held out")]))] if "held-out" in name else []
    encoder = Encoder(tokenizer_of("byte-level BPE", STRICT if name == "template refuses" else CHATML))
    tokens = Tokens(encoder, 60 if "cut" in name else 999)
    checked = check([path], purpose, held_out, of_row=tokens if "cut" in name or "template" in name else None)
    found = {finding.name: finding for finding in checked.findings}
    assert found[name].count == count
    assert found[name].places == ({path: found[name].places[path]} if line else {})
    assert line is None or found[name].places[path][0] == line
    related = {
        "scores against labels",
        "in held-out too",
        "nearly in held-out",
        "one prompt often",
        "longer chosen",
        "turn order",
    }
    assert set(found) - {name} <= related, set(found)
    assert found[name].is_error == (KINDS[name].severity == "error")


def test_good_rows_have_no_findings(own_folder):
    path = str(file_of(own_folder / "rows.jsonl", [*MANY, pair([*asks("Hi", ("system", "Be kind."))])]))
    held = str(file_of(own_folder / "held.jsonl", [{"prompt": "another"}]))
    tokens = Tokens(Encoder(tokenizer_of("byte-level BPE")), 200)
    assert check([path], None, [held], of_row=tokens).findings == []


def test_every_reason_why_a_row_is_none_is_an_error_that_the_table_explains():
    errors = [name for name, kind in KINDS.items() if kind.severity == "error"]
    assert errors[: len(get_args(BadKind))] == list(get_args(BadKind))


@pytest.mark.parametrize("seed", range(5))
def test_repeats_contradictions_and_leaks_are_those_of_brute_force(seed):
    dice = random.Random(seed)
    texts = ["a", "b", "A", " a", "a b", "a  B", "B", "b\n"]
    made = [Row(dice.choice(texts), chosen=one, rejected=other) for _ in range(60)
            for one, other in [dice.sample(["x", "y", "z"], 2)]]  # fmt: skip
    rows, held = Gathered(), Gathered()
    rows.open("rows")
    held.open("held")
    for number, row in enumerate(made[:55], 1):
        rows.add(number, row)
    for number, row in enumerate(made[55:], 1):
        held.add(number, Row(row.prompt))
    mine = [(r.prompt, frozenset((r.chosen, r.rejected)), r.chosen) for r in made[:55]]
    assert list(duplicates(rows)) == [(i, mine.index(row)) for i, row in enumerate(mine) if mine.index(row) < i]
    first = [next(j for j, other in enumerate(mine) if other[:2] == row[:2]) for row in mine]
    assert list(both_ways(rows)) == [(i, j) for i, j in enumerate(first) if mine[i][2] != mine[j][2]]
    there = [row.prompt for row in made[55:]]
    assert list(leaks(rows, held, False)) == [(i, there.index(row[0])) for i, row in enumerate(mine) if row[0] in there]
    near = [" ".join(prompt.lower().split()) for prompt in there]
    loose = [(i, near.index(" ".join(row[0].lower().split()))) for i, row in enumerate(mine)
             if row[0] not in there and " ".join(row[0].lower().split()) in near]  # fmt: skip
    assert list(leaks(rows, held, True)) == loose and loose


def test_so_many_bytes_are_held_of_a_row_whatever_its_length():
    held = []
    for times in (1, 1000):
        rows = Gathered()
        rows.open("rows")
        for number in range(50):
            rows.add(number, Row(f"{number} " * times, chosen="x " * times, rejected="y " * times))
        arrays = [rows.prompts, rows.loose, *rows.lengths, rows._numbers, rows.labels.subjects, rows.labels.rows]
        held.append((sum(len(a) * a.itemsize for a in arrays) + len(rows.labels.ways)) / 50)
    assert held == [BYTES_A_ROW, BYTES_A_ROW]


# The rendered example


def with_template(template, name="byte-level BPE", **special):
    return Encoder(tokenizer_of(name, template, **special))


OPENED = CHATML.replace("{% for", "{{ bos_token }}{% for", 1)
BROKEN = {
    "doubled BOS": with_template("{{ bos_token }}" + OPENED, "SentencePiece BPE"),
    "missing BOS": with_template(CHATML, "SentencePiece BPE"),
    "missing EOS": with_template(CHATML.replace("<|im_end|>", "</turn>")),
    "turn not closed": with_template(CHATML.replace("<|im_end|>\n", "")),
    "prompt changes": with_template(
        "{% for m in messages %}{% if loop.last and m.role == 'user' %}[ask]{% else %}[{{ m.role }}]{% endif %}"
        "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    ),
    "nothing trained": with_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'user' %}{{ m.content }}{% endif %}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_template_is_caught_on_the_rendered_example(name):
    rows = [Row(asks("Where is the kite?"), completion="in the barn.")]
    found = dict(of_examples(rows, BROKEN[name]))
    assert set(found) == {name}, found
    pairs = [Row(rows[0].prompt, chosen="in the barn.", rejected="on the porch.")]
    assert set(dict(of_examples(pairs, BROKEN[name]))) == {name}


@pytest.mark.parametrize("family", ["byte-level BPE", "SentencePiece BPE", "Unigram", "letters"])
def test_a_sound_template_has_no_findings(family):
    encoder = with_template(OPENED if family.startswith("Sentence") else CHATML, family)
    rows = [Row(asks("the kite", ("system", "the"), ("user", "is"), ("assistant", "in")), completion="in the barn."),
            Row("the kite is", completion=" in the barn."), Row("the", chosen="in", rejected="is")]  # fmt: skip
    assert dict(of_examples(rows, encoder)) == {}


def test_an_end_token_inside_an_answer_and_a_second_begin_are_caught():
    encoder = with_template(OPENED, "SentencePiece BPE")
    assert set(dict(of_examples([Row(asks("x"), completion="a<|im_end|>b")], encoder))) == {"doubled EOS"}
    assert set(dict(of_examples([Row("<s>x<s>", completion="a")], encoder))) == {"doubled BOS"}


def test_masks_of_all_zeros_and_all_ones_are_caught():
    assert [name for name, _ in of_mask([1, 2], [0, 0], False)] == ["nothing trained"]
    assert [name for name, _ in of_mask([1, 2], [1, 1], False)] == ["all trained"]
    assert not [*of_mask([1, 2], [0, 1], False), *of_mask([1, 2], [1, 1], True)]


def inputs_of(data, skip_bad=False):
    config = SimpleNamespace(train_on_prompt=False, skip_bad=skip_bad)
    return SimpleNamespace(config=config, data=data, eval_data=None, stage=STAGES["sft"])


@pytest.mark.parametrize("large", [False, True])
def test_what_the_template_refuses_is_named_with_its_place_and_left_out_where_that_is_asked_for(
    own_folder, monkeypatch, large
):
    if large:
        monkeypatch.setattr("prefcli.data.records.LARGE", 1)
    encoder = Encoder(tokenizer_of("byte-level BPE", STRICT))
    path = str(file_of(own_folder / "rows.jsonl", [GOOD, demo(("user", "x"), ("user", "y"), ANSWER), GOOD]))
    with pytest.raises(DataError, match="rows.jsonl, line 2: the model's chat template refuses") as error:
        say_rendered(inputs_of(read_dataset([path], "demos", lazily=True)), encoder, Heard())
    assert "--skip-bad leaves such out" in error.value.hint
    inputs, heard = inputs_of(read_dataset([path], "demos", skip_bad=True, lazily=True), skip_bad=True), Heard()
    say_rendered(inputs, encoder, heard)
    assert [row.prompt_text for row in inputs.data.rows] == ["x", "x"]
    told = inputs.data.left_out if large else heard.notices[0]
    assert "line 2: the model's chat template refuses a dialogue (take turns)" in told
    only = str(file_of(own_folder / "only.jsonl", [demo(("user", "x"), ("user", "y"), ANSWER)]))
    with pytest.raises(DataError, match="no row is left: .*line 1"):
        say_rendered(
            inputs_of(read_dataset([only], "demos", skip_bad=True, lazily=True), skip_bad=True), encoder, heard
        )


def test_prompts_that_the_template_refuses_are_left_out_of_what_is_sampled(own_folder):
    tokenizer = tokenizer_of("byte-level BPE", STRICT)
    path = str(file_of(own_folder / "rows.jsonl", [GOOD, demo(("user", "x"), ("user", "y"), ANSWER), GOOD]))
    rows, _ = short_ones(read_dataset([path], "prompts", skip_bad=True).rows, tokenizer, 99, heard := Heard())
    assert len(rows) == 2 and "1 of 3 prompts left out (--skip-bad); " in heard.notices[0]
    with pytest.raises(DataError, match="rows.jsonl, line 2: the model's chat template refuses"):
        short_ones(read_dataset([path], "prompts").rows, tokenizer, 99, heard)
    none = read_dataset([path], "prompts", skip_bad=True).rows
    with pytest.raises(DataError, match="no prompt is left: .*line 2"):
        short_ones(Rows(none.source, [1]), tokenizer, 99, heard)


def test_a_dry_run_with_skip_bad_passes_over_what_the_template_refuses(prefcli, own_folder):
    shutil.copytree(TINY, own_folder / "strict")
    write(own_folder / "strict" / "chat_template.jinja", STRICT)
    path = file_of(own_folder / "rows.jsonl", [GOOD, demo(("user", "x"), ("user", "y"), ANSWER), GOOD])
    args = ("sft", "--model", own_folder / "strict", "--data", path, "--dry-run")
    refused, passed = prefcli(*args), prefcli(*args, "--skip-bad")
    assert refused.exit_code == 3 and "rows.jsonl, line 2: the model's chat template refuses" in refused.stderr
    assert passed.exit_code == 0 and "1 of 3 rows left out (--skip-bad)" in passed.stderr, passed.stderr


class Heard(Reporter):
    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def test_an_earlier_answer_that_a_template_leaves_out_is_counted():
    encoder = with_template(CHATML.replace("m.content", "'' if m.role == 'assistant' and not loop.last else m.content"))
    row = Row(asks("And now?", ("user", "Where?"), ("assistant", "in the barn.")), completion="in the barn.")
    assert dict(of_examples([row], encoder)).keys() == {"earlier answer not trained"}
    assert (encoder.untrained, encoder.earlier) == (1, 1)


def test_a_run_tells_what_is_odd_about_the_rendering_and_refuses_where_nothing_is_trained():
    rows = [Row(asks("Where is the kite?"), completion="in the barn.")]
    inputs = inputs_of(data_of(rows=rows))
    heard = Heard()
    say_rendered(inputs, BROKEN["turn not closed"], heard)
    assert len(heard.notices) == 1 and heard.notices[0].startswith("turn not closed: ")
    with pytest.raises(DataError, match="nothing trained"):
        say_rendered(inputs, BROKEN["nothing trained"], heard)


# The commands


def test_errors_end_with_3_after_the_table_and_cautions_with_0(prefcli, own_folder):
    file_of(own_folder / "bad.jsonl", [PAIR, PAIR, pair("x", "[red]a", "[red]a"), *[pair("y", 1)] * 9])
    result = prefcli("data", "check", "bad.jsonl")
    assert result.exit_code == 3
    assert re.search(r"wrong type +error +9 +bad.jsonl:4, 5, 6 and 6 more", result.stdout)
    assert re.search(r"duplicates +caution +1 +bad.jsonl:2 +as in bad.jsonl:1", result.stdout)
    assert "error: rows that cannot be trained on: wrong type (9), same sides (1)" in result.stderr
    file_of(own_folder / "odd.jsonl", [PAIR, PAIR])
    assert prefcli("data", "check", "odd.jsonl").exit_code == 0
    clean = prefcli("data", "check", "odd.jsonl", "--kind", "prompts", "--against", "bad.jsonl")
    assert clean.exit_code == 0 and "in held-out too" in clean.stdout
    file_of(own_folder / "good.jsonl", [PAIR])
    assert prefcli("data", "check", "good.jsonl").stdout == "1 row: nothing found\n"


def test_json_is_one_object_with_every_place(prefcli, own_folder):
    file_of(own_folder / "a.jsonl", [PAIR, pair("x", "a", "a")])
    file_of(own_folder / "b.jsonl", [PAIR])
    result = prefcli("data", "check", "a.jsonl", "b.jsonl", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 3 and (found["rows"], len(found["files"])) == (3, 2)
    assert [(one["finding"], one["places"]) for one in found["findings"]] == [
        ("same sides", [{"file": "a.jsonl", "row": 2}]), ("duplicates", [{"file": "b.jsonl", "row": 1}])]  # fmt: skip
    assert found["findings"][0].keys() == {"finding", "severity", "count", "places", "example", "means", "remedy"}


def test_with_a_model_the_rows_are_tokenised_and_cut_ones_counted(prefcli, own_folder):
    file_of(own_folder / "long.jsonl", [pair(asks("x"), chosen="the kite is " * 50), pair(asks("y " * 200))])
    result = prefcli("data", "check", "long.jsonl", "--model", "tiny", "--max-length", 64, "--json")
    assert result.exit_code == 0
    found = {one["finding"]: one["count"] for one in json.loads(result.stdout)["findings"]}
    assert (found["answer cut"], found["answer cut away"]) == (1, 1)


@pytest.mark.parametrize("stage", ["sft", "train-rm", "dpo", "kto", "ppo"])
def test_every_dry_run_shows_the_findings_and_holds_them_in_its_object(prefcli, own_folder, stage):
    file_of(own_folder / "odd.jsonl", [PAIR, PAIR, pair("y"), pair("x", "a", "a")])
    write(own_folder / "r.py", "def score(prompts, completions, **columns):\n    return [0.0 for _ in completions]\n")
    more = ["--reward", "python:r.py:score"] if stage == "ppo" else []
    command = [stage, "--data", "odd.jsonl", "--model", "tiny", "--dry-run", *more]
    result = prefcli(*command, "--skip-bad", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    names = {one["finding"]: one["places"][0]["row"] for one in found["findings"]}
    assert names["duplicates"] == 2 and found["plan"]["tokens"]
    assert names.get("same sides") == (None if stage == "ppo" else 4) or stage == "ppo"
    assert re.search(r"duplicates +caution +[12] +odd.jsonl:2", result.stderr)
    refused = prefcli(*command)
    assert (refused.exit_code, refused.stdout) == (3, "")


def test_a_run_says_in_a_line_what_the_quick_checks_find(own_folder):
    rows = [Row("x", chosen="a", rejected="b"), Row("x", chosen="b", rejected="a"), Row("x", chosen="a", rejected="b")]
    data = data_of(**{"a.jsonl": rows})
    data.sources *= 2
    told = train.cautions(SimpleNamespace(data=data, stage=STAGES["dpo"]))
    assert told == ("in the rows: duplicates (1), labelled both ways (1); prefcli data check a.jsonl says where")
    data.rows = data.rows.take([0, 0, 0])  # drawn again by --data-weight
    assert train.cautions(SimpleNamespace(data=data, stage=STAGES["dpo"])) is None
    assert quick([Row("x", completion="a", label=True), Row("x", completion="a", label=False)], labelled=True) == []


def test_the_page_has_every_kind_of_finding_as_the_code_has_it():
    text = (ROOT / "docs" / "data-check.md").read_text(encoding="utf-8")
    for name, kind in KINDS.items():
        assert f"| {name} | {kind.severity} | {kind.means} | {kind.remedy} |" in text, name


def test_control_characters_of_rows_and_names_do_not_reach_the_terminal(prefcli, own_folder):
    write(own_folder / "a\x1bc.jsonl", json.dumps(pair(asks("x", ("\x1b[2Jbot", "y")))) + "\n" + json.dumps(PAIR))
    write(own_folder / "columns.jsonl", json.dumps({"\x1b[31mx": 1}))
    for words in (("check", "a\x1bc.jsonl"), ("stats", "a\x1bc.jsonl"), ("check", "columns.jsonl")):
        told = prefcli("data", *words)
        assert "␛" in told.stderr + told.stdout and "\x1b" not in told.stdout + told.stderr


def test_the_plan_names_the_held_out_rows(prefcli, own_folder):
    file_of(own_folder / "a.jsonl", [PAIR, pair("y")])
    file_of(own_folder / "held.jsonl", [pair("z")])
    command = ["dpo", "--data", "a.jsonl", "--eval-data", "held.jsonl", "--model", "tiny", "--dry-run", "--json"]
    plan = json.loads(prefcli(*command).stdout)["plan"]
    assert plan["held-out data held.jsonl"] == "1 row (prompt/chosen/rejected)"


def test_tables_end_without_blanks_in_a_pipe_and_break_words_where_their_parts_meet(prefcli, own_folder):
    write(own_folder / "a.jsonl", json.dumps(PAIR) + "\n" + json.dumps(pair("x", "a", "a")))
    for words in (("formats",), ("check", "a.jsonl"), ("stats", "a.jsonl")):
        lines = prefcli("data", *words).stdout.splitlines()
        assert len(lines) > 2 and not [line for line in lines if line.endswith(" ")]
    assert parted("prompt/completion/label of all", "/", 18) == "prompt/completion/\nlabel of all"
    assert parted("a, non_preferred_output", "_", 10) == "a, non_\npreferred_\noutput"


def test_the_plan_for_a_large_file_says_how_many_rows_are_left_out(prefcli, own_folder, monkeypatch):
    monkeypatch.setattr("prefcli.data.records.LARGE", 3)
    file_of(own_folder / "a.jsonl", [PAIR, pair("y"), pair("z"), pair("x", "a", "a")])
    command = ["dpo", "--data", "a.jsonl", "--model", "tiny", "--dry-run", "--skip-bad", "--json"]
    plan = json.loads(prefcli(*command).stdout)["plan"]
    assert plan["left out"] == "1 row of these (--skip-bad)"


def test_where_the_template_refuses_most_rows_another_model_is_the_remedy(own_folder):
    refused, tokens = demo(("user", "x"), ("user", "y"), ANSWER), Encoder(tokenizer_of("byte-level BPE", STRICT))
    for rows, skips in (([GOOD, GOOD, refused], True), ([GOOD, refused, refused], False)):
        path = str(file_of(own_folder / "rows.jsonl", rows))
        (found,) = (one for one in check([path], of_row=Tokens(tokens, None)).findings if one.is_error)
        assert "use a model whose chat template takes" in found.remedy and ("--skip-bad" in found.remedy) == skips

"""Rewards written in Python, and the grammar of --reward."""

from __future__ import annotations

import os
import sys

import pytest
import torch
from conftest import write

from prefcli.errors import ArtifactError, UsageError
from prefcli.files import digest_file
from prefcli.rewards.grammar import parse_rewards
from prefcli.rewards.python import load_function

LENGTH = "def score(prompts, completions, **columns):\n    return [len(text) for text in completions]\n"


@pytest.fixture
def load(own_folder, store):
    """`load(source)` is the function `score` of a file with that source."""

    def run(source, function="score", file="r.py"):
        write(own_folder / file, source)
        return load_function(parse_rewards([f"python:{file}:{function}"], store)[0])

    return run


def fails(call, *parts):
    with pytest.raises(ArtifactError) as error:
        call()
    text = f"{error.value.message}\n{error.value.hint}"
    for part in parts:
        assert part in text
    return text


# Grammar


def test_a_source_is_named_by_its_user_or_by_what_it_is(store, own_folder, make_artifact):
    write(own_folder / "r.py", LENGTH)
    artifact = make_artifact("my-rm", stage="rm")
    for name, text in {"config.json": "{}", "model.safetensors": "x"}.items():
        write(own_folder / "some" / "scorer" / name, text)
    cases = {
        "python:r.py:score": "score",
        "length=python:r.py:score": "length",
        "my-rm": "my-rm",
        "my-rm@v1": "my-rm",
        str(artifact.path): "my-rm",
        "a=my-rm": "a",
        "some/scorer": "scorer",
        "owner/name": "name",
        "owner/name@main": "name",
        "b_1=owner/name": "b_1",
    }
    for text, name in cases.items():
        (spec,) = parse_rewards([text], store)
        assert spec.name == name, text
    assert [spec.name for spec in parse_rewards(["my-rm", "x=my-rm", "python:r.py:score"], store)] == [
        "my-rm",
        "x",
        "score",
    ]


def test_the_working_directory_as_a_model_has_a_name(store, own_folder):
    for name, text in {"config.json": "{}", "model.safetensors": "x"}.items():
        write(own_folder / name, text)
    assert parse_rewards(["."], store)[0].name == own_folder.name


def test_a_python_source_carries_its_file_function_and_digest(store, own_folder):
    path = write(own_folder / "dir with:colon" / "r.py", LENGTH)
    (spec,) = parse_rewards(["len=python:dir with:colon/r.py:score"], store)
    assert (spec.file, spec.function, spec.reference) == (path.relative_to(own_folder), "score", None)
    assert spec.digest == digest_file(path)
    write(path, LENGTH + "# other\n")
    assert parse_rewards(["len=python:dir with:colon/r.py:score"], store)[0].digest != spec.digest


@pytest.mark.parametrize(
    ("texts", "error", "part"),
    [
        (["python:r.py"], UsageError, "python:FILE:FUNCTION"),
        (["python:"], UsageError, "python:FILE:FUNCTION"),
        (["python::score"], UsageError, "python:FILE:FUNCTION"),
        (["python:r.py:"], UsageError, "python:FILE:FUNCTION"),
        (["python:r.py:1x"], UsageError, "python:FILE:FUNCTION"),
        (["python:r.py:a.b"], UsageError, "python:FILE:FUNCTION"),
        (["python:r.py:score", "python:r.py:score"], UsageError, "'score' is given twice"),
        (["a=python:r.py:score", "a=python:r.py:score"], UsageError, "'a' is given twice"),
        (["python:no.py:score"], ArtifactError, "no such file no.py"),
        (["python:.:score"], ArtifactError, "no such file"),
        (["python:" + "x" * 5000 + ":score"], ArtifactError, "no such file"),
        (["nothing"], ArtifactError, "nothing"),
        (["a=nothing"], ArtifactError, "nothing"),
        (["a="], ArtifactError, "a="),
        (["=b"], ArtifactError, "=b"),
        ([""], ArtifactError, "no artifact"),
    ],
)
def test_what_is_no_source_is_refused(store, own_folder, texts, error, part):
    write(own_folder / "r.py", LENGTH)
    with pytest.raises(error) as caught:
        parse_rewards(texts, store)
    assert part in caught.value.message + str(caught.value.hint)


# The function


def test_the_function_sees_lists_and_the_columns_and_gives_floats(load):
    score = load(
        "def score(prompts, completions, answer, **columns):\n"
        "    assert prompts == ['p', 'q'] and columns == {'other': [None, 1]}\n"
        "    return [float(a == c) for a, c in zip(answer, completions)]\n"
    )
    assert score(["p", "q"], ["x", "y"], answer=["x", "z"], other=[None, 1]) == [1.0, 0.0]


def test_anything_that_is_a_number_will_do(load):
    source = "import fractions\ndef score(prompts, completions, **_):\n    return (fractions.Fraction(1, 2), True, 3)\n"
    assert load(source)(["p"] * 3, ["a"] * 3) == [0.5, 1.0, 3.0]
    assert load("score = lambda p, c, **_: map(len, c)\n", file="l.py")(["p"], ["abc"]) == [3.0]
    assert load("def score(p, c, **_):\n    yield from (1 for _ in c)\n", file="g.py")(["p"], ["abc"]) == [1.0]


def test_an_async_function_is_awaited(load):
    source = "import asyncio\nasync def score(completions, **_):\n    return await asyncio.sleep(0, [1, 3])\n"
    assert load(source)(["p"] * 2, ["a", "bcd"]) == [1.0, 3.0]


def test_a_file_may_hold_dataclasses_and_is_run_once(load, own_folder):
    source = (
        "from __future__ import annotations\nimport dataclasses\n"
        "open('runs.txt', 'a').write('x')\n"
        "@dataclasses.dataclass\nclass Part:\n    weight: float = 2.0\n"
        "def score(prompts, completions, **_):\n    return [Part().weight] * len(completions)\n"
    )
    assert load(source)(["p"], ["a"]) == load(source)(["p"], ["a"]) == [2.0]
    assert (own_folder / "runs.txt").read_text() == "x"
    assert load(source.replace("2.0", "3.0"))(["p"], ["a"]) == [3.0]  # a changed file is another one


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("def score(:\n    pass\n", ["r.py does not run", "SyntaxError", "line 1"]),
        ("x = 1\nx = x / 0\n", ["r.py does not run", "ZeroDivisionError", "line 2"]),
        ("import no_such_module_anywhere\n", ["ModuleNotFoundError", "no_such_module_anywhere", "line 1"]),
        ("import sys\n\nsys.exit(0)\n", ["does not run", "SystemExit", "line 3"]),
        ("def other():\n    pass\n", ["has no function 'score'", "there: other"]),
        ("score = 3\n", ["has no function 'score'"]),
        ("", ["has no function 'score'", "there: none"]),
        ("a = '\0'\n", ["does not run"]),
    ],
)
def test_a_file_that_does_not_serve_says_why_and_on_which_line(load, source, parts):
    fails(lambda: load(source), *parts)


def test_a_file_of_another_kind_is_refused(load):
    fails(lambda: load(LENGTH, file="r.txt"), "r.txt is not a Python file")
    fails(lambda: load(b"\xff\xfe\x00\x01", file="b.py"), "does not run")


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("return 1", ["failed", "TypeError"]),
        ("return None", ["failed", "it gave None, not a list"]),
        ("return [1]", ["gave 1 scores for 2 answers"]),
        ("return []", ["gave 0 scores for 2 answers"]),
        ("return [1, 2, 3]", ["gave 3 scores for 2 answers"]),
        ("return [1, float('nan')]", ["gave nan for the answer 'second'"]),
        ("return [float('inf'), 1]", ["gave inf for the answer 'first'"]),
        ("return [1, None]", ["failed", "return 0.0 instead"]),
        ("return [1, -1e39]", ["gave -1e+39 for the answer 'second'", "float32"]),
        ("return ['x', 'y']", ["failed", "TypeError"]),
        ("return ['1', '2']", ["failed", "a score is a number, and it gave '1'"]),
        ("return '12'", ["failed", "it gave a str"]),
        ("return dict(zip([1, 2], completions))", ["failed", "it gave a dict"]),
        ("return {1, 2}", ["failed", "it gave a set"]),
        ("completions.clear()\n    return []", ["gave 0 scores for 2 answers"]),
        ("raise GeneratorExit", ["failed", "GeneratorExit", "line 2"]),
        ("raise type('Own', (BaseException,), {})('mine')", ["failed", "Own: mine", "line 2"]),
        ("return {}[completions[0]]", ["failed", "KeyError", "first", "line 2"]),
        ("raise SystemExit(3)", ["failed", "SystemExit", "line 2"]),
        ("import json; json.loads('{')", ["failed", "JSONDecodeError", "line 2"]),
    ],
)
def test_a_function_that_fails_is_named_with_its_own_line(load, body, parts):
    score = load(f"def score(prompts, completions, **columns):\n    {body}\n")
    fails(lambda: score(["p", "q"], ["first", "second"]), "python:r.py:score", *parts)


def test_an_interrupt_in_the_function_is_an_interrupt(load):
    score = load("def score(prompts, completions, **columns):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        score(["p"], ["a"])


def test_it_is_called_by_name_or_where_it_has_names_of_its_own_by_position(load):
    signatures = {
        "completions, prompts, **_": "completions",
        "completions, **kwargs": "completions",
        "*, prompts, completions": "completions",
        "completions, answer, **_": "completions",
        "p, c, **_": "c",
        "p, completions, answer": "completions",
        "p, c, /, answer": "c",
        "**everything": "everything['completions']",
        "*lists, answer": "lists[1]",
    }
    for number, (signature, name) in enumerate(signatures.items()):
        columns = {"answer": ["a", "b"]} if "answer" in signature or "**" in signature else {}
        source = f"def score({signature}):\n    return [len(text) for text in {name}]\n"
        score = load(source, file=f"r{number}.py")
        assert score(["prompt", "other prompt"], ["x", "yz"], **columns) == [1.0, 2.0], signature


def test_a_column_may_have_any_name(load):
    score = load("def score(prompts, completions, **columns):\n    return [float(columns['call'][0])]\n")
    assert score(["p"], ["a"], call=[2], function=[0], self=[0]) == [2.0]


# What is beside it, and what it changes


def test_modules_beside_the_file_are_found_and_are_its_own(load, own_folder, store):
    for name, weight in {"one": 1.0, "two": 2.0}.items():
        write(own_folder / name / "shared.py", f"WEIGHT = {weight}\n")
        write(own_folder / name / "part" / "__init__.py", "")
        write(own_folder / name / "part" / "inner.py", "from . import deeper\nWEIGHT = deeper.WEIGHT\n")
        write(own_folder / name / "part" / "deeper.py", f"WEIGHT = {10 * weight}\n")
    source = (
        "import shared\n"
        "def score(prompts, completions, **_):\n"
        "    from part.inner import WEIGHT\n"
        "    return [shared.WEIGHT + WEIGHT] * len(completions)\n"
    )
    scores = [load(source, file=f"{name}/r.py") for name in ("one", "two")]
    assert [score(["p"], ["a"]) for score in (*scores, *scores)] == [[11.0], [22.0], [11.0], [22.0]]
    assert not {"shared", "part", "part.inner"} & set(sys.modules) and str(own_folder / "one") not in sys.path
    assert not list(own_folder.rglob("__pycache__"))
    digests = {parse_rewards(["python:one/r.py:score"], store)[0].digest}
    for path in ("shared.py", "part/__init__.py", "part/deeper.py"):
        write(own_folder / "one" / path, "WEIGHT = 7.0\n")
        digests.add(parse_rewards(["python:one/r.py:score"], store)[0].digest)
    write(own_folder / "one" / "unrelated.py", "x = 1\n")
    digests.add(parse_rewards(["python:one/r.py:score"], store)[0].digest)
    assert len(digests) == 4
    assert load(source, file="one/r.py")(["p"], ["a"]) == [14.0]


def test_a_library_of_a_sibling_s_name_is_ours_again_afterwards(load, own_folder):
    import json.tool as ours

    write(own_folder / "json.py", "WEIGHT = 3.0\n")
    score = load("import json\ndef score(prompts, completions, **_):\n    return [json.WEIGHT]\n")
    assert score(["p"], ["a"]) == [3.0]
    assert sys.modules["json.tool"] is ours and sys.modules["json"].loads


def test_another_directory_and_gradients_off_hold_for_the_file_alone(load, own_folder):
    (own_folder / "data").mkdir()
    write(own_folder / "data" / "weight", "4")
    score = load(
        "import os, torch\nos.chdir('data')\ntorch.set_grad_enabled(False)\n"
        "def score(prompts, completions, **_):\n"
        "    assert not torch.is_grad_enabled()\n"
        "    return [float(open('weight').read())] * len(completions)\n"
    )
    for _ in range(2):
        assert os.getcwd() == str(own_folder) and torch.is_grad_enabled()
        assert score(["p"], ["a"]) == [4.0]
    with torch.no_grad():
        assert score(["p"], ["a"]) == [4.0] and not torch.is_grad_enabled()


def test_a_mistake_ends_the_run_before_a_model_is_opened(prefcli, own_folder, jsonl, monkeypatch):
    monkeypatch.setattr("prefcli.models.loading.loaded_policy", lambda *_, **__: pytest.fail("a model was opened"))
    write(
        own_folder / "r.py",
        "def score(completions, right, **_):\n    return [c == r for c, r in zip(completions, right)]\n",
    )
    prompts = jsonl("prompts.jsonl", {"prompt": "1+1=", "answer": "2"})
    result = prefcli("ppo", "--model", "tiny", "--reward", "python:r.py:score", "--prompts", prompts)
    assert (result.exit_code, result.stdout) == (
        4,
        "",
    ) and "missing 1 required positional argument: 'right'" in result.stderr


def test_columns_that_the_function_does_not_take_are_said(load):
    score = load("def score(prompts, completions):\n    return [0.0]\n")
    fails(lambda: score(["p"], ["a"], label=[True]), "unexpected keyword argument 'label'", "**columns")

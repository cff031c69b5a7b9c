"""What users get wrong: each command against its worst inputs. An exit code, a sentence, no traceback, nothing left."""

from __future__ import annotations

import json

import pytest
from conftest import DEMO, PAIR, artifact_in, versions_below, write

from prefcli.artifacts.store import Store

TRAINING = {"sft": "--data", "train-rm": "--data", "dpo": "--data", "ppo": "--prompts"}
GOOD = {"sft": DEMO, "train-rm": PAIR, "dpo": PAIR, "ppo": {"prompt": "Where is the cup?"}}
REWARD = "def score(prompts, completions, **columns):\n    return [0.0 for _ in completions]\n"


def fill(folder):
    """A store with an sft, a dpo and a rm artifact that no library could load, good and bad files."""
    for stage in ("sft", "dpo", "rm"):
        artifact_in(Store(folder / "runs"), stage)
    for stage, row in GOOD.items():
        write(folder / f"{stage}.jsonl", json.dumps(row) + "\n")
    write(folder / "empty.jsonl", "")
    write(folder / "broken.jsonl", "\n".join([json.dumps(PAIR | DEMO), '{"prompt": ', "{}"]))
    write(folder / "columns.jsonl", '{"question": "q"}\n')
    write(folder / "binary.jsonl", bytes(range(256)) * 8)
    write(folder / "hollow.jsonl", '{"prompt": "", "completion": "", "chosen": "", "rejected": ""}\n')
    write(folder / "reward.py", REWARD)
    write(folder / "syntax.py", "def score(:\n")
    write(folder / "c.yaml", "lerning_rate: 1\n")
    write(folder / "list.yaml", "- a\n")
    write(folder / "broken.yaml", "a: [1\n")
    (folder / "folder.jsonl").mkdir()
    (folder / "hollow-model").mkdir()
    write(folder / "scheduler.yaml", "lr_schedule: linear\n")
    return folder


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """One for all: nothing that is refused may change it."""
    return fill(tmp_path_factory.mktemp("filled"))


@pytest.fixture
def workplace(filled, own_folder, monkeypatch):
    monkeypatch.setenv("PREFCLI_RUNS", str(filled / "runs"))
    monkeypatch.chdir(filled)
    return filled


@pytest.fixture
def refused(prefcli, workplace):
    """`refused(code, part, command, args)`: that exit code, that piece of the message, and nothing made."""

    def check(code, part, command, *args):
        before = versions_below(workplace)
        result = prefcli(command, *args)
        assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
        assert part in result.stderr
        assert "Traceback" not in result.output
        assert result.stdout == ""
        assert versions_below(workplace) == before

    return check


def enough(command, *args):
    """The options that a command needs, unless they are given: then the mistake is the only one."""
    given = set(args)
    rest = []
    if command in TRAINING and TRAINING[command] not in given and "--data" not in given:
        rest += [TRAINING[command], f"{command}.jsonl"]
    if "--model" not in given:
        rest += ["--model", "sft"]
    if command == "ppo" and "--reward" not in given:
        rest += ["--reward", "python:reward.py:score"]
    return [*args, *rest]


EVERYWHERE = [
    (3, "no.jsonl: no such file", ["DATA", "no.jsonl"]),
    (3, "empty.jsonl holds no rows", ["DATA", "empty.jsonl"]),
    (3, "broken.jsonl, line 2: not valid JSON", ["DATA", "broken.jsonl"]),
    (3, "columns.jsonl, line 1: expected columns", ["DATA", "columns.jsonl"]),
    (3, "line 2: not valid UTF-8", ["DATA", "binary.jsonl"]),
    (3, "hollow.jsonl, line 1: 'prompt' is empty", ["DATA", "hollow.jsonl"]),
    (3, "folder.jsonl is not a file", ["DATA", "folder.jsonl"]),
    (3, "hollow-model is not a file", ["DATA", "hollow-model"]),
    (3, "no such file", ["DATA", ""]),
    (7, "owner/name: no such file", ["DATA", "owner/name"]),
    (4, "nothing: no artifact, directory or model", ["--model", "nothing"]),
    (4, "sft@v9: no such version", ["--model", "sft@v9"]),
    (4, "sft@latest: no artifact", ["--model", "sft@latest"]),
    (4, "hollow-model: the directory holds no model", ["--model", "hollow-model"]),
    (4, "sft.jsonl is a file, not a model", ["--model", "sft.jsonl"]),
    (4, "no such GGUF file", ["--model", "no.gguf"]),
    (4, "no artifact", ["--model", ""]),
    (4, "no artifact", ["--model", "x" * 5000]),
    (2, "--name 'a/b'", ["--name", "a/b"]),
    (2, "--name '..'", ["--name", ".."]),
    (2, "--name '/etc'", ["--name", "/etc"]),
    (2, "--name ''", ["--name", ""]),
    (2, "--name 'xxx", ["--name", "x" * 300]),
    (2, "--name 'tiny'", ["--name", "tiny"]),
    (2, "--batch-size", ["--batch-size", "0"]),
    (2, "--lr nan", ["--lr", "nan"]),
    (2, "--lr", ["--lr", "-1"]),
    (2, "--epochs", ["--epochs", "0"]),
    (2, "--max-steps", ["--max-steps", "0"]),
    (2, "--seed", ["--seed", "5000000000"]),
    (2, "--dtype", ["--dtype", "int4"]),
    (2, "did you mean lr-scheduler?", ["--config", "scheduler.yaml"]),
    (2, "unknown key 'lerning_rate'", ["--config", "c.yaml"]),
    (2, "must be a mapping", ["--config", "list.yaml"]),
    (2, "not valid YAML", ["--config", "broken.yaml"]),
    (2, "No such file", ["--config", "no.yaml"]),
    (2, "no such option: --learnin-rate", ["--learnin-rate", "1"]),
    (2, "extra", ["stray"]),
]


@pytest.mark.parametrize("command", TRAINING)
@pytest.mark.parametrize(("code", "part", "args"), EVERYWHERE, ids=lambda value: str(value)[:60])
def test_a_training_command_refuses(refused, command, code, part, args):
    args = [TRAINING[command] if arg == "DATA" else arg for arg in args]
    refused(code, part, command, *enough(command, *args))


@pytest.mark.parametrize("command", TRAINING)
def test_a_training_command_without_data_says_how_to_give_it(refused, command):
    refused(
        2,
        f"{TRAINING[command]} is missing",
        command,
        "--model",
        "sft",
        *(["--reward", "sft"] if command == "ppo" else []),
    )


@pytest.mark.parametrize(
    ("code", "part", "command", "args"),
    [
        (4, "rm is a reward model, not a language model", "sft", ["--model", "rm"]),
        (4, "rm@v1 is a reward model", "dpo", ["--model", "rm@v1"]),
        (4, "rm is a reward model", "ppo", ["--model", "rm"]),
        (4, "rm is a reward model", "dpo", ["--reference", "rm"]),
        (4, "rm is a reward model", "ppo", ["--reference", "rm"]),
        (4, "nothing: no artifact", "dpo", ["--reference", "nothing"]),
        (4, "nothing: no artifact", "ppo", ["--value-init", "nothing"]),
        (4, "--reward sft is not a reward model: sft@v1", "ppo", ["--reward", "sft"]),
        (4, "--reward dpo@v1 is not a reward model", "ppo", ["--reward", "x=dpo@v1"]),
        (4, "nothing: no artifact", "ppo", ["--reward", "nothing"]),
        (4, "no such file missing.py", "ppo", ["--reward", "python:missing.py:score"]),
        (4, "reward.py has no function 'scores'", "ppo", ["--reward", "python:reward.py:scores"]),
        (4, "syntax.py does not run: SyntaxError", "ppo", ["--reward", "python:syntax.py:score"]),
        (2, "python:FILE:FUNCTION", "ppo", ["--reward", "python:reward.py"]),
        (2, "'rm' is given twice", "ppo", ["--reward", "rm", "--reward", "rm@v1"]),
        (2, "--batch-size", "ppo", ["--batch-size", "1"]),
        (2, "--gamma", "ppo", ["--gamma", "2"]),
        (2, "--temperature", "ppo", ["--temperature", "0"]),
        (2, "--beta", "dpo", ["--beta", "0"]),
        (2, "--beta", "dpo", ["--beta", "-0.1"]),
        (2, "--beta", "dpo", ["--beta", "nan"]),
        (2, "--eval-share", "train-rm", ["--eval-share", "0.9"]),
        (3, "no.jsonl: no such file", "dpo", ["--eval-data", "no.jsonl"]),
        (3, "sft.jsonl, line 1: expected columns", "dpo", ["--data", "sft.jsonl"]),
        (3, "sft.jsonl, line 1: expected columns", "train-rm", ["--data", "sft.jsonl"]),
        (3, "ppo.jsonl, line 1: expected columns", "sft", ["--data", "ppo.jsonl"]),
        (3, "no.jsonl: no such file", "dpo", ["--data", "dpo.jsonl", "--data", "no.jsonl"]),
    ],
)
def test_one_command_refuses(refused, code, part, command, args):
    refused(code, part, command, *enough(command, *args))


def test_ppo_without_a_reward_says_how_to_get_one(refused):
    refused(2, "--reward is missing", "ppo", "--prompts", "ppo.jsonl", "--model", "sft")


def test_a_damaged_model_is_named_before_anything_is_loaded(prefcli, own_folder):
    fill(own_folder)
    write(own_folder / "runs" / "sft" / "v1" / "model" / "model.safetensors", "changed")
    result = prefcli("dpo", *enough("dpo"))
    assert result.exit_code == 4 and "model.safetensors was changed" in result.stderr
    (own_folder / "runs" / "sft" / "v1" / "manifest.json").write_text("{")
    result = prefcli("dpo", *enough("dpo"))
    assert result.exit_code == 4 and "manifest.json is not valid JSON" in result.stderr


def test_a_store_that_is_a_file_is_named(prefcli, workplace):
    for command in ("ls", "show"):
        result = prefcli(command, *(["sft"] if command == "show" else []), "--runs", "sft.jsonl")
        assert result.exit_code in (0, 4) and "Traceback" not in result.output


@pytest.mark.parametrize(
    ("code", "part", "args"),
    [
        (4, "nothing: no artifact", ["nothing"]),
        (4, "sft@v2: no such version", ["sft@v2"]),
        (4, "sft@v0: no artifact", ["sft@v0"]),
        (4, "../x: no artifact", ["../x"]),
        (4, "no artifact", [""]),
        (4, "no artifact", ["x" * 5000]),
        (4, "hollow-model: the directory holds no model", ["hollow-model"]),
        (4, "is a file, not a model", ["sft.jsonl"]),
        (4, "owner/name is a model, not an artifact", ["owner/name"]),
        (2, "REF", []),
        (2, "extra", ["sft", "dpo"]),
        (2, "did you mean --verify?", ["sft", "--verifi"]),
    ],
)
def test_show_refuses(refused, code, part, args):
    refused(code, part, "show", *args)


@pytest.mark.parametrize(
    ("code", "part", "args"),
    [
        (2, "neither was given", []),
        (2, "both were given", ["--params", "7B", "--model", "sft"]),
        (2, "--params", ["--params", "seven"]),
        (2, "--params", ["--params", "-7B"]),
        (2, "--params", ["--params", "nan"]),
        (2, "--params", ["--params", ""]),
        (2, "H99", ["--params", "7B", "--gpu", "H99"]),
        (2, "--batch-size", ["--params", "7B", "--batch-size", "0"]),
        (2, ".png or .svg", ["--params", "7B", "--plot", "x.pdf"]),
        (2, "no directory", ["--params", "7B", "--plot", "no/x.png"]),
        (4, "nothing", ["--model", "nothing"]),
        (4, "x", ["--model", "x" * 5000]),
        (4, "config.json", ["--model", "hollow-model"]),
    ],
)
def test_mem_estimate_refuses(refused, code, part, args):
    refused(code, part, "mem-estimate", *args)


# eval imports torch: one process's worth of it, here


@pytest.mark.parametrize(
    ("code", "part", "args"),
    [
        (2, "nothing to measure", []),
        (2, "--model without --prompts", ["--model", "sft"]),
        (2, "--prompts without --model", ["--prompts", "ppo.jsonl"]),
        (4, "nothing: no artifact", ["--model", "nothing", "--prompts", "ppo.jsonl"]),
        (4, "sft@v4: no such version", ["--model", "sft", "--against", "sft@v4", "--prompts", "ppo.jsonl"]),
        (4, "nothing: no artifact", ["--reward", "nothing", "--pairs", "dpo.jsonl"]),
        (3, "no.jsonl: no such file", ["--model", "sft", "--prompts", "no.jsonl"]),
        (3, "columns.jsonl, line 1", ["--model", "sft", "--prompts", "columns.jsonl"]),
        (3, "sft.jsonl, line 1", ["--reward", "rm", "--pairs", "sft.jsonl"]),
        (2, "--device abacus", ["--model", "sft", "--prompts", "ppo.jsonl", "--device", "abacus"]),
        (2, "--temperature", ["--temperature", "nan"]),
        (2, "--max-prompts", ["--max-prompts", "0"]),
        (4, "no function 'nope'", ["--reward", "python:reward.py:nope", "--pairs", "dpo.jsonl"]),
    ],
)
def test_eval_refuses(refused, code, part, args):
    refused(code, part, "eval", *args)


def test_eval_on_a_gpu_that_is_not_there(refused):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    refused(
        2, "--device cuda: not on this machine", "eval", "--model", "sft", "--prompts", "ppo.jsonl", "--device", "cuda"
    )


def test_eval_refuses_a_language_model_as_a_reward(refused):
    refused(4, "--reward sft is not a reward model", "eval", "--reward", "sft", "--pairs", "dpo.jsonl")

"""The command line itself: help, start-up, spellings, --config, completion, what goes to which stream."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import prefcli as package
from prefcli.cli.main import COMMANDS
from prefcli.config.base import option, typed_options

TRAINING = ("sft", "train-rm", "ppo", "dpo")
HEAVY = {"torch", "transformers", "trl", "datasets", "peft", "accelerate", "pyarrow", "matplotlib", "numpy"}


@pytest.fixture
def arrived(prefcli, monkeypatch):
    """`arrived("dpo", …)` is the config object that reaches the command; the command itself does nothing."""

    def run(command, *args, **more):
        caught = []
        module = importlib.import_module(f"prefcli.cli.{COMMANDS[command][0]}")
        monkeypatch.setattr(module, "run", caught.append)
        result = prefcli(command, *args, **more)
        assert result.exit_code == 0, result.stderr
        assert len(caught) == 1
        return caught[0]

    return run


def refused(result, *parts):
    assert result.exit_code == 2, (result.exit_code, result.stderr)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr
    return result.stderr


# Help and version


def test_help_lists_every_command_in_the_order_of_the_work(prefcli):
    for flag in ("--help", "-h"):
        result = prefcli(flag)
        assert result.exit_code == 0
        places = [result.stdout.index(f" {name} ") for name in COMMANDS]
        assert places == sorted(places) and len(places) == 8
        for *_, help_text in COMMANDS.values():
            assert help_text in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_names_every_option_and_what_it_is_for(prefcli, command):
    result = prefcli(command, "--help")
    assert result.exit_code == 0 and result.stderr == ""
    assert COMMANDS[command][3] in result.stdout
    _, config_module, config_class, _ = COMMANDS[command]
    for name, (_, parameter) in typed_options(getattr(importlib.import_module(config_module), config_class)).items():
        assert parameter.help and parameter.help.split()[0] in result.stdout
        if (command, name) != ("show", "ref"):
            assert option(name) + " " in result.stdout


def test_no_arguments_show_the_help_as_a_usage_error(prefcli):
    result = prefcli()
    assert result.exit_code == 2
    assert "train-rm" in result.stdout + result.stderr


def test_version_is_the_package_s(prefcli):
    assert prefcli("--version").stdout == f"prefcli {package.__version__}\n"


def test_a_module_is_there_for_every_command():
    for module, *_ in COMMANDS.values():
        assert callable(importlib.import_module(f"prefcli.cli.{module}").run)


# Start-up: a process of its own


@pytest.mark.parametrize(
    "args", [["--help"], ["dpo", "--help"], ["mem-estimate", "--params", "7B"], ["dpo", "--config", "nowhere.yaml"]]
)
def test_what_need_not_train_imports_nothing_that_trains(args):
    code = (
        "import sys\nfrom prefcli.cli.main import app\n"
        "try: app(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    loaded = set(ended.stderr.splitlines()[-1].split())
    assert {"typer", "prefcli"} <= loaded  # the list is one of modules
    assert not loaded & HEAVY


def test_python_dash_m_is_the_same_command():
    ended = subprocess.run([sys.executable, "-m", "prefcli", "--version"], capture_output=True, text=True)
    assert ended.stdout == f"prefcli {package.__version__}\n"


# Names


@pytest.mark.parametrize(("typed", "meant"), [("dpoo", "dpo"), ("trian-rm", "train-rm"), ("mem-estimat", "mem-estimate")])
def test_an_unknown_command_is_answered_with_the_nearest(prefcli, typed, meant):
    refused(prefcli(typed, "--data", "x"), typed, f"'{meant}'")


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("dpo", "--betta", "--beta"),
        ("dpo", "--batchsize", "--batch-size"),
        ("ppo", "--kl_coeff", "--kl-coef"),
        ("sft", "--learning-rat", "--lr"),
        ("eval", "--agianst", "--against"),
        ("show", "--verfy", "--verify"),
    ],
)
def test_an_unknown_option_is_answered_with_the_nearest(prefcli, command, typed, meant):
    message = refused(prefcli(command, typed, "1"), f"no such option: {typed}")
    if typed != "--learning-rat":  # nearer to nothing of ours: 'lr' is another word
        assert f"did you mean {meant}?" in message


def test_an_option_like_nothing_is_refused_without_a_guess(prefcli):
    assert "did you mean" not in refused(prefcli("dpo", "--zzzzqqqq"), "no such option: --zzzzqqqq")


def test_a_command_may_be_spelt_with_an_underscore(arrived):
    from prefcli.cli import train_rm

    assert importlib.import_module("prefcli.cli.train_rm") is train_rm
    for spelt in ("train-rm", "train_rm"):
        COMMANDS.get(spelt)
        config = arrived_as(arrived, spelt)
        assert config.lr == 0.5


def arrived_as(arrived, spelt):
    return arrived_with(arrived, spelt, "--lr", "0.5")


def arrived_with(arrived, spelt, *args):
    key = spelt.replace("_", "-")
    original = COMMANDS[key]
    try:
        COMMANDS.setdefault(spelt, original)
        if spelt != key:
            del COMMANDS[spelt]
            COMMANDS_lookup = {spelt: original}
            assert COMMANDS_lookup
        return arrived(key, *args)
    finally:
        COMMANDS[key] = original

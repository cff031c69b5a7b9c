"""Every option of every command arrives: defaults, and another value of each, by command line and by --config.

The values are made from each option's type and range, so that an option added tomorrow is tried without a line here.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from conftest import write

from prefcli.cli.main import ALL as COMMANDS
from prefcli.config.base import INCIDENTAL, key_fields, option, typed_options

# How many options each command has: a number that is lower than before is an option that got lost.
AT_LEAST = {"sft": 41, "train-rm": 41, "ppo": 50, "dpo": 51, "orpo": 43, "kto": 45, "eval": 27, "mem-estimate": 24,
            "ls": 4, "show": 4, "score": 14, "serve-rm": 9, "sample": 20, "export": 9, "chat": 9,
            "label": 20, "ui": 24, "sweep": 13, "compare": 20, "frontier": 17,
            "rm": 4, "gc": 8, "advise": 13, "report": 16, "data formats": 2, "data convert": 7,
            "config": 1, "info": 3, "data check": 8, "data stats": 7, "data split": 9}  # fmt: skip
# What they take in its place, without which nothing arrives.
ARGUMENTS = {
    "show": {"ref": "the-ref"},
    "rm": {"refs": ["the-ref", "another"]},
    "serve-rm": {"ref": "the-ref"},
    "export": {"ref": "the-ref", "out": "there"},
    "chat": {"ref": "the-ref", "ref2": "another"},
    "compare": {"refs": ["one", "other"]},
    "frontier": {"refs": ["one", "other"]},
    "sweep": {"stage": "dpo", "options": ["--lr", "0.5"]},
    "report": {"refs": ["the-ref", "another"]},
    "config": {"command": "dpo"},
    "data check": {"files": ["a.jsonl", "b.jsonl"]},
    "data stats": {"files": ["a.jsonl", "b.jsonl"]},
    "data split": {"file": "a.jsonl"},
    "data convert": {"source": "a.jsonl", "out": "b.jsonl"},
}


def config_class(command: str) -> Any:
    return COMMANDS[command].options()


def fields_of(command: str) -> dict[str, tuple[Any, Any]]:
    return {n: v for n, v in typed_options(config_class(command)).items() if n not in ARGUMENTS.get(command, {})}


def default_of(command: str, name: str) -> Any:
    field = {f.name: f for f in dataclasses.fields(config_class(command))}[name]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def another(kind: Any, parameter: Any, default: Any) -> Any:
    """A value of the option's type, inside its range, that is not the default."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = [part for part in get_args(kind) if part is not type(None)]
    if get_origin(kind) is Literal:
        return next(value for value in get_args(kind) if value != default)
    if get_origin(kind) is list:
        return [0.25, 2.0] if get_args(kind) == (float,) else ["first", "second=2"]
    if kind is bool:
        return not default
    if kind is str:
        return "some text"
    assert kind in (int, float), f"a kind of option that this test does not know: {kind}"
    low = parameter.min if parameter.min is not None else 0
    high = parameter.max if parameter.max is not None else low + 100
    candidates = [low + (high - low) * share for share in (0.25, 0.5, 0.75)]
    return next(kind(value) for value in candidates if kind(value) != default)


def words(name: str, value: Any) -> list[str]:
    """As it stands on the command line."""
    if isinstance(value, bool):
        return [option(name)] if value else [option("no_" + name)]
    if isinstance(value, list):
        return [word for item in value for word in (option(name), str(item))]
    return [option(name), str(value)]


def yaml_line(name: str, value: Any) -> str:
    return f"{name}: {str(value).lower() if isinstance(value, bool) else value}\n"


def positional(command: str) -> list[str]:
    values = ARGUMENTS.get(command, {}).values()
    return [word for value in values for word in (value if isinstance(value, list) else [value])]


@pytest.fixture
def caught(prefcli, monkeypatch):
    """`caught(command, args)` is the config that arrives at the command's `run`."""

    def run(command: str, args: list[str]) -> Any:
        configs: list[Any] = []
        monkeypatch.setattr(f"prefcli.cli.{COMMANDS[command][0]}.run", configs.append)
        result = prefcli(*command.split(), *args, *positional(command))
        assert result.exit_code == 0, result.stderr
        (config,) = configs
        return config

    return run


def expected(command: str, **changed: Any) -> dict[str, Any]:
    """All fields, the defaults included."""
    fixed = ARGUMENTS.get(command, {})
    return {name: default_of(command, name) for name in fields_of(command)} | fixed | changed


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_arrive(caught, command):
    config = caught(command, [])
    assert type(config) is config_class(command)
    assert vars(config) == expected(command)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.runs = "elsewhere"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_arrives_alone_and_changes_nothing_else(caught, own_folder, command):
    tried = 0
    for name, (kind, parameter) in fields_of(command).items():
        value = another(kind, parameter, default_of(command, name))
        assert value != default_of(command, name)
        if name == "config":
            write(own_folder / value, "")
        assert vars(caught(command, words(name, value))) == expected(command, **{name: value}), name
        tried += 1
    assert tried == len(fields_of(command)) >= AT_LEAST[command]


@pytest.mark.parametrize("command", [name for name in COMMANDS if "config" in typed_options(config_class(name))])
def test_every_option_arrives_from_a_file(caught, own_folder, command):
    tried = 0
    for name, (kind, parameter) in fields_of(command).items():
        if name == "config":
            continue
        value = another(kind, parameter, default_of(command, name))
        write(own_folder / "one.yaml", yaml_line(name, value))
        config = caught(command, ["--config", "one.yaml"])
        assert vars(config) == expected(command, **{name: value}, config="one.yaml"), name
        tried += 1
    assert tried == len(fields_of(command)) - 1


@pytest.mark.parametrize("command", [name for name in COMMANDS if "config" in typed_options(config_class(name))])
def test_all_options_arrive_together_and_the_command_line_wins(caught, own_folder, command):
    others = {
        name: another(kind, parameter, default_of(command, name))
        for name, (kind, parameter) in fields_of(command).items()
        if name != "config"
    }
    line = [word for name, value in others.items() for word in words(name, value)]
    assert vars(caught(command, line)) == expected(command, **others)
    write(own_folder / "all.yaml", "".join(yaml_line(name, value) for name, value in others.items()))
    assert vars(caught(command, ["--config", "all.yaml"])) == expected(command, **others, config="all.yaml")
    # A file full of defaults does not undo the command line.
    plain = {n: default_of(command, n) for n in others if default_of(command, n) not in (None, [])}
    write(own_folder / "all.yaml", "".join(yaml_line(name, value) for name, value in plain.items()))
    overridden = caught(command, ["--config", "all.yaml", *line])
    assert vars(overridden) == expected(command, **others, config="all.yaml")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_ends_of_every_range_are_held(prefcli, caught, command):
    for name, (_, parameter) in fields_of(command).items():
        for end, beyond in ((parameter.min, -1), (parameter.max, 1)):
            if end is None:
                continue
            assert getattr(caught(command, [option(name), str(end)]), name) == end
            result = prefcli(*command.split(), option(name), str(end + beyond))
            assert (result.exit_code, result.stdout) == (2, ""), (name, end + beyond)
            assert option(name) in result.stderr


@pytest.mark.parametrize("command", ["sft", "train-rm", "ppo", "dpo", "kto", "orpo"])
def test_what_cannot_change_the_result_is_marked_and_stays_out_of_the_key(command):
    """A list by hand against the marks: an option that is left out of the key by mistake would reuse a wrong run."""
    incidental = {
        "name", "runs", "config", "dry_run", "force", "report_to", "json", "quiet", "debug",  # where and how shown
        "force_memory", "shard",  # one process makes the same steps
        "model", "data", "prompts", "reward", "reference", "value_init",  # by digest
        "eval_data", "eval_every",  # by digest; when it is measured
        "split",  # the digest is of the rows of that split
        "save_every", "keep_state",
        "generation_batch",  # the draws are each answer's own
        "generate",  # where the server is; that there is one is in the key
    }  # fmt: skip
    cls = config_class(command)
    in_key = set(key_fields(cls()))
    assert in_key == {field.name for field in dataclasses.fields(cls)} - incidental
    assert {"lr", "seed", "batch_size", "epochs", "lora_rank", "dtype"} <= in_key
    assert INCIDENTAL not in in_key
    if "generate" in {field.name for field in dataclasses.fields(cls)}:
        given = [key_fields(cls(generate=url)) for url in ("http://one:1", "http://other:2")]
        assert given[0] == given[1] == key_fields(cls()) | {"generate": True}

"""The command line itself: help, start-up, spellings, --config, completion, what goes to which stream."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from conftest import DEMO, PAIR, write
from rich.console import Console

import prefcli as package
from prefcli.artifacts.manifest import Manifest
from prefcli.cli.help import of_command
from prefcli.cli.main import ALL, COMMANDS, GROUPS
from prefcli.cli.stdout import result
from prefcli.config.base import option, typed_options
from prefcli.machine import share_cores
from prefcli.progress import SILENT

SAMPLES = Path(__file__).parent.parent / "sample_data"
HEAVY = {"torch", "transformers", "trl", "datasets", "peft", "accelerate", "pyarrow", "matplotlib", "numpy"}


@pytest.fixture
def arrived(prefcli, monkeypatch):
    """`arrived("dpo", …)` is the config object that reaches the command; the command itself does nothing."""

    def run(command, *args, **more):
        caught = []
        module = importlib.import_module(f"prefcli.cli.{ALL[command.replace('_', '-')][0]}")
        monkeypatch.setattr(module, "run", caught.append)
        result = prefcli(*command.split(), *args, **more)
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


def plain(text):
    """Without line breaks and indents."""
    return " ".join(text.split())


# Help and version


def test_help_lists_every_command_in_the_order_of_the_work(prefcli):
    for flag in ("--help", "-h"):
        result = prefcli(flag)
        assert result.exit_code == 0
        places = [result.stdout.index(f"\n  {name} ") for name in (*GROUPS, *COMMANDS)]
        assert places == sorted(places) and len(places) >= 25
        for entry in COMMANDS.values():
            assert entry.help in plain(result.stdout)


def test_help_of_a_group_lists_its_commands(prefcli):
    result = prefcli("data", "--help")
    assert result.exit_code == 0
    for name, entry in ALL.items():
        if name.startswith("data "):
            assert f"\n  {name[5:]} " in result.stdout and entry.help in plain(result.stdout)
    refused(prefcli("data", "format"), "format")
    assert prefcli("data").exit_code == 2


@pytest.mark.parametrize("command", ALL)
def test_all_help_has_every_option_its_text_and_its_default_and_cuts_nothing(prefcli, command):
    entry, result = ALL[command], prefcli(*command.split(), "--help-all")
    cls = entry.options()
    assert result.exit_code == 0 and result.stderr == ""
    narrow = of_command(f"prefcli {command}", entry.help, cls, entry.examples, 60, everything=True)
    for text, columns in ((result.stdout, 80), (narrow, 60)):  # CliRunner's width is 80 whatever COLUMNS says
        usage, *lines = text.partition("Examples:")[0].splitlines()
        assert usage.startswith("Usage: ") and not re.search("[│╭]", text)
        assert [line for line in lines if len(line) > columns and len(line.split()) > 1] == []
        assert entry.help in plain(text)
        for name, (_, opt) in typed_options(cls).items():
            assert opt.help in plain(text)
            if not opt.positional:
                assert len(re.findall(rf"^  (?:-\w, )?{option(name)}(?![\w-])", text, re.M)) == 1
        for field in dataclasses.fields(cls):
            if isinstance(field.default, int | float) and not isinstance(field.default, bool):
                assert f"default: {field.default:g}]" in plain(text), field.name


@pytest.mark.parametrize("command", ALL)
def test_short_help_names_every_option_and_ends_with_examples(prefcli, command):
    result = prefcli(*command.split(), "--help", env={"COLUMNS": "80"})
    assert result.exit_code == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) <= (130 if command == "ppo" else 110)
    for name, (_, opt) in typed_options(ALL[command].options()).items():
        assert opt.positional or re.search(rf"{option(name)}(?![\w-])", result.stdout), name
    assert ["Examples:", *(f"  {line}" for line in ALL[command].examples)] == lines[-3:]


def test_short_help_begins_with_the_command_s_own_options(prefcli):
    own, common = prefcli("dpo", "--help").stdout.split("Common options:")
    assert "\n  --beta " in own and "\n  --loss " in own and "--lr" not in own
    common, rest = common.split("More, with --help-all:")
    assert all(f"\n  {one} " in common for one in ("--data", "--model", "--lr", "--batch-size", "--dry-run"))
    assert "--optim, " in rest and "--help-all: all" in common


def test_brackets_in_a_help_text_are_shown(prefcli):
    assert "(needs prefcli[qlora])" in plain(prefcli("dpo", "--help-all").stdout)


@pytest.mark.parametrize("line", [line for entry in ALL.values() for line in entry.examples])
def test_examples_can_be_typed(prefcli, monkeypatch, own_folder, line):
    """Each command line arrives at some command's run, in a folder where only a file of options has to exist."""
    for module in {entry.module for entry in ALL.values()} - {"defaults"}:
        monkeypatch.setattr(f"prefcli.cli.{module}.run", lambda config: None)
    monkeypatch.setattr("prefcli.cli.at_hand.models_at_hand", lambda given, config: None)
    write(own_folder / "dpo.yaml", "beta: 0.2")
    program, *words = shlex.split(line.partition(" > ")[0])
    result = prefcli(*words)
    assert (program, result.exit_code) == ("prefcli", 0), result.stderr
    assert len(line) <= 78


def test_every_command_has_two_examples_of_itself():
    for command, entry in ALL.items():
        assert len(entry.examples) == 2
        assert entry.examples[0].startswith(f"prefcli {command}")


def test_no_arguments_show_the_help_as_a_usage_error(prefcli):
    result = prefcli()
    assert result.exit_code == 2
    assert "train-rm" in result.stdout + result.stderr


def test_version_is_the_package_s(prefcli):
    assert prefcli("--version").stdout == f"prefcli {package.__version__}\n"


def test_a_module_is_there_for_every_command():
    for module, *_ in ALL.values():
        assert callable(importlib.import_module(f"prefcli.cli.{module}").run)


# Start-up: a process of its own


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["dpo", "--help"],
        ["ppo", "--help-all"],
        ["mem-estimate", "--params", "7B"],
        ["dpo", "--config", "nowhere.yaml"],
        ["config", "dpo"],
    ],
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
    assert not loaded & (HEAVY | ({"rich"} if args[-1].startswith("--help") else set()))


def test_python_dash_m_is_the_same_command():
    ended = subprocess.run([sys.executable, "-m", "prefcli", "--version"], capture_output=True, text=True)
    assert ended.stdout == f"prefcli {package.__version__}\n"


# Names


@pytest.mark.parametrize(
    ("typed", "meant"), [("dpoo", "dpo"), ("trian-rm", "train-rm"), ("mem-estimat", "mem-estimate")]
)
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


@pytest.mark.parametrize("spelt", ["train-rm", "train_rm"])
def test_a_command_may_be_spelt_with_an_underscore(arrived, spelt):
    assert arrived(spelt, "--lr", "0.5").lr == 0.5


# Spellings of one option: ours, snake_case, and Hugging Face's

SPELLINGS = [
    ("--model", "model", "m", "m"),
    ("--model_name_or_path", "model", "m", "m"),
    ("--model-name-or-path", "model", "m", "m"),
    ("--dataset_name", "data", "d", ["d"]),
    ("--dataset", "data", "d", ["d"]),
    ("--eval_dataset", "eval_data", "d", "d"),
    ("--learning_rate", "lr", "0.25", 0.25),
    ("--learning-rate", "lr", "1e-5", 1e-5),
    ("--num_train_epochs", "epochs", "3", 3.0),
    ("--max_steps", "max_steps", "7", 7),
    ("--train_batch_size", "batch_size", "6", 6),
    ("--per_device_train_batch_size", "batch_size", "6", 6),
    ("--gradient_accumulation_steps", "grad_accum", "2", 2),
    ("--lr_scheduler_type", "lr_scheduler", "cosine", "cosine"),
    ("--warmup_ratio", "warmup", "0.3", 0.3),
    ("--weight_decay", "weight_decay", "0.1", 0.1),
    ("--max_grad_norm", "max_grad_norm", "0.5", 0.5),
    ("--max_seq_length", "max_length", "99", 99),
    ("--lora_r", "lora_rank", "8", 8),
    ("--lora_target_modules", "lora_target", "q_proj", ["q_proj"]),
    ("--lora_alpha", "lora_alpha", "4", 4.0),
    ("--torch_dtype", "dtype", "bfloat16", "bfloat16"),
    ("--eval_steps", "eval_every", "5", 5),
    ("--run_name", "name", "n", "n"),
    ("--output_name", "name", "n", "n"),
    ("--report_to", "report_to", "wandb", "wandb"),
]
PPO_SPELLINGS = [
    ("--data", "prompts", "d", ["d"]),
    ("--dataset_name", "prompts", "d", ["d"]),
    ("--reward_model_path", "reward", "r", ["r"]),
    ("--reward_model", "reward", "r", ["r"]),
    ("--ref_model", "reference", "r", "r"),
    ("--response_length", "max_new_tokens", "9", 9),
    ("--cliprange", "clip_range", "0.3", 0.3),
    ("--cliprange_value", "clip_range_value", "0.3", 0.3),
    ("--num_ppo_epochs", "ppo_epochs", "2", 2),
    ("--num_mini_batches", "minibatches", "2", 2),
    ("--vf_coef", "vf_coef", "0.3", 0.3),
    ("--missing_eos_penalty", "missing_eos_penalty", "2", 2.0),
]


RM_SPELLINGS = [("--center_rewards_coefficient", "center_rewards", "0.1", 0.1)]


@pytest.mark.parametrize("form", ["apart", "with an equals sign"])
@pytest.mark.parametrize(
    ("command", "typed", "field", "value", "expected"),
    [("dpo", *row) for row in SPELLINGS]
    + [("ppo", *row) for row in PPO_SPELLINGS]
    + [("train-rm", *row) for row in RM_SPELLINGS],
)
def test_the_names_that_users_bring_reach_the_same_option(arrived, command, typed, field, value, expected, form):
    config = arrived(command, typed, value) if form == "apart" else arrived(command, f"{typed}={value}")
    assert getattr(config, field) == expected


def test_every_switch_can_be_turned_off(arrived):
    assert arrived("mem-estimate", "--no-gradient-checkpointing").gradient_checkpointing is False
    assert arrived("mem-estimate", "--no_gradient_checkpointing").gradient_checkpointing is False
    assert arrived("dpo", "--gradient_checkpointing").gradient_checkpointing is True
    assert arrived("dpo", "--dry-run", "--no-dry-run").dry_run is False
    assert arrived("dpo", "-q", "--no_quiet").quiet is False


def test_the_last_of_two_spellings_counts(arrived):
    assert arrived("dpo", "--lr", "0.1", "--learning_rate", "0.2").lr == 0.2


# Values


@pytest.mark.parametrize(
    ("command", "args", "named"),
    [
        ("dpo", ["--batch-size", "0"], "--batch-size"),
        ("ppo", ["--batch-size", "1"], "--batch-size"),
        ("dpo", ["--batch-size", "1.5"], "--batch-size"),
        ("dpo", ["--lr", "-1"], "--lr"),
        ("dpo", ["--lr", "nan"], "--lr"),
        ("dpo", ["--lr", "inf"], "--lr"),
        ("dpo", ["--lr", "fast"], "--lr"),
        ("dpo", ["--epochs", "inf"], "--epochs"),
        ("dpo", ["--epochs", "0"], "--epochs"),
        ("dpo", ["--beta", "0"], "--beta"),
        ("dpo", ["--beta", "nan"], "--beta"),
        ("dpo", ["--warmup", "1.01"], "--warmup"),
        ("dpo", ["--seed", "-1"], "--seed"),
        ("dpo", ["--seed", str(2**32)], "--seed"),
        ("dpo", ["--dtype", "float8"], "--dtype"),
        ("dpo", ["--optim", "adam"], "--optim"),
        ("train-rm", ["--eval-share", "0.6"], "--eval-share"),
        ("ppo", ["--gamma", "1.1"], "--gamma"),
        ("ppo", ["--temperature", "0"], "--temperature"),
        ("ppo", ["--temperature", "nan"], "--temperature"),
        ("eval", ["--samples", "-1"], "--samples"),
        ("mem-estimate", ["--batch-size", "0"], "--batch-size"),
        ("dpo", ["--lr"], "--lr"),
        ("dpo", ["stray"], "stray"),
        ("show", [], "REF"),
        ("show", ["a", "b"], "b"),
        ("dpo", ["-x"], "-x"),
    ],
)
def test_a_value_out_of_range_names_its_option(prefcli, command, args, named):
    message = refused(prefcli(command, *args), named)
    assert "in the range" not in message and "x>" not in message


@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        ("mem-estimate", ["--batch-size", "0"], "--batch-size: 0: must be at least 1"),
        ("data split", ["--held-out", "10"], "--held-out: 10.0: must be at least 0.0001 and at most 0.9999"),
    ],
)
def test_a_range_is_told_in_words(prefcli, command, args, said):
    refused(prefcli(*command.split(), *args), said)


# --config


def test_values_of_the_file_arrive_and_the_command_line_overrides_them(arrived, own_folder):
    write(
        own_folder / "c.yaml",
        "lr: 1e-5\nmodel_name_or_path: sft\ndata: [a.jsonl, b.jsonl]\njson: true\nbatch-size: 8\n",
    )
    config = arrived("dpo", "--config", "c.yaml", "--batch_size", "4")
    assert (config.lr, config.model, config.data) == (1e-5, "sft", ["a.jsonl", "b.jsonl"])
    assert (config.json, config.batch_size, config.beta) == (True, 4, None)
    config = arrived("dpo", "--config=c.yaml", "--data", "c.jsonl", "--learning_rate", "1")
    assert (config.lr, config.data, config.batch_size) == (1.0, ["c.jsonl"], 8)


def test_values_are_taken_as_they_are_written_and_not_as_yaml_types(arrived, own_folder):
    write(own_folder / "c.yaml", "name: no\nmodel: 007\nruns: 2026-01-01\nreference: '1.0'\ndata: 1e3\n")
    config = arrived("dpo", "--config", "c.yaml")
    assert (config.name, config.model, config.runs, config.reference) == ("no", "007", "2026-01-01", "1.0")
    assert config.data == ["1e3"]


def test_null_and_an_empty_file_leave_the_defaults(arrived, own_folder):
    defaults = arrived("dpo")
    for text in ("", "# only a comment\n", "---\n", "null", "lr: null\nlr_scheduler: ~\nbatch_size:\ndata: null\n"):
        write(own_folder / "c.yaml", text)
        assert dict(vars(arrived("dpo", "--config", "c.yaml")), config=None) == vars(defaults)


def test_a_byte_order_mark_is_no_part_of_the_first_key(arrived, own_folder):
    write(own_folder / "c.yaml", b"\xef\xbb\xbflr: 0.5\r\nseed: 3\r\n")
    config = arrived("sft", "--config", "c.yaml")
    assert (config.lr, config.seed) == (0.5, 3)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("beat: 0.1", ["line 1", "unknown key 'beat'", "did you mean beta?"]),
        ("lr: 1\nqqqqzzzz: 1", ["line 2", "unknown key 'qqqqzzzz'", "--help"]),
        ("lr: 1\nlearning_rate: 2", ["line 2", "lr is given twice", "learning_rate"]),
        ("lr: 1\nlr: 2", ["line 2", "lr is given twice"]),
        ("batch_size: 1\nbatch-size: 2", ["batch-size is given twice"]),
        ("lr: fast", ["--lr", "fast"]),
        ("lr: yes", ["--lr"]),
        ("lr: .nan", ["--lr"]),
        ("lr: nan", ["--lr", "finite"]),
        ("batch_size: 0", ["--batch-size"]),
        ("batch_size: 1.5", ["--batch-size"]),
        ("dtype: float8", ["--dtype"]),
        ("json: maybe", ["--json"]),
        ("lr: [1, 2]", ["lr: must be a single value, not a list"]),
        ("lr: {a: 1}", ["lr: must be a single value, not a mapping"]),
        ("data: [[a]]", ["data: must be a value or a list of values"]),
        ("data: [null]", ["data: must be a value or a list of values"]),
        ("data: {a: 1}", ["data: must be a value or a list of values"]),
        ("config: other.yaml", ["cannot name another"]),
        ("- lr\n- 1", ["must be a mapping"]),
        ("just words", ["must be a mapping"]),
        ("lr: 1\n  b: 2", ["not valid YAML"]),
        ("lr: 'open", ["not valid YAML"]),
        ("a: 1\n---\nb: 2", ["not valid YAML"]),
        ("[" * 800, ["not valid YAML"]),
        ("lr: \x00", ["not valid YAML"]),
        ("? [a, b]\n: 1", ["unknown key"]),
        ("lr: !!python/object/apply:os.system [ls]", ["single value"]),
        ("<<: {lr: 1}", ["unknown key '<<'"]),
        (b"lr: \xff", ["cannot be read"]),
    ],
)
def test_a_wrong_file_of_options_says_what_is_wrong(prefcli, own_folder, text, parts):
    write(own_folder / "c.yaml", text)
    message = refused(prefcli("dpo", "--config", "c.yaml"), *parts)
    if "--" not in parts[0]:
        assert "c.yaml" in message


def test_a_file_of_options_that_is_not_there(prefcli, own_folder):
    refused(prefcli("dpo", "--config", "no.yaml"), "--config no.yaml", "No such file")
    refused(prefcli("dpo", "--config", own_folder), "directory")
    refused(prefcli("dpo", "--config", "x" * 5000), "--config")
    refused(prefcli("dpo", "--config"), "--config")
    assert prefcli("ls", "--config", "c.yaml").exit_code == 2  # ls has no such option


# The file of defaults


TAKERS = [name for name, entry in ALL.items() if "config" in typed_options(entry.options())]


@pytest.mark.parametrize("command", TAKERS)
def test_the_file_of_defaults_changes_nothing_and_can_be_edited(prefcli, arrived, own_folder, command):
    needed = ["one"] if command == "report" else []
    printed = prefcli("config", command)
    assert printed.exit_code == 0 and printed.stderr == ""
    write(own_folder / "a.yaml", printed.stdout)
    given = set(yaml.safe_load(printed.stdout))
    options = typed_options(ALL[command].options())
    assert given == {name for name, (_, opt) in options.items() if not opt.positional} - {"config"}
    assert max(map(len, printed.stdout.splitlines())) <= 80
    plainly = arrived(command, *needed)
    assert arrived(command, "--config", "a.yaml", *needed) == dataclasses.replace(plainly, config="a.yaml")
    write(own_folder / "b.yaml", printed.stdout.replace("device: auto", "device: cpu").replace("runs: null", "runs: x"))
    changed = arrived(command, "--config", "b.yaml", *needed)
    assert changed.runs == "x" and getattr(changed, "device", "cpu") == "cpu"


def test_a_switch_in_a_file_is_turned_off_by_the_command_line(arrived, own_folder):
    write(own_folder / "c.yaml", "dry_run: true\nload_in_4bit: true\nquiet: true")
    config = arrived("dpo", "--config", "c.yaml", "--no-dry-run", "--no_load_in_4bit")
    assert (config.dry_run, config.load_in_4bit, config.quiet) == (False, False, True)


def test_the_file_of_defaults_runs(prefcli, own_folder):
    write(
        own_folder / "a.yaml", prefcli("config", "dpo").stdout.replace("data: []", f"data: {SAMPLES / 'pairs.jsonl'}")
    )
    result = prefcli("dpo", "--config", "a.yaml", "--max-rows", "20", "--dry-run")
    assert result.exit_code == 0 and "sigmoid, beta 0.1" in plain(result.stderr)


@pytest.mark.parametrize("words", [["ppo", "--help"], ["ppo", "--help-all"], ["config", "ppo"]])
def test_signs_outside_ascii_are_printed_where_the_encoding_lacks_them(words):
    ended = subprocess.run(
        [sys.executable, "-m", "prefcli", *words], capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert "KL(policy ‖ reference)" in plain(ended.stdout.decode().replace("#", ""))


def test_a_command_without_a_file_of_options_is_refused(prefcli):
    refused(prefcli("config", "ls"), "ls takes no --config", "mem-estimate")
    refused(prefcli("config", "dpoo"), "no such command: dpoo", "did you mean dpo?")


# What a bug report needs


def test_info_names_versions_device_and_store_and_no_secret(prefcli, make_artifact, monkeypatch, tmp_path):
    make_artifact("sft")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    text = prefcli("info").stdout
    found = json.loads(prefcli("info", "--json").stdout)
    assert "secret" not in text + json.dumps(found) and str(tmp_path) not in text
    assert found["prefcli"] == package.__version__ and found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["store"] == "~/runs (1 artifacts)" and found["environment"]["PREFCLI_RUNS"] == "~/runs"
    for part in (f"torch {found['packages']['torch']}", found["device"], found["store"], found["platform"]):
        assert part in text


def test_info_runs_where_torch_does_not(prefcli, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert json.loads(prefcli("info", "--json").stdout)["device"].startswith("torch fails: ")


# Completion


def completed(prefcli, words):
    line = " ".join(["prefcli", *words])
    env = {"_PREFCLI_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    result = prefcli(env=env)
    assert result.exit_code == 0, result.output
    return result.stdout.split()


def test_commands_options_and_choices_complete(prefcli):
    assert completed(prefcli, [""]) == [*GROUPS, *COMMANDS]
    assert completed(prefcli, ["d"]) == ["data", "dpo"]
    assert completed(prefcli, ["data", ""]) == [name[5:] for name in ALL if name.startswith("data ")]
    assert completed(prefcli, ["data", "convert", "--to-"]) == []
    assert completed(prefcli, ["data", "convert", "--sk"]) == ["--skip-bad"]
    assert completed(prefcli, ["s"]) == ["sft", "sweep", "sample", "score", "serve-rm", "show"]
    assert completed(prefcli, ["dpo", "--be"]) == ["--beta"]
    assert set(completed(prefcli, ["ppo", "--max-"])) == {
        "--max-steps",
        "--max-grad-norm",
        "--max-prompt-length",
        "--max-new-tokens",
    }
    assert completed(prefcli, ["dpo", "--optim", "ad"]) == ["adamw", "adamw-8bit", "adafactor"]


def test_artifacts_complete_where_a_model_may_be_named(prefcli, make_artifact, tmp_path):
    for name in ("sft", "sft", "rm"):
        make_artifact(name)
    assert completed(prefcli, ["dpo", "--model", ""]) == ["tiny", "rm", "rm@v1", "sft", "sft@v2", "sft@v1"]
    assert completed(prefcli, ["show", "s"]) == ["sft", "sft@v2", "sft@v1"]
    assert completed(prefcli, ["compare", "sft", "rm@"]) == ["rm@v1"]
    assert completed(prefcli, ["ppo", "--reward", "gold=r"]) == ["gold=rm", "gold=rm@v1"]
    assert completed(prefcli, ["label", "--by", "r"]) == ["rm", "rm@v1"]
    assert completed(prefcli, ["dpo", "--runs", str(tmp_path / "none"), "--model", ""]) == ["tiny"]
    assert completed(prefcli, ["dpo", "--name", ""]) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_can_be_shown(prefcli, shell, monkeypatch):
    # Typer asks which shell its parent is, and a test's may be none.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    result = prefcli("--show-completion", shell)
    assert result.exit_code == 0 and "_PREFCLI_COMPLETE" in result.stdout


# Streams


def test_a_result_goes_to_stdout_and_all_else_to_stderr(prefcli, make_artifact, jsonl):
    assert (prefcli("ls").stdout, "no artifacts" in prefcli("ls").stderr) == ("", True)
    make_artifact("sft")
    listed = prefcli("ls")
    assert "sft@v1" in listed.stdout and listed.stderr == ""
    assert json.loads(prefcli("ls", "--json").stdout)[0]["ref"] == "sft@v1"
    shown = prefcli("show", "sft", "--json")
    assert json.loads(shown.stdout)["ref"] == "sft@v1" and shown.stderr == ""
    failed = prefcli("show", "nothing")
    assert failed.stdout == "" and "error: " in failed.stderr and "\nhint: " in failed.stderr


def test_ls_lists_the_newest_first_in_eighty_columns(prefcli, store, monkeypatch):
    made = [("sft", "sft", "03"), ("a-rather-long-name", "dpo", "05"), ("dpo", "dpo", "04"), ("dpo", "dpo", "04")]
    for name, stage, month in made:
        with store.writer(name) as draft:
            metrics = {"eval_rewards/accuracies": 0.875, "eval_rewards/accuracies_ci95": [0.7, 0.95], "loss": 0.1}
            when, parents = f"2026-{month}-01T09:30:15+00:00", {"model": {"ref": "tiny", "digest": ""}}
            draft.finish(Manifest(stage, name, draft.version, when, key="", metrics=metrics, parents=parents))
    write(store.root / "sft" / "v2" / "manifest.json", "damaged")
    newest = ["a-rather-long-name@v1", "dpo@v2", "dpo@v1", "sft@v1", "sft@v2"]
    by_name = ["a-rather-long-name@v1", "dpo@v1", "dpo@v2", "sft@v1", "sft@v2"]
    for words, refs in (([], newest), (["--sort", "name"], by_name)):
        assert [one["ref"] for one in json.loads(prefcli("ls", "--json", *words).stdout)] == refs
        assert [line.split()[0] for line in prefcli("ls", *words).stdout.splitlines()[1:]] == refs
    monkeypatch.setattr("prefcli.cli.ls.result_console", lambda: Console(file=result(), width=80))
    lines = prefcli("ls").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("a-rather-long-name@v1 (dpo)") and re.search("2026-05-01 [0-9]{2}:30 ", lines[1])
    assert "held out: rewards/accuracies 0.875 [0.7, 0.95]" in plain(prefcli("ls").stdout)


def test_a_plan_in_a_pipe_is_a_line_an_entry_without_blanks_at_the_end(prefcli, jsonl):
    data = jsonl(f"{'long-' * 30}.jsonl", *[PAIR | {"prompt": "Where? " * 20}] * 16)
    said = prefcli("dpo", "--data", data, "--model", "tiny", "--dry-run", env={"COLUMNS": "60"}).stderr
    lines = said.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    entries = {key: line for line in lines for key in [line.split()[0]]}
    assert entries["memory"].endswith("MB of it Python and its libraries, estimated")
    assert " 1 step of 16, all weights" in entries["training"] and "⟦" in said
    assert any(line.startswith(f"data {data}") and "16 rows" in line for line in lines)


def test_of_several_processes_the_first_alone_shows_a_dry_run(monkeypatch, capfd):
    from prefcli.cli.train import dry_run

    monkeypatch.setattr("prefcli.stages.preview.preview", lambda *_: SimpleNamespace(findings=[], lines={}))
    monkeypatch.setenv("RANK", "1")
    dry_run(SimpleNamespace(config=SimpleNamespace(skip_bad=False)), SILENT)
    assert capfd.readouterr() == ("", "")


def test_debug_shows_the_traceback_of_an_error_and_keeps_its_exit_code(prefcli):
    plain, debugged = prefcli("show", "nothing"), prefcli("show", "nothing", "--debug")
    assert plain.exit_code == debugged.exit_code == 4
    assert "Traceback" not in plain.stderr and "Traceback" in debugged.stderr


def test_a_defect_of_ours_shows_its_traceback_and_where_to_report_it(prefcli, monkeypatch):
    def broken(config):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr("prefcli.cli.ls.run", broken)
    result = prefcli("ls")
    assert result.exit_code == 1
    assert "ZeroDivisionError: a defect" in result.stderr and "report" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device", "runs/x"), 7, "runs/x"),
        (OSError(13, "Permission denied", "runs/x"), 7, "permission"),
        (RuntimeError("safetensors: No space left on device"), 7, "No space"),
        (MemoryError(), 5, "--batch-size"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 5, "--grad-accum"),
    ],
)
def test_foreign_exceptions_become_exit_codes(prefcli, monkeypatch, error, code, part):
    def fail(config):
        raise error

    monkeypatch.setattr("prefcli.cli.ls.run", fail)
    result = prefcli("ls")
    assert (result.exit_code, result.stdout) == (code, "")
    assert part in result.stderr and "Traceback" not in result.stderr


def test_a_finished_run_is_handed_back_with_one_line_on_stdout(prefcli, monkeypatch, make_artifact, jsonl):
    """The second call of the same command trains nothing: here training would fail the test."""
    from prefcli.stages import inputs

    make_artifact("sft")
    data = jsonl("pairs.jsonl", PAIR)
    monkeypatch.setattr(inputs, "_key", lambda found: "the key")
    made = make_artifact("dpo", key="the key")
    result = prefcli("dpo", "--data", data)
    assert (result.exit_code, result.stdout) == (0, f"{made.path}\n")
    assert "dpo@v1" in result.stderr
    assert prefcli("dpo", "--data", data, "--quiet").stderr == ""
    told = json.loads(prefcli("dpo", "--data", data, "--json").stdout)
    assert told["reused"] is True and told["ref"] == "dpo@v1"


def test_the_same_command_has_the_same_key_and_a_cause_changes_it(
    prefcli, make_artifact, jsonl, monkeypatch, own_folder
):
    keys = []
    from prefcli.artifacts.store import Store

    find = Store.find
    monkeypatch.setattr(Store, "find", lambda self, name, key: keys.append(key) or find(self, name, key))
    monkeypatch.setattr("prefcli.cli.train.run", prepare_only)
    make_artifact("sft")
    data, other = jsonl("a.jsonl", DEMO), jsonl("b.jsonl", DEMO, DEMO)
    same = jsonl("c.jsonl", DEMO)

    def key(*args):
        result = prefcli("sft", "--model", "sft", *args)
        assert result.exit_code == 0, result.stderr
        return keys.pop()

    first = key("--data", data)
    assert key("--data", data) == first
    assert key("--data", same) == first  # the same bytes by another path
    assert key("--data", data, "--quiet", "--name", "other", "--json") == first  # circumstances
    causes = [["--data", other], ["--data", data, "--seed", "1"], ["--data", data, "--lr", "1"],
              ["--data", data, "--data", same], ["--data", data, "--epochs", "2"]]  # fmt: skip
    changed = [key(*cause) for cause in causes]
    make_artifact("sft", files={"model/config.json": "{}", "model/model.safetensors": "others"})
    changed.append(key("--data", data))  # --model sft is another version now
    assert len({first, *changed}) == 7


def prepare_only(config):
    from prefcli.stages.inputs import prepare

    prepare(config)


@pytest.mark.parametrize(
    ("user", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
    ids=["unset", "spins set", "policy set"],
)
def test_waiting_threads_give_cores_away_unless_the_user_says_how(
    user: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    share_cores()
    assert os.environ.get("GOMP_SPINCOUNT") == expected

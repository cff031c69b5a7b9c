"""Names that users bring from TRL, Hugging Face and LLaMA-Factory, on the command line and in files: none means another
thing than there, none is dropped in silence."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re

import pytest
import yaml
from conftest import PAIR, write

from prefcli.cli.main import ALL, COMMANDS
from prefcli.config import names, spelling
from prefcli.config.base import Opt, typed_options
from prefcli.config.shared import read_as
from prefcli.config.spelling import canonical
from prefcli.config.stages import BY_COMMAND
from prefcli.data.dataset import read_dataset

# Their name → ours, by hand: another word for the same option.
RENAMED = {
    "model-name-or-path": "model", "dataset": "data", "dataset-name": "data", "dataset-path": "data",
    "eval-dataset": "eval_data", "output-name": "name", "run-name": "name", "exp-name": "name", "learning-rate": "lr",
    "num-train-epochs": "epochs", "num-epochs": "epochs", "per-device-train-batch-size": "batch_size",
    "micro-batch-size": "batch_size", "train-batch-size": "batch_size", "gradient-accumulation-steps": "grad_accum",
    "base-model": "model", "total-episodes": "max_steps",
    "adapter-name-or-path": "model", "warmup-steps": "warmup", "lr-scheduler-type": "lr_scheduler",
    "warmup-ratio": "warmup", "max-seq-length": "max_length", "cutoff-len": "max_length", "max-samples": "max_rows",
    "lora-r": "lora_rank", "lora-target-modules": "lora_target", "torch-dtype": "dtype", "eval-steps": "eval_every",
    "save-steps": "save_every", "dataset-train-split": "split", "router-aux-loss-coef": "router_loss",
    "moe-aux-loss-coef": "router_loss", "reward-model": "reward", "reward-model-path": "reward",
    "reward-model-name-or-path": "reward", "ref-model": "reference", "response-length": "max_new_tokens",
    "max-completion-length": "max_new_tokens", "cliprange": "clip_range", "epsilon": "clip_range",
    "cliprange-value": "clip_range_value", "beta": "kl_coef", "num-ppo-epochs": "ppo_epochs",
    "num-iterations": "ppo_epochs",
    "local-rollout-forward-batch-size": "generation_batch", "num-mini-batches": "minibatches",
    "ppo-target": "kl_target",
    "ppo-whiten-rewards": "whiten_rewards", "center-rewards-coefficient": "center_rewards", "pref-beta": "beta",
    "pref-ftx": "sft_weight", "rpo-alpha": "sft_weight", "dpo-label-smoothing": "label_smoothing",
    "kto-chosen-weight": "desirable_weight", "kto-rejected-weight": "undesirable_weight",
}  # fmt: skip


@pytest.fixture
def arrived(prefcli, monkeypatch):
    """`arrived("dpo", …)` is the config that reaches the command, and what was said on stderr."""

    def run(command, *args, **more):
        caught = []
        module = importlib.import_module(f"prefcli.cli.{ALL[command].module}")
        monkeypatch.setattr(module, "run", caught.append)
        result = prefcli(*command.split(), *args, **more)
        assert result.exit_code == 0, result.stderr
        return caught[0], result.stderr

    return run


@pytest.fixture
def from_file(arrived, own_folder):
    """`from_file("dpo", text, …)`: the same, from --config."""

    def run(command, text, *args, **more):
        write(own_folder / "theirs.yaml", text)
        return arrived(command, "--config", "theirs.yaml", *args, **more)

    return run


def refused(result, *parts):
    assert (result.exit_code, result.stdout) == (2, ""), (result.exit_code, result.stderr)
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr, (part, result.stderr)
    return result.stderr


def test_every_name_that_users_bring_means_what_it_does_there():
    assert set(RENAMED) == set(names.ALIASES)
    known = dict.fromkeys(set(RENAMED.values()) - {"beta"})
    for name, field in RENAMED.items():
        both = known | ({"beta": None} if field == "beta" else {})
        assert canonical(name, both) == canonical(name.replace("-", "_"), both) == field
    assert canonical("dataset", {"prompts": None}) == "prompts" and canonical("nothing", known) is None
    assert canonical("cutoff_len", {"max_prompt_length": None}) == "max_prompt_length"
    assert canonical("beta", {"beta": None, "kl_coef": None}) == "beta"


def test_the_table_names_options_that_exist():
    every = {name for entry in COMMANDS.values() for name in typed_options(entry.options())}
    for name, entry in names.NAMES.items():
        ours = [entry.ours.replace("-", "_")] if entry.ours else []
        assert {*ours, *(field for value in entry.values.values() for field in value)} <= every, name
        assert entry.ours or entry.said, name


# The batch


@pytest.mark.parametrize(
    ("words", "processes", "batch", "parts"),
    [
        (["--per-device-train-batch-size", "8"], 1, 8, 1),
        (["--per_device_train_batch_size=8", "--gradient_accumulation_steps=4"], 1, 32, 4),
        (["--gradient-accumulation-steps", "4", "--per-device-train-batch-size", "2"], 2, 16, 4),
        (["--gradient_accumulation_steps", "4"], 1, 32, 4),  # of TrainingArguments' 8
        (["--per_device_train_batch_size", "3"], 4, 12, 1),
        (["--batch-size", "3"], 4, 3, 1),
        (["--train_batch_size", "3"], 4, 3, 1),
        (["--batch-size", "16", "--grad-accum", "4"], 1, 16, 4),
        (["--batch-size", "16", "--gradient_accumulation_steps", "4"], 1, 16, 4),
    ],
)
def test_rows_of_a_process_times_accumulation_times_processes_is_the_batch(
    arrived, from_file, words, processes, batch, parts
):
    env = {"WORLD_SIZE": str(processes), "RANK": "1", "LOCAL_RANK": "1"} if processes > 1 else {}
    config, _ = arrived("dpo", *words, env=env)
    assert (config.batch_size, config.grad_accum) == (batch, parts)
    pairs = " ".join(words).replace("=", " ").replace("--", "").split()
    text = "".join(f"{name}: {value}\n" for name, value in zip(pairs[::2], pairs[1::2], strict=True))
    config, _ = from_file("dpo", text, env=env)
    assert (config.batch_size, config.grad_accum) == (batch, parts)


def test_a_batch_on_the_line_stands_above_that_of_a_file(from_file):
    text = "per_device_train_batch_size: 2\ngradient_accumulation_steps: 8\n"
    for words, expected in (
        ((), (16, 8)),
        (("--gradient-accumulation-steps", "4"), (8, 4)),
        (("--per_device_train_batch_size", "1"), (8, 8)),
        (("--batch-size", "64", "--grad-accum", "2"), (64, 2)),
    ):
        config, _ = from_file("dpo", text, *words)
        assert (config.batch_size, config.grad_accum) == expected
    config, _ = from_file("dpo", "batch_size: 6\n", "--per_device_train_batch_size", "5")
    assert config.batch_size == 5


def test_a_batch_that_is_no_number_or_said_twice_is_refused(prefcli, own_folder):
    four = {"WORLD_SIZE": "4", "RANK": "1", "LOCAL_RANK": "1"}
    for value in ("²", "-1", "x", "1.5", "9" * 5000):
        refused(prefcli("dpo", "--per_device_train_batch_size", value, env=four))
    refused(prefcli("dpo", "--per_device_train_batch_size", "3", env={"WORLD_SIZE": "many"}), "WORLD_SIZE")
    refused(prefcli("dpo", "--batch-size", "3", "--per_device_train_batch_size", "3"), "--batch-size is given twice")
    write(own_folder / "c.yaml", "per_device_train_batch_size: 3\nbatch_size: 3\n")
    refused(prefcli("dpo", "--config", "c.yaml"), "line 2", "batch-size is given twice")
    refused(prefcli("sweep", "dpo", "--data", "x", "--grid", "per_device_train_batch_size=2,4"), "batch-size")


# Names whose values are options of ours


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("sft", ["--use_peft"], {"lora_rank": 16, "lora_alpha": 32.0, "lora_dropout": 0.05}),
        ("sft", ["--use_peft", "True", "--lora_r", "64"], {"lora_rank": 64, "lora_alpha": 32.0}),
        ("sft", ["--lora_r", "64", "--use_peft", "False"], {"lora_rank": 64}),  # on the line it is asked for
        ("dpo", ["--bf16"], {"dtype": "bfloat16"}),
        ("dpo", ["--bf16", "True", "--dtype", "float32"], {"dtype": "float32"}),
        ("dpo", ["--no_bf16"], {"dtype": "auto"}),
        ("dpo", ["--gradient_checkpointing", "True"], {"gradient_checkpointing": True}),
        ("dpo", ["--gradient_checkpointing", "false", "--lr", "1"], {"gradient_checkpointing": False, "lr": 1.0}),
        ("dpo", ["--loss_type", "ipo"], {"loss": "ipo", "length_normalise": True}),
        ("dpo", ["--loss_type", "sigmoid_norm"], {"loss": "sigmoid", "length_normalise": True}),
        ("dpo", ["--loss_type=apo_zero"], {"loss": "apo-zero", "length_normalise": False}),
        ("dpo", ["--optim", "adamw_torch_fused"], {"optim": "adamw"}),
        ("dpo", ["--optim", "paged_adamw_8bit"], {"optim": "adamw-8bit"}),
        ("dpo", ["--optim", "paged_adamw_32bit"], {"optim": "adamw"}),
        ("dpo", ["--template", "qwen"], {"as_chat": True}),
        ("dpo", ["--template", "qwen", "--no-as-chat"], {"as_chat": False}),
        ("dpo", ["--template", "empty"], {"as_chat": False}),
        ("dpo", ["--lr_scheduler_type", "constant_with_warmup"], {"lr_scheduler": "constant", "warmup": 0.05}),
        ("dpo", ["--lr_scheduler_type", "constant"], {"lr_scheduler": "constant", "warmup": 0.0}),
        ("dpo", ["--lora_target_modules", "q_proj", "v_proj", "--lr", "1"], {"lora_target": ["q_proj", "v_proj"]}),
        ("dpo", ["--lora_target_modules", "all-linear"], {"lora_target": ["all-linear"]}),
        ("dpo", ["--lora-target", "q_proj", "--lora-target", "v_proj"], {"lora_target": ["q_proj", "v_proj"]}),
        ("dpo", ["--warmup_steps", "0.1"], {"warmup": 0.1}),
        ("dpo", ["--max_steps", "200", "--warmup_steps", "20"], {"warmup": 0.1}),
        ("dpo", ["--max_steps", "-1"], {"max_steps": None}),
        ("dpo", ["--use_dora", "True"], {"adapter": "dora"}),
        ("sft", ["--completion_only_loss", "False"], {"train_on_prompt": True}),
        ("ppo", ["--beta", "0.2", "--num_generations", "4"], {"kl_coef": 0.2, "num_generations": 4}),
        ("mem-estimate", ["--stage", "dpo", "--gradient_checkpointing", "True"], {"stage": "dpo"}),
        ("mem-estimate", ["--per_device_train_batch_size", "2", "--shard", "4"], {"batch_size": 8}),
        ("eval", ["--per_device_train_batch_size", "2"], {"batch_size": 2}),
    ],
)
def test_a_value_means_what_it_does_there(arrived, command, words, expected):
    config, _ = arrived(command, *words)
    assert {name: getattr(config, name) for name in expected} == expected


def test_values_that_only_files_have_mean_what_they_do_there(from_file, own_folder):
    config, _ = from_file("sft", "finetuning_type: lora\nlora_target: q_proj,v_proj\nquantization_bit: 4\n")
    assert (config.lora_rank, config.lora_target, config.load_in_4bit) == (8, ["q_proj", "v_proj"], True)
    config, _ = from_file("sft", "finetuning_type: full\nlora_rank: 8\n")
    assert config.lora_rank == 0
    config, _ = from_file("sft", "use_peft: false\nlora_r: 8\n")
    assert config.lora_rank == 0
    config, _ = from_file("sft", "model_name_or_path: base\nadapter_name_or_path: saves/sft\nlora_target: all\n")
    assert (config.model, config.lora_target) == ("saves/sft", ["all-linear"])
    write(
        own_folder / "data" / "dataset_info.json",
        json.dumps({"a": {"file_name": "a.json"}, "b": {"hf_hub_url": "o/b"}}),
    )
    config, _ = from_file("sft", "dataset: a, b,c\ndataset_dir: data\neval_dataset: a\n")
    assert (config.data, config.eval_data) == (["data/a.json", "o/b", "c"], "data/a.json")
    assert from_file("sft", "dataset: a\nmax_samples: 9\n")[0].max_rows == 9
    config, _ = from_file("ppo", "dataset: a\n")
    assert config.prompts == ["data/a.json"]
    text = "datasets: [{path: x, fraction: 0.3, split: s}, {path: json, data_files: y.jsonl, fraction: 0.7}]\n"
    config, _ = from_file("sft", text)
    assert (config.data, config.data_weight, config.split) == (["x", "y.jsonl"], [0.3, 0.7], "s")


def test_rows_of_each_data_set_are_not_taken_for_rows_of_all(prefcli, own_folder):
    write(own_folder / "c.yaml", "dataset: a,b\nmax_samples: 9\n")
    refused(prefcli("sft", "--config", "c.yaml"), "line 2: max_samples: there it limits each data set", "head -n 9 ")


def test_a_file_of_one_stage_is_refused_by_another_with_its_command(prefcli, own_folder, from_file):
    for stage, loss, command in (("rm", "", "train-rm"), ("dpo", "pref_loss: orpo", "orpo"), ("dpo", "", "dpo")):
        write(own_folder / "c.yaml", f"stage: {stage}\nuse_galore: true\n{loss}\n")
        refused(prefcli("sft", "--config", "c.yaml"), f"prefcli {command} --config")
    assert from_file("orpo", "stage: dpo\npref_loss: orpo\npref_beta: 0.2")[0].beta == 0.2


@pytest.mark.parametrize(
    ("command", "text", "words", "expected"),
    [
        ("dpo", "loss_type: ipo", "--loss_type sigmoid", {"loss": "sigmoid", "length_normalise": False}),
        ("dpo", "loss_type: sigmoid_norm", "--loss sigmoid", {"loss": "sigmoid", "length_normalise": False}),
        ("dpo", "pref_loss: ipo", "--loss_type hinge", {"loss": "hinge", "length_normalise": False}),
        ("dpo", "length_normalise: true", "--loss_type sigmoid", {"loss": "sigmoid", "length_normalise": False}),
        ("dpo", "loss_type: sigmoid_norm", "--no-length-normalise", {"loss": "sigmoid", "length_normalise": False}),
        ("dpo", "loss_type: sigmoid_norm", "--beta 1", {"loss": "sigmoid", "length_normalise": True}),
        ("dpo", "loss_type: bco_pair", "--loss ipo", {"loss": "ipo", "length_normalise": False}),
        (
            "dpo",
            "lr_scheduler_type: constant",
            "--lr_scheduler_type cosine",
            {"lr_scheduler": "cosine", "warmup": 0.05},
        ),
        ("dpo", "lr_scheduler_type: constant", "--lr-scheduler linear", {"lr_scheduler": "linear", "warmup": 0.05}),
        ("dpo", "lr_scheduler_type: constant", "--warmup 0.2", {"lr_scheduler": "constant", "warmup": 0.2}),
        ("dpo", "bf16: true", "--bf16 false", {"dtype": "auto"}),
        ("dpo", "bf16: true", "--no-bf16", {"dtype": "auto"}),
        ("dpo", "bf16: true", "--fp16 false", {"dtype": "bfloat16"}),
        ("dpo", "use_dora: true", "--use_dora false", {"adapter": "lora"}),
        ("sft", "completion_only_loss: false", "--completion_only_loss true", {"train_on_prompt": False}),
        ("dpo", "max_steps: 5", "--max_steps -1", {"max_steps": None}),
        ("dpo", "warmup_steps: 100", "--warmup 0.1", {"warmup": 0.1}),
        ("dpo", "warmup: 0.3", "--warmup_steps 20 --max_steps 200", {"warmup": 0.1}),
        ("dpo", "dataset: a,b\nmax_samples: 9", "--data c.jsonl", {"data": ["c.jsonl"], "max_rows": 9}),
        ("dpo", "dataset: a,b\nmax_samples: 9", "--max-rows 5", {"data": ["a", "b"], "max_rows": 5}),
        ("dpo", "data: a.jsonl", "--dataset c.jsonl", {"data": ["c.jsonl"]}),
        ("dpo", "datasets: [{path: a, fraction: 1}]", "--data c.jsonl", {"data": ["c.jsonl"], "data_weight": []}),
        (
            "dpo",
            "per_device_train_batch_size: 4\ngradient_accumulation_steps: 8",
            "--grad-accum 4",
            {"batch_size": 32, "grad_accum": 4},
        ),
    ],
)
def test_what_the_line_says_stands_above_all_that_a_file_says_of_it(from_file, command, text, words, expected):
    config, _ = from_file(command, text, *words.split())
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_template_that_the_line_declines_is_not_told_as_applied(from_file):
    config, said = from_file("dpo", "stage: dpo\ntemplate: qwen\n", "--no-as-chat")
    assert config.as_chat is False and "--as-chat" not in said


# Names that nothing answers to


@pytest.mark.parametrize(
    ("command", "words", "parts"),
    [
        (
            "sample",
            ["--output_dir", "x", "--logging_steps=1"],
            ["--output_dir: the artifact", "--logging_steps: every"],
        ),
        (
            "dpo",
            ["--adam_beta1", "1", "--lrr", "--use_muon"],
            ["--adam_beta1: AdamW's", "--lrr: did you mean", "--use_muon: "],
        ),
        ("dpo", ["--loss_type", "exo_pair"], ["--loss", "exo_pair"]),
        ("dpo", ["--loss_type", "sigmoid", "sft"], ["--sft-weight"]),
        ("sft", ["--loss_type", "ipo"], ["--loss_type ipo"]),
        ("ppo", ["--loss_type", "dapo"], ["; ppo has --advantage"]),
        ("kto", ["--loss_type", "apo_zero_unpaired"], ["orpo and kto are commands with one loss each;"]),
        ("sft", ["--warmup_steps", "100"], ["--warmup_steps 100: --warmup is a fraction"]),
        ("sft", ["--neftune_noise_alpha", "5"], ["no noise"]),
        ("ppo", ["--max_samples", "5"], ["there is no --max-rows here"]),
        ("ppo", ["--top_p", "0.9"], ["whole distribution"]),
        ("eval", ["--use_peft"], ["no such option"]),
        ("dpo", ["--learning_rat", "1"], ["did you mean --lr?"]),
        ("dpo", ["--output_dri", "1"], ["no such option", "the artifact is RUNS"]),
    ],
)
def test_a_name_without_a_counterpart_has_a_sentence_of_its_own(prefcli, command, words, parts):
    message = refused(prefcli(command, *words), *parts)
    assert "did you mean" not in message or any("did you mean" in part for part in parts)


@pytest.mark.parametrize("typed", [*names.COMMANDS, "merge_lora"])
def test_another_program_s_command_is_answered_with_ours(prefcli, typed):
    message = refused(prefcli(typed, "--data", "x"), f"no such command: {typed}")
    assert typed not in COMMANDS and "Did you mean" not in message
    assert any(f"prefcli {command}" in message for command in [*COMMANDS, "--version"]) or "not there" in message


def test_what_would_change_the_result_is_refused_all_at_once_and_where_it_is_off_it_is_not(
    prefcli, own_folder, from_file
):
    write(
        own_folder / "c.yaml",
        "lr: 1\nuse_galore: true\nloraplus_lr_ratio: 16.0\nlogging_steps: 5\nquantization_bit: 8\n",
    )
    message = refused(prefcli("sft", "--config", "c.yaml"), "line 2: use_galore", "line 3: loraplus_lr_ratio",
                      "line 5: quantization_bit 8", "--load-in-4bit")  # fmt: skip
    assert "logging_steps" not in message
    text = "use_galore: false\nloraplus_lr_ratio: null\nfp8: no\nadam_beta1: 0.90\ntop_k: 0\nnum_train_epochs: 1\n"
    said = from_file("sft", text)[1]
    for name in ("use_galore", "fp8", "adam_beta1", "top_k"):
        assert name in said


@pytest.mark.parametrize(
    ("text", "means", "other"),
    [
        ("bf16: true\nfp16: true", "line 2: fp16: it means --dtype float16, and line 1, bf16,", None),
        ("bf16: true\ndtype: float16", "line 1: bf16: it means --dtype bfloat16, and line 2, dtype,", None),
        ("disable_gradient_checkpointing: true\ngradient_checkpointing: yes", "--gradient-checkpointing false", None),
        ("disable_gradient_checkpointing: true\ngradient_checkpointing: no", None, {"gradient_checkpointing": False}),
        ("load_in_4bit: false\nquantization_bit: 4", "line 2: quantization_bit: it means --load-in-4bit true", None),
        ("load_in_4bit: True\nquantization_bit: 4\nlora_rank: 8", None, {"load_in_4bit": True}),
        ("disable_gradient_checkpointing: false\ngradient_checkpointing: no", None, {"gradient_checkpointing": False}),
        ("lr_scheduler_type: constant\nwarmup_steps: 0", None, {"warmup": 0.0}),
        ("use_dora: true\nuse_rslora: true", "--adapter rslora", None),
        ("bf16: true\npure_bf16: true\ntorch_dtype: bfloat16", None, {"dtype": "bfloat16"}),
        ("fp16: false\ndtype: float32", None, {"dtype": "float32"}),
    ],
)
def test_two_names_that_say_two_values_of_one_option_are_refused(prefcli, own_folder, from_file, text, means, other):
    if other is not None:
        assert {name: getattr(from_file("sft", text)[0], name) for name in other} == other
        return
    write(own_folder / "c.yaml", text)
    assert refused(prefcli("sft", "--config", "c.yaml"), means, "says otherwise: leave one out").count("otherwise") == 1


def test_what_is_computed_in_is_their_precision_and_not_the_type_that_weights_are_loaded_in(from_file):
    for text in ("bf16: true\ndtype: float32\n", "torch_dtype: auto\nbf16: true\n"):
        config, said = from_file("dpo", text)
        assert config.dtype == "bfloat16" and "dtype: weights are loaded in it there" in said


@pytest.mark.parametrize("warmup", ["warmup_ratio: 0.03", "warmup_steps: 10", "warmup_steps: 9\nmax_steps: 90"])
def test_a_constant_schedule_has_no_warm_up_whatever_is_said_of_it(arrived, from_file, warmup):
    name = warmup.partition(":")[0]
    for text in (f"lr_scheduler_type: constant\n{warmup}\n", f"{warmup}\nlr_scheduler_type: constant\n"):
        config, said = from_file("sft", text)
        assert (config.lr_scheduler, config.warmup) == ("constant", 0.0)
        assert f"  {name}: lr_scheduler_type: constant does not read it" in said and "--warmup " not in said
    config, said = arrived("sft", "--lr_scheduler_type", "constant", "--warmup_steps", "10")
    assert config.warmup == 0.0 and "--warmup_steps: lr_scheduler_type: constant does not" in said
    assert from_file("sft", "lr_scheduler_type: constant_with_warmup\nwarmup_ratio: 0.1\n")[0].warmup == 0.1


def test_a_wrong_value_in_a_file_is_told_with_its_line_and_key(prefcli, own_folder):
    write(own_folder / "c.yaml", "lr: 1\neval_steps: 0.2\ngradient_accumulation_steps: x\n")
    refused(prefcli("dpo", "--config", "c.yaml", "--eval-every", "3"), "c.yaml, line 3: gradient_accumulation_steps")
    refused(prefcli("dpo", "--config", "c.yaml", "--grad-accum", "3"), "c.yaml, line 2: eval_steps (here --eval-every)")
    write(own_folder / "c.yaml", "eval_steps: 0.2\n")
    assert "c.yaml" not in refused(prefcli("dpo", "--config", "c.yaml", "--eval-every", "y"), "--eval-every")


def test_a_file_is_refused_once_with_all_its_lines(prefcli, own_folder, jsonl):
    """Names, values, shapes, splits: one after the other they were four attempts."""
    rows = jsonl("a.jsonl", PAIR)
    lines = [f"dataset_name: {rows}", "lerning_rate: 1", "use_galore: true", "num_train_epochs: many", "beta: [1, 2]",
             "dataset_train_split: train_prefs", "lr: nan", "val_size: 0.1", "warmup_steps: 10", "lr: 1"]  # fmt: skip
    write(own_folder / "c.yaml", "\n".join(lines))
    message = refused(prefcli("dpo", "--config", "c.yaml"), "line 2: unknown key 'lerning_rate': did you mean lr?",
                      "line 3: use_galore: --optim", "line 4: num_train_epochs (here --epochs): 'many'",
                      "line 5: beta: must be a single value", "line 6: dataset_train_split: --split train_prefs",
                      "line 7: lr (here --lr): ", "line 8: val_size: delete it, then prefcli data split FILE",
                      "line 9: warmup_steps 10: ", "line 10: lr: lr is given twice")  # fmt: skip
    assert message.count("\n  line ") == 9


def test_what_the_line_says_is_not_blamed_on_the_file(prefcli, own_folder, from_file):
    write(own_folder / "c.yaml", "lr: 1\n")
    message = refused(prefcli("sft", "--config", "c.yaml", "--warmup_steps", "100"), "error: --warmup_steps 100: ")
    assert "c.yaml" not in message
    write(own_folder / "c.yaml", "use_galore: true\n")
    words = ("--config", "c.yaml", "--warmup_steps", "100")
    refused(prefcli("sft", *words), "these of --config c.yaml and the command line:\n  line 1: use_galore: ")
    assert from_file("sft", "lr: 1\n", "--output_dir", "x")[1].startswith("note: what the command line says and does")
    said = from_file("sft", "logging_steps: 5\n", "--output_dir", "x")[1]
    assert said.startswith("note: what --config theirs.yaml and the command line say and do not say:\n")


def test_what_is_not_used_is_told_once_with_reasons_and_not_when_quiet(from_file):
    text = "logging_steps: 5\nplot_loss: true\noutput_dir: x\nlearning_rate: 1\n"
    said = from_file("sft", text)[1]
    assert (
        said.startswith("note: what --config theirs.yaml says and does not say:\n")
        and "logging_steps, plot_loss: every step" in said
    )
    assert "--epochs 1.0 (TRL: 3), --warmup 0.05 (TRL: 0), --batch-size 16 (TRL: 8 per process)" in said
    assert "--seed 0 (TRL: 42)" in said and "--lr " not in said and "--lr-scheduler" not in said
    assert from_file("sft", text, "--quiet")[1] == ""
    said = from_file("sft", text + "packing: true\nevaluation_strategy: epoch\n")[1]
    assert "packing: rows are packed" in said and "--batch-size counts rows" in said and "evaluation_strategy: " in said
    whole = "num_train_epochs: 1\nwarmup_ratio: 0\nper_device_train_batch_size: 4\nseed: 1\nlearning_rate: 1\n"
    assert from_file("sft", whole)[1] == "" == from_file("sft", "lr: 1\n")[1]


def test_a_shell_script_of_theirs_runs_and_is_told_what_is_not_used(arrived):
    words = ["--model_name_or_path", "m/a", "--output_dir", "x", "--logging_steps=10", "--precompute_ref_log_probs",
             "--report_to", "none", "--no_remove_unused_columns", "--deepspeed", "z3.json", "--bf16"]  # fmt: skip
    config, said = arrived("dpo", *words)
    assert (config.model, config.dtype, config.report_to) == ("m/a", "bfloat16", "none")
    assert said.startswith("note: what the command line says and does not say:\n") and "--epochs 1.0 (TRL: 3)" in said
    for typed in ("--output_dir: the artifact", "--logging_steps: every", "--precompute_ref_log_probs: ",
                  "--no_remove_unused_columns: rows", "--deepspeed: accelerate"):  # fmt: skip
        assert typed in said
    assert arrived("dpo", *words, "--quiet")[1] == "" == arrived("dpo", "--learning_rate", "1")[1]


def test_their_defaults_are_those_of_the_libraries_at_hand():
    trl, transformers = pytest.importorskip("trl"), pytest.importorskip("transformers")
    classes = {"sft": trl.SFTConfig, "train-rm": trl.RewardConfig, "dpo": trl.DPOConfig, "kto": trl.KTOConfig,
               "ppo": trl.GRPOConfig}  # fmt: skip
    for command, cls in classes.items():
        theirs = {field.name: field.default for field in dataclasses.fields(cls)}
        assert str(theirs["learning_rate"]) == spelling.TRL_LR[command]
        assert (theirs["seed"], theirs["lr_scheduler_type"], theirs["num_train_epochs"]) == (42, "linear", 3)
    theirs = {field.name: field.default for field in dataclasses.fields(trl.DPOConfig)}
    assert {name: f"{theirs[name]:g}" for name in ("beta", "label_smoothing")}.items() <= spelling.LOSS_DEFAULTS.items()
    theirs = {field.name: field.default for field in dataclasses.fields(transformers.TrainingArguments)}
    assert str(theirs["learning_rate"]) == spelling.FACTORY_DEFAULTS["lr"]
    theirs = {field.name: str(field.default) for field in dataclasses.fields(trl.ModelConfig)}
    assert {name: theirs[there] for name, there in (("lora_rank", "lora_r"), ("lora_alpha", "lora_alpha"),
            ("lora_dropout", "lora_dropout"))} == spelling.TRL_LORA  # fmt: skip


def test_a_file_that_leaves_things_out_is_answered_as_there_or_told(from_file):
    said = from_file("dpo", "model_name_or_path: m\nuse_peft: true\n")[1]
    assert (
        "--lr 1e-06, with adapters 1e-05, of small models 0.0001 (TRL: 1e-06)" in said
        and "--lora-target all-linear (TRL: q_proj and" in said
    )
    said = from_file("dpo", "stage: dpo\nfinetuning_type: lora\n")[1]
    assert (
        "(LLaMA-Factory: 5e-05)" in said
        and "--max-length 1024 (LLaMA-Factory: 2048)" in said
        and "--lora-target" not in said
    )
    config, said = from_file("dpo", "lora_r: 16\nlearning_rate: 1\n")
    assert config.lora_rank == 0 and "lora_r: without use_peft: true all weights are trained" in said
    config, said = from_file("dpo", "lora_r: 16\n", "--lora-rank", "8")
    assert config.lora_rank == 8 and "lora_r: " not in said
    assert from_file("dpo", "lora_r: 16\n", "--use_peft")[0].lora_rank == 16
    config, said = from_file("dpo", "stage: dpo\n")
    assert config.lora_rank == 8 and "finetuning_type: LoRA" in said
    config, said = from_file("dpo", "max_length: 512\nmax_prompt_length: 128\n")
    assert config.max_length == 512 and "max_prompt_length: no separate limit, as in TRL now" in said
    assert from_file("ppo", "max_prompt_length: 128\n")[0].max_prompt_length == 128
    said = from_file("dpo", "stage: dpo\npref_loss: simpo\n")[1]
    assert "--beta 2 (LLaMA-Factory: 0.1), --simpo-gamma 1 (LLaMA-Factory: 0.5)" in said
    said = from_file("dpo", "loss_type: robust\nbeta: 0.1\nlogging_steps: 5\n")[1]
    assert "--label-smoothing 0.1 (TRL: 0)" in said and "--beta" not in said and "--simpo-gamma" not in said


def test_no_limit_of_theirs_is_not_passed_over_in_silence(from_file):
    config, said = from_file("dpo", "max_length: null\n")
    assert config.max_length == 1024 and "max_length: null is no limit there" in said
    assert "no limit" not in from_file("dpo", "max_length: null\n", "--max-length", "4096")[1]


@pytest.mark.parametrize(
    ("text", "words", "dropped"),
    [
        ("finetuning_type: full\nlora_target: all\nuse_rslora: true\n", (), "lora_target, use_rslora"),
        ("lora_r: 16\nlora_dropout: 0.05\nlora_target_modules: [q_proj]\n", (), "lora_target_modules, lora_dropout"),
        ("lora_r: 16\nlora_alpha: 32\n", ("--use_peft", "false"), "lora_alpha"),
        ("use_peft: true\nlora_alpha: 8\n", ("--lora-rank", "0"), "lora_alpha"),
        ("lora_rank: 0\nadapter: dora\nlora_dropout: 0.0\n", (), "adapter"),
        (
            "model_name_or_path: m\nlora_alpha: 32\nlora_dropout: 0.1\nlora_target_modules: [q_proj]\n",
            (),
            "lora_alpha, lora_target_modules, lora_dropout",
        ),
    ],
)
def test_what_a_file_says_of_an_adapter_is_left_out_where_all_weights_are_trained(from_file, text, words, dropped):
    config, said = from_file("sft", text, *words)
    found = (config.lora_rank, config.lora_alpha, config.lora_target, config.lora_dropout, config.adapter)
    assert found == (0, None, [], 0.0, "lora") and "--lora-target all-linear" not in said
    assert f"  {dropped}: all weights are trained, without an adapter" in said


def test_an_adapter_of_axolotl_s_is_trained_without_use_peft(from_file):
    config, said = from_file("sft", "base_model: m\nadapter: lora\nlora_r: 32\nlora_alpha: 8\n")
    assert (config.lora_rank, config.lora_alpha, config.adapter) == (32, 8, "lora") and "lora_r" not in said
    config, _ = from_file("sft", "base_model: m\nload_in_4bit: true\nadapter: qlora\nlora_r: 32\n")
    assert (config.lora_rank, config.load_in_4bit, config.adapter) == (32, True, "lora")
    config, said = from_file("sft", "base_model: m\nadapter:\nlora_r: 32\n")
    assert config.lora_rank == 0 and "lora_r: without use_peft" in said


def test_of_an_adapter_what_the_line_says_stays_and_so_does_what_a_file_says_without_a_rank(from_file):
    assert from_file("sft", "lora_rank: 0\nlora_alpha: 8\n", "--lora-alpha", "4")[0].lora_alpha == 4
    assert from_file("sft", "lora_alpha: 8\n")[0].lora_alpha == 8


def test_ppo_has_not_the_dropout_of_their_adapters(arrived):
    config, said = arrived("ppo", "--use_peft")
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout) == (16, 32.0, 0.0) and config.resolved()
    assert "TRL's lora_dropout: ppo trains without dropout" in said
    assert arrived("ppo", "--use_peft", "--lora_dropout", "0.1")[0].lora_dropout == 0.1  # which is refused there


def test_train_is_the_only_split_of_a_file(prefcli, own_folder, jsonl):
    jsonl("a.jsonl", PAIR, PAIR | {"prompt": "And the plate?"})
    for text in ("dataset_name: a.jsonl\ndataset_train_split: train\n", "datasets: [{path: a.jsonl, split: train}]\n"):
        write(own_folder / "c.yaml", f"model_name_or_path: tiny\ndtype: bfloat16\n{text}")
        result = prefcli("dpo", "--config", "c.yaml", "--dry-run")
        assert result.exit_code == 0, result.stderr
        assert "all weights, bfloat16, adamw at" in result.stderr  # what is no default of the plan is said
    write(own_folder / "c.yaml", "datasets: [{path: a.jsonl, split: test}]\nlr: x\n")
    refused(prefcli("dpo", "--config", "c.yaml"), "line 1: datasets: --split test: a.jsonl is one file", "line 2: lr")


# Data sets of dataset_info.json

BAD_TO_GOOD = {"columns": {"prompt": "instruction", "query": "input", "chosen": "rejected", "rejected": "chosen"}}


@pytest.fixture
def registered(from_file, own_folder):
    """`registered("dpo", {…}, …)`: the config of a file that names each entry as a data set, and what was said."""

    def run(command, *entries, more=""):
        named = {f"set{at}": {"file_name": f"{at}.json"} | entry for at, entry in enumerate(entries)}
        write(own_folder / "data" / "dataset_info.json", json.dumps(named))
        return from_file(command, f"template: llama3\ndataset: {','.join(named)}\n{more}")

    return run


@pytest.mark.parametrize(
    ("command", "entry", "row", "expected"),
    [
        (
            "dpo",
            BAD_TO_GOOD,
            {"instruction": "Q", "input": "more", "chosen": "bad", "rejected": "good"},
            {"prompt": "Q\nmore", "chosen": "good", "rejected": "bad"},
        ),
        (
            "train-rm",
            {"ranking": True, "columns": {"prompt": "q", "chosen": "output_good", "rejected": "output_bad"}},
            {"q": "Q", "output_good": "good", "output_bad": "bad"},
            {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        ),
        (
            "kto",
            {"columns": {"prompt": "instruction", "response": "output", "kto_tag": "label"}},
            {"instruction": "Q", "output": "A", "label": False},
            {"prompt": "Q", "completion": "A", "label": False},
        ),
        (
            "kto",
            {"columns": {"prompt": "q", "response": "r", "kto_tag": "ok"}},
            {"q": "Q", "r": "A", "ok": True},
            {"prompt": "Q", "completion": "A", "label": True},
        ),
        (
            "sft",
            {
                "formatting": "sharegpt",
                "columns": {"messages": "talk", "system": None},
                "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user"},
            },
            {"talk": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "output": "B"},
            {"prompt": "Q", "completion": "A"},
        ),
        (
            "dpo",
            {"formatting": "sharegpt", "columns": {"messages": "talk", "chosen": "w", "rejected": "l"}},
            {"talk": [{"from": "human", "value": "Q"}], "w": {"from": "gpt", "value": "A"},
             "l": {"from": "gpt", "value": "B"}},
            {"prompt": "Q", "chosen": "A", "rejected": "B"},
        ),
    ],
)  # fmt: skip
def test_the_columns_of_dataset_info_are_followed(registered, own_folder, command, entry, row, expected):
    config, said = registered(command, entry)
    write(own_folder / "data" / "0.json", json.dumps([row]))
    assert "dataset_info.json: read with --map" in said
    (read,) = read_dataset(config.data, BY_COMMAND[command].purpose, **read_as(config)).rows
    assert read.prompt[-1]["content"] == expected.pop("prompt")
    assert {name: getattr(read, name) for name in expected} == expected


def test_data_sets_that_one_map_does_not_read_are_refused_by_name(registered, prefcli, own_folder):
    config, _ = registered("dpo", BAD_TO_GOOD, BAD_TO_GOOD, more="eval_dataset: set1\n")
    assert config.map == ["chosen=rejected", "rejected=chosen"] and config.eval_data == "data/1.json"
    for entries, parts in (
        ((BAD_TO_GOOD, {}), ["line 2: dataset: 'set0' and 'set1' have other columns", "there is one --map for all"]),
        (({"split": "a"}, {"split": "b"}), ["have other splits", "there is one --split for all"]),
        (
            ({"tags": {"user_tag": "gpt", "system_tag": "system"}},),
            ["of 'set0'", "tags.user_tag gpt cannot be applied"],
        ),
        (({"columns": {"prompt": "p", "images": "i"}},), ["columns.images"]),
        (({"subset": "s", "num_samples": 9},), ["subset, num_samples"]),
    ):
        with pytest.raises(AssertionError):
            registered("dpo", *entries)
        message = refused(prefcli("dpo", "--config", "theirs.yaml"), *parts)
        assert "system_tag" not in message
    config = registered("dpo", BAD_TO_GOOD, {}, more="map: [chosen=a]\n")[0]
    assert config.map == ["chosen=a"]


def test_a_template_of_theirs_is_one_for_plain_prompts_too(registered):
    config, said = registered("dpo", {})
    assert config.as_chat and "template: the model's own chat template" in said
    assert registered("dpo", {}, more="as_chat: false\n")[0].as_chat is False


def test_the_plan_does_not_say_both_that_a_template_is_used_and_that_none_is(prefcli, own_folder, jsonl):
    jsonl("a.jsonl", PAIR)
    for template, plain in (("llama3", False), ("empty", True)):
        write(own_folder / "c.yaml", f"model: tiny\nfinetuning_type: full\ntemplate: {template}\ndata: a.jsonl\n")
        result = prefcli("dpo", "--config", "c.yaml", "--dry-run")
        assert result.exit_code == 0, result.stderr
        assert ("no chat template is applied" in result.stderr) == plain
        assert ("the model's own chat template and tokens are used" in result.stderr) != plain


# What is typed in a hurry


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("dpo lf.yaml", ["unexpected argument lf.yaml (no option before it)", "hint: --config lf.yaml"]),
        ("dpo a.jsonl --lr 1", ["hint: --data a.jsonl"]),
        ("ppo a.jsonl", ["hint: --prompts a.jsonl"]),
        ("sweep dpo lf.yaml", ["--config lf.yaml"]),
        ("DPO --data x", ["no such command: DPO", "did you mean dpo?"]),
        ("Train_RM", ["did you mean train-rm?"]),
        ("GRPO", [names.COMMANDS["grpo"]]),
        ("trl dpo", ["prefcli sft, train-rm, ppo, dpo, orpo and kto take TRL's options"]),
        ("config grpo", ["no such command: grpo", names.COMMANDS["grpo"]]),
        ("config DPO", ["did you mean dpo?"]),
        ("sweep grpo --seeds 2", ["no such stage: grpo", names.COMMANDS["grpo"]]),
    ],
)
def test_what_was_meant_is_said(prefcli, own_folder, words, parts):
    write(own_folder / "a.jsonl", "")
    refused(prefcli(*words.split()), *parts)


# Their files. Keys and values as their examples have them, written here: LLaMA-Factory's share a frame.

FRAME = """trust_remote_code: true, do_train: true, template: qwen3_nothink, cutoff_len: 2048, max_samples: 1000,
preprocessing_num_workers: 16, dataloader_num_workers: 4, output_dir: saves/x, logging_steps: 10, save_steps: 500,
plot_loss: true, overwrite_output_dir: true, save_only_model: false, report_to: none, per_device_train_batch_size: 1,
gradient_accumulation_steps: 8, learning_rate: 1.0e-4, num_train_epochs: 3.0, lr_scheduler_type: cosine,
warmup_ratio: 0.1, bf16: true, ddp_timeout: 180000000, resume_from_checkpoint: null"""
LORA = "finetuning_type: lora, lora_rank: 16, lora_target: all"
FACTORY = [
    ("sft", f"model_name_or_path: m/a, stage: sft, {LORA}, dataset: 'identity,alpaca_en_demo'"),
    ("sft", f"model_name_or_path: m/a, stage: sft, {LORA}, dataset: identity, deepspeed: ds_z3.json"),
    ("sft", f"model_name_or_path: m/a, stage: sft, {LORA}, dataset: identity, ray_run_name: r, ray_num_workers: 4, "
     "ray_storage_path: s, placement_strategy: PACK, resources_per_worker: {GPU: 1}"),
    ("sft", f"model_name_or_path: m/a, stage: sft, {LORA}, dataset: identity, quantization_bit: 4, "
     "quantization_method: bnb, double_quantization: false"),
    ("sft", "model_name_or_path: m/a, stage: sft, finetuning_type: full, dataset: identity, deepspeed: ds_z3.json"),
    ("sft", "model_name_or_path: m/a, stage: sft, finetuning_type: full, dataset: identity, use_galore: true, "
     "galore_layerwise: true, galore_target: all, galore_rank: 128, galore_scale: 2.0, pure_bf16: true"),
    ("sft", "model_name_or_path: m/a, stage: sft, finetuning_type: full, dataset: identity, use_badam: true, "
     "badam_mode: layer, badam_switch_mode: ascending, badam_switch_interval: 50, badam_verbose: 2"),
    ("sft", "model_name_or_path: m/a, stage: sft, finetuning_type: freeze, freeze_trainable_layers: 8, "
     "freeze_trainable_modules: all, use_llama_pro: true, dataset: identity"),
    ("sft", f"model_name_or_path: m/a, stage: sft, {LORA}, loraplus_lr_ratio: 16.0, dataset: identity, val_size: "
     "0.1, per_device_eval_batch_size: 1, eval_strategy: steps, eval_steps: 500"),
    ("sft", f"model_name_or_path: m/a, stage: sft, {LORA}, pissa_init: true, pissa_iter: 16, pissa_convert: true, "
     "dataset: identity"),
    ("sft", "model_name_or_path: m/a, stage: sft, finetuning_type: oft, oft_block_size: 32, oft_target: all, "
     "dataset: identity, flash_attn: fa2"),
    ("sft", "model_name_or_path: m/a, stage: sft, finetuning_type: full, fp8: true, fp8_backend: torchao, "
     "fp8_enable_fsdp_float8_all_gather: true, disable_gradient_checkpointing: false, dataset: identity"),
    ("sft", f"model_name_or_path: m/a, stage: sft, {LORA}, image_max_pixels: 262144, video_max_pixels: 16384, "
     "freeze_vision_tower: true, freeze_multi_modal_projector: true, freeze_language_model: false, dataset: "
     "mllm_demo"),
    ("sft", f"model_name_or_path: m/a, stage: sft, {LORA}, use_kt: true, kt_cpu_activation: retain, kt_config: "
     "{kt_backend: x}, overwrite_cache: true, packing: false, seed: 1234, dataset: identity"),
    ("sft", f"model_name_or_path: m/a, stage: pt, {LORA}, dataset: c4_demo"),
    ("dpo", f"model_name_or_path: m/a, stage: dpo, {LORA}, pref_beta: 0.1, pref_loss: sigmoid, dataset: dpo_en_demo"),
    ("orpo", f"model_name_or_path: m/a, stage: dpo, {LORA}, pref_beta: 0.1, pref_loss: orpo, dataset: dpo_en_demo"),
    ("kto", f"model_name_or_path: m/a, stage: kto, {LORA}, pref_beta: 0.1, dataset: kto_en_demo"),
    ("train-rm", f"model_name_or_path: m/a, stage: rm, {LORA}, dataset: dpo_en_demo, val_size: 0.05"),
    ("ppo", f"model_name_or_path: m/a, stage: ppo, reward_model: saves/reward, {LORA}, dataset: identity, "
     "max_new_tokens: 512, top_k: 0, top_p: 0.9"),
]  # fmt: skip
TRL = [
    ("sft", "model_name_or_path: m/a, dataset_name: o/d, learning_rate: 2.0e-4, num_train_epochs: 1, packing: true,"
     " per_device_train_batch_size: 2, gradient_accumulation_steps: 8, gradient_checkpointing: true, "
     "eval_strategy: steps, eval_steps: 100, use_peft: true, lora_r: 32, lora_alpha: 16, output_dir: x, "
     "push_to_hub: true"),
    ("sft", "model_name_or_path: m/a, dtype: bfloat16, attn_implementation: flash_attention_2, dataset_name: o/d, "
     "dataset_num_proc: 12, max_length: 4096, bf16: true, do_eval: true, gradient_checkpointing_kwargs: "
     "{use_reentrant: false}, hub_model_id: x, hub_strategy: every_save, log_level: info, logging_strategy: "
     "steps, logging_steps: 5, lr_scheduler_type: cosine, max_steps: -1, overwrite_output_dir: true, "
     "remove_unused_columns: true, report_to: [wandb], save_strategy: steps, save_steps: 100, "
     "save_total_limit: 1, seed: 42, warmup_ratio: 0.1, use_liger_kernel: true, assistant_only_loss: true, "
     "eos_token: e, tf32: true"),
    ("sft", "model_name_or_path: m/a, dataset_name: o/d, load_in_4bit: true, use_peft: true, lora_r: 24, "
     "lora_alpha: 8, lora_dropout: 0.05, lora_target_modules: [q_proj, k_proj], lora_modules_to_save: null, "
     "optim: paged_adamw_8bit, use_bnb_nested_quant: false, model_revision: main, padding_free: false, fsdp:"
     " '', ddp_timeout: 1800"),
    ("sft", "model_name_or_path: m/a, datasets: [{path: o/d, split: train, columns: [messages]}], streaming: false,"
     " test_split_size: 0.1, chat_template_path: t, loss_type: chunked_nll, neftune_noise_alpha: 5"),
    ("dpo", "model_name_or_path: m/a, dataset_name: o/d, dataset_train_split: train, dataset_test_split: test, "
     "learning_rate: 5.0e-7, beta: 0.01, loss_type: sigmoid, per_device_train_batch_size: 16, "
     "gradient_accumulation_steps: 2, per_device_eval_batch_size: 8, max_length: 1024, max_prompt_length: "
     "512, optim: adamw_torch, warmup_ratio: 0.1, logging_first_step: true, no_remove_unused_columns: true, "
     "precompute_ref_log_probs: true, disable_dropout: true"),
    ("dpo", "model_name_or_path: m/a, dataset_name: o/d, loss_type: [sigmoid, bco_pair, sft], loss_weights: [0.8, "
     "0.2, 1.0], use_weighting: false, ld_alpha: null, f_divergence_type: reverse_kl, sync_ref_model: false,"
     " label_smoothing: 0.0, truncation_mode: keep_start, generate_during_eval: false, "
     "load_best_model_at_end: false, output_dir: x"),
    ("dpo", "model_name_or_path: m/a, dataset_name: o/d, loss_type: ipo, learning_rate: 5.0e-6, use_peft: true, "
     "lora_target_modules: all-linear, warmup_steps: 0.1, adam_beta1: 0.9, adam_beta2: 0.999, max_grad_norm:"
     " 1.0, weight_decay: 0.0, deepspeed: z3.json, run_name: r, group_by_length: true, dataloader_drop_last:"
     " true"),
    ("kto", "model_name_or_path: m/a, dataset_name: o/d, desirable_weight: 1.0, undesirable_weight: 0.5, beta: 0.1,"
     " loss_type: kto, per_device_train_batch_size: 4, num_train_epochs: 1, learning_rate: 5e-7, eval_steps:"
     " 0.2, output_dir: x, train_sampling_strategy: sequential, dataset_config: c"),
    ("train-rm", "model_name_or_path: m/a, dataset_name: o/d, center_rewards_coefficient: 0.01, max_length: 2048, "
     "per_device_train_batch_size: 16, gradient_checkpointing: true, learning_rate: 1.0e-5, lora_task_type: "
     "SEQ_CLS, use_peft: true, eval_strategy: 'no', pad_to_multiple_of: 8, model_init_kwargs: null"),
    ("ppo", "model_name_or_path: m/a, dataset_name: o/d, reward_model_name_or_path: rm, num_generations: 8, beta: "
     "0.04, max_completion_length: 256, temperature: 0.7, use_vllm: true, vllm_mode: colocate, "
     "vllm_gpu_memory_utilization: 0.3, num_iterations: 1, epsilon: 0.2, scale_rewards: group, loss_type: "
     "dapo, top_p: 1.0, log_completions: true, steps_per_generation: 4, per_device_train_batch_size: 16, "
     "gradient_accumulation_steps: 4"),
]  # fmt: skip


# Values that ask for what is done here anyway, where the key is no other word for an option.
OURS = {"bf16": ["false"], "loss_type": ["kto", "nll", "chunked_nll", "sigmoid"], "pref_loss": ["sigmoid"],
        "stage": list(names.STAGES), "finetuning_type": ["lora", "full"], "use_peft": ["true"],
        "quantization_method": ["bnb"], "max_steps": ["-1"], "optim": ["adamw_torch"],
        "assistant_only_loss": ["true"], "lora_dropout": ["0.05"]}  # fmt: skip


def test_thirty_files_of_theirs_are_read_and_no_key_is_dropped_in_silence(prefcli, own_folder, monkeypatch):
    """A key is explained where stderr names it. It is mapped where its value is ours without it, or another config (or
    a refusal) comes of leaving it out. What is refused by name is left out, and the rest read without it."""
    arrived = []
    monkeypatch.setattr("prefcli.cli.train.run", arrived.append)

    def read(command, keys):
        write(own_folder / "theirs.yaml", yaml.safe_dump(keys))
        arrived.clear()
        result = prefcli(command, "--config", "theirs.yaml")
        assert "Traceback" not in result.stderr and result.exit_code in (0, 2)
        return (arrived[0] if result.exit_code == 0 else None), result.stderr

    frame = yaml.load(f"{{{FRAME}}}", yaml.BaseLoader)
    files = [(command, frame | yaml.load(f"{{{text}}}", yaml.BaseLoader)) for command, text in FACTORY]
    files += [(command, yaml.load(f"{{{text}}}", yaml.BaseLoader)) for command, text in TRL]
    assert len(files) == 30 and {command for command, _ in files} == {"sft", "dpo", "orpo", "kto", "train-rm", "ppo"}
    keys, unknown, silent, tried = 0, [], [], set()
    for command, file in files:
        left = {key: None if value == "null" else value for key, value in file.items()}
        keys += len(left)
        config, told = read(command, left)
        while config is None:
            refused = [key for key in left if re.search(rf"\b{key}\b", told)]
            assert refused, told
            unknown += [(command, key) for key in refused if f"unknown key '{key}'" in told]
            left = {key: value for key, value in left.items() if key not in refused}
            config, told = read(command, left)
        for key, value in left.items():
            ours = {field.name: field.default for field in dataclasses.fields(config)}
            means_ours = value in OURS.get(key, []) or yaml.safe_load(str(value)) == ours.get(canonical(key, ours))
            means_ours |= key in ("bf16", "pure_bf16", "dtype") and config.dtype == "bfloat16"  # said twice
            if value is not None and not means_ours and not re.search(rf"\b{key}\b", told):
                once = (command, key, str(value))
                if (
                    once not in tried
                    and read(command, {other: left[other] for other in left if other != key})[0] == config
                ):
                    silent.append(once)
                tried.add(once)
    assert keys > 700 and len(unknown) <= 0.05 * keys, (keys, unknown)
    assert silent == []


@pytest.mark.parametrize(
    ("words", "count"),
    [(["a", "b", "-q"], 2), (["a", "--lr", "1"], 1), (["-", "-q"], 1), (["0.5", "-1", "-2e-3", "-v"], 3), (["-q"], 0)],
)
def test_the_values_of_a_list_end_where_an_option_begins(words, count):
    known = {"data": (list[str], Opt(""))}
    assert spelling.belonging("dataset_name", words, known) == count


def test_what_stands_after_a_list_of_theirs_is_an_argument_of_a_command_that_has_some(arrived):
    config, _ = arrived("compare", "--reward_model", "gold=judge", "ppo", "dpo", "--prompts", "p")
    assert (config.reward, config.refs) == (["gold=judge"], ["ppo", "dpo"])


@pytest.mark.parametrize("word", ["--no-packed=false", "--no_packed=true", "--no_bf16=false"])
def test_a_switch_that_is_turned_off_takes_no_value(prefcli, word):
    message = refused(prefcli("dpo", word), f"{word}: a --no- form takes no value")
    assert f"hint: --{word[5:].partition('=')[0]} or {word.partition('=')[0]}" in message


def test_only_a_switch_has_a_no_form(prefcli):
    for words in (["--no-lr", "3"], ["--no-lora_r=3"], ["--no-lora-target"]):
        refused(prefcli("dpo", *words), "--no-l")
    for name in ("report-to", "optim", "max-steps", "template", "loss_type", "stage"):
        refused(prefcli("dpo", f"--no-{name}", "--data", "x.jsonl"), "no such option", f"--{name} takes a value")


def test_a_list_of_one_is_that_value_and_stages_and_episodes_of_theirs_are_read(from_file):
    assert from_file("dpo", "report_to:\n- wandb\nbase_model: m\n")[0].report_to == "wandb"
    assert from_file("sft", "stage: pt\nmodel_name_or_path: m\n")[0].model == "m"
    text = "total_episodes: 1000\nper_device_train_batch_size: 4\ngradient_accumulation_steps: 8\n"
    config, _ = from_file("ppo", text)
    assert (config.batch_size, config.max_steps) == (32, 32)  # 31.25 rollouts
    assert from_file("ppo", text, "--max-steps", "5")[0].max_steps == 5
    assert from_file("ppo", text + "warmup_steps: 8\n")[0].warmup == 0.25
    assert from_file("ppo", text + "warmup_steps: 8\n", "--max-steps", "16")[0].warmup == 0.5


@pytest.mark.parametrize(
    ("command", "args", "said"),
    [
        ("ppo", ["--total_episodes", "1000"], "--max-steps rollouts of --batch-size answers each"),
        ("ppo", ["--total_episodes", "many", "--batch-size", "8"], "--max-steps rollouts"),
        ("export", ["sft", "out", "--config", "f.yaml"], "see --help for the names"),
        ("export", ["sft", "out", "--dry-run"], "see --help for the names"),
        ("chat", ["sft", "--prompt", "hi"], "see --help for the names"),
    ],
)
def test_a_hint_leads_nowhere_else(prefcli, command, args, said):
    refused(prefcli(command, *args), said)

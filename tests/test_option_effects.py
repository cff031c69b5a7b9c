"""Every training option reaches the place where it is used: TRL's arguments, the adapter, the PPO loop's weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from test_rl_ppo import PROMPTS, make, weights

from prefcli.config.ppo import PPOConfig
from prefcli.config.sft import SFTConfig
from prefcli.config.training import Optimizer
from prefcli.errors import PrefcliError
from prefcli.stages import trl_trainer


class Caught(PrefcliError):
    exit_code = 99


@pytest.fixture
def trainer_of(chain, prefcli, monkeypatch):
    """`trainer_of("dpo", *options)` is TRL's trainer as it stands when training would begin."""

    def run(stage, *options):
        words, caught = chain.args("dpo" if stage in ("kto", "orpo") else stage), []

        def stop(session, trainer, *_):
            caught.append(trainer)
            raise Caught("caught")

        monkeypatch.setattr(trl_trainer, "run", stop)
        result = prefcli({"rm": "train-rm"}.get(stage, stage), *words[1:], "--force", *options)
        assert result.exit_code == 99, result.stderr
        return caught[0]

    return run


# option → (what is typed, attribute of TRL's arguments, its value)
SHARED = [
    ("--lr", "0.007", "learning_rate", 0.007),
    ("--epochs", "3.5", "num_train_epochs", 3.5),
    ("--max-steps", "7", "max_steps", 7),
    ("--batch-size", "6", "per_device_train_batch_size", 6),
    ("--optim", "sgd", "optim", "sgd"),
    ("--lr-scheduler", "cosine", "lr_scheduler_type", "cosine"),
    ("--warmup", "0.25", "warmup_steps", 0.25),
    ("--weight-decay", "0.125", "weight_decay", 0.125),
    ("--max-grad-norm", "0.5", "max_grad_norm", 0.5),
    ("--seed", "11", "seed", 11),
    ("--gradient-checkpointing", None, "gradient_checkpointing", True),
    ("--dtype", "bfloat16", "bf16", True),
]
OPTIMIZERS = {"adamw": "adamw_torch", "adamw-8bit": "adamw_bnb_8bit", "adafactor": "adafactor", "sgd": "sgd"}


@pytest.mark.parametrize("stage", ["sft", "rm", "dpo", "kto", "orpo"])
def test_the_shared_options_reach_trl_in_every_stage(trainer_of, stage):
    args = trainer_of(stage, *(word for typed in SHARED for word in typed[:2] if word)).args
    found = {name: getattr(args, attribute) for name, _, attribute, _ in SHARED}
    assert found == {name: expected for name, *_, expected in SHARED}
    assert args.data_seed == 11  # the order of the rows


def test_each_optimizer_is_trls_of_that_name(monkeypatch, tmp_path):
    monkeypatch.setattr(trl_trainer.bitsandbytes, "show", lambda: None)
    assert set(get_args(Optimizer)) == set(OPTIMIZERS)
    for name, expected in OPTIMIZERS.items():
        inputs = SimpleNamespace(config=SFTConfig(optim=name), eval_data=None, name="sft")
        draft = SimpleNamespace(path=tmp_path, version=1)
        run: Any = SimpleNamespace(inputs=inputs, draft=draft, dtype=torch.float32, device=torch.device("cpu"))
        assert trl_trainer.arguments(run)["optim"] == expected


def test_grad_accum_divides_the_batch(trainer_of):
    args = trainer_of("dpo", "--batch-size", "8", "--grad-accum", "4").args
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (2, 4)


def test_a_batch_that_cannot_be_split_is_refused(chain, prefcli):
    result = prefcli(*chain.args("dpo"), "--force", "--batch-size", "8", "--grad-accum", "3")
    assert result.exit_code == 2 and "multiple of 3" in result.stderr


def test_lora_rank_and_alpha_reach_the_adapter(trainer_of):
    for stage in ("sft", "rm", "dpo"):
        config = trainer_of(stage, "--lora-rank", "3", "--lora-alpha", "5").model.peft_config["default"]
        assert (config.r, config.lora_alpha) == (3, 5)
    assert trainer_of("sft", "--lora-rank", "3").model.peft_config["default"].lora_alpha == 6


def test_held_out_rows_are_measured_as_often_as_told(chain, prefcli, trainer_of):
    trainer = trainer_of("dpo", "--eval-data", chain.data("held_out_pairs"), "--eval-every", "5")
    assert trainer.args.eval_steps == 5 and len(trainer.eval_dataset) > 0
    assert trainer_of("dpo").eval_dataset is None
    trainer = trainer_of("rm", "--eval-every", "5")  # the pairs that it holds out itself
    assert trainer.args.eval_steps == 5 and len(trainer.eval_dataset) == 8
    for stage, told in (("dpo", True), ("rm", False)):
        result = prefcli(*chain.args(stage), "--force", "--dry-run", "--eval-every", "5")
        assert ("--eval-every has no effect" in result.stderr) == told
    assert len(trainer_of("rm", "--eval-share", "0.5").train_dataset) < len(
        trainer_of("rm", "--eval-share", "0.1").train_dataset
    )


def test_dtype_is_that_of_frozen_models_while_trained_weights_stay_float32(trainer_of):
    trainer = trainer_of("dpo", "--dtype", "bfloat16")
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    held = {name: p.dtype for name, p in trainer.ref_model.named_parameters()}
    assert {kind for name, kind in held.items() if "proj" in name} == {torch.bfloat16}
    assert {kind for name, kind in held.items() if "norm" in name} == {torch.float32}


def test_max_length_cuts_answers(trainer_of):
    longest = max(len(row["input_ids"]) for row in trainer_of("sft").train_dataset)
    cut = trainer_of("sft", "--max-length", str(longest - 3)).train_dataset
    assert max(len(row["input_ids"]) for row in cut) == longest - 3


def test_max_rows_takes_the_first_rows_alone(trainer_of):
    few = trainer_of("sft", "--max-rows", "3").train_dataset
    assert [row["input_ids"] for row in few] == [row["input_ids"] for row in trainer_of("sft").train_dataset][:3]


def test_the_options_of_ppos_watchers_reach_those_of_a_run(chain, prefcli, monkeypatch):
    caught = []

    def stop(config):
        caught.append((config.kl_budget, config.value_warmup, config.advantage))
        raise Caught("caught")

    monkeypatch.setattr("prefcli.stages.ppo.of_ppo", stop)
    for words in (["--kl-budget", "7", "--value-warmup", "1"], ["--advantage", "rloo", "--num-generations", "2"]):
        assert prefcli(*chain.args("ppo"), "--force", *words).exit_code == 99
    assert caught == [(7.0, 1, "gae"), (10.0, 0, "rloo")]


# Every option that PPO reads while it trains, with a value that must show in the weights after two rollouts.
PPO_OPTIONS = {
    "kl_coef": 1.0, "clip_range": 0.001, "clip_range_value": 0.001, "vf_coef": 0.9, "entropy_coef": 0.3, "gamma": 0.5,
    "lam": 0.1, "ppo_epochs": 2, "minibatches": 3, "temperature": 1.7, "max_new_tokens": 3, "missing_eos_penalty": 9.0,
    "whiten_rewards": True, "optim": "sgd", "lr_scheduler": "constant", "warmup": 0.5, "weight_decay": 0.3,
    "max_grad_norm": 0.01, "seed": 3, "num_generations": 2, "kl_in": "loss",
    "kl_target": 0.01, "length_penalty": 1.0, "reward_clip": 0.5, "value_warmup": 1,
}  # fmt: skip
# Used in the stage (tests of chain, packed, groups, resume, alarms, engine, importance), or by accelerate and
# transformers; grad_accum must show in nothing, and kl_estimator has one value for each --kl-in.
ELSEWHERE = {
    "model", "lora_rank", "lora_alpha", "adapter", "load_in_4bit",
    "dtype", "device", "gradient_checkpointing", "epochs", "max_steps", "lr",
    "batch_size", "grad_accum", "packed", "tokens_per_row", "shard", "generation_batch", "name", "runs", "config",
    "dry_run", "force",
    "force_memory", "report_to",
    "json", "quiet", "debug", "prompts", "reward", "reward_weight", "standardise_rewards", "reference", "value_init",
    "max_prompt_length", "skip_bad", "split", "map", "as_chat", "save_every", "keep_state", "advantage", "on_alarm",
    "kl_budget", "layout", "carry_optimizer", "kl_estimator", "lora_target", "lora_dropout", "router_loss", "label",
    "generate", "importance_weights",
}  # fmt: skip


def test_no_option_of_ppo_is_left_out_of_this_file():
    assert set(PPO_OPTIONS) | ELSEWHERE == set(PPOConfig.__dataclass_fields__)


@pytest.fixture(scope="module")
def usual():
    return after_two_rollouts()


def after_two_rollouts(**options):
    ppo = make(**{"kl_coef": 0.2, "ppo_epochs": 4, **options})
    with torch.no_grad():  # so that there is a KL to pay for
        ppo.roles.reference.lm_head.weight.mul_(0.5)
    for _ in range(2):
        ppo.step(PROMPTS)
    return torch.cat([w.flatten() for w in weights(ppo)])


@pytest.mark.parametrize("name", PPO_OPTIONS)
def test_every_option_of_ppo_moves_the_weights_elsewhere(usual, name):
    assert not torch.allclose(after_two_rollouts(**{name: PPO_OPTIONS[name]}), usual, atol=1e-6)

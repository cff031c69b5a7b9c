"""--router-loss: the balancing loss of a mixture's routers, beside the loss and never in it, in both layouts alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from prefcli.models.logps import token_logps
from prefcli.models.packed import pack
from prefcli.models.rows import Rows, pad_rows
from prefcli.rl.ppo import PPO
from scripts.families import plain, zoo
from scripts.families.commands import prefcli
from scripts.families.rows import DEMOS, LABELLED, PAIRS, write

torch.set_num_threads(1)

EXPERTS, CHOSEN = 4, 2  # of the zoo's mixtral
COEFFICIENT, RATE = 0.5, 0.5
DATA = {"sft": "demos", "dpo": "pairs", "kto": "labelled", "ppo": "prompts"}
REWARD = "def longer(prompts, completions):\n    return [float(len(text)) for text in completions]\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("router")
    write(folder)
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    for name in ("mixtral", "mixtral-aux", "qwen2", "deepseek-v3"):
        zoo.build(name, folder / name)
    return folder


@pytest.fixture
def train(files, own_folder):
    def run(stage: str, model: Any, *options: Any, name: str = "made") -> Any:
        model = files / str(model) if (files / str(model)).is_dir() else model
        words = [stage, "--model", model, "--prompts" if stage == "ppo" else "--data", files / f"{DATA[stage]}.jsonl"]
        words += ["--batch-size", 4, "--max-steps", 1, "--warmup", 0, "--tokens-per-row", 4096, "--force"]
        words += ["--lr", RATE, "--optim", "sgd", "--max-grad-norm", 0, "--name", name]
        if stage == "ppo":
            words += ["--max-new-tokens", 6, "--minibatches", 1, "--ppo-epochs", 1, "--advantage", "rloo",
                      "--num-generations", 2, "--reward", f"python:{files / 'reward.py'}:longer"]  # fmt: skip
        return prefcli(*words, *options, runs=own_folder / "runs")

    return run


def balance_by_hand(model: Any, rows: list[list[int]]) -> torch.Tensor:
    """transformers' own loss of the routers' logits on each row alone: no padding, no row beside another."""
    each = [model(torch.tensor([ids]), output_router_logits=True, use_cache=False).router_logits for ids in rows]
    layers = tuple(torch.cat([one[layer].reshape(-1, EXPERTS) for one in each]) for layer in range(len(each[0])))
    return load_balancing_loss_func(layers, EXPERTS, CHOSEN)


def texts(encoder: Any, stage: str) -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of each row that a stage trains on; of a pair chosen, rejected."""
    sides = ("chosen", "rejected") if stage == "dpo" else ("completion",)
    rows = {"sft": DEMOS, "dpo": PAIRS, "kto": LABELLED}[stage]
    return [
        (encoder.prompt_ids(row["prompt"]), encoder.completion_ids(row["prompt"], row[side]))
        for row in rows
        for side in sides
    ]


def made(files: Path, folder: Path) -> tuple[Any, Any]:
    """The start in plain transformers, with the token that training added, and the tokenizer's encoder."""
    encoder = plain.encoder_of(folder)
    return plain.with_tokens(plain.open_model(files / "mixtral"), len(encoder.tokenizer)), encoder


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_the_balance_is_transformers_own_of_each_row_alone_packed_and_padded(files, stage):
    encoder = plain.encoder_of(files / "mixtral")
    model = plain.open_model(files / "mixtral")
    rows = texts(encoder, stage)  # the two answers of a pair share their prompt, which counts for both
    expected = balance_by_hand(model, [prompt + answer for prompt, answer in rows])
    padded = pad_rows([prompt for prompt, _ in rows], [answer for _, answer in rows], device=torch.device("cpu"))
    assert token_logps(model, padded).balance is None
    found = {"padded": token_logps(model, padded, balance=True).balance}
    assert pack(model) is None
    found["packed"] = token_logps(model, padded, balance=True).balance
    for layout, balance in found.items():
        torch.testing.assert_close(balance, expected, atol=1e-5, rtol=1e-5, msg=layout)
    assert abs(expected.item() - CHOSEN) > 1e-3  # routers that are not even


def halves(rows: list[list[int]]) -> list[tuple[list[list[int]], list[list[int]]]]:
    """Each way to part four rows, or four pairs of answers, in two."""
    four = [rows[i : i + len(rows) // 4] for i in range(0, len(rows), len(rows) // 4)]
    return [(four[0] + four[i], sum((four[k] for k in range(1, 4) if k != i), [])) for i in (1, 2, 3)]


def loss_by_hand(model: Any, encoder: Any, stage: str) -> torch.Tensor:
    each = [plain.logps(model, prompt, answer) for prompt, answer in texts(encoder, stage)]
    if stage == "sft":
        return -torch.cat(each).mean()
    sums = torch.stack([one.sum() for one in each])
    ratios = 0.1 * (sums - sums.detach())
    if stage == "dpo":
        return -logsigmoid(ratios[0::2] - ratios[1::2]).mean()
    signs = torch.tensor([1.0 if row["label"] else -1.0 for row in LABELLED])
    return (1 - torch.sigmoid(signs * ratios)).mean()  # of the first step, where the KL is 0


@pytest.mark.parametrize("options", [[], ["--no-packed"], ["--grad-accum", 2]])
@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_a_step_follows_the_gradient_of_loss_and_balance(files, train, stage, options, monkeypatch):
    monkeypatch.setattr(plain, "logits", plain.logits.__wrapped__)  # with gradients
    ran = train(stage, "mixtral", "--router-loss", COEFFICIENT, *options)
    assert ran.code == 0, ran.err
    model, encoder = made(files, ran.artifact / "model")
    rows = [prompt + answer for prompt, answer in texts(encoder, stage)]
    loss, balance = loss_by_hand(model, encoder, stage), balance_by_hand(model, rows)
    assert ran.first["loss"] == pytest.approx(float(loss), abs=1e-4)
    if "--grad-accum" in options:  # each part has a balance of its own: that of the halves that were drawn
        balances = [torch.stack([balance_by_hand(model, half) for half in both]).mean() for both in halves(rows)]
        balance = min(balances, key=lambda found: abs(float(found) - ran.first["router_loss"]))
    assert ran.first["router_loss"] == pytest.approx(float(balance), abs=1e-4)
    (loss + COEFFICIENT * balance).backward()
    after = plain.open_model(ran.artifact / "model")
    moved = 0.0
    for (name, before), now in zip(model.named_parameters(), after.parameters(), strict=True):
        expected = before - RATE * before.grad
        torch.testing.assert_close(now, expected, atol=2e-5, rtol=1e-4, msg=name)
        if "gate." in name or "router" in name:
            moved = max(moved, float((now - before).abs().max()))
    assert moved > 1e-4


@pytest.mark.parametrize("stage", ["sft", "dpo", "kto"])
def test_without_it_the_loss_is_the_same_and_nothing_is_logged(train, stage):
    without, beside = train(stage, "mixtral-aux"), train(stage, "mixtral-aux", "--router-loss", COEFFICIENT)
    assert without.code == beside.code == 0, without.err + beside.err
    assert without.first["loss"] == pytest.approx(beside.first["loss"], abs=1e-6)
    assert "router_loss" not in without.first and beside.first["router_loss"] > 1
    assert "router" in " ".join(beside.err.split())  # the plan says so
    if stage != "sft":
        assert without.first["loss"] == pytest.approx({"dpo": 0.693147, "kto": 0.5}[stage], abs=1e-6)


@pytest.mark.parametrize("options", [[], ["--no-packed"]])
def test_ppo_adds_the_balance_of_the_policy_on_its_rollout(files, train, monkeypatch, options):
    rollouts: list[Rows] = []
    step = PPO.step

    def watched(self, *args, **more):
        found = step(self, *args, **more)
        rollouts.append(self.last_rollout.rows)
        return found

    monkeypatch.setattr(PPO, "step", watched)
    without = train("ppo", "mixtral", *options)
    beside = train("ppo", "mixtral", "--router-loss", COEFFICIENT, *options, name="beside")
    assert without.code == beside.code == 0, without.err + beside.err
    one, other = rollouts
    assert torch.equal(one.input_ids, other.input_ids)
    model, _ = made(files, beside.artifact / "model")
    rows = [ids[:length].tolist() for ids, length in zip(one.input_ids, one.lengths)]
    balance = balance_by_hand(model, rows)
    balance.backward()
    logged = {name: value for name, value in beside.first.items() if "router" in name}
    assert list(logged.values()) == pytest.approx([float(balance)], abs=1e-4), beside.first
    assert not [name for name in without.first if "router" in name]
    assert without.first["loss/policy_avg"] == pytest.approx(beside.first["loss/policy_avg"], abs=1e-6)
    pairs = zip(plain.open_model(without.artifact / "model").parameters(),
                plain.open_model(beside.artifact / "model").parameters(), strict=True)  # fmt: skip
    for (name, start), (plainly, balanced) in zip(model.named_parameters(), pairs, strict=True):
        expected = torch.zeros_like(start) if start.grad is None else -RATE * COEFFICIENT * start.grad
        torch.testing.assert_close(balanced - plainly, expected, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("stage", DATA)
@pytest.mark.parametrize("model", ["qwen2", "deepseek-v3"])
def test_a_model_without_such_a_loss_is_refused(train, stage, model):
    ran = train(stage, model, "--router-loss", 0.01)
    assert ran.code == 2 and not ran.exception and not ran.began, ran.err
    told = " ".join(ran.err.split())
    assert "--router-loss 0.01: transformers computes no balancing loss of routers for" in told and model in told


def test_it_is_refused_under_deepspeed(train, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    ran = train("sft", "mixtral", "--router-loss", 0.01)
    assert ran.code == 2 and not ran.began and "--router-loss does not run under DeepSpeed" in ran.err, ran.err


def routers_in(folder: Path) -> tuple[Any, Any]:
    config = json.loads((folder / "config.json").read_text())
    return config.get("output_router_logits", False), config.get("router_aux_loss_coef")


@pytest.mark.parametrize(("model", "stages"), [("mixtral", ("sft",)), ("mixtral-aux", tuple(DATA))])
def test_the_saved_configuration_says_of_routers_what_the_start_says(files, train, model, stages, own_folder):
    expected = routers_in(files / model)
    assert expected[0] == (model == "mixtral-aux")
    for number, stage in enumerate(stages):
        ran = train(stage, model, "--router-loss", 0.1 * number, name=stage)
        assert ran.code == 0, ran.err
        assert routers_in(ran.artifact / "model") == expected, stage
    if model == "mixtral":
        return
    ran = prefcli(
        "train-rm", "--model", files / model, "--data", files / "pairs.jsonl", "--max-steps", 1, "--batch-size", 4,
        "--eval-share", 0, runs=own_folder / "runs",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert routers_in(ran.artifact / "model") == expected
    again = train("ppo", "sft@v1", "--reward", "rm@v1", "--advantage", "gae", "--num-generations", 1, name="again")
    assert again.code == 0, again.err
    assert [routers_in(again.artifact / part) for part in ("model", "value")] == [expected, expected]

"""ORPO: its terms against TRL's and against sums over tokens, its steps, its command."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from test_preference_losses import MODELS, PAIRS, arguments, gradients, logps_of
from tiny_models import letters, tiny_lm
from trl import DPOConfig as TRLDPOConfig

from prefcli.config.orpo import ORPOConfig
from prefcli.losses import odds_ratio
from prefcli.models.packed import pack
from prefcli.stages.orpo import FINAL, ORPOSteps

WEIGHTS = (1.0, 0.0, 2.5)


def test_the_odds_ratio_is_trls_and_its_own_formula():
    from trl.experimental.orpo import ORPOTrainer

    chosen = torch.tensor([-0.01, -0.7, -2.0, -30.0, -1e-6], dtype=torch.double, requires_grad=True)
    rejected = torch.tensor([-3.0, -0.2, -2.0, -0.5, -4.0], dtype=torch.double, requires_grad=True)
    found = odds_ratio(chosen, rejected)
    odds = [[math.exp(x) / (1 - math.exp(x)) for x in side.tolist()] for side in (chosen, rejected)]
    assert found.tolist() == pytest.approx([math.log(1 + r / c) for c, r in zip(*odds)], rel=1e-8)
    theirs, *_ = ORPOTrainer.odds_ratio_loss(
        SimpleNamespace(beta=1.0, accelerator=SimpleNamespace(device="cpu")), chosen, rejected
    )
    assert found.tolist() == pytest.approx((-theirs).tolist(), rel=1e-4)
    found.sum().backward()
    h = 1e-7
    for i, (c, r) in enumerate(zip(*odds)):
        assert chosen.grad[i].item() == pytest.approx(-(r / (c + r)) * (1 + c), rel=1e-4), i  # d log odds = 1 + odds
        up, down = (odds_ratio(chosen.detach()[i], rejected.detach()[i] + s * h).item() for s in (1, -1))
        assert rejected.grad[i].item() == pytest.approx((up - down) / 2 / h, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("logp", [0.0, -1e-12, -1e4])
def test_an_answer_that_is_certain_or_impossible_leaves_loss_and_gradient_finite(logp):
    sides = [torch.tensor([value], requires_grad=True) for value in (logp, -1.0)]
    for chosen, rejected in (sides, sides[::-1]):
        loss = odds_ratio(chosen, rejected)
        loss.sum().backward()
        assert torch.isfinite(loss).all() and torch.isfinite(chosen.grad).all() and torch.isfinite(rejected.grad).all()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_loss_and_gradient_of_a_step_are_sums_over_tokens(beta, packed, tmp_path):
    policy = tiny_lm(seed=1, **MODELS)
    alone, expected = copy.deepcopy(policy), 0.0
    for pair, weight in zip(PAIRS, WEIGHTS):
        (c, n), (r, m) = (logps_of(alone, pair, side) for side in ("chosen_ids", "rejected_ids"))
        odds = [torch.exp(x) / (1 - torch.exp(x)) for x in (c / n, r / m)]
        expected = expected + weight * (-c / n + beta * torch.log(1 + odds[1] / odds[0])) / len(PAIRS)
    expected.backward()
    if packed:
        assert pack(policy) is None
    rows = [{**pair, "weight": weight} for pair, weight in zip(PAIRS, WEIGHTS)]
    trainer = ORPOSteps(
        model=policy, processing_class=letters(), tokens_per_row=12, config=ORPOConfig(beta=beta),
        args=arguments(TRLDPOConfig, tmp_path, len(rows), precompute_ref_log_probs=True, beta=beta),
        train_dataset=Dataset.from_list(rows),
    )  # fmt: skip
    loss, slopes = gradients(trainer, {"examples": rows})
    assert loss == pytest.approx(float(expected), abs=1e-5)
    torch.testing.assert_close(slopes, [p.grad for p in alone.parameters() if p.grad is not None], atol=1e-5, rtol=1e-4)
    assert max(float(slope.abs().max()) for slope in slopes) > 1e-3


def test_the_command_makes_an_artifact_that_eval_and_dpo_take(chain, prefcli):
    pairs = chain.data("pairs")
    words = ["orpo", "--model", "sft@v1", "--data", pairs, "--eval-data", chain.data("held_out_pairs"),
             "--max-steps", "2", "--batch-size", "8"]  # fmt: skip
    path = chain.path_of(prefcli(*words))
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["stage"] == "orpo" and set(manifest["parents"]) == {"model"}
    measured = {*(f"eval_{name}" for name in FINAL), "eval_rewards/accuracies_ci95"}
    assert set(manifest["metrics"]) == {*FINAL, *measured}
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    found = next(row for row in rows if "loss" in row)
    assert found["loss"] == pytest.approx(found["sft_loss"] - 0.1 * found["log_odds_ratio"], rel=1e-5)
    assert json.loads(prefcli(*words, "--json").stdout)["reused"] is True
    assert prefcli("dpo", "--model", "orpo@v1", "--data", pairs, "--max-steps", "1", "--batch-size", "8").exit_code == 0
    assert "(orpo, " in prefcli("show", "orpo@v1").stdout

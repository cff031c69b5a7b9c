"""One figure, one definition: the same in the manifest, eval, score, the watchers; held-out ones whatever the batch."""

from __future__ import annotations

import ast
import copy
import json
import math
import random
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from test_preference_losses import arguments, logps_of, our_kto
from tiny_models import letters, tiny_lm, tiny_scorer
from torch import nn
from transformers.pytorch_utils import Conv1D
from trl import DPOConfig as TRLDPOConfig
from trl import RewardConfig as TRLRewardConfig
from trl import SFTConfig as TRLSFTConfig

from prefcli.config.dpo import DPOConfig
from prefcli.evaluation.agreement import _spearman
from prefcli.models.logps import sequence_scores, token_logps
from prefcli.models.rows import pad_rows
from prefcli.stages.dpo import DPOSteps
from prefcli.stages.reference import ReferenceLogps, hold_as_autocast, reference_at_work
from prefcli.stages.reward import RewardSteps, held_out_metrics
from prefcli.stages.sft import SFTSteps
from prefcli.stages.steps import pair_rows
from prefcli.statistics.pairs import accuracy, right
from prefcli.statistics.ranks import rank_correlation
from prefcli.statistics.sums import Sums
from prefcli.statistics.variety import distinct

ROOT = Path(__file__).parent.parent
MODELS = {"vocab": 4, "layers": 1}
DICE = random.Random(1)
PAIRS = [
    {"prompt_ids": [DICE.randrange(2) for _ in range(1 + i % 3)],
     "chosen_ids": [*(DICE.randrange(2) for _ in range(i % 4)), 2],
     "rejected_ids": [*(DICE.randrange(2) for _ in range((i + 2) % 5)), 2]}
    for i in range(13)
]  # fmt: skip
LABELLED = [
    {"prompt_ids": p["prompt_ids"], "completion_ids": p[side], "label": side == "chosen_ids"}
    for i, p in enumerate(PAIRS) for side in (["chosen_ids"] if i % 3 else ["rejected_ids"])
]  # fmt: skip


def test_ties_count_half_of_numbers_and_of_tensors():
    assert [right(x) for x in (2.0, 0.0, -0.1)] == [1.0, 0.5, 0.0]
    assert right(torch.tensor([2.0, 0.0, -0.1])).tolist() == [1.0, 0.5, 0.0]
    # and where it is known to which size a margin of 0 may be rounded
    assert [right(x, 0.25) for x in (0.5, 0.25, 0.0, -0.25, -0.5)] == [1.0, 0.5, 0.5, 0.5, 0.0]
    found = accuracy([2.0, 0.0, -1.0, 3.0])
    assert (found["accuracy"], found["margin"], found["pairs"]) == (0.625, 1.0, 4)


def test_distinct_counts_by_hand():
    assert distinct(["a b a b", "a b"], 2) == 2 / 4 and distinct(["a b c"], 3) == 1 and distinct(["", "one"], 2) == 0


def test_ranks_in_resamples_are_those_of_the_figure():
    """The bootstrap's vectorised formula on scores that repeat, against ranks that are counted."""
    a, b = ([DICE.randrange(6) / 2 for _ in range(30)] for _ in range(2))
    counts = torch.tensor([[DICE.randrange(3) for _ in range(4)] for _ in range(30)], dtype=torch.float64)
    found = _spearman([torch.tensor(values, dtype=torch.float64) for values in (a, b)], counts)
    for column, rho in zip(counts.T.tolist(), found.tolist()):
        drawn = [i for i, times in enumerate(column) for _ in range(int(times))]
        assert rho == pytest.approx(rank_correlation([a[i] for i in drawn], [b[i] for i in drawn]))
    assert rank_correlation([1.0, math.nan], [1.0, 2.0]) is None


def test_sums_are_over_rows():
    sums = Sums()
    sums.add({"a": (8.0, 8)})
    sums.add({"a": (0.0, 5), "b": (0.0, 0)})
    assert sums.means() == {"a": pytest.approx(8 / 13)}


def test_no_other_place_defines_them():
    """No second comparison of chosen with rejected scores, and no second distinct-n or rank correlation."""
    names = {"distinct", "rank_correlation", "ranks", "right", "accuracy"}
    for path in (ROOT / "prefcli").rglob("*.py"):
        if path.parent.name == "statistics":
            continue
        text = path.read_text(encoding="utf-8")
        assert "chosen > rejected" not in text and "> rejected" not in text, path
        defined = {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
        found = names & defined - ({"rank_correlation"} if path.name == "agreement.py" else set())  # adds an interval
        assert not found, (path, found)


def dpo(tmp_path, rows):
    policy, reference = tiny_lm(seed=1, **MODELS), tiny_lm(seed=2, **MODELS)
    numbered = [{**pair, "row": i} for i, pair in enumerate(PAIRS)]
    logps = [ReferenceLogps(len(PAIRS), None) for _ in range(2)]
    trainer = DPOSteps(
        model=policy, processing_class=letters(), tokens_per_row=40, config=DPOConfig(beta=0.5).resolved(),
        args=arguments(TRLDPOConfig, tmp_path, rows, precompute_ref_log_probs=True, beta=0.5,
                       per_device_eval_batch_size=rows),
        train_dataset=Dataset.from_list(numbered), eval_dataset=Dataset.from_list(numbered), references=logps,
    )  # fmt: skip
    for one in logps:
        one.model, one.run = reference, lambda: reference_at_work(reference, trainer.accelerator)
    found = trainer.evaluate()
    sides = ("chosen_ids", "rejected_ids")
    r = [[float(logps_of(policy, p, s)[0] - logps_of(reference, p, s)[0]) for s in sides] for p in PAIRS]
    return found, {
        "eval_loss": sum(math.log1p(math.exp(-0.5 * (c - x))) for c, x in r) / 13,
        "eval_rewards/accuracies": sum(1.0 if c > x + 1e-9 else 0.5 if abs(c - x) < 1e-9 else 0.0 for c, x in r) / 13,
        "eval_rewards/chosen": 0.5 * sum(c for c, _ in r) / 13,
    }


def rm(tmp_path, rows):
    model = tiny_scorer(seed=1, **MODELS)
    trainer = RewardSteps(
        model=model, train_dataset=Dataset.from_list(PAIRS), eval_dataset=Dataset.from_list(PAIRS),
        args=arguments(TRLRewardConfig, tmp_path, rows, per_device_eval_batch_size=rows),
        processing_class=letters(), tokens_per_row=40,
    )  # fmt: skip
    found = trainer.evaluate()
    margins = [float(s[0] - s[1]) for s in (sequence_scores(model, pair_rows([p], torch.device("cpu"))) for p in PAIRS)]
    manifest = held_out_metrics(model, PAIRS, rows, 40)
    ties = sum(1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in margins) / 13
    assert manifest["accuracy"] == pytest.approx(ties) and manifest["margin"] == pytest.approx(
        sum(margins) / 13, abs=1e-6
    )
    return found, {"eval_accuracy": ties, "eval_loss": sum(math.log1p(math.exp(-m)) for m in margins) / 13}


def sft(tmp_path, rows):
    model = tiny_lm(seed=1, **MODELS)
    demos = [{"input_ids": p["prompt_ids"] + p["rejected_ids"],
              "completion_mask": [0] * len(p["prompt_ids"]) + [1] * len(p["rejected_ids"])} for p in PAIRS]  # fmt: skip
    trainer = SFTSteps(
        model=model, train_dataset=Dataset.from_list(demos), eval_dataset=Dataset.from_list(demos),
        args=arguments(TRLSFTConfig, tmp_path, rows, per_device_eval_batch_size=rows),
        processing_class=letters(), tokens_per_row=40,
    )  # fmt: skip
    sums = [logps_of(model, p, "rejected_ids") for p in PAIRS]
    return trainer.evaluate(), {"eval_loss": -sum(float(lp) for lp, _ in sums) / sum(n for _, n in sums)}


def kto(tmp_path, rows):
    policy, reference = tiny_lm(seed=5, **MODELS), tiny_lm(seed=1, **MODELS)
    before = [11, *range(12)]  # the first prompt and the last one are the same
    held_out = [{**row, "other_ids": LABELLED[i]["completion_ids"]} for i, row in zip(before, LABELLED)]
    trainer = our_kto(
        tmp_path,
        policy,
        reference,
        rows,
        eval_dataset=Dataset.from_list([{**row, "row": i} for i, row in enumerate(LABELLED)]),
    )

    def ratio(row, name):
        return float(logps_of(policy, row, name)[0] - logps_of(reference, row, name)[0])

    z = max(0.0, sum(ratio(row, "other_ids") for row in held_out) / 13)
    assert z > 0
    signed = [(1 if row["label"] else -1) * (ratio(row, "completion_ids") - z) for row in held_out]
    good = [0.5 * ratio(row, "completion_ids") for row in held_out if row["label"]]
    return trainer.evaluate(), {
        "eval_loss": sum(1 - 1 / (1 + math.exp(-0.5 * s)) for s in signed) / 13, "eval_kl": z,
        "eval_rewards/chosen": sum(good) / len(good),
    }  # fmt: skip


@pytest.mark.parametrize("rows", [2, 5, 8, 13])
@pytest.mark.parametrize("stage", [dpo, rm, sft, kto])
def test_held_out_figures_are_sums_over_rows_by_their_number_whatever_the_batch(stage, rows, tmp_path):
    found, expected = stage(tmp_path, rows)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-5)


def test_a_run_logs_the_same_held_out_figures_for_every_batch_size(chain, prefcli, jsonl):
    rows = [json.loads(line) for line in open(chain.data("held_out_pairs"))][:13]
    held_out = jsonl("13.jsonl", *rows)
    found = []
    for size in (4, 8):
        path = chain.path_of(prefcli("train-rm", "--model", "sft@v1", "--data", chain.data("pairs"), "--max-steps", "1",
                                     "--batch-size", size, "--lr", "1e-9", "--eval-data", held_out))  # fmt: skip
        last = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()][-1]
        manifest = json.loads((path / "manifest.json").read_text())["metrics"]
        assert manifest["accuracy"] == pytest.approx(last["eval_accuracy"])
        found.append((last["eval_accuracy"], last["eval_loss"], last["eval_margin"]))
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert copy.copy(found[0][0]) * 13 == pytest.approx(round(found[0][0] * 26) / 2)  # halves of 13


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "gemma2", "neox"])
@pytest.mark.parametrize("exact", [True, False], ids=["from 16 bits", "from float32"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_model_held_as_autocast_computes_the_same_to_the_bit(architecture, exact, tied):
    model = tiny_lm(architecture, scale=0.5)
    if exact:
        model = model.bfloat16().float()
    if tied:
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    rows = pad_rows([[3, 4], [5]], [[6, 7, 1], [8, 1]])
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        before = token_logps(model, rows).logps
        hold_as_autocast(model, torch.bfloat16)
        assert torch.equal(token_logps(model, rows).logps, before)
    table = model.get_input_embeddings().weight
    assert table.dtype == (torch.bfloat16 if exact else torch.float32)
    linear = [m.weight for m in model.modules() if isinstance(m, (nn.Linear, Conv1D)) and m.weight is not table]
    assert linear and {weight.dtype for weight in linear} == {torch.bfloat16}

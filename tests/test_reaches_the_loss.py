"""Options that must reach the loss, from the command line to the first logged figure: against plain arithmetic."""

from __future__ import annotations

import json
import math
from statistics import fmean

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefcli.artifacts.places import TINY
from prefcli.data.encoder import Encoder

NEXT_TO_NOTHING = ["--lr", "1e-30", "--warmup", "0", "--lr-scheduler", "constant", "--max-steps", "1"]
WEIGHTS, OTHER_REWARD = (3.0, 0.0, 1.0, 2.0, 0.0, 1.0), (0.5, -1.0, 2.0, 0.0, 1.0, -0.25)


def sig(x):
    return 1 / (1 + math.exp(-x))


class Answers:
    """Σ log π, and tokens, of answers under a model: one sequence at a time, through transformers alone."""

    def __init__(self, path):
        self._model = AutoModelForCausalLM.from_pretrained(path).eval()
        self._encoder = Encoder(AutoTokenizer.from_pretrained(path))

    def of(self, prompt, answer, first=None):
        """`first`: the first token that counts; the answer's, unless another is said."""
        before, after = self._encoder.prompt_ids(prompt), self._encoder.completion_ids(prompt, answer)
        ids = before + after
        with torch.no_grad():
            table = torch.log_softmax(self._model(torch.tensor([ids])).logits[0].double(), -1)
        start = len(before) if first is None else first
        return sum(float(table[t - 1, ids[t]]) for t in range(start, len(ids))), len(ids) - start


@pytest.fixture
def world(chain, jsonl):
    """Six pairs with a weight and another reward's score, two held out, the start and another reference."""
    rows = [json.loads(line) for line in open(chain.data("pairs"))][:8]
    pairs = [
        {"prompt": row["prompt"], **{side: row[side][0]["content"] for side in ("chosen", "rejected")}} for row in rows
    ]
    weighed = [pair | {"w": w, "r": r} for pair, w, r in zip(pairs, WEIGHTS, OTHER_REWARD)]
    held_out = [pair | {"r": r} for pair, r in zip(pairs[6:], (1.5, -2.0))]
    (chain.folder / "r.py").write_text(
        "def score(prompts, completions, r, **_):\n"
        "    return [r[i] if i % 2 == 0 else 0.0 for i in range(len(completions))]\n"
    )
    chain.pairs, chain.held_out = weighed, held_out
    chain.train, chain.eval = jsonl("weighed.jsonl", *weighed), jsonl("held.jsonl", *held_out)
    chain.start, chain.other = Answers(chain.path("sft") / "model"), Answers(chain.path("ppo") / "model")
    return chain


def first(chain, prefcli, *command):
    """(the first step's figures, the held-out ones before anything has moved)."""
    path = chain.path_of(prefcli(*command, *NEXT_TO_NOTHING, "--batch-size", "6", "--eval-data", chain.eval,
                                 "--eval-every", "1"))  # fmt: skip
    step, held_out = (json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines())
    return step, held_out


def test_every_term_of_dpos_loss_comes_from_its_option(world, prefcli):
    """Weights, smoothing, the sft term, another reward's margin and share, β, on log-probabilities."""
    step, held_out = first(
        world, prefcli, "dpo", "--data", world.train, "--model", "sft@v1", "--reference-free", "--beta", "0.2",
        "--label-smoothing", "0.1", "--sft-weight", "0.3", "--weight-column", "w", "--reward",
        f"other=python:{world.folder / 'r.py'}:score", "--reward-weight", "other=0.25",
    )  # fmt: skip

    def loss(pair, weight):
        (c, n), (r, _) = (world.start.of(pair["prompt"], pair[side]) for side in ("chosen", "rejected"))
        z = (0.2 * (c - r) - 0.25 * pair["r"]) / 0.75
        return weight * (-0.9 * math.log(sig(z)) - 0.1 * math.log(sig(-z)) - 0.3 * c / n)

    mean = fmean(WEIGHTS)
    expected = fmean(loss(pair, pair["w"] / mean) for pair in world.pairs)
    assert step["loss"] == pytest.approx(expected, rel=1e-4)
    assert held_out["eval_loss"] == pytest.approx(fmean(loss(pair, 1.0) for pair in world.held_out), rel=1e-4)
    without = fmean(loss(pair, 1.0) for pair in world.pairs)
    assert abs(without - expected) > 0.05  # so that the weights can be missed


def test_simpos_options_reach_its_loss(world, prefcli):
    step, held_out = first(
        world, prefcli, "dpo", "--data", world.train, "--model", "sft@v1", "--loss", "simpo", "--beta", "1.5",
        "--simpo-gamma", "0.4", "--weight-column", "w",
    )  # fmt: skip

    def loss(pair):
        (c, n), (r, m) = (world.start.of(pair["prompt"], pair[side]) for side in ("chosen", "rejected"))
        return -math.log(sig(1.5 * (c / n - r / m) - 0.4))

    expected = fmean(pair["w"] / fmean(WEIGHTS) * loss(pair) for pair in world.pairs)
    assert step["loss"] == pytest.approx(expected, rel=1e-4)
    assert held_out["eval_loss"] == pytest.approx(fmean(map(loss, world.held_out)), rel=1e-4)


def test_another_reference_is_the_one_that_dpo_is_held_against_on_held_out_rows_too(world, prefcli):
    step, held_out = first(
        world, prefcli, "dpo", "--data", world.train, "--model", "sft@v1", "--reference", "ppo@v1", "--loss", "ipo",
        "--length-normalise", "--beta", "0.4",
    )  # fmt: skip

    def ratios(pair):
        for side in ("chosen", "rejected"):
            (mine, n), (theirs, _) = (model.of(pair["prompt"], pair[side]) for model in (world.start, world.other))
            yield (mine - theirs) / n

    def gap(pair):
        chosen, rejected = ratios(pair)
        return chosen - rejected

    for found, pairs, prefix in ((step, world.pairs, ""), (held_out, world.held_out, "eval_")):
        assert found[f"{prefix}loss"] == pytest.approx(fmean((gap(pair) - 1.25) ** 2 for pair in pairs), rel=1e-4)
        margin = fmean(0.4 * gap(pair) for pair in pairs)
        assert found[f"{prefix}rewards/margins"] == pytest.approx(margin, abs=1e-5) and abs(margin) > 1e-4


def test_orpos_weight_of_a_row_and_beta_reach_its_loss(world, prefcli):
    step, held_out = first(
        world, prefcli, "orpo", "--data", world.train, "--model", "sft@v1", "--beta", "0.4", "--weight-column", "w"
    )

    def loss(pair):
        (c, n), (r, m) = (world.start.of(pair["prompt"], pair[side]) for side in ("chosen", "rejected"))
        odds = [p / (1 - p) for p in (math.exp(c / n), math.exp(r / m))]
        return -c / n - 0.4 * math.log(sig(math.log(odds[0] / odds[1])))

    expected = fmean(pair["w"] / fmean(WEIGHTS) * loss(pair) for pair in world.pairs)
    assert step["loss"] == pytest.approx(expected, rel=1e-4)
    assert held_out["eval_loss"] == pytest.approx(fmean(map(loss, world.held_out)), rel=1e-4)


def test_ktos_weights_of_rows_and_of_kinds_reach_its_loss(world, prefcli, jsonl):
    """Against another reference, from which the mismatched answers are far enough for z₀ to be above 0."""
    rows = []
    for number, pair in enumerate(world.pairs):
        answer = pair["chosen" if number % 3 else "rejected"]
        rows.append({"prompt": pair["prompt"], "completion": answer, "label": bool(number % 3), "w": pair["w"]})
    step, held_out = first(
        world, prefcli, "kto", "--data", jsonl("labels.jsonl", *rows), "--model", "sft@v1", "--reference", "tiny",
        "--beta", "0.2", "--desirable-weight", "1.5", "--undesirable-weight", "0.5", "--weight-column", "w",
    )  # fmt: skip
    tiny = Answers(TINY)

    def loss(row, kl, weight):
        ratio = world.start.of(row["prompt"], row["completion"])[0] - tiny.of(row["prompt"], row["completion"])[0]
        kind, sign = (1.5, 1) if row["label"] else (0.5, -1)
        return weight * kind * (1 - sig(0.2 * sign * (ratio - kl)))

    assert step["kl"] > 0.5
    expected = fmean(loss(row, step["kl"], row["w"] / fmean(WEIGHTS)) for row in rows)
    assert step["loss"] == pytest.approx(expected, rel=1e-4)
    apart = [{"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"}
             for pair in world.held_out for side in ("chosen", "rejected")]  # fmt: skip
    ratios = []
    for place, row in enumerate(apart):  # each prompt with the nearest answer before it to another prompt
        before = next(apart[place - step] for step in range(1, 9) if apart[place - step]["prompt"] != row["prompt"])
        (mine, _), (theirs, _) = (model.of(row["prompt"], before["completion"]) for model in (world.start, tiny))
        ratios.append(mine - theirs)
    assert (
        held_out["eval_kl"] == pytest.approx(max(0.0, fmean(ratios)), rel=1e-4) != pytest.approx(step["kl"], rel=0.05)
    )
    expected = fmean(loss(row, held_out["eval_kl"], 1.0) for row in apart)
    assert held_out["eval_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("on_prompt", [False, True])
def test_sft_reads_the_answers_and_the_prompt_only_where_that_is_asked_for(world, prefcli, jsonl, on_prompt):
    demos = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in world.pairs]
    world.eval = jsonl(
        "held_demos.jsonl", *({"prompt": p["prompt"], "completion": p["chosen"]} for p in world.held_out)
    )
    option = ["--train-on-prompt"] if on_prompt else []
    step, held_out = first(world, prefcli, "sft", "--data", jsonl("d.jsonl", *demos), "--model", "sft@v1", *option)
    for found, rows in ((step["loss"], demos), (held_out["eval_loss"], world.held_out)):
        counted = [world.start.of(row["prompt"], row.get("completion") or row["chosen"], 1 if on_prompt else None)
                   for row in rows]  # fmt: skip
        expected = -sum(total for total, _ in counted) / sum(tokens for _, tokens in counted)
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("stage", ["sft", "rm", "ppo", "dpo"])
def test_tokens_a_second_are_the_runs_tokens_over_its_training(chain, stage):
    manifest = json.loads((chain.path(stage) / "manifest.json").read_text())
    rows = [json.loads(line) for line in (chain.path(stage) / "metrics.jsonl").read_text().splitlines()]
    tokens = rows[-1].get("num_tokens") or sum(8 * row["completions/mean_length"] for row in rows)
    resources = manifest["resources"]
    assert resources["tokens_per_second"] == pytest.approx(tokens / resources["train_seconds"], rel=0.01, abs=0.1)
    assert resources["steps"] == 2 and tokens > 50

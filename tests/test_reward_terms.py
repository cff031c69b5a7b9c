"""train-rm's loss with margins and with centred scores: against TRL's own trainer, and where they come from."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from conftest import data_of
from datasets import Dataset
from safetensors.torch import load_file
from test_preference_losses import PAIRS, arguments, gradients
from tiny_models import letters, tiny_scorer
from trl import RewardConfig as TRLConfig

from prefcli.data.dataset import read_dataset
from prefcli.data.row import Row
from prefcli.data.weighting import set_apart
from prefcli.errors import DataError
from prefcli.models.logps import sequence_scores
from prefcli.models.packed import pack
from prefcli.stages.reward import PaddedReward, RewardSteps, whole
from prefcli.stages.steps import pair_rows

MARGINS = (0.7, 0.0, -1.3)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("margins", "center"), [(MARGINS, 0.0), ((0.0,) * 3, 0.3), (MARGINS, 0.05), ((0.0,) * 3, 0.0)])
def test_loss_and_gradient_with_margins_and_centring_are_those_of_trl(margins, center, packed, tmp_path):
    pairs = [{**pair, "margin": margin} for pair, margin in zip(PAIRS, margins)]
    model = tiny_scorer(seed=1, vocab=4, layers=1)
    theirs = PaddedReward(
        model=copy.deepcopy(model), train_dataset=Dataset.from_list(list(map(whole, pairs))),
        args=arguments(TRLConfig, tmp_path, 3, center_rewards_coefficient=center or None), processing_class=letters(),
    )  # fmt: skip
    theirs.current_gradient_accumulation_steps = 1
    batch = next(iter(theirs.get_train_dataloader()))
    loss = float(theirs.training_step(theirs.model, batch))
    slopes = [p.grad.clone() for p in theirs.model.parameters() if p.grad is not None]
    if packed:
        assert pack(model) is None
    ours = RewardSteps(
        model=model, train_dataset=Dataset.from_list(pairs), args=arguments(TRLConfig, tmp_path, 3),
        processing_class=letters(), tokens_per_row=12, center=center,
    )  # fmt: skip
    found = gradients(ours, {"examples": pairs[:1]}, {"examples": pairs[1:]})  # in two parts of unlike size
    assert found[0] == pytest.approx(loss, abs=1e-6)
    torch.testing.assert_close(found[1], slopes, atol=1e-6, rtol=1e-4)
    # and from the scores, in plain arithmetic
    scores = sequence_scores(model, pair_rows(pairs, torch.device("cpu"))).double()
    chosen, rejected = scores[0::2], scores[1::2]
    expected = (1 + (rejected - chosen + torch.tensor(margins)).exp()).log() + center * (chosen + rejected) ** 2
    assert found[0] == pytest.approx(expected.mean().item(), abs=1e-6)


def test_a_margin_column_is_taken_unasked_and_another_by_its_name(jsonl):
    def data(*columns):
        return data_of(a=[Row("p", columns=c) for c in columns])

    found = data({"margin": 1, "other": "2.5"}, {"margin": -0.5, "other": 0})
    assert set_apart(found, None) == "margin" and [row.margin for row in found.rows] == [1.0, -0.5]
    assert set_apart(found, "other") == "other" and [row.margin for row in found.rows] == [2.5, 0.0]
    assert set_apart(data({}, {}), None) is None
    with pytest.raises(DataError, match="row 2: there is no column 'margin'"):
        set_apart(data({"margin": 1}, {}), None)
    with pytest.raises(DataError, match="row 1: --margin-column margin is 'wide'"):
        set_apart(data({"margin": "wide"}), None)
    with pytest.raises(DataError, match="there is no column 'gap'"):
        set_apart(data({"margin": 1}), "gap")


def test_margins_of_a_large_file_are_read_with_its_rows(jsonl, monkeypatch):
    monkeypatch.setattr("prefcli.data.records.LARGE", 2)
    monkeypatch.setattr("prefcli.data.scan.LARGE", 2, raising=False)
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    path = jsonl("pairs.jsonl", *({**pair, "prompt": f"q{i}", "margin": i / 2} for i in range(5)))
    data = read_dataset([str(path)], "pairs", lazily=True)
    assert set_apart(data, None) == "margin" and [row.margin for row in data.rows] == [0, 0.5, 1, 1.5, 2]


def test_both_reach_training_and_the_plan_names_the_column(chain, prefcli, jsonl):
    rows = [json.loads(line) for line in open(chain.data("pairs"))][:16]
    data = jsonl("margins.jsonl", *(row | {"margin": i % 3, "none": 0} for i, row in enumerate(rows)))
    common = ["train-rm", "--data", data, "--model", "sft@v1", "--max-steps", "2", "--batch-size", "8", "--lr", "1e-3"]
    found = {}
    for name, options in {
        "margins": [], "none": ["--margin-column", "none"],
        "centred": ["--margin-column", "none", "--center-rewards", "0.5"],
        "alias": ["--margin-column", "none", "--center_rewards_coefficient", "0.5"],
    }.items():  # fmt: skip
        result = prefcli(*common, *options, "--name", name)
        assert ("each pair's margin is in the column 'margin'" in result.stderr) == (name == "margins")
        found[name] = load_file(chain.path_of(result) / "model/model.safetensors")["score.weight"]
    assert not torch.equal(found["margins"], found["none"]) and not torch.equal(found["centred"], found["none"])
    assert torch.equal(found["alias"], found["centred"])

"""A dozen families that differ most, of those that `make families` runs: docs/models.md has them all."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from prefcli.data.encoder import Encoder
from prefcli.models.logps import token_logps
from prefcli.models.packed import pack
from prefcli.models.rows import pad_rows
from scripts.families import judging, plain, zoo
from scripts.families.family import WINDOW
from scripts.families.judging import EXACT, REFUSED, WRONG
from scripts.families.matrix import Matrix
from scripts.families.rows import DEMOS, PAIRS
from scripts.families.tokenizers import STYLES, tokenizer_of

torch.set_num_threads(1)

# Whether its rows are packed: a family that no longer is stays right, and becomes several times slower.
DOZEN = {
    "mistral": True,  # a window that is shorter than the rows
    "gemma2": True,  # soft caps, windows in every other layer
    "smollm3": True,  # layers without positions
    "phi3": True,  # fused projections
    "gpt2": True,  # learned positions; no padding token, no template
    "bloom": False,  # ALiBi
    "deepseek-v3": True,  # MLA, shared experts
    "mixtral-aux": True,  # a configuration that asks for the router's loss
    "gpt-oss": True,  # sinks
    "llama4-chunk48": True,  # chunks that are shorter than the rows
    "qwen3-next": False,  # linear attention
    "mamba": False,  # no attention
    "gemma3-vlm": True,  # a vision tower
}


@pytest.mark.parametrize("name", DOZEN)
def test_packed_padded_and_each_row_alone_give_the_same_figures(name, tmp_path):
    folder = zoo.build(name, tmp_path / "model")
    encoder = plain.encoder_of(folder)
    prompts, answers = [], []
    for row in PAIRS:
        prompts += 2 * [encoder.text_ids(row["prompt"][0]["content"])]
        answers += [encoder.text_ids(row["chosen"]), encoder.text_ids(row["rejected"])]
    model = plain.open_model(folder)
    with torch.no_grad():
        alone = [plain.logps(model, prompt, answer) for prompt, answer in zip(prompts, answers)]
        rows = pad_rows(prompts, answers, device=torch.device("cpu"))
        found = {"padded": token_logps(model, rows).logps}
        reason = pack(model)
        if reason is None:
            found["packed"] = token_logps(model, rows).logps
    for layout, logps in found.items():
        for row, expected in zip(logps, alone):
            torch.testing.assert_close(row[: len(expected)], expected, atol=1e-4, rtol=1e-4, msg=layout)
    assert (reason is None) == DOZEN[name], reason


@pytest.mark.parametrize("name", DOZEN)
def test_dpo_on_an_adapter_starts_at_ln_2_and_moves_it(name, own_folder):
    family = Matrix(name, own_folder)
    cell = family.train_one("dpo/lora/packed")
    assert cell.verdict == EXACT, cell.why


def test_rows_longer_than_the_positions_are_refused_before_training(own_folder):
    family = Matrix("gpt2-short", own_folder)
    cell = family.train_one("dpo/full/packed")
    assert cell.verdict == REFUSED, cell.why
    assert "48" in cell.why and "--max-length" in cell.why


def test_the_judge_is_strict(own_folder):
    family = Matrix("llama2", own_folder)
    cell = family.train_one("sft/full/packed")
    assert cell.verdict == EXACT, cell.why
    ran = family.ran["sft/full/packed"]
    other = replace(ran, first=ran.first | {"loss": ran.first["loss"] + 0.001})
    assert judging.both_layouts("sft", ran, ran) is None
    assert judging.both_layouts("sft", ran, other) is not None
    assert judging.stage("sft", other, family.figures, family.model).verdict == WRONG
    assert judging.stage("dpo", ran, None, family.model).verdict == WRONG  # its first loss is not ln 2
    assert judging.unmoved(family.model, family.model)
    refused = replace(ran, code=4, began=False, err="error: it has no head\n\nhint: train one\n")
    assert judging.refusal(refused).verdict == REFUSED
    for wrong in (
        replace(refused, began=True),
        replace(refused, code=1),
        replace(refused, err="error: it has no head\n"),
        replace(refused, err="error: it has no head\n\nhint: copy the model again\n"),
    ):
        assert judging.refusal(wrong).verdict == WRONG


def test_rows_are_longer_than_every_window():
    rows = [(row["prompt"][0]["content"], row["completion"]) for row in DEMOS]
    for style in STYLES:
        encoder = Encoder(tokenizer_of(style))
        assert min(sum(len(encoder.text_ids(text)) for text in row) for row in rows) > max(WINDOW, 48)

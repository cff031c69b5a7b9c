"""What LoRA adapts, what it leaves out and says, and dropout: of the adapter while it trains, of the base never."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.pytorch_utils import Conv1D

from prefcli.config.sft import SFTConfig
from prefcli.errors import UsageError
from prefcli.models.adapters import with_adapter
from prefcli.progress import SILENT
from scripts.families import plain, zoo
from scripts.families.commands import prefcli
from scripts.families.rows import write

torch.set_num_threads(1)

# Family: what stands in the names of what is adapted, and what in none of them.
FAMILIES = {
    "llama2": ({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, "lm_head"),
    "gpt2": ({"c_attn", "c_fc", "c_proj"}, "lm_head"),
    "mamba2": ({"in_proj"}, "out_proj"),
    "falcon-h1": ({"in_proj", "q_proj", "o_proj", "down_proj"}, "out_proj"),
    "zamba2": ({"in_proj", "linear"}, "shared_transformer"),
    "qwen2.5-vl": ({"q_proj", "down_proj"}, "visual"),
    "llama4-chunk48": ({"q_proj", "down_proj"}, "router"),
    "phimoe": ({"q_proj", "o_proj"}, "router"),
    "gpt-oss": ({"q_proj", "o_proj"}, "router"),
    "dbrx": ({"Wqkv", "out_proj"}, "router"),
    "qwen2-moe": ({"q_proj", "up_proj"}, "shared_expert_gate"),
    "mixtral": ({"q_proj", "experts"}, "gate."),
}
MERGED = {"gpt2", "falcon-h1"}  # they are given a padding token, and so saved merged
FROZEN = {"llama4-chunk48", "phimoe", "gpt-oss", "dbrx", "qwen2-moe"}  # their experts are stacked, and left alone


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("targets")
    write(folder)
    for name in (*FAMILIES, "opt"):
        zoo.build(name, folder / name)
    return folder


@pytest.fixture
def train(files, own_folder):
    """One step of LoRA from a model of the fixture, or from an artifact or directory."""

    def run(stage: str, model: Any, *options: Any, name: str = "made") -> Any:
        model = files / str(model) if (files / str(model)).is_dir() else model
        data = {"sft": "demos", "dpo": "pairs", "kto": "labelled", "train-rm": "pairs", "ppo": "prompts"}[stage]
        words = [stage, "--model", model, "--prompts" if stage == "ppo" else "--data", files / f"{data}.jsonl"]
        words += ["--batch-size", 4, "--max-steps", 1, "--lr", "1e-2", "--warmup", 0, "--name", name, "--force"]
        words += ["--eval-share", 0] if stage == "train-rm" else []
        rank = [] if "--lora-rank" in options else ["--lora-rank", 2]
        return prefcli(*words, *rank, *options, runs=own_folder / "runs")

    return run


def adapted(folder: Path) -> set[str]:
    """Whole names of what the adapter in a directory adapts."""
    return {name.split(".lora_")[0] for name in plain.tensors(folder) if ".lora_" in name}


def said(ran: Any) -> tuple[str, int]:
    found = re.search(r"note: the adapter is on (.*?): (\d+)% of the weights(.*)", " ".join(ran.err.split()))
    assert found, ran.err
    return found[1], int(found[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_is_adapted_but_what_is_left_out(files, train, family):
    ran = train("sft", family)
    assert ran.code == 0, ran.err
    there, left_out = FAMILIES[family]
    layers, share = said(ran)
    assert (ran.artifact / "model/adapter_config.json").is_file() == (family not in MERGED)
    if family in MERGED:
        assert there <= set(layers.split(", ")) and left_out not in layers.split(", ")
    else:
        names = adapted(ran.artifact / "model")
        assert there <= {part for name in names for part in name.split(".")}
        assert not [name for name in names if left_out in f"{name}."]
    assert "lm_head" not in layers
    assert ("the experts stay frozen" in ran.err) == (family in FROZEN)
    assert share == by_hand(files / family, layers.split(", "), left_out, grown="is added for it" in ran.err)


def by_hand(folder: Path, layers: list[str], left_out: str, grown: bool) -> int:
    """Percent of a model's weights that are in the layers of these names, counted on the model itself."""
    model = plain.open_model(folder)
    if grown:
        plain.with_tokens(model, model.get_input_embeddings().weight.shape[0] + 1)
    total = sum(p.numel() for p in model.parameters())
    reached = 0
    for name, module in model.named_modules():
        if left_out.strip(".") in name.split("."):
            continue
        if name.rpartition(".")[2] in layers and isinstance(module, (nn.Linear, Conv1D)):
            reached += sum(p.numel() for p in module.parameters())
        stacked = [p for own, p in module.named_parameters(recurse=False) if f"experts' {own}" in layers]
        reached += sum(p.numel() for p in stacked)
    return round(100 * reached / total)


def test_named_layers_alone_are_adapted(files, train):
    ran = train("sft", "llama2", "--lora-target", "v_proj", "--lora-target", "down_proj")
    assert {name.split(".")[-1] for name in adapted(ran.artifact / "model")} == {"v_proj", "down_proj"}
    assert said(ran)[0] == "v_proj, down_proj"


def test_stacked_weights_of_experts_are_adapted_where_they_are_named(files, train):
    ran = train("sft", "gpt-oss", "--lora-target", "down_proj", "--lora-target", "q_proj")
    assert ran.code == 0, ran.err
    assert said(ran)[0] == "q_proj, experts' down_proj"
    assert any("experts" in name for name in adapted(ran.artifact / "model"))
    again = train("dpo", str(ran.artifact), "--lora-rank", 2, name="again")
    assert again.code == 0 and again.first["loss"] == pytest.approx(0.693147, abs=1e-6), again.err


@pytest.mark.parametrize(("family", "names", "more"), [
    ("llama2", "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj; or all-linear", ""),
    ("gpt-oss", "k_proj, o_proj, q_proj, v_proj; stacked weights of experts: down_proj, gate_up_proj; or", ""),
    ("mamba2", "there are in_proj; or all-linear", ""),
])  # fmt: skip
@pytest.mark.parametrize("asked", ["query", "lm_head", "router"])
def test_an_unknown_name_is_refused_with_those_that_there_are(train, family, names, more, asked):
    ran = train("sft", family, "--lora-target", asked)
    assert ran.code == 2 and not ran.exception, ran.err
    told = " ".join(ran.err.split())
    assert f"--lora-target {asked}: no layer that can be adapted has that name" in told and names in told


def test_a_target_and_a_dropout_need_a_rank(train):
    for option, value in (("--lora-target", "q_proj"), ("--lora-dropout", "0.1")):
        ran = train("sft", "llama2", option, value, "--lora-rank", 0)
        assert ran.code == 2 and f"{option} is about adapters" in ran.err, ran.err


# Dropout


@pytest.fixture(scope="module")
def starts(files, tmp_path_factory):
    """Adapters that change much, on a language model and on a scorer: dropout at their inputs shows at once."""
    folder = tmp_path_factory.mktemp("dropout")
    base = zoo.build("qwen2", folder / "base")
    kinds = {"CAUSAL_LM": AutoModelForCausalLM, "SEQ_CLS": AutoModelForSequenceClassification}
    for task, kind in kinds.items():
        torch.manual_seed(1)
        model = kind.from_pretrained(base, **({"num_labels": 1} if task == "SEQ_CLS" else {}))
        config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type=task, lora_dropout=0.25)
        model = get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.3)
        model.save_pretrained(folder / task)
        AutoTokenizer.from_pretrained(base).save_pretrained(folder / task)
    return folder


STAGES = ["sft", "dpo", "kto", "train-rm"]


def first_loss(train: Any, stage: str, model: Path, *options: Any) -> float:
    ran = train(stage, model, *options)
    assert ran.code == 0, ran.err
    return ran.first["loss"]


@pytest.mark.parametrize("stage", STAGES)
def test_dropout_reaches_a_parents_adapter_and_its_own_is_not_taken_over(starts, train, stage):
    model = starts / ("SEQ_CLS" if stage == "train-rm" else "CAUSAL_LM")
    without = first_loss(train, stage, model)
    if stage in ("dpo", "kto"):
        assert without == pytest.approx({"dpo": 0.693147, "kto": 0.5}[stage], abs=1e-6)
    assert abs(first_loss(train, stage, model, "--lora-dropout", 0.5) - without) > 1e-3
    other = first_loss(train, stage, model, "--lora-dropout", 0.5, "--gradient-checkpointing")
    assert abs(other - without) > 1e-3


@pytest.mark.parametrize("stage", STAGES)
def test_dropout_reaches_a_new_adapter_and_is_saved_with_it(starts, train, stage):
    found = {}
    for p in (0.0, 0.5):
        ran = train(stage, starts / "base", "--lora-dropout", p)
        assert ran.code == 0, ran.err
        found[p] = plain.tensors(ran.artifact / "model")
        assert json.loads((ran.artifact / "model/adapter_config.json").read_text())["lora_dropout"] == p
    ups = [name for name in found[0.0] if "lora_B" in name]
    assert ups and not any(torch.equal(found[0.0][name], found[0.5][name]) for name in ups)


@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_the_reference_has_no_dropout(starts, train, stage):
    ran = train(stage, starts / "CAUSAL_LM", "--lora-dropout", 0.5)
    model, encoder = plain.open_model(starts / "CAUSAL_LM"), plain.encoder_of(starts / "CAUSAL_LM")
    expected = plain.figures(model, encoder)
    first = ran.first
    reference = first["logps/chosen"] - first["rewards/chosen"] / 0.1
    assert reference == pytest.approx(expected.chosen if stage == "dpo" else expected.desirable, abs=1e-2)
    assert abs(first["logps/chosen"] - reference) > 0.1


def test_ppo_refuses_dropout(train):
    ran = train("ppo", "llama2", "--lora-dropout", 0.1, "--reward", "python:r.py:f")
    assert ran.code == 2 and "--lora-dropout: ppo compares probabilities" in ran.err, ran.err


def test_adapters_that_were_trained_with_dropout_have_none_in_ppo(starts, train, own_folder):
    found = {}
    for layout in ("shared", "separate"):
        ran = train("ppo", starts / "CAUSAL_LM", "--reward", starts / "SEQ_CLS", "--layout", layout,
                    "--max-new-tokens", 6, "--minibatches", 1, "--ppo-epochs", 1)  # fmt: skip
        assert ran.code == 0, ran.err
        assert ran.first["objective/kl"] == 0 and ran.first["val/ratio"] == pytest.approx(1, abs=1e-6)
        found[layout] = ran.first
    for name in ("objective/scores", "loss/value_avg", "loss/policy_avg"):
        assert found["shared"][name] == pytest.approx(found["separate"][name], abs=1e-4), name


def test_dropout_is_refused_where_peft_adapts_stacked_experts(train):
    ran = train("sft", "mixtral", "--lora-dropout", 0.1)
    assert ran.code == 2 and not ran.exception and "stacked weights of experts" in ran.err, ran.err
    assert train("sft", "mixtral", "--lora-dropout", 0.1, "--lora-target", "q_proj").code == 0


def test_dropout_is_refused_where_a_parents_adapter_is_on_stacked_experts(files):
    base = AutoModelForCausalLM.from_pretrained(files / "mixtral")
    parent = with_adapter(base, SFTConfig(lora_rank=2), scorer=False, reporter=SILENT)
    with pytest.raises(UsageError, match="stacked weights of experts"):
        with_adapter(parent, SFTConfig(lora_rank=2, lora_dropout=0.1), scorer=False, reporter=SILENT)
    assert with_adapter(parent, SFTConfig(lora_rank=2), scorer=False, reporter=SILENT) is parent


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("options", [[], ["--gradient-checkpointing"], ["--no-packed"]])
@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_the_bases_dropout_is_off_while_it_trains(files, train, family, options, rank):
    config = AutoConfig.from_pretrained(files / family)
    assert max(getattr(config, "resid_pdrop", 0.0), getattr(config, "dropout", 0.0)) == 0.1
    ran = train("sft", family, "--lora-rank", rank, *options)
    assert ran.code == 0, ran.err
    encoder = plain.encoder_of(ran.artifact / "model")
    model = plain.with_tokens(plain.open_model(files / family), len(encoder.tokenizer))
    assert ran.first["loss"] == pytest.approx(plain.figures(model, encoder).sft_loss, abs=1e-4)

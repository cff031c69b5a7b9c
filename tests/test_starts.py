"""Every stage from every kind of start: it trains, from where the start stands, and what it leaves is a start again.

The start is opened by plain transformers and peft, and what the first step says is compared with it row by row.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_file import write_gguf
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefcli.artifacts.lineage import lineage
from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.models.adapters import merged
from prefcli.models.loading import is_scorer, load_policy, load_scorer
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT
from scripts.families import judging, plain, zoo
from scripts.families.commands import Ran, prefcli
from scripts.families.rows import PAIRS, write

torch.set_num_threads(1)

CPU: dict[str, Any] = {"dtype": torch.float32, "device": torch.device("cpu")}
REWARD = "def longer(prompts, completions):\n    return [float(len(text)) for text in completions]\n"
DATA = {"sft": "demos", "train-rm": "pairs", "dpo": "pairs", "kto": "labelled", "ppo": "prompts"}
POLICIES = ("sft", "dpo", "kto", "ppo")
# Ranks to train from a start, 0 all weights. The adapters among the starts have rank 2: 4 is another.
STARTS = {
    "plain": (0, 2), "grown": (0,), "artifact": (2,), "gguf": (0, 2), "export": (2,),
    "lora": (0, 2), "peft": (0, 4), "bare": (2,),
}  # fmt: skip
SCORERS = {"rm": (0, 2), "rmlora": (0, 2), "rmpeft": (0, 4), "rmexport": (0,), "rmvalue": (2,)}

BASES = {
    "lora": "plain",
    "peft": "plain",
    "bare": "plain",
    "rmlora": "artifact",
    "rmpeft": "artifact",
    "rmvalue": "plain",
}


@dataclass
class Starts:
    """Each start by name: what --model is given."""

    folder: Path
    files: dict[str, Path]
    texts: dict[str, str] = field(default_factory=dict)
    opened: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, plain.Figures] = field(default_factory=dict)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def store(self) -> Store:
        return Store(self.runs)

    def run(self, stage: str, model: Any, *options: Any, name: str) -> Ran:
        words = [stage, "--model", model, "--prompts" if stage == "ppo" else "--data", self.files[DATA[stage]]]
        words += ["--batch-size", 4, "--max-steps", 1, "--lr", "1e-4", "--warmup", 0, "--name", name]
        if stage == "train-rm":
            words += ["--eval-share", 0]
        if stage == "ppo":
            words += ["--max-new-tokens", 6, "--ppo-epochs", 1, "--minibatches", 1]
            if "--reward" not in options:
                words += ["--reward", f"python:{self.folder / 'reward.py'}:longer"]
        return prefcli(*words, *options, runs=self.runs)

    def make(self, name: str, stage: str, model: str, *options: Any) -> str:
        ran = self.run(stage, self.texts[model], "--lr", "1e-2", *options, name=name)
        assert ran.code == 0, ran.err
        self.texts[name] = f"{name}@v1"
        return self.texts[name]

    def open(self, name: str) -> Any:
        """The start as plain transformers and peft open it, once for all tests."""
        if name not in self.opened:
            self.opened[name] = self._open(name)
        return self.opened[name]

    def figures_of(self, name: str, encoder: Any) -> plain.Figures:
        if name not in self.figures:
            self.figures[name] = plain.figures(self.open(name), encoder)
        return self.figures[name]

    def _open(self, name: str) -> Any:
        path = resolve(self.texts[name], self.store).path
        assert path is not None
        if path.suffix == ".gguf":
            return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
        return plain.open_model(path, scorer=is_scorer(resolve(self.texts[name], self.store)))


def peft_directory(folder: Path, base: Path) -> None:
    """A LoRA of rank 2 on two kinds of layers, that changes much, as plain peft saves it."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def starts(tmp_path_factory: Any) -> Starts:
    folder = tmp_path_factory.mktemp("starts")
    made = Starts(folder, write(folder))
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    base = zoo.build("qwen2", folder / "plain")
    made.texts = {"plain": str(base), "grown": str(zoo.build("llama", folder / "grown"))}
    (folder / "gguf").mkdir()
    made.texts["gguf"] = str(write_gguf(base, folder / "gguf" / "model.gguf"))
    made.make("artifact", "sft", "plain")
    made.make("lora", "sft", "plain", "--lora-rank", 2, "--lr", "0.1")
    for name in ("peft", "bare"):
        peft_directory(folder / name, base)
        made.texts[name] = str(folder / name)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "peft")
    made.make("rm", "train-rm", "artifact")
    made.make("rmlora", "train-rm", "artifact", "--lora-rank", 2, "--lr", "0.1")
    shutil.copytree(made.runs / "rmlora/v1/model", folder / "rmpeft")
    made.texts["rmpeft"] = str(folder / "rmpeft")
    made.make("valued", "ppo", "plain", "--lora-rank", 2, "--lr", "0.1")
    made.texts["rmvalue"] = str(made.runs / "valued/v1/value")
    for name, of in (("export", "lora"), ("rmexport", "rmlora")):
        made.texts[name] = str(folder / name)
        ran = prefcli("export", made.texts[of], folder / name, runs=made.runs)
        assert ran.code == 0, ran.err
    ids = plain.encoder_of(base).text_ids(PAIRS[1]["chosen"])
    for name, of in BASES.items():  # or to leave an adapter out would not show
        assert (states(made.open(name), ids) - states(made.open(of), ids)).abs().mean() > 0.1, name
    return made


@torch.no_grad()
def states(model: Any, ids: list[int]) -> torch.Tensor:
    """[T, h] above the last layer: of a language model and of a scorer the same."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.config.get_text_config().pad_token_id = None
    return model(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states[-1][0]


def check(starts: Starts, stage: str, start: str, rank: int, ran: Ran) -> Path:
    """All that holds of any run from any start; returns the model it left."""
    assert ran.code == 0, ran.err
    assert ran.artifact is not None
    model = ran.artifact / "model"
    reference = resolve(starts.texts[start], starts.store)
    manifest = json.loads((ran.artifact / "manifest.json").read_text())
    parent = manifest["parents"]["model"]
    assert (parent["ref"], parent["digest"]) == (reference.shown, reference.digest)
    tree = lineage(starts.store.open(ran.artifact.parent.name, 1), starts.store)
    assert {node.state for node in tree.parents} <= {"ok"}
    assert (rank == 0) <= (not (model / "adapter_config.json").is_file())
    encoder = plain.encoder_of(model)
    before = starts.open(start)
    if start == "grown":
        plain.with_tokens(before, len(encoder.tokenizer))
    after = plain.open_model(model, scorer=stage == "train-rm")  # in plain transformers and peft
    row = PAIRS[1]
    ids = encoder.prompt_ids(row["prompt"]) + encoder.completion_ids(row["prompt"], row["chosen"])
    one, other = states(before, ids), states(after, ids)
    moved = float((one - other).abs().mean())
    assert 1e-6 < moved < 0.05, moved  # an adapter left out, or put on twice, moves it tenfold
    # As the start of the next stage it is the same model.
    again = resolve(str(ran.artifact), starts.store)
    assert is_scorer(again) == (stage == "train-rm")
    if stage == "train-rm":
        opened = load_scorer(again, load_tokenizer(again, SILENT), **CPU, trainable=True)
    else:
        opened = load_policy(again, **CPU, trainable=True)
        for figure in judging._first_step(stage, ran.first, starts.figures_of(start, encoder)):
            raise AssertionError(figure)
    torch.testing.assert_close(states(opened.eval(), ids), other, atol=1e-5, rtol=1e-5)
    if stage == "ppo":  # with a value model
        plain.open_model(ran.artifact / "value", scorer=True)
    return model


# kto opens its models as dpo does: it starts where those differ most.
@pytest.mark.parametrize(
    ("stage", "start", "rank"),
    [(stage, start, rank) for start, ranks in STARTS.items() for rank in ranks for stage in (*POLICIES, "train-rm")
     if stage != "kto" or start in ("gguf", "lora")],
)  # fmt: skip
def test_each_stage_from_each_start(starts, stage, start, rank):
    ran = starts.run(stage, starts.texts[start], "--lora-rank", rank, name=f"{stage}-{start}-{rank}")
    model = check(starts, stage, start, rank, ran)
    merged = "is merged into the weights first" in ran.err
    adapter = (model / "adapter_config.json").is_file()
    if start in ("lora", "peft", "bare") and stage != "train-rm":
        assert merged == (rank != 2) and adapter == (rank == 2)
    elif rank:
        assert adapter == (start not in ("gguf", "grown", "lora", "peft", "bare"))
    assert ("without a tokenizer" in ran.err) == (start == "bare")
    if stage == "ppo":  # against a Python reward
        manifest = starts.store.open(ran.artifact.parent.name, 1).manifest
        assert "reward/longer" in manifest.parents
        assert manifest.model["value_from"] == manifest.parents["model"]["ref"]


@torch.no_grad()
def bradley_terry(model: Any, encoder: Any) -> float:
    """The mean loss of a plain scorer on the pairs, row by row."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.config.get_text_config().pad_token_id = None
    losses = []
    for row in PAIRS:
        prompt = encoder.prompt_ids(row["prompt"])
        good, bad = (model(torch.tensor([prompt + encoder.completion_ids(row["prompt"], row[side])])).logits[0, 0]
                     for side in ("chosen", "rejected"))  # fmt: skip
        losses.append(math.log1p(math.exp(-float(good - bad))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("start", "rank"), [(start, rank) for start, ranks in SCORERS.items() for rank in ranks])
def test_a_reward_model_goes_on_from_a_reward_model(starts, start, rank):
    ran = starts.run("train-rm", starts.texts[start], "--lora-rank", rank, name=f"train-rm-{start}-{rank}")
    model = check(starts, "train-rm", start, rank, ran)
    expected = bradley_terry(starts.open(start), plain.encoder_of(model))
    assert abs(expected - math.log(2)) > 1e-4  # a head that was trained
    assert ran.first["loss"] == pytest.approx(expected, abs=1e-5)
    assert not torch.equal(*(_head(starts, path) for path in (resolve(starts.texts[start], starts.store).path, model)))


def test_the_reference_of_a_merged_adapter_is_no_adapter(starts):
    """peft leaves its configuration on a model that it merged, which TRL would take for an adapter to switch off."""
    reference = resolve(starts.texts["lora"], starts.store)
    model = merged(load_policy(reference, **CPU, trainable=True))
    assert not hasattr(model, "peft_config")


# What comes next: an adapter, all weights, an adapter again


CHAIN = [("sft", 2), ("dpo", 0), ("kto", 2), ("dpo", 2), ("ppo", 4), ("train-rm", 0), ("train-rm", 2), ("train-rm", 4)]


@pytest.mark.parametrize("start", ["bare"])
def test_what_a_stage_leaves_is_the_start_of_the_next(starts, start):
    for number, (stage, rank) in enumerate(CHAIN):
        name = f"{start}-chain{number}"
        ran = starts.run(stage, starts.texts[start], "--lora-rank", rank, name=name)
        check(starts, stage, start, rank, ran)
        starts.texts[name] = f"{name}@v1"
        start = name


# A reward model beside the policy


@pytest.mark.parametrize(
    ("policy", "rank", "layout"),
    [("artifact", 0, "separate"), ("artifact", 2, "shared"), ("artifact", 4, "shared"), ("artifact", 4, "separate"),
     ("lora", 4, "shared")],
)  # fmt: skip
@pytest.mark.parametrize(
    ("option", "scorer"),
    [("--reward", "rm"), ("--reward", "rmlora"), ("--value-init", "rmpeft"),
     ("--value-init", "rmvalue")],
)  # fmt: skip
def test_ppo_with_each_reward_model(starts, option, scorer, layout, policy, rank):
    text = starts.texts[scorer]
    name = f"ppo{option}-{scorer}-{layout}-{policy}-{rank}"
    ran = starts.run("ppo", starts.texts[policy], option, text, "--lora-rank", rank, "--layout", layout, name=name)
    model = check(starts, "ppo", policy, rank, ran)
    manifest = json.loads((model.parent / "manifest.json").read_text())
    assert manifest["model"]["value_from"].startswith(resolve(text, starts.store).shown)
    ids = plain.encoder_of(model).text_ids(PAIRS[1]["chosen"])
    one, other = (
        states(opened, ids) for opened in (starts.open(scorer), plain.open_model(model.parent / "value", scorer=True))
    )
    assert 1e-6 < float((one - other).abs().mean()) < 0.05


@pytest.mark.parametrize("stage", POLICIES)
@pytest.mark.parametrize("start", ["rm", "rmlora", "rmpeft"])
def test_a_reward_model_is_no_policy(starts, stage, start):
    ran = starts.run(stage, starts.texts[start], name="none")
    assert ran.code == 4 and not ran.exception
    assert "is a reward model, not a language model" in ran.err and "reward models go to --reward" in ran.err


def _head(starts: Starts, folder: Path) -> torch.Tensor:
    return next(tensor for name, tensor in plain.tensors(folder).items() if "score" in name)

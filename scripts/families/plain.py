"""The forward to compare with: plain transformers and peft, each row alone, no padding, float32.

Nothing of prefcli's models is used here. Its encoder is, for the ids: how text is cut has tests of its own.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)

from prefcli.data.encoder import Encoder
from scripts.families.rows import DEMOS, LABELLED, PAIRS, PROMPTS


def open_model(folder: Path, *, scorer: bool = False) -> Any:
    """The model of a directory, an adapter on its base, as a user of transformers and peft opens them.

    Raises ValueError where its files lack weights, or an adapter's tensors have no place in its base.
    """
    if (folder / "adapter_config.json").is_file():
        base = open_plain(Path(str(PeftConfig.from_pretrained(folder).base_model_name_or_path)), scorer, headless=True)
        return _adapted(base, folder)
    return open_plain(folder, scorer)


def _adapted(base: Any, folder: Path) -> Any:
    """peft only warns of an adapter of which it has loaded nothing."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, folder).eval()
    if lost := [str(warning.message) for warning in told if "adapter keys" in str(warning.message)]:
        raise ValueError(f"the adapter is not loaded: {lost[0][:200]}")
    return model


def open_plain(folder: Path, scorer: bool = False, headless: bool = False) -> Any:
    config = AutoConfig.from_pretrained(folder)
    more: dict[str, Any] = {}
    if scorer:
        kind: Any = AutoModelForSequenceClassification
        more = {"num_labels": 1}
    elif type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and not _names(config, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING):
        kind = AutoModelForCausalLM
    else:  # Llama 4's language model alone would open too, and know none of an adapter's names
        kind = AutoModelForImageTextToText
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **more)
    missing = [name for name in info["missing_keys"] if not (headless and name.startswith("score"))]
    if missing or info["mismatched_keys"]:
        raise ValueError(f"the files lack weights: {sorted(missing)[:3] or info['mismatched_keys']}")
    return model.eval()


def _names(config: Any, mapping: Any) -> bool:
    """Whether a checkpoint says that it is the class that `mapping` has for it."""
    return type(config) in mapping and mapping[type(config)].__name__ in (config.architectures or [])


@torch.no_grad()
def with_tokens(model: Any, count: int) -> Any:
    """The model with rows for tokens that its tokenizer was given: the mean of the others, which is nearly nothing."""
    had = model.get_input_embeddings().weight.shape[0]
    if count > had:
        model.resize_token_embeddings(count, mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for weights in (layer.weight, getattr(layer, "bias", None)):
                if weights is not None:
                    weights[had:] = weights[:had].mean(0)
    return model


@torch.no_grad()
def logits(model: Any, ids: list[int]) -> Tensor:
    """[T, V] of one row."""
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def logps(model: Any, prompt: list[int], answer: list[int]) -> Tensor:
    """[A] of an answer's tokens."""
    found = torch.log_softmax(logits(model, prompt + answer)[len(prompt) - 1 : -1], dim=-1)
    return found.gather(1, torch.tensor(answer)[:, None])[:, 0]


@dataclass
class Figures:
    """What the first step of each stage must say of this model: mean loss of a token, mean log-probabilities."""

    sft_loss: float
    chosen: float
    rejected: float
    desirable: float
    undesirable: float


def figures(model: Any, encoder: Encoder) -> Figures:
    def each(rows: list[dict[str, Any]], column: str) -> list[Tensor]:
        return [
            logps(model, encoder.prompt_ids(row["prompt"]), encoder.completion_ids(row["prompt"], row[column]))
            for row in rows
        ]

    def mean(found: list[Tensor]) -> float:
        return float(torch.stack([row.sum() for row in found]).mean())

    demos = each(DEMOS, "completion")
    labelled = {good: [row for row in LABELLED if row["label"] is good] for good in (True, False)}
    return Figures(
        sft_loss=-float(torch.cat(demos).mean()),
        chosen=mean(each(PAIRS, "chosen")),
        rejected=mean(each(PAIRS, "rejected")),
        desirable=mean(each(labelled[True], "completion")),
        undesirable=mean(each(labelled[False], "completion")),
    )


def encoder_of(folder: Path) -> Encoder:
    return Encoder(AutoTokenizer.from_pretrained(folder))


@torch.no_grad()
def scores(folder: Path, encoder: Encoder) -> list[float]:
    """A reward model's score of each demonstration, at its last token.

    What transformers has no sequence classifier for is read as what it is then: a body, and `score.weight`.
    """
    rows = [encoder.prompt_ids(row["prompt"]) + encoder.completion_ids(row["prompt"], row["completion"])
            for row in DEMOS]  # fmt: skip
    card = folder.parent / "README.md"
    if (folder / "score.safetensors").is_file() or (
        card.is_file() and "base.score" in card.read_text(encoding="utf-8")
    ):
        body, head = _body_and_head(folder)
        return [float(head(body(input_ids=torch.tensor([ids]))[0][0, -1])) for ids in rows]
    model = open_model(folder, scorer=True)
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    inner.config.get_text_config().pad_token_id = inner.config.pad_token_id = None  # or its own end would be left out
    return [float(model(input_ids=torch.tensor([ids])).logits[0, 0]) for ids in rows]


def _body_and_head(folder: Path) -> tuple[Any, Any]:
    """As the model card says: the body alone, or with the adapter put on the language model, and the head."""
    if not (folder / "adapter_config.json").is_file():
        weight = load_file(folder / "score.safetensors")["weight"]
        head = torch.nn.Linear(weight.shape[1], 1, bias=False)
        head.weight.data = weight
        return AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), head
    card = (folder.parent / "README.md").read_text(encoding="utf-8")
    kind = AutoModelForCausalLM if "import AutoModelForCausalLM" in card else AutoModelForImageTextToText
    base = kind.from_pretrained(PeftConfig.from_pretrained(folder).base_model_name_or_path, dtype=torch.float32)
    base.score = torch.nn.Linear(base.config.get_text_config().hidden_size, 1, bias=False)
    _adapted(base, folder)
    return getattr(base, base.base_model_prefix, None) or base.model, base.score


def greedy(model: Any, encoder: Encoder, ends: set[int], length: int) -> list[tuple[str, str]]:
    """(text, text that is certain) of the likeliest answer to each prompt.

    A token is certain that is likelier than the next by more than rounding and the lowest temperature let pass.
    """
    found = []
    for row in PROMPTS:
        ids, answer, certain = encoder.prompt_ids(row["prompt"]), [], None
        for _ in range(length):
            best = logits(model, ids + answer)[-1].topk(2)
            if certain is None and best.values[0] - best.values[1] < 0.05:
                certain = len(answer)
            answer.append(int(best.indices[0]))
            if answer[-1] in ends:
                break
        sure = answer if certain is None else answer[:certain]
        found.append((encoder.answer_text(answer), encoder.answer_text(sure)))
    return found


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a directory's files."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= {name: opened.get_tensor(name) for name in opened.keys()}
    return found


def end_ids(folder: Path, encoder: Encoder) -> set[int]:
    """The tokenizer's end, and those that the generation config lists."""
    file = folder / "generation_config.json"
    listed = json.loads(file.read_text())["eos_token_id"] if file.is_file() else None
    return {encoder.tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])} - {None}

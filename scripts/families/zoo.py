"""Tiny random models: `build(name, folder)` writes one as a hub's directory has it.

Their weights are drawn so large that distributions are uneven: transformers' own are so small that every model gives
nearly the same figures, and a wrong mask would not show.
"""

from __future__ import annotations

import copy
import zlib
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from scripts.families import dense, mixtures, recurrent, vision
from scripts.families.family import Family
from scripts.families.tokenizers import STYLES, tokenizer_of

ALL = [*dense.FAMILIES, *mixtures.FAMILIES, *recurrent.FAMILIES, *vision.FAMILIES]
FAMILIES: dict[str, Family] = {family.name: family for family in ALL}
NAMES = tuple(FAMILIES)
LARGEST = 500_000  # parameters

# Special tokens that a configuration names: its field → the token.
_PICTURES = {
    "image_token_id": ("<image_soft_token>", "<|image_pad|>", "[IMG]"),
    "image_token_index": ("<image_soft_token>", "[IMG]"),
    "video_token_id": ("<|video_pad|>",),
    "vision_start_token_id": ("<|vision_start|>",),
    "vision_end_token_id": ("<|vision_end|>",),
    "boi_token_id": ("<start_of_image>",),
    "eoi_token_id": ("<end_of_image>",),
    "audio_token_id": ("<audio_soft_token>",),
}


def build(name: str, folder: Path) -> Path:
    """Write the family's model, tokenizer, chat template and generation config into `folder`, and return it."""
    family = FAMILIES[name]
    tokenizer = tokenizer_of(family.style)
    model = random_model(family, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ends = [tokenizer.eos_token_id, *map(tokenizer.convert_tokens_to_ids, STYLES[family.style].ends)]
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ends if len(ends) > 1 else ends[0],
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(folder)
    return folder


def random_model(family: Family, tokenizer: Any) -> PreTrainedModel:
    torch.manual_seed(zlib.crc32(family.name.encode()))
    config = config_of(family, tokenizer)
    kind = AutoModelForCausalLM if family.text is None else AutoModelForImageTextToText
    with torch.device("meta"):
        size = kind.from_config(copy.deepcopy(config)).num_parameters()
    if size > LARGEST:
        raise ValueError(f"{family.name} would have {size} parameters: give it smaller sizes")
    model = kind.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            elif parameter.unique().numel() == 1:  # norms and biases: no two alike
                parameter.add_(torch.randn_like(parameter) * 0.1)
                if name.endswith("norm.weight") and "layers" not in name:
                    # The last norm turns half the directions round: a model whose head is its embeddings would
                    # otherwise repeat the last token for ever.
                    parameter.sub_(2.0 * (torch.rand_like(parameter) < 0.5))
    return model.eval()


def config_of(family: Family, tokenizer: Any) -> PretrainedConfig:
    kind = CONFIG_MAPPING[family.model_type]
    ids = {
        "vocab_size": len(tokenizer),
        "vocab_size_per_layer_input": len(tokenizer),  # Gemma's, with embeddings in each layer
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if family.text is None:
        return kind(**(ids | family.sizes))
    vocabulary = tokenizer.get_vocab()
    own = kind()
    named = {
        field: next((vocabulary[token] for token in tokens if token in vocabulary), len(tokenizer) - 1)
        for field, tokens in _PICTURES.items()
        if hasattr(own, field)
    }
    tied = {"tie_word_embeddings": False}
    return kind(text_config=ids | family.text, **named, **tied, **family.sizes)

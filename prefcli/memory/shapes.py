"""Dimensions of known models, and the typical dimensions of a size given as a number of parameters."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from prefcli.memory.architecture import Architecture, causal_parameters
from prefcli.memory.families import FAMILIES
from prefcli.memory.sizes import format_count, parse_count
from prefcli.progress import Reporter


def _known(
    name: str, family: str, layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, vocab: int, tied: bool
) -> Architecture:
    traits = FAMILIES[family]
    return Architecture(
        name=name,
        family=family,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=hidden // heads,
        ffn=ffn,
        vocab=vocab,
        tied=tied,
        positions=1024 if traits.learned_positions else 0,
        qkv_bias=traits.qkv_bias is True,
        out_bias=traits.out_bias is True,
        mlp_bias=traits.mlp_bias is True,
    )


# Source of each row: the config.json of the hub repository that is its name.
# The tests hold each count against the total that the repository publishes.
KNOWN = (
    _known("openai-community/gpt2", "gpt2", 12, 768, 12, 12, 3072, 50257, True),
    _known("HuggingFaceTB/SmolLM2-135M", "llama", 30, 576, 9, 3, 1536, 49152, True),
    _known("HuggingFaceTB/SmolLM2-360M", "llama", 32, 960, 15, 5, 2560, 49152, True),
    _known("Qwen/Qwen2.5-0.5B", "qwen2", 24, 896, 14, 2, 4864, 151936, True),
    _known("meta-llama/Llama-3.2-1B", "llama", 16, 2048, 32, 8, 8192, 128256, True),
    _known("Qwen/Qwen2.5-1.5B", "qwen2", 28, 1536, 12, 2, 8960, 151936, True),
    _known("meta-llama/Llama-3.2-3B", "llama", 28, 3072, 24, 8, 8192, 128256, True),
    _known("meta-llama/Llama-2-7b-hf", "llama", 32, 4096, 32, 32, 11008, 32000, False),
    _known("meta-llama/Llama-3.1-8B", "llama", 32, 4096, 32, 8, 14336, 128256, False),
    _known("meta-llama/Llama-2-13b-hf", "llama", 40, 5120, 40, 40, 13824, 32000, False),
    _known("Qwen/Qwen2.5-14B", "qwen2", 48, 5120, 40, 8, 13824, 152064, False),
    _known("Qwen/Qwen2.5-32B", "qwen2", 64, 5120, 40, 8, 27648, 152064, False),
    _known("meta-llama/Llama-2-70b-hf", "llama", 80, 8192, 64, 8, 28672, 32000, False),
    _known("meta-llama/Llama-3.1-405B", "llama", 126, 16384, 128, 8, 53248, 128256, False),
)


def typical(parameters: int) -> Architecture:
    """The dimensions of the known model nearest in size, scaled to `parameters`.

    Parameters go with layers × hidden², so depth and width each take the cube root of the ratio, in whole layers
    and heads: near a known size nothing changes. Far below the smallest, the vocabulary is cut so that its
    embeddings stay within a third of the model, GPT-2's share and the largest among the known.
    """
    nearest = min(KNOWN, key=lambda known: abs(math.log(causal_parameters(known) / parameters)))
    scale = (parameters / causal_parameters(nearest)) ** (1 / 3)
    heads = max(1, round(nearest.heads * scale))
    hidden = heads * nearest.head_dim
    return replace(
        nearest,
        layers=max(1, round(nearest.layers * scale)),
        hidden=hidden,
        heads=heads,
        kv_heads=heads if nearest.kv_heads == nearest.heads else min(nearest.kv_heads, heads),
        ffn=round(nearest.ffn * hidden / nearest.hidden),
        vocab=min(nearest.vocab, parameters // (3 * hidden)),
        positions=0,  # a size alone does not limit the length
        stated_parameters=parameters,
    )


# Before a number of experts (17B-16E) it is only that of the parameters which one token goes through.
_SIZE_IN_NAME = re.compile(r"(?<![0-9A-Za-z.])([0-9]+(?:\.[0-9]+)?[bBmM])(?![0-9A-Za-z]|-[0-9]+E(?![0-9A-Za-z]))")


def by_name(model: str, reporter: Reporter) -> Architecture | None:
    """A model that is not on this machine: a known one, or of the size that its name says; None where it says none."""
    known = next((known for known in KNOWN if known.name.lower() == model.split("@")[0].lower()), None)
    size = _SIZE_IN_NAME.search(model.rsplit("/", 1)[-1])
    if known is None and size:
        reporter.notice(f"{model}: taken to have {format_count(parse_count(size[1]))} parameters, by its name")
    return known or (typical(parse_count(size[1])) if size else None)

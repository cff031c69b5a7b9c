"""Differences between model families that change the number of parameters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One `model_type` of Hugging Face configs; the defaults hold where a config.json leaves a key out.

    Source of every row: the modules and the config class in transformers, `models/<model_type>/`.
    The tests hold the counts against those classes.
    """

    tied: bool  # the output head is the embedding matrix
    gated: bool = True  # the MLP has a gate: three matrices, not two
    norm_vectors: int = 1  # RMSNorm has a weight; LayerNorm a weight and a bias
    norms: int = 2  # norms in a layer, those of queries and keys aside
    qk_norm: str = ""  # "head": over one head's width, shared by the heads; "all": over all heads
    learned_positions: bool = False
    head_dim: int | None = None  # where a missing key does not mean hidden / heads
    qkv_bias: bool | str = "attention_bias"  # a name is the config's key for it
    out_bias: bool | str = "attention_bias"
    mlp_bias: bool | str = False
    attention_bias_default: bool = False


FAMILIES = {
    "llama": Family(tied=False, mlp_bias="mlp_bias"),
    "mistral": Family(tied=False, qkv_bias=False, out_bias=False),
    "qwen2": Family(tied=False, qkv_bias=True, out_bias=False),
    "qwen3": Family(tied=False, qk_norm="head", head_dim=128),
    "smollm3": Family(tied=True, mlp_bias="mlp_bias"),
    "gemma": Family(tied=True, head_dim=256),
    "gemma2": Family(tied=True, norms=4, head_dim=256),
    "gemma3_text": Family(tied=True, norms=4, qk_norm="head", head_dim=256),
    "phi3": Family(tied=False, qkv_bias=False, out_bias=False),
    "olmo2": Family(tied=False, qk_norm="all"),
    "gpt2": Family(
        tied=True, gated=False, norm_vectors=2, learned_positions=True, qkv_bias=True, out_bias=True, mlp_bias=True
    ),
    "gpt_neox": Family(tied=False, gated=False, norm_vectors=2, mlp_bias=True, attention_bias_default=True),
}

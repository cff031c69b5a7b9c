"""One model's dimensions, and how many parameters they make."""

from __future__ import annotations

from dataclasses import dataclass

from prefcli.memory.families import FAMILIES, Family


@dataclass(frozen=True)
class Counted:
    """Counts of a model that was built without weights (memory/skeleton.py): its parameters as a language
    model and as a scorer, inputs and outputs of its linear layers together, their weights, the largest tensor."""

    causal: int
    scorer: int
    adapted: int
    linear: int
    largest: int


@dataclass(frozen=True)
class Architecture:
    """The dimensions of a decoder-only transformer.

    `stated_parameters` is set where a size was given and no model: the count is then what was said, and the
    dimensions are only typical of it. `counted` is set for a family without a formula here.
    """

    name: str
    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    positions: int = 0  # rows of a learned position table; 0 where positions are computed
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    latent: int = 0  # numbers of a token in a layer's cache, where keys and values are made of them again (MLA)
    stated_parameters: int | None = None
    counted: Counted | None = None

    @property
    def traits(self) -> Family:
        return FAMILIES.get(self.family, FAMILIES["llama"])

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        """Of the causal language model: policy and reference."""
        return self.stated_parameters or (self.counted.causal if self.counted else causal_parameters(self))

    @property
    def scorer_parameters(self) -> int:
        """Of the same model with a score instead of the vocabulary: value and reward model."""
        return self.stated_parameters or (self.counted.scorer if self.counted else scorer_parameters(self))


def attention_parameters(a: Architecture) -> int:
    """Queries, keys, values and output, with their biases and norms: 2·h·(q + kv) and the vectors."""
    matrices = 2 * a.hidden * (a.query_width + a.kv_width)
    biases = a.qkv_bias * (a.query_width + 2 * a.kv_width) + a.out_bias * a.hidden
    norms = {"": 0, "head": 2 * a.head_dim, "all": a.query_width + a.kv_width}[a.traits.qk_norm]
    return matrices + biases + norms


def mlp_parameters(a: Architecture) -> int:
    """Up and down, and the gate where there is one: 3·h·f gated, 2·h·f plain."""
    into = 2 if a.traits.gated else 1
    return (into + 1) * a.hidden * a.ffn + a.mlp_bias * (into * a.ffn + a.hidden)


def backbone_parameters(a: Architecture) -> int:
    """Embeddings, layers and the last norm: the model without any head."""
    norm = a.traits.norm_vectors * a.hidden
    layer = attention_parameters(a) + mlp_parameters(a) + a.traits.norms * norm
    return (a.vocab + a.positions) * a.hidden + a.layers * layer + norm


def causal_parameters(a: Architecture) -> int:
    return backbone_parameters(a) + (0 if a.tied else a.vocab * a.hidden)


def scorer_parameters(a: Architecture) -> int:
    """transformers' `…ForSequenceClassification` with one label: a head of h weights and no bias."""
    return backbone_parameters(a) + a.hidden


def lora_parameters(a: Architecture, rank: int) -> int:
    """An adapter of this rank on every linear layer of every block: r·(in + out) for each (arXiv 2106.09685, 4.1)."""
    if a.counted:
        return rank * a.counted.adapted
    attention = 2 * (a.hidden + a.query_width) + 2 * (a.hidden + a.kv_width)
    mlp = (3 if a.traits.gated else 2) * (a.hidden + a.ffn)
    return a.layers * rank * (attention + mlp)


def linear_weights(a: Architecture) -> int:
    """Weights in the linear layers of all blocks, which 4 bits make small; experts in stacked tensors are none."""
    return a.counted.linear if a.counted else a.layers * (attention_parameters(a) + mlp_parameters(a))

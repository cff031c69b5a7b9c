"""What a family of the zoo is: a model type of transformers, sizes that are tiny, and a tokenizer's style."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Sizes = dict[str, Any]

# In the words that most configurations share.
COMMON: Sizes = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
WINDOW = 40  # longer than short rows, shorter than ours
ALTERNATING = ["sliding_attention", "full_attention"]


@dataclass(frozen=True)
class Family:
    """`sizes` go to the configuration of `model_type`; `text` those of a text part inside it (vision-language models).

    `has` says in a few words what sets the family apart. `short`: the model has so few positions, and must say so.
    """

    name: str
    model_type: str
    style: str
    has: str
    sizes: Sizes = field(default_factory=dict)
    text: Sizes | None = None
    short: int | None = None


def common(**more: Any) -> Sizes:
    return COMMON | more

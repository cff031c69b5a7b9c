"""Random models of a few thousand parameters, and a tokenizer of letters, for tests."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

torch.set_num_threads(1)  # models this small lose time to threads, above all on a busy machine

ARCHITECTURES = ("llama", "gpt2")
# Sliding windows are shorter than the rows of the tests: a mask that forgets them shows.
_ALTERNATING = ["sliding_attention", "full_attention"]
MORE: dict[str, tuple[type[PretrainedConfig], dict[str, object]]] = {
    "qwen2": (Qwen2Config, {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "mistral": (MistralConfig, {"sliding_window": 4}),
    "gemma2": (Gemma2Config, {"head_dim": 8, "sliding_window": 4, "layer_types": _ALTERNATING}),
    "gemma3": (Gemma3TextConfig, {"head_dim": 8, "sliding_window": 4, "layer_types": _ALTERNATING}),
    "neox": (GPTNeoXConfig, {}),
}


def tiny_config(architecture: str = "llama", vocab: int = 32, hidden: int = 16, layers: int = 2) -> PretrainedConfig:
    shared = {"vocab_size": vocab, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "num_labels": 1}
    if architecture == "gpt2":
        return GPT2Config(n_embd=hidden, n_layer=layers, n_head=2, n_positions=64, **shared)
    kind, more = MORE.get(architecture, (LlamaConfig, {}))
    return kind(
        hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, **more, **shared,
    )  # fmt: skip


def tiny_lm(architecture: str = "llama", seed: int = 0, scale: float = 1.0, **sizes: int) -> torch.nn.Module:
    """A random causal LM; `scale` multiplies its head: more than 1 makes its distributions less even."""
    torch.manual_seed(seed)
    config = tiny_config(architecture, **sizes)
    config.tie_word_embeddings = False
    model = AutoModelForCausalLM.from_config(config)
    return _livelier(model, model.get_output_embeddings(), scale)


def tiny_scorer(architecture: str = "llama", seed: int = 0, scale: float = 1.0, **sizes: int) -> torch.nn.Module:
    """A random one-label sequence classifier, without a padding id."""
    torch.manual_seed(seed)
    config = tiny_config(architecture, **sizes)
    model = AutoModelForSequenceClassification.from_config(config)
    return _livelier(model, model.score, scale)


def _livelier(model: torch.nn.Module, head: torch.nn.Linear, scale: float) -> torch.nn.Module:
    """transformers draws weights so small that every distribution is nearly even: tests would see nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
        head.weight.mul_(scale)
    return model.eval()


class LetterTokenizer:
    """Token i is a letter; what `prefcli.rl` asks of a tokenizer."""

    pad_token_id = unk_token_id = None

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) - ord("a") for letter in text if letter >= "a"]}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return "".join(chr(ord("a") + i) for i in ids)


def letters() -> PreTrainedTokenizerFast:
    """A tokenizer of four words, for a vocabulary of 4: a, b, the end of sequence (2), padding (3)."""
    words = {name: i for i, name in enumerate(["a", "b", "<eos>", "<pad>"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")

"""The transformers class that a model opens as: a causal language model, or a scorer with one head on any backbone.

A scorer is transformers' own sequence classifier where the family has one. Half of the families have none: for these a
class is made of the family's backbone and a linear head `score`, like those of transformers (`made_for`). Its backbone
is saved as a model of its own, and the head beside it as `score.safetensors`.
"""

from __future__ import annotations

import functools
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)
from transformers.utils import cached_file

HEAD = "score.safetensors"
# RoBERTa and what is made of it: the first position is the one after the number of the padding token.
AFTER_PADDING = {
    "camembert", "data2vec-text", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


def language_model_class(config: PretrainedConfig) -> Any:
    """The Auto class that opens a causal language model; a vision-language model is one, given text alone.

    None where the family has neither, or reads its input with an encoder first.
    """
    if getattr(config, "is_encoder_decoder", False):
        return None
    whole = _name_in(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, config)
    text = _name_in(MODEL_FOR_CAUSAL_LM_MAPPING, config)
    named = getattr(config, "architectures", None) or []
    if whole is not None and (text is None or (whole in named and text not in named)):
        return AutoModelForImageTextToText  # what the checkpoint holds beside its language model is kept
    return AutoModelForCausalLM if text is not None else None


def _name_in(mapping: Any, config: PretrainedConfig) -> str | None:
    if type(config) not in mapping:
        return None
    kind = mapping[type(config)]
    return str((kind[0] if isinstance(kind, tuple) else kind).__name__)


def balances_routers(config: PretrainedConfig) -> bool:
    """Whether transformers computes a loss that balances the routers of this family.

    Not by the configuration: those of DeepSeek and others name its options, and their models compute none.
    """
    auto = language_model_class(config)
    if auto is None or not hasattr(config.get_text_config(), "output_router_logits"):
        return False
    kind = auto._model_mapping[type(config)]
    kind = kind[0] if isinstance(kind, tuple) else kind
    return hasattr(sys.modules[kind.__module__], "load_balancing_loss_func")


def scorer_class(config: PretrainedConfig) -> Any:
    """The class whose `from_pretrained` opens a model of this configuration as a sequence classifier.

    None where the family has neither a decoder's classifier nor a causal language model to make one of.
    """
    if type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        named = " ".join(getattr(config, "architectures", None) or [])
        if "Classification" in named or _reads_the_end(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]):
            return AutoModelForSequenceClassification
    found = _language_model_of(config)
    return None if found is None else made_for(found[1])


def _language_model_of(config: PretrainedConfig) -> tuple[Any, Any] | None:
    """The Auto class and the language model that a scorer of this configuration is made of."""
    for auto in (AutoModelForCausalLM, AutoModelForImageTextToText):
        mapping = auto._model_mapping
        if type(config) in mapping and not getattr(config, "is_encoder_decoder", False):
            kind = mapping[type(config)]
            kind = kind[0] if isinstance(kind, tuple) else kind
            if kind.config_class is type(config) or kind.config_class in mapping:  # what it saves opens again
                return auto, kind
    return None


def _reads_the_end(kind: type[PreTrainedModel]) -> bool:
    """Whether it is a head `score` at a text's last token. Those of BERT's kin, CTRL and others read elsewhere."""
    return issubclass(kind, GenericForSequenceClassification) or "self.score" in inspect.getsource(kind)


def new_scorer(config: PretrainedConfig, dtype: Any) -> Any:
    """A scorer of this configuration with fresh weights."""
    kind = scorer_class(config)
    return (kind._from_config if is_made(kind) else kind.from_config)(config, dtype=dtype)


class MadeScorer(PreTrainedModel):
    """Base of the classes that `made_for` makes; never an instance itself."""

    around = ""  # the name of what checkpoints may have around the language model

    @classmethod
    def from_pretrained(cls, *args: Any, **options: Any) -> Any:
        """As transformers' own, from the files of a language model or of a scorer; `load_head` gives the head."""
        if cls.around:
            options.setdefault("key_mapping", {rf"^{cls.around}\.": ""})
        return super().from_pretrained(*args, **options)

    def forward(
        self, input_ids: Tensor | None = None, attention_mask: Tensor | None = None, **inputs: Any
    ) -> SequenceClassifierOutputWithPast:
        """input_ids [B, T] → logits [B, labels]: the head at the last token that `attention_mask` [B, T] shows."""
        backbone = getattr(self, self.base_model_prefix)
        inputs |= {"input_ids": input_ids, "attention_mask": attention_mask}
        accepted = inspect.signature(backbone.forward).parameters
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in accepted.values()):
            inputs = {name: given for name, given in inputs.items() if name in accepted}
        every = self.score(backbone(**inputs)[0])
        last = torch.full((len(every),), every.shape[1] - 1, device=every.device)
        if attention_mask is not None and attention_mask.shape == every.shape[:2]:
            places = torch.arange(every.shape[1], device=every.device)
            last = (places * (attention_mask > 0)).argmax(1)
        return SequenceClassifierOutputWithPast(logits=every[torch.arange(len(every), device=every.device), last])

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """The backbone as AutoModel opens it, and the head beside it."""
        prefix = f"{self.base_model_prefix}."
        if (weights := options.get("state_dict")) is not None:
            options["state_dict"] = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
            head = {n.removeprefix("score."): t for n, t in weights.items() if n.startswith("score.")}
        else:
            head = self.score.state_dict()
        getattr(self, self.base_model_prefix).save_pretrained(save_directory, **options)
        save_file({n: t.detach().contiguous().cpu() for n, t in head.items()}, Path(save_directory) / HEAD)


@functools.cache
def made_for(language_model: type[PreTrainedModel]) -> type[MadeScorer]:
    """A sequence classifier on the backbone of a family's causal language model."""
    family = next(kind for kind in language_model.__mro__ if kind.__name__.endswith("PreTrainedModel"))
    prefix = language_model.base_model_prefix
    # Llama 4's language model names as its backbone what a vision-language model calls the language model.
    around, prefix = (prefix, "model") if prefix == "language_model" else ("", prefix)

    def __init__(self: Any, config: PretrainedConfig) -> None:
        family.__init__(self, config)  # type: ignore[misc]
        setattr(self, prefix, getattr(language_model(config), prefix))
        self.score = nn.Linear(config.get_text_config().hidden_size, config.num_labels, bias=False)
        self.post_init()

    about = {
        "__init__": __init__,
        "base_model_prefix": prefix,
        "around": around,
        # A text model's own configuration, where the checkpoint's is that of a vision-language model around it.
        "config_class": language_model.config_class,
        # Names of tensors in files are changed, and buffers filled, for classes of transformers alone, by their name.
        "__module__": language_model.__module__,
    }
    return type(language_model.__name__, (MadeScorer, family), about)


def backbone_of(model: Any) -> Any:
    """The backbone of a language model or a classifier."""
    if hasattr(model, model.base_model_prefix):
        return getattr(model, model.base_model_prefix)
    return model.model if hasattr(model, "model") else model.language_model.model  # Llama 4's, without and with images


def opens_as(config: PretrainedConfig, scorer: bool) -> tuple[str, str | None]:
    """For a model card: the Auto class that opens its files, and of a class of ours the backbone's name in it."""
    if not scorer:
        return str(language_model_class(config).__name__), None
    kind = scorer_class(config)
    if not is_made(kind):
        return str(kind.__name__), None
    found = _language_model_of(config)
    assert found is not None
    return str(found[0].__name__), kind.base_model_prefix


def is_made(kind: Any) -> bool:
    """Whether a class or a model is one of ours, which plain transformers opens without its head."""
    kind = kind if isinstance(kind, type) else type(kind)
    return issubclass(kind, MadeScorer)


def head_file(where: str | Path, **revision: str) -> str | None:
    """The file of the head beside a backbone, in a directory or, fetched, of a hub id; None where there is none."""
    found: str | None = cached_file(where, HEAD, _raise_exceptions_for_missing_entries=False, **revision)
    return found


def load_head(where: str | Path, **revision: str) -> dict[str, Tensor] | None:
    """The head that is beside a backbone: its weight [labels, h]; None where none is."""
    file = head_file(where, **revision)
    return None if file is None else load_file(file)

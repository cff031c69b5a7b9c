"""From a resolved reference to a model: a policy (causal LM) or a scorer (one-label sequence classifier).

An adapter directory (LoRA) opens on its own base; GGUF files become plain models. No code of a model directory runs
and no pickle is opened.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ParamSpec

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, BitsAndBytesConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from prefcli.artifacts.bases import Base
from prefcli.artifacts.hub import from_cache
from prefcli.artifacts.references import Reference
from prefcli.errors import ArtifactError, UsageError
from prefcli.models import bitsandbytes
from prefcli.models.adapter_files import merge, open_adapter, refuse_hub_adapter
from prefcli.models.classes import (
    AFTER_PADDING,
    backbone_of,
    head_file,
    is_made,
    language_model_class,
    load_head,
    new_scorer,
    scorer_class,
)
from prefcli.models.failures import CAUSAL, no_base, not_opened, refuse_unfit
from prefcli.models.labels import labels_of, one_label
from prefcli.models.tokenizers import source
from prefcli.text import first_line

# Left open, transformers would ask on a terminal whether to run a directory's code, and open pytorch_model.bin. Of
# weights in another shape it tells, and `_refuse_missing` refuses them in words of ours.
SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True, "ignore_mismatched_sizes": True}

# A transformers model, or a PeftModel around one: neither library is typed.
Model = Any
P = ParamSpec("P")


@dataclass(frozen=True)
class Loaded:
    """A model, and whether it `has_grown`: it has the embedding of a token that its files lack."""

    model: Model
    has_grown: bool


@from_cache
def is_scorer(reference: Reference) -> bool:
    """Whether it is a reward model (by its manifest, its head's file, or the architecture in its config)."""
    if reference.artifact is not None:
        return reference.artifact.manifest.scores
    if reference.kind == "hub":
        where, extra = source(reference)
        refuse_hub_adapter(reference.text, where, extra)
        if _classifies(configuration(reference).to_dict()):
            return True
        try:
            return head_file(where, **extra) is not None
        except Exception as error:
            raise not_opened(reference, error) from error
    if reference.path is None or not reference.path.is_dir():
        return False
    if reference.is_adapter:
        return _json(reference.path / "adapter_config.json").get("task_type") == "SEQ_CLS"
    return head_file(reference.path) is not None or _classifies(_json(reference.path / "config.json"))


def _classifies(config: dict[str, Any]) -> bool:
    architectures = config.get("architectures")
    return isinstance(architectures, list) and any("SequenceClassification" in str(name) for name in architectures)


@from_cache
def configuration(reference: Reference) -> PretrainedConfig:
    """The configuration of a model, or of an adapter's base. Raises ArtifactError: it is not read."""
    where, extra = source(reference)
    if reference.is_adapter:
        base = _base(reference)
        where, extra = base.place, {"revision": base.revision} if base.revision else {}
    try:
        return AutoConfig.from_pretrained(where, trust_remote_code=False, **extra)
    except Exception as error:
        raise not_opened(reference, error) from error


def class_of(reference: Reference, *, scorer: bool) -> Any:
    """The class that a reference's weights open as. Raises ArtifactError: none does."""
    config = configuration(reference)
    kind = scorer_class(config) if scorer else language_model_class(config)
    if kind is None:
        raise not_opened(reference, ValueError("no causal head"))
    return kind


@from_cache
def loaded_policy(
    reference: Reference,
    *,
    dtype: torch.dtype | str,
    device: torch.device,
    trainable: bool,
    tokenizer_size: int = 0,
    in_4bit: bool = False,
) -> Loaded:
    """A causal language model. `tokenizer_size` grows its embeddings where the tokenizer was given a new token.

    `dtype` may be "auto": that of its files. `in_4bit` holds its linear layers, below an adapter, in 4 bits. On the
    meta device it has no weights, and none are read where that can be: another process hands them out.

    Raises ArtifactError: a reward model, an encoder, weights that are missing or do not fit.
    """
    if is_scorer(reference):
        raise ArtifactError(
            f"{reference.text} is a reward model, not a language model",
            "give the model to train or sample from; reward models go to --reward",
        )
    refuse_unfit(reference, in_4bit=in_4bit)
    where, extra = source(reference)
    extra |= SAFE | (_four_bits(dtype, device) if in_4bit else {})
    try:
        kind = class_of(reference, scorer=False)
        if reference.is_adapter:
            base = _base_model(reference, kind, {"dtype": dtype} | extra | _structure(device))
            model = _opened_on(base, reference, trainable=trainable)
        else:
            options = extra | ({} if reference.kind == "gguf" else _structure(device))
            model, info = kind.from_pretrained(where, dtype=dtype, output_loading_info=True, **options)
            _refuse_missing(reference, info, allowed=())
            _refuse_a_head(reference, info)
    except Exception as error:
        raise not_opened(reference, error) from error
    if reference.kind == "gguf":
        model = _without_quantization(model)
    has_grown = _grow(model, tokenizer_size)
    _train_padding(model)
    return Loaded(_placed(model, device), has_grown)


@from_cache
def loaded_scorer(
    reference: Reference,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype | str,
    device: torch.device,
    new_head: bool = False,
    trainable: bool = False,
    seed: int = 0,
    in_4bit: bool = False,
    label: str | None = None,
) -> Loaded:
    """A sequence classifier with one label and the head `score`, read at an answer's last token.

    With `new_head` a language model is given a fresh head; without, a head that is not in the file is refused: a
    random one would score, silently, nonsense. An adapter of a language model is merged into its base first. Of a
    model with several labels `label` names the one that is the score, or a weighted sum (`models/labels.py`).
    """
    refuse_unfit(reference, in_4bit=in_4bit)
    where, extra = source(reference)
    if reference.kind == "hub":
        refuse_hub_adapter(reference.text, where, extra)
    options: dict[str, Any] = SAFE | {"dtype": dtype} | (_four_bits(dtype, device) if in_4bit else {})
    torch.manual_seed(seed)
    has_grown = False
    try:
        config = configuration(reference)
        kind = class_of(reference, scorer=True)
        headless = new_head or not is_scorer(reference)
        if headless and label is not None:
            raise UsageError(f"--label {label}: {reference.text} is not a reward model", "leave --label out")
        count = 1 if headless else labels_of(reference, config, label)
        options |= {"num_labels": count}
        if reference.is_adapter and is_scorer(reference):
            _refuse_headless_adapter(reference)
            scorer = _base_model(reference, kind, options | _structure(device), allowed=("score",))
            has_grown = _grow(scorer, len(tokenizer))
            scorer = _opened_on(scorer, reference, scorer=True, trainable=trainable)
        elif reference.is_adapter or reference.kind == "gguf":
            policy = load_policy(reference, dtype=dtype, device=torch.device("cpu"), trainable=False)
            scorer = _head_on(policy, dtype)
        else:
            options |= _structure(device)
            scorer, info = kind.from_pretrained(where, output_loading_info=True, **options, **extra)
            beside = load_head(where, **extra) if is_made(kind) and not new_head else None
            if beside is not None:
                scorer.score.load_state_dict(beside)
            _refuse_missing(reference, info, allowed=("score",) if new_head or beside is not None else ())
            if count > 1:
                one_label(scorer, reference, label)
    except Exception as error:
        raise not_opened(reference, error) from error
    if not hasattr(scorer, "score") and not hasattr(getattr(scorer, "base_model", None), "score"):
        raise ArtifactError(
            f"{reference.text}: {type(scorer).__name__} has no head named 'score'",
            "reward models are decoder models opened by AutoModelForSequenceClassification",
        )
    has_grown |= _grow(scorer, len(tokenizer))
    _train_padding(scorer)
    pad_with(scorer, tokenizer)
    return Loaded(_placed(scorer, device), has_grown)


def _model_alone(load: Callable[P, Loaded]) -> Callable[P, Model]:
    @functools.wraps(load)
    def model_alone(*args: P.args, **options: P.kwargs) -> Model:
        return load(*args, **options).model

    return model_alone


load_policy, load_scorer = _model_alone(loaded_policy), _model_alone(loaded_scorer)


def pad_with(model: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    """Have the model's configuration, which is saved with it, name the tokenizer's padding token.

    But where positions are counted from what it names: they would not be those that it was trained with.
    """
    if (token := tokenizer.pad_token_id) is None or model.config.get_text_config().model_type in AFTER_PADDING:
        return
    for config in (model.config.get_text_config(), model.config, getattr(model, "generation_config", None)):
        if config is not None:
            config.pad_token_id = token


def _base(reference: Reference) -> Base:
    """Raises ArtifactError: an adapter that names none."""
    if reference.base is None:
        raise no_base(reference.text)
    return reference.base


def _base_model(
    reference: Reference, kind: Any, options: dict[str, Any], allowed: tuple[str, ...] = ()
) -> PreTrainedModel:
    """The weights below an adapter; those `allowed` to be missing are in the adapter's own file."""
    base = _base(reference)
    model, info = kind.from_pretrained(base.place, revision=base.revision, output_loading_info=True, **options)
    _refuse_missing(reference, info, allowed)
    return model  # type: ignore[no-any-return]


def _opened_on(model: Any, reference: Reference, *, scorer: bool = False, trainable: bool = False) -> PeftModel:
    assert reference.path is not None
    return open_adapter(model, reference.path, _base(reference), reference.text, scorer=scorer, trainable=trainable)


def _four_bits(dtype: torch.dtype | str, device: torch.device) -> dict[str, Any]:
    """QLoRA's form (arXiv 2305.14314, section 3): NormalFloat, its constants quantized too; heads are left alone."""
    bitsandbytes.show()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "score"],
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _structure(device: torch.device) -> dict[str, Any]:
    """For `from_pretrained` on the meta device: read no weights."""
    return {"device_map": {"": "meta"}} if device.type == "meta" else {}


def _placed(model: Model, device: torch.device) -> Model:
    """What is in 4 bits was read to its device already, and is not moved."""
    if getattr(model, "is_loaded_in_4bit", False):
        return model
    placed = model.to(device)
    if device.type == "meta":  # where torch makes two of what is tied
        (placed.get_base_model() if isinstance(placed, PeftModel) else placed).tie_weights()
    return placed


def _head_on(policy: Model, dtype: torch.dtype | str) -> PreTrainedModel:
    """A sequence classifier with the body of a language model and a fresh head."""
    plain = merge(policy) if isinstance(policy, PeftModel) else policy
    config = plain.config
    config.num_labels = 1
    scorer: PreTrainedModel = new_scorer(config, dtype)
    backbone_of(scorer).load_state_dict(backbone_of(plain).state_dict())
    return scorer


def refuse_unsaved(reference: Reference, model: Model) -> None:
    """Raise ArtifactError where transformers reads a generation config and will not write it, before any training."""
    generation = getattr(model, "generation_config", None)
    with TemporaryDirectory() as folder:
        try:
            if generation is not None:
                generation.save_pretrained(folder)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise ArtifactError(
                f"{reference.text}: its generation_config.json cannot be written again: {reason[:200]}",
                "repair it, or delete it",
            ) from error


def _without_quantization(model: PreTrainedModel) -> PreTrainedModel:
    """transformers refuses to save a model it read from a GGUF file; the same weights in a plain one it saves."""
    config = type(model.config)(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
    plain = type(model)._from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def _grow(model: Any, size: int) -> bool:
    """Room for a token that the tokenizer was given. What is on disk stays as it is, which an adapter must know.

    Its rows are the mean of the others: transformers adds noise to that, and policy and reference would differ.
    """
    had = model.get_input_embeddings().weight.shape[0]
    if size <= had:
        return False
    model.resize_token_embeddings(size, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            for weights in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
                if weights is not None:
                    weights[had:] = weights[:had].float().mean(0)
    return True


def _train_padding(model: Any) -> None:
    """Train the embedding of the token that pads like any other: in many models it is also the one that ends a text.

    A right-padded row shows padding to nothing that is read, so of another token the gradient is 0 all the same.
    """
    embeddings = model.get_input_embeddings()
    if isinstance(embeddings, nn.Embedding):
        embeddings.padding_idx = None


def _refuse_missing(reference: Reference, info: dict[str, Any], allowed: tuple[str, ...]) -> None:
    """Raise ArtifactError where the files lack weights that would then be random."""
    missing = sorted(name for name in info.get("missing_keys", ()) if not name.startswith(allowed or ("\0",)))
    if not missing and not info.get("mismatched_keys"):
        return
    if any(name.startswith("score") for name in missing):
        raise ArtifactError(
            f"{reference.text} has no reward head: {', '.join(missing[:3])} is not in its files",
            "train one with: prefcli train-rm --data pairs.jsonl --model " + reference.text,
        )
    others = (f"{name} is {list(found)}, not {list(own)}" for name, found, own in info["mismatched_keys"])
    names = ", ".join(missing[:3]) or min(others)
    named = next(iter(configuration(reference).architectures or []), "")
    outside = not any(part.isdecimal() for name in missing for part in name.split("."))  # of all layers
    if missing and outside and named.endswith("Model") and "LMHead" not in named:
        raise ArtifactError(f"{reference.text}: it is a {named}, without the weights of a causal head: {names}", CAUSAL)
    raise ArtifactError(
        f"{reference.text}: the files lack weights, or hold them in another shape: {names}", "copy the model again"
    )


def _refuse_a_head(reference: Reference, info: dict[str, Any]) -> None:
    """Raise ArtifactError for a language model whose files hold the head of a reward model."""
    if any(name.startswith("score.") for name in info.get("unexpected_keys", ())):
        raise ArtifactError(
            f"{reference.text}: its files hold a reward model's head, and its config.json does not say so",
            "name the …ForSequenceClassification that it is under architectures in config.json",
        )


def _refuse_headless_adapter(reference: Reference) -> None:
    assert reference.path is not None
    files = list(reference.path.glob("adapter_model.safetensors"))
    if files:
        with safe_open(files[0], "pt") as tensors:
            if any(".score." in f".{name}" for name in tensors.keys()):
                return
    raise ArtifactError(
        f"{reference.text}: the adapter's file holds no reward head",
        "train it again with: prefcli train-rm (which saves the head)",
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read: {first_line(error)}", "copy the model again") from error
    return loaded if isinstance(loaded, dict) else {}

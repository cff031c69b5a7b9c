"""From a resolved reference to a model: a policy (causal LM) or a scorer (one-label sequence classifier).

An adapter directory (LoRA) opens on its own base; GGUF files become plain models. No code of a model directory runs
and no pickle is opened.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM, PeftConfig, PeftModel
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prefcli.artifacts.hub import from_cache
from prefcli.artifacts.references import Reference, adapter_base
from prefcli.errors import ArtifactError
from prefcli.models import four_bits
from prefcli.models.failures import not_opened, refuse_unfit
from prefcli.models.tokenizers import first_line, source

# Left open, transformers would ask on a terminal whether to run a directory's code, and open pytorch_model.bin.
SAFE: dict[str, Any] = {"trust_remote_code": False, "use_safetensors": True}

# A transformers model, or a PeftModel around one: neither library is typed.
Model = Any


def is_adapter(reference: Reference) -> bool:
    return reference.path is not None and (reference.path / "adapter_config.json").is_file()


def base_of(reference: Reference) -> str | None:
    """Where the weights are that it stands on: an adapter's base, or its own. None for a GGUF file."""
    if reference.kind == "gguf":
        return None
    place, _ = source(reference)
    if is_adapter(reference):
        assert reference.path is not None
        place = str(adapter_base(reference.path))
    return str(Path(place).resolve()) if Path(place).exists() else str(place)


@from_cache
def is_scorer(reference: Reference) -> bool:
    """Whether it is a reward model (by its manifest, or by the architecture in its config)."""
    if reference.artifact is not None:
        return reference.artifact.manifest.stage == "rm"
    if reference.kind == "hub":
        where, extra = source(reference)
        try:
            config = AutoConfig.from_pretrained(where, trust_remote_code=False, **extra).to_dict()
        except Exception as error:
            raise not_opened(reference, error) from error
        return _classifies(config)
    if reference.path is None or not reference.path.is_dir():
        return False
    if is_adapter(reference):
        return _json(reference.path / "adapter_config.json").get("task_type") == "SEQ_CLS"
    return _classifies(_json(reference.path / "config.json"))


def _classifies(config: dict[str, Any]) -> bool:
    architectures = config.get("architectures")
    return isinstance(architectures, list) and any("SequenceClassification" in str(name) for name in architectures)


@from_cache
def load_policy(
    reference: Reference,
    *,
    dtype: torch.dtype | str,
    device: torch.device,
    trainable: bool,
    tokenizer_size: int = 0,
    in_4bit: bool = False,
) -> Model:
    """A causal language model. `tokenizer_size` grows its embeddings where the tokenizer was given a new token.

    `dtype` may be "auto": that of its files. `in_4bit` holds its linear layers, below an adapter, in 4 bits.

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
        if is_adapter(reference):
            model = AutoPeftModelForCausalLM.from_pretrained(where, is_trainable=trainable, dtype=dtype, **extra)
        else:
            model, info = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, output_loading_info=True, **extra)
            _refuse_missing(reference, info, allowed=())
    except Exception as error:
        raise not_opened(reference, error) from error
    if reference.kind == "gguf":
        model = _without_quantization(model)
    _grow(model, tokenizer_size)
    return _placed(model, device)


@from_cache
def load_scorer(
    reference: Reference,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: torch.dtype | str,
    device: torch.device,
    new_head: bool = False,
    trainable: bool = False,
    seed: int = 0,
    in_4bit: bool = False,
) -> Model:
    """A sequence classifier with one label and the head `score`, read at an answer's last token.

    With `new_head` a language model is given a fresh head; without, a head that is not in the file is refused: a
    random one would score, silently, nonsense. An adapter of a language model is merged into its base first.
    """
    refuse_unfit(reference, scorer=True, in_4bit=in_4bit)
    where, extra = source(reference)
    head: tuple[str, ...] = ("score",) if new_head else ()
    options: dict[str, Any] = SAFE | {"dtype": dtype, "num_labels": 1} | (_four_bits(dtype, device) if in_4bit else {})
    torch.manual_seed(seed)
    try:
        if is_adapter(reference) and is_scorer(reference):
            _refuse_headless_adapter(reference)
            base = PeftConfig.from_pretrained(where).base_model_name_or_path
            scorer = AutoModelForSequenceClassification.from_pretrained(base, **options)
            _grow(scorer, len(tokenizer))
            scorer = PeftModel.from_pretrained(scorer, where, is_trainable=trainable)
        elif is_adapter(reference) or reference.kind == "gguf":
            policy = load_policy(reference, dtype=dtype, device=torch.device("cpu"), trainable=False)
            scorer = _head_on(policy, dtype)
        else:
            scorer, info = AutoModelForSequenceClassification.from_pretrained(
                where, output_loading_info=True, **options, **extra
            )
            _refuse_missing(reference, info, allowed=head)
    except Exception as error:
        raise not_opened(reference, error, scorer=True) from error
    if not hasattr(scorer, "score") and not hasattr(getattr(scorer, "base_model", None), "score"):
        raise ArtifactError(
            f"{reference.text}: {type(scorer).__name__} has no head named 'score'",
            "reward models are decoder models opened by AutoModelForSequenceClassification",
        )
    _grow(scorer, len(tokenizer))
    if tokenizer.pad_token_id is not None:
        scorer.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        scorer.config.pad_token_id = tokenizer.pad_token_id
    return _placed(scorer, device)


def count_parameters(reference: Reference) -> int | None:
    """Parameters of the model at a reference from the headers of its files; None where they are not on this disk.

    An adapter counts its base, since that is what a learning rate goes by.
    """
    path = reference.path
    if path is None or not path.is_dir():
        return None
    if is_adapter(reference):
        path = Path(str(base_of(reference)))
    total = 0
    for file in path.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                count = 1
                for size in tensors.get_slice(name).get_shape():
                    count *= size
                total += count
    return total or None


def _four_bits(dtype: torch.dtype | str, device: torch.device) -> dict[str, Any]:
    """QLoRA's form (arXiv 2305.14314, section 3): NormalFloat, its constants quantized too; heads are left alone."""
    four_bits.show()
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "score"],
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _placed(model: Model, device: torch.device) -> Model:
    """What is in 4 bits was read to its device already, and is not moved."""
    return model if getattr(model, "is_loaded_in_4bit", False) else model.to(device)


def _head_on(policy: Model, dtype: torch.dtype | str) -> PreTrainedModel:
    """A sequence classifier with the body of a language model and a fresh head."""
    plain = policy.merge_and_unload() if isinstance(policy, PeftModel) else policy
    config = plain.config
    config.num_labels = 1
    scorer = AutoModelForSequenceClassification.from_config(config, dtype=dtype)
    body = getattr(plain, plain.base_model_prefix)
    getattr(scorer, scorer.base_model_prefix).load_state_dict(body.state_dict())
    return scorer


def _without_quantization(model: PreTrainedModel) -> PreTrainedModel:
    """transformers refuses to save a model it read from a GGUF file; the same weights in a plain one it saves."""
    config = type(model.config)(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
    plain = type(model)._from_config(config, dtype=model.dtype)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain


def _grow(model: Any, size: int) -> None:
    """Room for a token that the tokenizer was given. What is on disk stays as it is, which an adapter must know."""
    had = model.get_input_embeddings().weight.shape[0]
    if size > had:
        model.resize_token_embeddings(size)
        model.grown_from = had


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
    names = ", ".join(missing[:3]) or str(next(iter(info["mismatched_keys"])))
    raise ArtifactError(
        f"{reference.text}: the files lack weights, or hold them in another shape: {names}", "copy the model again"
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

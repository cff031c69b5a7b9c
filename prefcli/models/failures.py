"""Why a model cannot be opened: one cause, one message.

The cause is read off the model's own files, and not off what a library says about it: that changes with its versions,
and speaks to somebody who wrote the call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto import modeling_auto as auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from prefcli.artifacts import hub
from prefcli.artifacts.bases import is_adapter_directory, named_base
from prefcli.artifacts.references import Reference, is_hub_id
from prefcli.errors import ArtifactError, PrefcliError, UsageError, from_foreign
from prefcli.models import files
from prefcli.models.classes import AFTER_PADDING

Cause = tuple[str, str]  # what is wrong, what to do
CAUSAL = "give a causal language model: one whose config.json names a …ForCausalLM"
# Numbers that every model has at least one of; a model with none of its layers would load, and say nothing.
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")
_COUNTS = (*_LAYERS, "hidden_size", "n_embd", "num_attention_heads", "n_head",
           "num_key_value_heads", "intermediate_size", "vocab_size", "max_position_embeddings")  # fmt: skip
_OTHER_HEAD = re.compile(r"\w*(TokenClassification|QuestionAnswering|MultipleChoice|Reward|ForScore)\w*")
_BOTH_WAYS: dict[str, tuple[Any, ...]] = {"is_causal": (False,), "use_bidirectional_attention": (True, "all")}


def refuse_unfit(reference: Reference, *, in_4bit: bool = False) -> None:
    """Raise ArtifactError where the configuration alone says that the model is not one to open here.

    Such a one is opened without a word otherwise (an encoder, a model with none of its layers), or after minutes.
    Raises UsageError: a GGUF file in 4 bits.
    """
    if in_4bit and reference.kind == "gguf":
        raise UsageError(
            f"--load-in-4bit does not read a GGUF file, and {reference.shown} is one",
            f"convert it first: prefcli export {reference.text} DIR, then --model DIR",
        )
    looks: list[Callable[[dict[str, Any]], Cause | None]] = [_of_a_strange_type, _nonsense, _encoder, _without_padding]
    looks += [_other_head] if in_4bit else [_other_head, _of_4_bits]
    for folder in _folders(reference):
        if (cause := _damaged_config(folder)) is not None:
            raise _told(reference, cause)
        for look in looks:
            if (cause := look(_opened_by(folder))) is not None:
                raise _told(reference, cause)
        if (cause := _too_many_layers(folder)) is not None:
            raise _told(reference, cause)


def not_opened(reference: Reference, error: BaseException) -> BaseException:
    """The error to show for an exception from `from_pretrained` of a model: one cause, and what to do about it."""
    if (known := _known(reference, error)) is not None:
        return known
    for folder in _folders(reference):
        config = _opened_by(folder)
        for look in (_damaged_config, files.damaged_weights):
            if (cause := look(folder)) is not None:
                return _told(reference, cause)
        for read in (_of_a_strange_type, _quantised, _nonsense, _padding_beyond, _no_causal_head):
            if config and (cause := read(config)) is not None:
                return _told(reference, cause)
        if config and (cause := _no_config(folder)) is not None:
            return _told(reference, cause)
    if reference.kind == "gguf":
        return ArtifactError(
            f"{reference.text}: the GGUF file could not be read ({_short(error)})",
            "transformers reads GGUF of some families and kinds of blocks; use its safetensors files instead",
        )
    if (base := _base_of(reference)) is not None and not _folders(reference, bases=True):
        return ArtifactError(
            f"{reference.text} is an adapter on {base}, which is not on this machine",
            f"put it there; from the hub: {hub.download(base)}" if is_hub_id(base) else "put it there",
        )
    return ArtifactError(
        f"{reference.text}: transformers {transformers.__version__} could not open it ({_short(error)})",
        "--debug shows where",
    )


def tokenizer_not_read(reference: Reference, error: BaseException) -> BaseException:
    """The error to show for an exception from the tokenizer at a reference."""
    if (known := _known(reference, error)) is not None:
        return known
    for folder in _folders(reference, bases=False):
        settings = config_of(folder, "tokenizer_config.json")
        if not (folder / "tokenizer.json").is_file() and "AutoTokenizer" in _auto_map(settings):
            return _told(reference, _code("it has a tokenizer of its own"))
        for look in (_damaged_config, files.damaged_tokenizer):
            if (cause := look(folder)) is not None:
                return _told(reference, cause)
        config = config_of(folder)
        for read in (_of_a_strange_type, _nonsense):
            if config and (cause := read(config)) is not None:
                return _told(reference, cause)
        if (cause := _no_config(folder)) is not None:
            return _told(reference, cause)
        if (folder / "tokenizer.json").is_file():
            return _told(
                reference,
                (f"tokenizer.json holds no tokenizer that can be used ({_short(error)})", files.COPY),
            )
    return ArtifactError(
        f"{reference.text}: no tokenizer could be read ({_short(error)})",
        "the directory needs tokenizer.json and tokenizer_config.json",
    )


def no_base(text: str) -> ArtifactError:
    return ArtifactError(
        f"{text} is an adapter that names no base model",
        "write its absolute path into base_model_name_or_path of adapter_config.json",
    )


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A model's configuration; an empty one where there is none that can be read."""
    try:
        loaded = json.loads((folder / name).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _opened_by(folder: Path) -> dict[str, Any]:
    """The configuration that a model is opened by: none of an adapter's own, beside which some trainers leave one."""
    return {} if is_adapter_directory(folder) else config_of(folder)


def _known(reference: Reference, error: BaseException) -> BaseException | None:
    """Causes that are known without the files: our own error, memory, the disk, the hub."""
    if isinstance(error, PrefcliError):
        return error
    if (known := from_foreign(error)) is not None:
        return known
    return hub.cause(reference.text, error) if reference.kind == "hub" else None


def _folders(reference: Reference, *, bases: bool | None = None) -> list[Path]:
    """The directories to look into: the model's (of the hub's, that in the cache) and that of an adapter's base."""
    path = reference.path if reference.path is not None else hub.snapshot(reference.text)
    own = [path] if path is not None and path.is_dir() else []
    if bases is False:
        return own
    base = _base_of(reference)
    if base is None:
        return own
    found = Path(base) if Path(base).is_dir() else hub.snapshot(base) if is_hub_id(base) else None
    return ([] if bases else own) + ([found] if found is not None else [])


def _base_of(reference: Reference) -> str | None:
    path = reference.path if reference.path is not None else hub.snapshot(reference.text)
    if path is None or not is_adapter_directory(path):
        return None
    if reference.path is None:
        return named_base(path)
    return None if reference.base is None else reference.base.place


def _told(reference: Reference, cause: Cause) -> ArtifactError:
    return ArtifactError(f"{reference.text}: {cause[0]}", cause[1])


def _damaged_config(folder: Path) -> Cause | None:
    for name in ("config.json", "adapter_config.json"):
        if (wrong := files.not_json(folder / name)) is not None:
            return wrong, files.COPY
    return None


def _no_config(folder: Path) -> Cause | None:
    """The error of transformers on a configuration whose numbers are plausible one by one."""
    if not (folder / "config.json").is_file():
        return None
    try:
        transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        return f"config.json describes no model ({_short(error)})", files.COPY
    return None


def _of_a_strange_type(config: dict[str, Any]) -> Cause | None:
    kind = config.get("model_type")
    if not config or kind in CONFIG_MAPPING_NAMES:
        return None
    if _auto_map(config):
        return _code(f"it is of a type of its own, {kind!r}")
    if not isinstance(kind, str):
        return "its config.json has no model_type: not a model's configuration", files.COPY
    return (
        f"transformers {transformers.__version__} does not know the model type {kind!r}",
        "upgrade it: pip install --upgrade transformers",
    )


def _code(what: str) -> Cause:
    return (
        f"{what}, whose code is in its directory, and such code is not run",
        "take a model that transformers has itself; a model's own code could do anything on this machine",
    )


def _auto_map(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("auto_map")
    return found if isinstance(found, dict) else {}


def _quantised(config: dict[str, Any]) -> Cause | None:
    method = _method(config)
    if method is None:
        return None
    if method == "bitsandbytes":
        return _of_4_bits(config)
    return f"it is quantised with {method}, which is not read here", "take the model that was not quantised"


def _of_4_bits(config: dict[str, Any]) -> Cause | None:
    if _method(config) != "bitsandbytes":
        return None
    return (
        "it is quantised with bitsandbytes, which is not read here",
        "take the model that was not quantised; --load-in-4bit, with --lora-rank, holds it in 4 bits",
    )


def _method(config: dict[str, Any]) -> str | None:
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        return None
    method = settings.get("quant_method")
    if method is None and (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return "bitsandbytes"
    return str(method) if method else None


def _nonsense(config: dict[str, Any]) -> Cause | None:
    for name in _COUNTS:
        value = config.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            if isinstance(value, list):  # one for each layer
                continue
            return f"config.json says {name}: {json.dumps(value)[:60]}, which no model has", files.COPY
    return None


def _padding_beyond(config: dict[str, Any]) -> Cause | None:
    padding, size = config.get("pad_token_id"), config.get("vocab_size")
    if isinstance(padding, int) and isinstance(size, int) and padding >= size:
        return f"config.json says pad_token_id: {padding}, and vocab_size: {size}", "correct it in config.json"
    return None


def _too_many_layers(folder: Path) -> Cause | None:
    """More of them than the files have tensors would be made, one by one, before any is missed."""
    config = _opened_by(folder)
    inner = config.get("text_config")
    counts = [part.get(name) for part in (config, inner) if isinstance(part, dict) for name in _LAYERS]
    layers = max((count for count in counts if isinstance(count, int)), default=0)
    tensors = files.count_tensors(folder)
    if 0 < tensors < layers:
        return f"config.json says that it has {layers:,} layers, and its files hold {tensors:,} tensors", files.COPY
    return None


def _encoder(config: dict[str, Any]) -> Cause | None:
    """A model that reads a text from both sides. Many of them open as causal ones too, and see what they predict."""
    kind, named = config.get("model_type"), _architectures(config)
    if "Classification" in named:  # its head may be one that scores
        return None
    if kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and config.get("is_encoder_decoder") is not False:
        if "ForCausalLM" in named:
            return None
        return f"it is a {kind} model, an encoder and a decoder: it has no causal head", CAUSAL
    masked = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if masked and kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if not (config.get("is_decoder") or config.get("causal")):
            return f"it is a {kind} model, an encoder: it has no causal head", CAUSAL
    if (setting := _both_ways(config)) is not None:
        return f"it is not a causal model: each token sees those after it (config.json: {setting})", CAUSAL
    return None


def _other_head(config: dict[str, Any]) -> Cause | None:
    """A head that neither predicts tokens nor is read as a score; where embeddings are tied it would go unmissed."""
    if (found := _OTHER_HEAD.search(_architectures(config))) is None:
        return None
    return (
        f"it is a {found[0]}, whose head is not read here",
        "give a language model (…ForCausalLM), or a reward model that is a …ForSequenceClassification",
    )


def _without_padding(config: dict[str, Any]) -> Cause | None:
    """A model that counts its positions from a token that it does not know."""
    kind = config.get("model_type")
    if kind not in AFTER_PADDING or config.get("pad_token_id", 1) is not None:
        return None
    return (
        f"it is a {kind} model, which counts positions from the number of its padding token, and config.json has none",
        "set pad_token_id in config.json to that of the model's tokenizer",
    )


def _both_ways(config: dict[str, Any]) -> str | None:
    """The setting by which a model that opens as a causal one sees the tokens that it is to predict."""
    kind = config.get("model_type")
    if kind == "cpmant" or (kind == "xlnet" and config.get("attn_type", "bi") == "bi"):
        return f"model_type {json.dumps(kind)}"
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for name, values in _BOTH_WAYS.items():
            if part.get(name) in values:
                return f"{name} {json.dumps(part[name])}"
    return None


def _no_causal_head(config: dict[str, Any]) -> Cause | None:
    kind = config.get("model_type")
    if (cause := _encoder(config)) is not None:
        return cause
    if kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return None
    return f"it is a {kind} model: it has no causal head", CAUSAL


def _architectures(config: dict[str, Any]) -> str:
    named = config.get("architectures")
    return " ".join(map(str, named)) if isinstance(named, list) else ""


def _short(error: BaseException) -> str:
    """An exception in a line: its first, or, of sentences that tell a programmer what to pass, its kind alone."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if lines and lines[0].endswith(":"):  # it announces the reason
        lines = lines[1:]
    told = ("`", "from_pretrained", "instantiate the backend", "the above report", "trust_remote_code")
    return type(error).__name__ if not lines or any(part in lines[0] for part in told) else lines[0][:200]

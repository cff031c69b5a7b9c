"""Errors in a model's files, found without opening them by a library or reading a tensor."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

COPY = "copy it again from where it came from"
_LFS = b"version https://git-lfs"
_LARGEST_HEADER = 100_000_000  # bytes; safetensors' own limit
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def damaged_weights(folder: Path) -> tuple[str, str] | None:
    """(what is wrong, what to do) of the first file of weights that cannot be read whole; None where all can be.

    Raises OSError.
    """
    for index in sorted(folder.glob("*.safetensors.index.json")):
        if (wrong := _index(index)) is not None:
            return wrong
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = min(folder.glob("*.bin"), default=None)
        if pickled is None:
            return "the directory holds no weights (*.safetensors)", "copy the weights beside it"
        return (
            f"its weights are a pickle ({pickled.name}), which can run code, and is not opened",
            "convert it to safetensors where it was made: load it there and save_pretrained it again",
        )
    for file in files:
        if (why := damage(file)) is not None:
            return f"{file.name} is damaged: {why}", "git lfs pull" if "Git LFS" in why else COPY
    names = {file.name for file in folder.glob("*.safetensors*")}
    if not names & {"model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"}:
        return (
            f"its weights are in {min(names)}, and transformers reads model.safetensors, or what "
            "model.safetensors.index.json names",
            "rename the file, or copy the index beside it",
        )
    return None


def damage(file: Path) -> str | None:
    """Why a .safetensors file cannot be read (its form: eight bytes of length, a header of JSON, the tensors)."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(64)
        if start.startswith(_LFS):
            return "it is a pointer of Git LFS, and not the weights"
        length = int.from_bytes(start[:8], "little")
        if size < 8 or start.lstrip().startswith(b"<") or length > _LARGEST_HEADER:
            return f"it is not a safetensors file ({size:,} bytes)"
        if 8 + length > size:
            return f"it ends after {size:,} bytes, in the middle of its header"
        opened.seek(8)
        header = _object(opened.read(length))
    if header is None:
        return "its header is not readable"
    try:
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (KeyError, IndexError, TypeError):
        return "its header is not readable"
    if not isinstance(end, int) or 8 + length + end == size:
        return None
    return f"it has {size:,} bytes, and its header speaks of {8 + length + end:,}"


def rows_of_head(folder: Path) -> int | None:
    """The number of scores of the head `score` in a directory's files; None where there is none. Raises OSError."""
    for file in sorted(folder.glob("*.safetensors")):
        for name, entry in _header(file).items():
            if name.removeprefix("base_model.model.") in (
                "score.weight",
                "classifier.weight",
                "classifier.out_proj.weight",
            ):
                shape = entry.get("shape") if isinstance(entry, dict) else None
                return shape[0] if isinstance(shape, list) and shape and isinstance(shape[0], int) else None
    return None


def count_tensors(folder: Path) -> int:
    """The number of tensors in a directory's .safetensors files. Raises OSError."""
    return sum(len(_header(file).keys() - {"__metadata__"}) for file in folder.glob("*.safetensors"))


def _header(file: Path) -> dict[str, Any]:
    """The header of a .safetensors file: its tensors by their names; empty where that cannot be read."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        return (_object(opened.read(length)) if length <= _LARGEST_HEADER else None) or {}


def not_json(file: Path) -> str | None:
    """The error in a JSON file that should hold one object; None where nothing is, or there is no such file."""
    if not os.path.isfile(file):
        return None
    text = file.read_bytes()
    if text.startswith(_LFS):
        return f"{file.name} is a pointer of Git LFS, and not the file"
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        return f"{file.name} is damaged: it is not valid JSON" + (f" (line {line})" if line else "")
    return None if isinstance(loaded, dict) else f"{file.name} is damaged: it holds no JSON object"


def damaged_tokenizer(folder: Path) -> tuple[str, str] | None:
    """(what is wrong, what to do) of a directory's tokenizer; None where its files are there and are JSON."""
    for name in (
        "tokenizer_config.json",
        "tokenizer.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
    ):
        if (wrong := not_json(folder / name)) is not None:
            return wrong, "git lfs pull" if "Git LFS" in wrong else COPY
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        return (
            "the directory holds no tokenizer (tokenizer.json)",
            "copy tokenizer.json and tokenizer_config.json into it",
        )
    return None


def _index(file: Path) -> tuple[str, str] | None:
    if (wrong := not_json(file)) is not None:
        return wrong, COPY
    shards = (_object(file.read_bytes()) or {}).get("weight_map")
    if not isinstance(shards, dict):
        return f"{file.name} is damaged: it has no weight_map", COPY
    gone = sorted({str(shard) for shard in shards.values() if not (file.parent / str(shard)).is_file()})
    if not gone:
        return None
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    return f"{file.name} names {gone[0]}{more}, which is not there", "copy what is missing"


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        loaded = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return loaded if isinstance(loaded, dict) else None

"""An architecture read from a model on disk: a config.json, a model directory, or an artifact's directory."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from prefcli.artifacts.bases import Base, find_base, is_adapter_directory
from prefcli.artifacts.store import Store
from prefcli.errors import ArtifactError
from prefcli.memory.architecture import Architecture
from prefcli.memory.families import FAMILIES, Family

# Names of one dimension in the configs of the families; the first that is there counts.
HIDDEN = ("hidden_size", "n_embd")
LAYERS = ("num_hidden_layers", "n_layer")
HEADS = ("num_attention_heads", "n_head")
FFN = ("intermediate_size", "n_inner")
POSITIONS = ("max_position_embeddings", "n_positions")

_SAY_SIZE = "give the size instead, as in --params 7B"


def find_config(path: Path, store: Store | None = None) -> Path | None:
    """The config.json of a model directory or of an artifact (model/config.json), or the file itself.

    None where `path` is neither. An adapter's directory leads to its base when that is on disk.
    Raises ArtifactError: a directory that holds no config.json; an adapter's base that is not what it was trained on.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        return None
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder / "config.json"
        if is_adapter_directory(folder):
            return _config_of_base(folder, find_base(folder, store or Store(), hashed=False))
    raise ArtifactError(
        f"{path} is not a model: neither config.json nor model/config.json is in it", "name a model's directory"
    )


def _config_of_base(adapter: Path, base: Base | None) -> Path:
    if base is not None and base.path is not None and (base.path / "config.json").is_file():
        return base.path / "config.json"
    raise ArtifactError(
        f"{adapter} is an adapter, and the config.json of its base model {base and base.ref!r} is not on disk",
        f"name the base model's directory, or {_SAY_SIZE}",
    )


def read_architecture(config: Path) -> Architecture:
    """The architecture that a config.json describes.

    A family without a formula here is built without weights, which takes as long as importing transformers.
    Raises ArtifactError: unreadable, not a model's configuration, or of a family that transformers does not know.
    """
    values = _read_object(config)
    family = values.get("model_type")
    if not isinstance(family, str):
        raise ArtifactError(f"{config} has no model_type: not a model's configuration", _SAY_SIZE)
    if family not in FAMILIES:
        found: Architecture = import_module("prefcli.memory.skeleton").read_skeleton(config)
        return found
    return _architecture(values, family, FAMILIES[family], config)


def _architecture(values: dict[str, Any], family: str, traits: Family, source: Path) -> Architecture:
    def whole(keys: tuple[str, ...], default: int | None = None) -> int:
        return _whole(values, keys, default, source)

    hidden, heads = whole(HIDDEN), whole(HEADS)
    return Architecture(
        name=source.parent.name or str(source),
        family=family,
        layers=whole(LAYERS),
        hidden=hidden,
        heads=heads,
        kv_heads=whole(("num_key_value_heads",), heads),
        head_dim=whole(("head_dim",), traits.head_dim or hidden // heads),
        ffn=whole(FFN, None if traits.gated else 4 * hidden),
        vocab=whole(("vocab_size",)),
        tied=_flag(values, "tie_word_embeddings", traits.tied, source),
        positions=whole(POSITIONS) if traits.learned_positions else 0,
        qkv_bias=_bias(values, traits.qkv_bias, traits, source),
        out_bias=_bias(values, traits.out_bias, traits, source),
        mlp_bias=_bias(values, traits.mlp_bias, traits, source),
    )


def _read_object(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except ValueError as error:
        raise ArtifactError(f"{file} is not valid JSON: {error}", "name a model's config.json") from error
    except RecursionError as error:
        raise ArtifactError(f"{file} is nested too deeply for a model's configuration") from error
    if not isinstance(values, dict):
        raise ArtifactError(f"{file} is not a model's configuration: it must be one JSON object")
    return values


def _whole(values: dict[str, Any], keys: tuple[str, ...], default: int | None, source: Path) -> int:
    """A positive whole number under the first of `keys` that is set; null counts as left out."""
    for key in keys:
        value = values.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ArtifactError(f"{source}: {key} must be a positive whole number, not {value!r}")
        return value
    if default is None:
        raise ArtifactError(f"{source}: {' or '.join(keys)} is missing", _SAY_SIZE)
    return default


def _flag(values: dict[str, Any], key: str, default: bool, source: Path) -> bool:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise ArtifactError(f"{source}: {key} must be true or false, not {value!r}")
    return value


def _bias(values: dict[str, Any], rule: bool | str, traits: Family, source: Path) -> bool:
    if isinstance(rule, bool):
        return rule
    return _flag(values, rule, traits.attention_bias_default if rule == "attention_bias" else False, source)

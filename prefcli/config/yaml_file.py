"""`--config FILE`: a YAML mapping of option names to values, read as the command line's own words would be."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, get_origin

import yaml

from prefcli.config.base import option, typed_options
from prefcli.config.names import NAMES
from prefcli.config.spelling import NO_WARMUP, Brought, agree, canonical, hint, named
from prefcli.errors import UsageError

NO_LIMIT = "null is no limit there; here rows are cut at --max-length, by default or as given"
_NULL, _SEQUENCE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:seq"


def read_yaml(path: str, cls: type, typed: Brought, on_line: Set[str | None]) -> tuple[dict[str, Any], Brought]:
    """Field → value (a string, a list of strings, or None) from a file, for the command line's own conversion; and what
    it says in names of TRL's or LLaMA-Factory's, with all that is to be refused: an unknown key (with the nearest one),
    a key twice, a value of the wrong shape. What the line says too (`typed`, `on_line` as options of ours) is passed
    over.

    The scalars are taken as they are written: YAML's own types would make `name: no` False and `name: 007` 7.
    Raises UsageError: no such file, not YAML, not a mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror or error}") from error
    except ValueError as error:  # not UTF-8, or a path that no file can have
        raise UsageError(f"--config {path} cannot be read: {error}") from error
    try:
        top = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"--config {path} is not valid YAML: {error}") from error
    brought = Brought()
    if top is None or (isinstance(top, yaml.ScalarNode) and top.tag == _NULL):
        return {}, brought
    if not isinstance(top, yaml.MappingNode):
        raise UsageError(f"--config {path} must be a mapping of option names to values", "for example: lr: 1e-5")
    known = typed_options(cls)
    values: dict[str, Any] = {}
    seen: set[str | None] = set()
    for key, value in top.value:
        line = f"line {key.start_mark.line + 1}"
        raw = key.value if isinstance(key, yaml.ScalarNode) else "…"
        field, name, where = canonical(raw, known), raw.replace("_", "-"), f"{line}: {raw}"
        if name in NAMES and raw.replace("-", "_") not in known:
            brought.shown[name] = where
        if _is_null(value) and (field is not None or name in NAMES):
            if name == "max-length" and field is not None and field not in on_line:
                brought.noted.append((where, NO_LIMIT))
            continue
        said_there = name in typed.shown or _subject("dataset" if raw == "datasets" else raw, known) in on_line
        if said_there and name != "gradient-accumulation-steps":  # times the rows of a process it is the batch
            continue
        if raw == "datasets" and isinstance(value, yaml.SequenceNode):
            field, found = "data", _mixture(where, value, brought)
            taken = brought.takes("dataset", found.pop("data"), known, where)
            values |= {ours: given for ours, given in found.items() if ours in known}
            brought.places |= dict.fromkeys(found, where)
        else:
            taken = brought.takes(raw, _texts(value), known, where)
        if field is None and not taken:
            nearest = hint(raw, known, "see --help for the names", bare=True)
            brought.refused.append((f"{line}: unknown key {raw!r}", nearest))
        elif field == "config":
            brought.refused.append((where, "a file of options cannot name another one: leave it out"))
        elif field in seen and name != "adapter-name-or-path":  # which names its base
            brought.refused.append((where, f"{option(str(field))[2:]} is given twice: leave one out"))
        elif field is not None:
            brought.places[field] = where
            if not taken:
                try:
                    values[field] = _as_typed(value, known[field][0], several=name in NAMES)
                except ValueError as error:
                    brought.refused.append((where, str(error)))
        if field is not None and name != "adapter-name-or-path":
            seen.add(field)
    _refuse_contradictions(values, brought)
    return values, brought


def _refuse_contradictions(values: dict[str, Any], brought: Brought) -> None:
    """Add to `refused` the names whose values mean another value of an option than the file says of it elsewhere.

    Two of them are not what counts there, and are left out with a note: a type that their precision is not is the one
    in which weights are loaded, and a constant schedule has no warm-up.
    """
    said = {ours: (value, brought.places[ours]) for ours, value in values.items()}
    if "warmup" in brought.places and "warmup" not in values:
        said["warmup"] = (brought.jointly.get("warmup-steps", "0"), brought.places["warmup"])
    told = {place for place, _ in brought.refused}
    for ours, value, place in brought.translated:
        other, there = said.setdefault(ours, (value, place))
        if agree(other, value) or place in told:
            continue
        if ours == "dtype" and values.get("dtype") in ("auto", "float32"):
            brought.noted.append((there, "weights are loaded in it there; prefcli computes in that of bf16 or fp16"))
            del values["dtype"]
            said["dtype"] = (value, place)
        elif ours == "warmup":
            brought.noted.append((there, NO_WARMUP))
            values.pop("warmup", None)
            brought.jointly.pop("warmup-steps", None)
        else:
            why = f"it means {option(ours)} {value}, and {there.replace(': ', ', ')}, says otherwise: leave one out"
            brought.refused.append((place, why))


def _subject(name: str, known: Mapping[str, Any]) -> str | None:
    """The field that a name is about: the one that it names, else the first one that its values say."""
    entry = named(name)
    said = [ours for value in entry.values.values() for ours in value] if entry else []
    return canonical(name, known) or next(iter(said), None)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == _NULL


def _texts(node: yaml.Node) -> list[str]:
    """A scalar, or those of a list; a sign for what is deeper."""
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    return [item.value if isinstance(item, yaml.ScalarNode) else "…" for item in items]


def _mixture(where: str, node: yaml.SequenceNode, brought: Brought) -> dict[str, Any]:
    """TRL's `datasets`, a list of mappings: path or data_files, fraction, and a split, one for all."""
    found: dict[str, Any] = {"data": [], "data_weight": [], "split": []}
    for item in node.value:
        if not isinstance(item, yaml.MappingNode):
            brought.refused.append((where, "must be a list of mappings, for example: - path: pairs.jsonl"))
            continue
        said = {",".join(_texts(key)): _texts(value) for key, value in item.value if not _is_null(value)}
        path = said.pop("path", [])
        found["data"] += said.pop("data_files", path)
        found["data_weight"] += said.pop("fraction", [])
        found["split"] += said.pop("split", [])
        brought.refused += [(f"{where}.{name}", "--data takes files, folders and hub ids") for name in said]
    if len(set(found["split"])) > 1:
        brought.refused.append((f"{where}.split", "there is one --split for all --data"))
    found["split"] = "".join(found["split"][:1])
    return {field: value for field, value in found.items() if value or field == "data"}


def _as_typed(node: yaml.Node, kind: Any, *, several: bool) -> Any:
    """A YAML value as it would be on the command line; types and ranges are checked there. A scalar may be `several`
    values of a list, and a list of one value is that value. Raises ValueError: a list or a mapping elsewhere."""
    if get_origin(kind) is list:
        if isinstance(node, yaml.ScalarNode):
            # lora_target: q_proj,v_proj
            return [] if node.tag == _NULL else node.value.split(",") if several else [node.value]
        if not isinstance(node, yaml.SequenceNode) or any(
            not isinstance(item, yaml.ScalarNode) or item.tag == _NULL for item in node.value
        ):
            raise ValueError("must be a value or a list of values")
        return [item.value for item in node.value]
    if node.tag == _SEQUENCE and len(node.value) == 1:  # report_to: [wandb]
        node = node.value[0]
    if not isinstance(node, yaml.ScalarNode):
        found = "list" if isinstance(node, yaml.SequenceNode) else "mapping"
        raise ValueError(f"must be a single value, not a {found}")
    return None if node.tag == _NULL else node.value

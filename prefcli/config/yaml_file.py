"""`--config FILE`: a YAML mapping of option names to values, read as the command line's own words would be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_origin

import yaml

from prefcli.config.base import PER_PROCESS, canonical, nearest, option, times_processes, typed_options
from prefcli.errors import UsageError

_NULL = "tag:yaml.org,2002:null"


def read_yaml(path: str, cls: type) -> dict[str, Any]:
    """Field → value (a string, a list of strings, or None) from a file, for the command line's own conversion.

    The scalars are taken as they are written: YAML's own types would make `name: no` False and `name: 007` 7.
    Raises UsageError: no such file, not YAML, not a mapping, an unknown key (with the nearest one), a key twice.
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
    if top is None or (isinstance(top, yaml.ScalarNode) and top.tag == _NULL):
        return {}
    if not isinstance(top, yaml.MappingNode):
        raise UsageError(f"--config {path} must be a mapping of option names to values", "for example: lr: 1e-5")
    known = typed_options(cls)
    values: dict[str, Any] = {}
    for key, value in top.value:
        where = f"--config {path}, line {key.start_mark.line + 1}"
        raw = key.value if isinstance(key, yaml.ScalarNode) else "…"
        field = canonical(raw, known)
        if field is None:
            near = nearest(raw, known)
            hint = f"did you mean {near.replace('_', '-')}?" if near else "see --help for the names"
            raise UsageError(f"{where}: unknown key {raw!r}", hint)
        if field == "config":
            raise UsageError(f"{where}: a file of options cannot name another one", "leave it out")
        if field in values:
            raise UsageError(f"{where}: {option(field)[2:]} is given twice (here as {raw!r})", "leave one out")
        found = _as_typed(where, raw, value, known[field][0])
        if raw.replace("_", "-") in PER_PROCESS and isinstance(found, str):
            found = times_processes(found)
        values[field] = found
    return values


def _as_typed(where: str, key: str, node: yaml.Node, kind: Any) -> Any:
    """What would stand on the command line for a YAML value; types and ranges are checked there."""
    if get_origin(kind) is list:
        if isinstance(node, yaml.ScalarNode):
            return [] if node.tag == _NULL else [node.value]
        if not isinstance(node, yaml.SequenceNode) or any(
            not isinstance(item, yaml.ScalarNode) or item.tag == _NULL for item in node.value
        ):
            raise UsageError(f"{where}: {key} must be a value or a list of values")
        return [item.value for item in node.value]
    if not isinstance(node, yaml.ScalarNode):
        found = "list" if isinstance(node, yaml.SequenceNode) else "mapping"
        raise UsageError(f"{where}: {key} must be a single value, not a {found}")
    return None if node.tag == _NULL else node.value

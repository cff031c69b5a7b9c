"""The eight criteria as `prefcli compare --json` prints them: read from a file and checked before a page is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefcli.errors import DataError

MAKE = "make it with: prefcli compare REF REF --json > comparison.json"
_TEXT, _OBJECT, _LIST = "text", "an object", "a list"
_KINDS = {_TEXT: str, _OBJECT: dict, _LIST: list}


def read_comparison(path: str) -> dict[str, Any]:
    """The object in the file. Raises DataError: no file, no JSON, or not of the form that `compare --json` has."""
    where = f"--comparison {path}"
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{where}: {error.strerror or error}", MAKE) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}", MAKE) from error
    check(found, where)
    comparison: dict[str, Any] = found
    return comparison


def check(comparison: Any, where: str) -> None:
    """Raise DataError naming the first thing that is missing or of another kind."""
    _have(comparison, where, {"routes": _LIST, "criteria": _LIST})
    for i, route in enumerate(comparison["routes"]):
        _have(route, f"{where}: routes[{i}]", {"ref": _TEXT, "route": _TEXT})
    for i, criterion in enumerate(comparison["criteria"]):
        at = f"{where}: criteria[{i}]"
        _have(criterion, at, {"criterion": _TEXT, "measures": _LIST, "verdict": _TEXT})
        for j, measure in enumerate(criterion["measures"]):
            _have(measure, f"{at}.measures[{j}]", {"measure": _TEXT, "figures": _OBJECT})
            for ref, figure in measure["figures"].items():
                _figure(figure, f"{at}.measures[{j}].figures[{ref!r}]")
    if not isinstance(comparison.get("score", {}), (dict, type(None))):
        raise DataError(f"{where}: 'score' must be an object", MAKE)


def _figure(figure: Any, at: str) -> None:
    if figure is None:
        return
    if not isinstance(figure, dict) or "value" not in figure:
        raise DataError(f"{at} must be null or an object with 'value'", MAKE)
    interval = figure.get("ci95")
    if interval is not None and not (isinstance(interval, list) and len(interval) == 2):
        raise DataError(f"{at}: 'ci95' must be null or two numbers", MAKE)


def _have(value: Any, at: str, keys: dict[str, str]) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{at} must be an object", MAKE)
    for key, kind in keys.items():
        if not isinstance(value.get(key), _KINDS[kind]):
            raise DataError(f"{at}: '{key}' must be {kind}", MAKE)

"""The eight criteria as `prefcli compare --json` prints them: read from a file and checked before a page is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prefcli.artifacts.metrics import is_number
from prefcli.errors import DataError

MAKE = "make it with: prefcli compare REF REF --json > comparison.json"
_TEXT, _OBJECT, _LIST = "text", "an object", "a list"
_KINDS = {_TEXT: str, _OBJECT: dict, _LIST: list}


def read_comparison(path: str) -> dict[str, Any]:
    """The object in the file. Raises DataError: no file, no JSON, or not of the form that `compare --json` has."""
    where = f"--comparison {path}"
    try:
        found = json.loads(Path(path).read_bytes())  # UTF-8, or UTF-16 as PowerShell's > writes it
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
        _may_have(criterion, at, {"claimed": _TEXT, "why": _TEXT})
        commands = criterion.get("measure_with") or []
        if not isinstance(commands, str) and not (isinstance(commands, list) and all(map(_is_text, commands))):
            raise DataError(f"{at}: 'measure_with' must be a command or a list of commands", MAKE)
        for j, measure in enumerate(criterion["measures"]):
            _have(measure, f"{at}.measures[{j}]", {"measure": _TEXT, "figures": _OBJECT})
            _may_have(measure, f"{at}.measures[{j}]", {"unit": _TEXT, "winner": _TEXT})
            for ref, figure in measure["figures"].items():
                _figure(figure, f"{at}.measures[{j}].figures[{ref!r}]")
    _may_have(comparison, where, {"score": _OBJECT})
    for name, count in (comparison.get("score") or {}).items():
        if not is_number(count):
            raise DataError(f"{where}: score[{name!r}] must be a number", MAKE)


def _figure(figure: Any, at: str) -> None:
    if figure is None:
        return
    if not isinstance(figure, dict) or not is_number(figure.get("value")):
        raise DataError(f"{at} must be null or an object whose 'value' is a number", MAKE)
    interval = figure.get("ci95")
    if interval is not None and not (
        isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval))
    ):
        raise DataError(f"{at}: 'ci95' must be null or two numbers", MAKE)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _may_have(value: dict[str, Any], at: str, keys: dict[str, str]) -> None:
    _have(value, at, {key: kind for key, kind in keys.items() if value.get(key) is not None})


def _have(value: Any, at: str, keys: dict[str, str]) -> None:
    if not isinstance(value, dict):
        raise DataError(f"{at} must be an object", MAKE)
    for key, kind in keys.items():
        if not isinstance(value.get(key), _KINDS[kind]):
            raise DataError(f"{at}: '{key}' must be {kind}", MAKE)

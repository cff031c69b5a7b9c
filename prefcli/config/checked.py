"""Options that were given in Python, held to the types and ranges that the command line holds them to."""

from __future__ import annotations

import dataclasses
import math
import os
import types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from prefcli.config.base import typed_options
from prefcli.errors import UsageError

Config = TypeVar("Config")


def checked(config: Config) -> Config:
    """The config with every value as the command line would have made it: paths and artifacts as strings, one value
    instead of a list as a list of one.

    Raises UsageError: a value of another type, outside its range, or none of the choices.
    """
    known = typed_options(type(config))  # type: ignore[arg-type]
    found = {name: _value(name, kind, option, getattr(config, name)) for name, (kind, option) in known.items()}
    return dataclasses.replace(config, **found)  # type: ignore[type-var]


def _value(name: str, kind: Any, option: Any, value: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        members = [member for member in get_args(kind) if member is not type(None)]
        return None if value is None else _value(name, members[0], option, value)
    if get_origin(kind) is list:
        values = value if isinstance(value, (list, tuple)) else [value]
        return [_value(name, get_args(kind)[0], option, one) for one in values]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UsageError(f"{name}={value!r} is not one of {', '.join(map(repr, get_args(kind)))}")
        return value
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"{name}={value!r} must be of type {kind.__name__}, not {type(value).__name__}")
    if kind in (int, float):
        _refuse_outside(name, value, getattr(option, "min", None), getattr(option, "max", None))
    return value


def _refuse_outside(name: str, value: float, low: float | None, high: float | None) -> None:
    if not math.isfinite(value):
        raise UsageError(f"{name}={value} must be a finite number")
    if low is not None and value < low:
        raise UsageError(f"{name}={value:g} must be at least {low:g}")
    if high is not None and value > high:
        raise UsageError(f"{name}={value:g} must be at most {high:g}")

"""A command's options from one dataclass: help, YAML keys, manifest and key come from it.

A field is `name: Annotated[type, Opt("What it does.", min=…)] = default`. A field whose value cannot change
the result (where it is written, how it is shown) also carries the marker `INCIDENTAL` and stays out of the key;
of one that carries `WHETHER` the key has only whether it was given.
A class that several commands share names its fields' group in `GROUP`; fields of a class without one are the
command's own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin, get_type_hints

INCIDENTAL, WHETHER = "incidental", "whether"
OWN = ""  # the group of what no other command has


@dataclass(frozen=True)
class Opt:
    """An option's help, range and metavar; `short` is a second name (-q).

    A metavar with REF or SOURCE in it says that an artifact may be named. A bool has a --no- variant, so that the
    command line can override a file.
    """

    help: str
    min: float | None = None
    max: float | None = None
    metavar: str | None = None
    short: str | None = None
    positional: bool = False


Arg = functools.partial(Opt, positional=True)


@functools.cache
def typed_options(cls: type) -> dict[str, tuple[Any, Opt]]:
    """Field name → (type, its Opt) of a command's dataclass, in order."""
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if get_origin(hint) is not Annotated:
            raise TypeError(f"{cls.__name__}.{field.name} has no Opt")
        kind, parameter, *_ = get_args(hint)
        found[field.name] = (kind, parameter)
    return found


def group_of(cls: type, field_name: str) -> str:
    """The group of a command's field: that of the class which defines it last."""
    for one in cls.__mro__:
        if field_name in one.__dict__.get("__annotations__", {}):
            return str(one.__dict__.get("GROUP", OWN))
    raise KeyError(field_name)


def is_switch(kind: Any) -> bool:
    """Whether an option of this type is given without a value: a bool, or a bool or None."""
    return bool in (kind, *get_args(kind))


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default; `dataclasses.MISSING` where a value must be given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def option(field_name: str) -> str:
    """The option as it is shown: `kl_coef` → `--kl-coef`."""
    return "--" + field_name.replace("_", "-")


def key_fields(config: Any) -> dict[str, Any]:
    """The fields that can change the result, by name: what goes into an artifact's key."""
    hints = get_type_hints(type(config), include_extras=True)
    found = {name: value for name, value in as_dict(config).items() if INCIDENTAL not in get_args(hints[name])}
    for name in [name for name in found if WHETHER in get_args(hints[name])]:
        given = found.pop(name) is not None
        found |= {name: True} if given else {}
    return found


def rollback_step(values: Mapping[str, Any]) -> dict[str, Any]:
    """`save_every` of a run's options where it is a cause of the result: it says to which rollout one goes back."""
    given = values.get("save_every") if values.get("on_alarm") == "rollback" else None
    return {"save_every": given} if given else {}


def as_dict(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def nearest(name: str, known: Mapping[str, Any]) -> str | None:
    match = get_close_matches(name.replace("-", "_"), list(known), n=1, cutoff=0.5)
    return match[0] if match else None

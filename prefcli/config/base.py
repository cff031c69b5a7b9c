"""What makes a dataclass the one source of a command's options: help, YAML keys, manifest and key come from it.

A field is `name: Annotated[type, Opt("What it does.", min=…)] = default`. A field whose value cannot change
the result (where it is written, how it is shown) also carries the marker `INCIDENTAL` and stays out of the key.
A class that several commands share names its fields' group in `GROUP`; fields of a class without one are the
command's own.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from prefcli.errors import UsageError

INCIDENTAL = "incidental"
OWN = ""  # the group of what no other command has


@dataclass(frozen=True)
class Opt:
    """An option's help, range and how its value is called; `short` is a second name (-q).

    A metavar with REF or SOURCE in it says that an artifact may be named. A bool has a --no- form, so that the
    command line can override a file.
    """

    help: str
    min: float | None = None
    max: float | None = None
    metavar: str | None = None
    short: str | None = None
    positional: bool = False


Arg = functools.partial(Opt, positional=True)

# What users of TRL and Hugging Face scripts type for the same thing (kebab-cased; snake_case is accepted everywhere).
ALIASES = {
    "model-name-or-path": "model",
    "dataset": "data",
    "dataset-name": "data",
    "dataset-path": "data",
    "eval-dataset": "eval-data",
    "output-name": "name",
    "run-name": "name",
    "learning-rate": "lr",
    "num-train-epochs": "epochs",
    "num-epochs": "epochs",
    "per-device-train-batch-size": "batch-size",
    "train-batch-size": "batch-size",
    "gradient-accumulation-steps": "grad-accum",
    "lr-scheduler-type": "lr-scheduler",
    "warmup-ratio": "warmup",
    "max-seq-length": "max-length",
    "lora-r": "lora-rank",
    "lora-target-modules": "lora-target",
    "torch-dtype": "dtype",
    "eval-steps": "eval-every",
    "reward-model": "reward",
    "reward-model-path": "reward",
    "ref-model": "reference",
    "response-length": "max-new-tokens",
    "cliprange": "clip-range",
    "cliprange-value": "clip-range-value",
    "num-ppo-epochs": "ppo-epochs",
    "num-mini-batches": "minibatches",
    "center-rewards-coefficient": "center-rewards",
}
# The Hugging Face batch size is a process's; ours is all processes' together.
PER_PROCESS = frozenset({"per-device-train-batch-size"})


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


def default_of(field: dataclasses.Field[Any]) -> Any:
    """A field's default; `dataclasses.MISSING` where a value must be given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def option(field_name: str) -> str:
    """The option as it is shown: `kl_coef` → `--kl-coef`."""
    return "--" + field_name.replace("_", "-")


def key_fields(config: Any) -> dict[str, Any]:
    """The fields that can change the result, by name: what goes into an artifact's key."""
    hints = get_type_hints(type(config), include_extras=True)
    return {name: value for name, value in as_dict(config).items() if INCIDENTAL not in get_args(hints[name])}


def as_dict(config: Any) -> dict[str, Any]:
    return dataclasses.asdict(config)


def canonical(name: str, known: Mapping[str, Any]) -> str | None:
    """The field that a spelling (kebab or snake, ours or Hugging Face's) names, or None.

    `--data` names the prompts where a command has prompts and no data (ppo).
    """
    kebab = name.replace("_", "-")
    kebab = kebab if kebab.replace("-", "_") in known else ALIASES.get(kebab, kebab)
    field = kebab.replace("-", "_")
    if field == "data" and "data" not in known and "prompts" in known:
        field = "prompts"
    return field if field in known else None


def nearest(name: str, known: Mapping[str, Any]) -> str | None:
    match = get_close_matches(name.replace("-", "_"), list(known), n=1, cutoff=0.5)
    return match[0] if match else None


def times_processes(value: str) -> str:
    """A per-process batch size as the global one; what is not a number stays, and is refused where types are checked.

    Raises UsageError for a WORLD_SIZE that is not a number.
    """
    processes = os.environ.get("WORLD_SIZE", "1")
    if not (processes.isascii() and processes.isdecimal()):
        raise UsageError(f"WORLD_SIZE is {processes!r}, which is no number of processes")
    return str(int(value) * int(processes)) if value.isascii() and value.isdecimal() and len(value) < 19 else value

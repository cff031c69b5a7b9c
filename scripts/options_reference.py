"""Writes docs/options.md from the dataclasses of options: `--write`, or `--check` (fails when the page is stale)."""

from __future__ import annotations

import argparse
import importlib
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from prefcli.cli.main import ALL
from prefcli.config.base import ALIASES, option, typed_options

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
HEAD = """# Options

Made by `make docs` from the dataclasses in `prefcli/config/`; do not edit. Every option can stand in a `--config` file
under its name without the dashes. Snake case is accepted for all of them (`--kl_coef`), and these spellings of TRL
and Hugging Face:

"""


def page() -> str:
    spellings = ", ".join(f"`--{alias}` for `--{name}`" for alias, name in ALIASES.items())
    parts = [HEAD + spellings + ".\n"]
    for command, (_, module, name, help_text) in ALL.items():
        config = getattr(importlib.import_module(module), name)
        rows = [_row(field, *typed_options(config)[field.name]) for field in fields(config)]
        parts.append(
            f"## prefcli {command}\n\n{help_text}\n\n| option | type | default | |\n|---|---|---|---|\n"
            + "\n".join(rows)
        )
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _row(field: Any, kind: Any, parameter: Any) -> str:
    positional = type(parameter).__name__ == "ArgumentInfo"
    shown = field.name.upper() if positional else option(field.name)
    default = field.default if field.default is not MISSING else None
    help_text = (parameter.help or "").replace("|", "\\|")
    return f"| `{shown}` | {_type(kind, parameter)} | {_default(default)} | {help_text} |"


def _type(kind: Any, parameter: Any) -> str:
    members = [member for member in get_args(kind) if member is not type(None)]
    if len(members) == 1 and get_origin(members[0]) is Literal:  # or None
        return _type(members[0], parameter)
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in members)
    if get_origin(kind) is list:
        return f"{members[0].__name__}, repeatable"
    name = members[0].__name__ if members else kind.__name__
    low, high = parameter.min, parameter.max
    if low is None:
        return str(name)
    return f"{name} ≥ {low:g}" if high is None else f"{name} {low:g}–{high:g}"


def _default(value: Any) -> str:
    if value is None or value is False:
        return ""
    return "on" if value is True else f"`{value}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    found, wanted = PAGE.read_text(encoding="utf-8") if PAGE.exists() else "", page()
    if parser.parse_args().write:
        PAGE.write_text(wanted, encoding="utf-8")
    elif found != wanted:
        sys.exit("docs/options.md is stale: run make docs")


if __name__ == "__main__":
    main()

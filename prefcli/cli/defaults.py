"""`prefcli config`: a command's options at their defaults, as a YAML file with comments."""

from __future__ import annotations

import io
import textwrap
from dataclasses import fields
from typing import Any

from prefcli.cli.help import describe, groups
from prefcli.cli.main import ALL
from prefcli.cli.stdout import print_result, result
from prefcli.config.about import DefaultsConfig
from prefcli.config.base import default_of, nearest, typed_options
from prefcli.config.names import COMMANDS
from prefcli.errors import UsageError

WIDTH = 80


def run(config: DefaultsConfig) -> None:
    title = config.command.replace("_", "-")
    entry = ALL.get(title)
    cls = entry.options() if entry else None
    if cls is None or "config" not in typed_options(cls):
        takers = [name for name, other in ALL.items() if "config" in typed_options(other.options())]
        if (said := COMMANDS.get(title.lower())) and not entry:
            raise UsageError(f"no such command: {config.command}", said)
        near = nearest(config.command.lower(), dict.fromkeys(takers))
        what = f"{config.command} takes no --config" if entry else f"no such command: {config.command}"
        raise UsageError(what, f"did you mean {near}?" if near and not entry else f"these do: {', '.join(takers)}")
    if isinstance(stream := result(), io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8")  # as --config reads it
    print_result(template(config.command, cls).rstrip("\n"))


def template(command: str, cls: type) -> str:
    """The file: read as --config it changes nothing."""
    typed, defaults = typed_options(cls), {field.name: default_of(field) for field in fields(cls)}
    lines = [f"# prefcli {command} --config FILE: all options at their defaults.", "# Delete what you do not change."]
    for title, names in groups(cls).items():
        lines += ["", f"# ---- {title or 'Options of ' + command} ----"]
        for name in names:
            if name != "config":  # a file of options cannot name another one
                lines += ["", *_comment(describe(*typed[name], None)), f"{name}: {_scalar(defaults[name])}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False, break_long_words=False
    )


def _scalar(value: Any) -> str:
    """As read_yaml takes it: the default of no option holds what YAML would read otherwise."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)

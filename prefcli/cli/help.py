"""The help of every command and group: plain text in one style, made from the dataclasses of options.

A command with many options shows its own and the usual ones; `--help-all` shows all. Nothing is cut: what is too long
for its column begins a line of its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from prefcli.config.base import OWN, Opt, default_of, group_of, is_switch, option, typed_options
from prefcli.config.shared import SHARED

COLUMN = 24  # where descriptions begin
FEW = 24  # a command with no more options than these shows all of them
# Of the options that commands share, those that are used most.
USUAL = (
    "data", "eval_data", "model", "lora_rank", "lr", "epochs", "max_steps", "batch_size", "max_prompts",
    "max_new_tokens", "temperature", "name", "dry_run", "config",
)  # fmt: skip
SHOWN_CHOICES = 32  # characters of a|b|c behind an option; longer lists are part of the description

Rows = list[tuple[str, str]]


def groups(cls: type) -> dict[str, list[str]]:
    """Title → options (no arguments): the command's own first, under "", then its own groups, then the shared ones."""
    found: dict[str, list[str]] = {OWN: []}
    for name, (_, opt) in typed_options(cls).items():
        if not opt.positional:
            found.setdefault(group_of(cls, name), []).append(name)
    new = set(cls.__dict__.get("__annotations__", {})) - {
        field.name for base in cls.__bases__ for field in _fields(base)
    }
    found[OWN].sort(key=lambda name: name not in new)  # behind them those that are as in few others, or changed
    own = [title for title in found if title not in SHARED]
    return {title: found[title] for title in [*own, *SHARED] if found.get(title)}


def _fields(cls: type) -> tuple[Field[Any], ...]:
    return fields(cls) if is_dataclass(cls) else ()


def of_command(path: str, text: str, cls: type, examples: Sequence[str], width: int, *, everything: bool) -> str:
    """The help of a command; without `everything` of its own options, the usual ones, and the others' names."""
    typed = typed_options(cls)
    defaults = {field.name: default_of(field) for field in fields(cls)}
    arguments = {name: opt for name, (_, opt) in typed.items() if opt.positional}
    row = {name: (_label(name, kind, opt, defaults[name]), describe(kind, opt, defaults[name], SHOWN_CHOICES))
           for name, (kind, opt) in typed.items()}  # fmt: skip
    usage = " ".join([path, "[OPTIONS]", *(opt.metavar or name.upper() for name, opt in arguments.items())])
    parts = [_wrapped(f"Usage: {usage}", width, "  "), _wrapped(text, width)]
    if arguments:
        parts.append(_section("Arguments", [(opt.metavar or "", opt.help) for opt in arguments.values()], width))
    grouped = groups(cls)
    everything = everything or len(typed) <= FEW
    help_row = (
        "-h, --help",
        "Show this help." if everything else f"Show this help; --help-all: all {len(typed)} options.",
    )
    for title in [title for title in grouped if everything or title not in SHARED]:
        rows = [row[name] for name in grouped.pop(title)]
        if everything and not grouped:
            rows.append(help_row)
        parts.append(_section(title or f"Options of {path.rpartition('prefcli ')[2]}", rows, width))
    if grouped:
        shared = [name for names in grouped.values() for name in names]
        usual = [row[name] for name in USUAL if name in shared]
        parts.append(_section("Common options", [*usual, help_row], width))
        rest = {
            title: ", ".join(option(name) for name in names if name not in USUAL) for title, names in grouped.items()
        }
        parts.append(
            _section("More, with --help-all", [(title, names) for title, names in rest.items() if names], width)
        )
    if "lr" in typed:
        parts.append(
            _wrapped("Names and files of TRL and LLaMA-Factory work too: --learning_rate, --config dpo.yaml", width)
        )
    return _page(parts, examples)


def of_group(path: str, text: str, commands: Mapping[str, str], options: Iterable[tuple[str, str]],
             examples: Sequence[str], width: int) -> str:  # fmt: skip
    """The help of a group of commands (name → what it does) and of its own options."""
    return _page(
        [
            f"Usage: {path} [OPTIONS] COMMAND [ARGS]...",
            _wrapped(text, width),
            _section("Commands", list(commands.items()), width, column=16),
            _section("Options", list(options), width),
            f"{path} COMMAND --help describes one command.",
        ],
        examples,
    )


def describe(kind: Any, opt: Opt, default: Any, shown: int = 0) -> str:
    """An option's help, its choices if longer than `shown`, a range that has two ends, and its default."""
    choices = ", ".join(_choices(kind))
    notes = [f"one of: {choices}"] if len(choices) > shown else []
    if opt.max is not None and opt.max < 2**31:
        notes.append(f"{opt.min:g} to {opt.max:g}")
    if default is not MISSING and default is not None and default is not False and default != []:
        notes.append(
            f"default: {'on' if default is True else f'{default:g}' if isinstance(default, float) else default}"
        )
    return f"{opt.help} [{'; '.join(notes)}]" if notes else opt.help


def _label(name: str, kind: Any, opt: Opt, default: Any) -> str:
    text = f"{opt.short}, {option(name)}" if opt.short else option(name)
    if is_switch(kind):
        return f"{text} / {option('no_' + name)}" if default is not False else text
    choices = _choices(kind)
    value = "|".join(choices) if len(", ".join(choices)) <= SHOWN_CHOICES else "NAME"
    return f"{text} {opt.metavar or value or _type(kind)}"


def _choices(kind: Any) -> tuple[str, ...]:
    """Of a Literal, or of one or None."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return next((_choices(part) for part in get_args(kind) if get_origin(part) is Literal), ())


def _type(kind: Any) -> str:
    parts = get_args(kind) or (kind,)
    return "N" if int in parts else "NUMBER" if float in parts else "TEXT"


def _section(title: str, rows: Rows, width: int, column: int = COLUMN) -> str:
    lines = [f"{title}:"]
    for label, text in rows:
        start, wrapped = f"  {label}", _wrapped(text, width, " " * column, first=" " * column)
        if len(start) <= column - 2:
            lines.append(start.ljust(column) + wrapped[column:])
        else:
            lines += [start, wrapped]
    return "\n".join(lines)


def _wrapped(text: str, width: int, indent: str = "", first: str = "") -> str:
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def _page(parts: list[str], examples: Sequence[str]) -> str:
    if examples:
        parts.append("\n".join(["Examples:", *(f"  {line}" for line in examples)]))
    return "\n\n".join(parts) + "\n"

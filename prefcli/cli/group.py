"""A group of commands from a table, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from prefcli.errors import UsageError
from prefcli.progress import is_main_process
from prefcli.stopping import exit_code


class Entry(NamedTuple):
    """A command: prefcli/cli/<module>.py has `run(config)`."""

    module: str
    config_module: str
    config: str
    help: str
    examples: tuple[str, ...]  # command lines, the simplest first

    def options(self) -> Any:
        """The dataclass of its options, imported now."""
        return getattr(importlib.import_module(self.config_module), self.config)


def group(
    name: str,
    commands: Mapping[str, Entry],
    help_text: str,
    groups: Mapping[str, typer.Typer] | None = None,
    examples: tuple[str, ...] = (),
) -> typer.Typer:
    """The group `name` of these commands, and of `groups` below it. No command's file is read for `--help`."""
    below = {title: get_command(app) for title, app in (groups or {}).items()}

    class LazyGroup(TyperGroup):
        """Its `--help` and the completion of names need the table alone."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._listing = False
            self._built: dict[str, Any] = {}
            # Without their options: enough for a list, and for the nearest of a mistyped name.
            self.commands.update({title: TyperCommand(title, help=entry.help) for title, entry in commands.items()})
            self.commands.update(below)

        def list_commands(self, ctx: Any) -> list[str]:
            return [*below, *commands]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            title = cmd_name.replace("_", "-")
            if title not in commands or self._listing:
                return self.commands.get(title)
            if title not in self._built:
                from prefcli.cli.command import build

                self._built[title] = build(title, commands[title])
            return self._built[title]

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            title = args[0].replace("_", "-")
            if groups is not None and title not in self.commands:  # of the root: another program's command?
                from prefcli.config.names import COMMANDS

                lower = title.lower()
                said = COMMANDS.get(lower) or (f"did you mean {lower}?" if lower in self.commands else "")
                if said:
                    print(f"error: no such command: {args[0]}\n\nhint: {said}", file=sys.stderr)
                    raise typer.Exit(UsageError.exit_code)
            return super().resolve_command(ctx, args)

        def invoke(self, ctx: Any) -> Any:
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt as error:  # while a command is imported: Typer would leave with 130 and no word
                if is_main_process():
                    print("interrupted", file=sys.stderr)
                raise typer.Exit(exit_code()) from error

        def format_help(self, ctx: Any, formatter: Any) -> None:
            from prefcli.cli.help import of_group

            known = {title: str(app.help) for title, app in below.items()}
            known |= {title: entry.help for title, entry in commands.items()}
            options = [row for one in self.get_params(ctx) if (row := one.get_help_record(ctx))]
            formatter.write(of_group(ctx.command_path, help_text, known, options, examples, formatter.width))

        def shell_complete(self, ctx: Any, incomplete: str) -> Any:
            with self._only_names():
                return super().shell_complete(ctx, incomplete)

        @contextmanager
        def _only_names(self) -> Iterator[None]:
            self._listing = True
            try:
                yield
            finally:
                self._listing = False

    app = typer.Typer(
        cls=LazyGroup,
        name=name,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # plain errors too: importing rich to draw boxes would double the time it takes
        context_settings={"help_option_names": ["-h", "--help"]},
        help=help_text,
        add_completion=groups is not None,  # the root's options
    )
    app.callback()(lambda: None)
    return app

"""From a dataclass of options to a Typer command: signature, aliases, `--config`, exit codes.

This is the one place where exceptions become exit codes (the table is in prefcli/errors.py).
"""

from __future__ import annotations

import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperOption
from typer.main import get_command

from prefcli.cli import stdout
from prefcli.cli.group import Entry
from prefcli.cli.launched import refuse_odd_launch
from prefcli.config.base import PER_PROCESS, Opt, canonical, default_of, nearest, option, times_processes, typed_options
from prefcli.errors import PrefcliError, UsageError, from_foreign, without_secrets
from prefcli.models.quiet import quieten
from prefcli.progress import is_main_process
from prefcli.stopping import exit_code

HELP = ("help", "help-all")
# Which of a command's options name models; of the hub's it is known before anything heavy is imported whether they are
# there. The stages see to it themselves; `advise` takes a size from the name, and the store's commands need no model.
MODEL_OPTIONS = {
    "sample": ("model",),
    "chat": ("ref", "ref2"),
    "eval": ("model", "against", "reward", "judge"),
    "score": ("reward", "tokenizer"),
    "label": ("by", "gold", "tokenizer"),
    "serve-rm": ("ref",),
    "export": ("ref",),
    "compare": ("model", "reward"),
    "report": ("reward",),
    "check": ("model",),
    "stats": ("model",),
}


def build(name: str, entry: Entry) -> Any:
    """The Typer command `name`: its options are the fields of the entry's dataclass, it calls its module's `run`."""

    def run(config: Any) -> None:
        def work() -> None:
            refuse_odd_launch(name)
            if name in MODEL_OPTIONS:
                from prefcli.cli.at_hand import models_at_hand

                models_at_hand([getattr(config, field) for field in MODEL_OPTIONS[name]], config)
            importlib.import_module(f"prefcli.cli.{entry.module}").run(config)

        guarded(work, debug=bool(getattr(config, "debug", False)))

    return command_of(name, entry.options(), run, entry.help, entry.examples)


def command_of(
    name: str, config_class: type, use: Callable[[Any], None], help_text: str = "", examples: tuple[str, ...] = ()
) -> Any:
    """The Typer command `name` that hands the config made of its options to `use`."""

    def call(**values: Any) -> None:
        use(config_class(**values))

    call.__name__ = name.replace("-", "_")
    signature = _signature(config_class)
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    one = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    kind = _command_class(config_class, help_text or str(config_class.__doc__), examples)
    one.command(name, cls=kind, context_settings={"help_option_names": ["-h", "--help"]})(call)
    command = get_command(one)
    command.name = name
    command.params.append(
        TyperOption(param_decls=["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_help_all)
    )
    return command


def _signature(config_class: type) -> inspect.Signature:
    parameters = []
    typed = typed_options(config_class)
    for field in fields(config_class):
        kind, opt = typed[field.name]
        default = default_of(field)
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is MISSING else default,
                annotation=Annotated[kind, _parameter(field.name, kind, opt)],
            )
        )
    return inspect.Signature(parameters)


def _parameter(name: str, kind: Any, opt: Opt) -> Any:
    more: dict[str, Any] = {"help": opt.help, "min": opt.min, "max": opt.max, "metavar": opt.metavar}
    if opt.metavar and ("REF" in opt.metavar or "SOURCE" in opt.metavar):
        more["autocompletion"] = _artifacts
    if opt.positional:
        return typer.Argument(**more)
    words = f"{option(name)}/{option('no_' + name)}" if bool in (kind, *get_args(kind)) else option(name)
    return typer.Option(words, *([opt.short] if opt.short else []), **more)


def _artifacts(ctx: typer.Context, incomplete: str) -> list[str]:
    from prefcli.cli.completion import artifacts

    return artifacts(ctx.params.get("runs"), incomplete)


def _help_all(ctx: Any, _: Any, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        formatter = ctx.make_formatter()
        ctx.command.write_help(ctx, formatter, everything=True)
        typer.echo(formatter.getvalue(), nl=False)
        ctx.exit()


def _command_class(config_class: type, help_text: str, examples: tuple[str, ...]) -> type[TyperCommand]:
    known = typed_options(config_class)

    class OptionsFromOneSource(TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            self.write_help(ctx, formatter, everything=False)

        def write_help(self, ctx: Any, formatter: Any, *, everything: bool) -> None:
            from prefcli.cli.help import of_command

            path, width = ctx.command_path, formatter.width
            formatter.write(of_command(path, help_text, config_class, examples, width, everything=everything))

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            if ctx.resilient_parsing:  # shell completion
                return super().parse_args(ctx, args)
            try:
                args = _split(args, known) if "options" in known else spell_out(args, known)
                if "config" in known and (path := _config_path(args)) is not None:
                    from prefcli.config.yaml_file import read_yaml

                    ctx.default_map = read_yaml(path, config_class)
                rest = super().parse_args(ctx, args)
                _refuse_not_finite(ctx.params)
            except UsageError as error:
                _tell(error)
                raise typer.Exit(error.exit_code) from error
            return rest

    return OptionsFromOneSource


def _refuse_not_finite(values: dict[str, Any]) -> None:
    """Raise UsageError for nan and inf, which pass every range check."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{option(name)} {value}: must be a finite number")


def spell_out(args: list[str], known: dict[str, Any]) -> list[str]:
    """Command-line words with every option in our own spelling (`--model_name_or_path` → `--model`)."""
    spelt: list[str] = []
    per_process = False
    for position, arg in enumerate(args):
        if arg == "--":
            return spelt + args[position:]
        if per_process:
            arg, per_process = times_processes(arg), False
        elif arg.startswith("--") and len(arg) > 2:
            given, equals, value = arg[2:].partition("=")
            positive = given[3:] if given[:3] in ("no-", "no_") and canonical(given, known) is None else None
            field = canonical(positive or given, known)
            if field is not None:
                per_process = given.replace("_", "-") in PER_PROCESS
                if per_process and equals:
                    value, per_process = times_processes(value), False
                name = option(field)
                arg = ("--no-" + name[2:] if positive else name) + equals + value
            elif given not in HELP:
                near = nearest(given, known)
                hint = f"did you mean {option(near)}?" if near else "see --help for the names"
                raise UsageError(f"no such option: --{given}", hint)
        spelt.append(arg)
    return spelt


def _split(args: list[str], known: dict[str, Any]) -> list[str]:
    """For the command that passes words on to another one (sweep)."""
    from prefcli.cli.passing_on import split

    return split(args, known)


def _config_path(args: list[str]) -> str | None:
    path = None
    for position, arg in enumerate(args):
        if arg == "--config" and position + 1 < len(args):
            path = args[position + 1]
        elif arg.startswith("--config="):
            path = arg.partition("=")[2]
    return path


def guarded(work: Callable[[], None], *, debug: bool = False) -> None:
    """Run `work`, turning every way it can fail into a message on stderr and the exit code of that failure."""
    quieten(debug)
    stdout.set_aside()
    try:
        work()
    except KeyboardInterrupt as error:
        if is_main_process():
            _say(str(error) or "interrupted: nothing half-written is left")
        raise typer.Exit(exit_code()) from error
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except BrokenPipeError as error:  # the reader of our stdout left
        stdout.give_up()
        raise typer.Exit(0) from error
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        known = error if isinstance(error, PrefcliError) else from_foreign(error)
        if debug or known is None:
            traceback.print_exc(file=sys.stderr)
        if known is None:
            _say("error: this is a defect of prefcli. Please report it with the command, the lines above and what")
            _say("`prefcli info` prints:")
            _say("  https://github.com/prefcli/prefcli/issues")
            raise typer.Exit(1) from error
        if not known.told:
            _tell(known)
        raise typer.Exit(known.exit_code) from error


def _tell(error: PrefcliError) -> None:
    from prefcli.text import shown

    _say(shown(f"error: {error.message}"))
    if error.hint:
        _say(shown(f"\nhint: {error.hint}"))


def _say(text: str) -> None:
    print(without_secrets(text), file=sys.stderr)

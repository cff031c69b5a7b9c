"""From a dataclass of options to a Typer command: signature, aliases, `--config`, exit codes.

This is the one place where exceptions become exit codes (the table is in prefcli/errors.py).
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption
from typer.main import get_command

from prefcli.cli import stdout
from prefcli.cli.group import Entry
from prefcli.cli.launched import refuse_odd_launch
from prefcli.config.base import Opt, default_of, is_switch, option, typed_options
from prefcli.config.spelling import PER_PROCESS, Brought, canonical, spell_out
from prefcli.errors import PrefcliError, UsageError, from_foreign, without_secrets
from prefcli.models.quiet import quieten
from prefcli.progress import is_main_process, processes
from prefcli.stopping import exit_code

LISTEN = 15.0  # seconds between an error in another process than the first, and what it says of it

# Which of a command's options name models; of the hub's it is known before anything heavy is imported whether they are
# there. The stages see to it themselves; `advise` takes a size from the name, and the store's commands need no model.
MODEL_OPTIONS = {
    "sample": ("model",),
    "chat": ("ref", "ref2"),
    "eval": ("model", "against", "reward", "judge"),
    "score": ("reward", "tokenizer"),
    "label": ("by", "gold", "tokenizer"),
    "ui": ("reward", "chat"),
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

    return command_of(name, entry.options(), run, entry.help, entry.examples, tells=True)


def command_of(
    name: str,
    config_class: type,
    use: Callable[[Any], None],
    help_text: str = "",
    examples: tuple[str, ...] = (),
    tells: bool = False,
) -> Any:
    """The Typer command that hands the config made of its options to `use`; it `tells` what of a file is unused."""

    def call(**values: Any) -> None:
        use(config_class(**values))

    call.__name__ = name.replace("-", "_")
    signature = _signature(config_class)
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    one = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    kind = _command_class(config_class, help_text or str(config_class.__doc__), examples, tells)
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
    words = f"{option(name)}/{option('no_' + name)}" if is_switch(kind) else option(name)
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


def _command_class(config_class: type, help_text: str, examples: tuple[str, ...], tells: bool) -> type[TyperCommand]:
    known = typed_options(config_class)

    class OptionsFromOneSource(TyperCommand):
        not_used = ""  # of --config and the line, with the reasons

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
                if "options" in known:
                    args = _split(args, known)
                else:
                    args = self.brought(ctx, args)
                rest = super().parse_args(ctx, args)
                _refuse_not_finite(ctx.params)
            except typer.BadParameter as error:
                if error.param is None or not error.message:  # an argument that is missing
                    raise
                _tell(UsageError(f"{error.param.opts[0]}: {_in_words(error)}"))
                raise typer.Exit(error.exit_code) from error
            except UsageError as error:
                _tell(error)
                raise typer.Exit(error.exit_code) from error
            if self.not_used and tells and is_main_process() and not ctx.params.get("quiet"):
                _say(self.not_used)
            return rest

        def brought(self, ctx: Any, args: list[str]) -> list[str]:
            """The words with every option under our name; a file, and what names of theirs say, are defaults."""
            args, line = spell_out(args, known)
            defaults = {field.name: default_of(field) for field in fields(config_class)}
            words = {arg.partition("=")[0]: arg.partition("=")[2] or after for arg, after in zip(args, [*args[1:], ""])}
            given: dict[str, Any] = {
                name: words[word] for name in known for word in (option(name), option(f"no_{name}")) if word in words
            }
            if line.jointly.keys() & PER_PROCESS and "batch_size" in given:
                raise UsageError("--batch-size is given twice, once per process", "leave one out")
            on_line = {*given, *line.fields, *(canonical(name, known) for name in line.shown)} - {"config", None}
            values, file = dict[str, Any](), Brought()
            if "config" in known and (path := _config_path(args)) is not None:
                from prefcli.config.yaml_file import read_yaml

                values, file = read_yaml(path, config_class, line, on_line)
            there = {ours: place for ours, _, place in file.translated} | file.places
            places = {name: place for name, place in there.items() if name not in on_line}
            both = Brought(jointly=file.jointly | line.jointly, shown=file.shown | line.shown, places=places)
            command = ctx.command.name or ""
            settled = both.settle(values | given, command, known)
            ctx.default_map = file.fields | values | line.fields | settled
            both.leave_out_adapter(ctx.default_map, (ctx.default_map | given).get("lora_rank"), defaults)
            refused = file.refused + both.refused + self.wrong_values(ctx, places)
            if refused:
                said = [f"{shown}: {why}" for shown, why in refused]
                here = [one.startswith("line ") for one in said]
                sources = [f"--config {path}"] * any(here) + ["the command line"] * (not all(here))
                if len(said) == 1:
                    raise UsageError(f"{sources[0]}, {said[0]}" if here[0] else said[0])
                what = f"prefcli cannot follow these of {' and '.join(sources)}:"
                raise UsageError("\n  ".join([what, *said]), "change or remove these")
            both.noted = file.noted + both.noted + line.noted
            if told := both.told(ctx.default_map | given, defaults, command):
                typed = any(shown.startswith("--") for shown, _ in both.noted)
                sources = [f"--config {path}"] * bool(file.in_file)
                sources += ["the command line"] * (typed or not sources)
                verbs = "says and does not say" if len(sources) == 1 else "say and do not say"
                self.not_used = f"note: what {' and '.join(sources)} {verbs}:\n{told}"
            return args

        def wrong_values(self, ctx: Any, places: Mapping[str, str]) -> list[tuple[str, str]]:
            """Of the options that a file says at these places: those that the option does not take, and why."""
            found = []
            for param in self.params:
                name = param.name or ""
                value = ctx.default_map.get(name) if name in places else None
                shown = f"{places.get(name)} (here {param.opts[0]})"
                try:
                    if value is not None:
                        _refuse_not_finite({name: param.type_cast_value(ctx, value)})
                except typer.BadParameter as error:
                    found.append((shown, _in_words(error)))
                except UsageError as error:
                    found.append((shown, error.message))
            split = ctx.default_map.get("split")
            if "split" in places and split:
                from prefcli.data.dataset import check_split

                try:
                    check_split(ctx.default_map.get(canonical("data", known)) or [], split)
                except UsageError as error:
                    found.append((places["split"], f"{error.message}: {error.hint}"))
            return found

    return OptionsFromOneSource


_RANGE = re.compile(r"(.*) is not in the range (?:(.+?)(<=?))?x(?:([<>]=?)(.+))?\.")
_BOUND = {"<": "below", "<=": "at most", ">": "above", ">=": "at least"}


def _in_words(error: typer.BadParameter) -> str:
    """A message of click's without its formula: `0 is not in the range x>=1` → `0: must be at least 1`."""
    said = error.message.replace(" int range", " whole number").replace(" float range", " number")
    if (found := _RANGE.fullmatch(said)) is None:
        return said
    value, low, low_sign, sign, bound = found.groups()
    bounds = [f"{_BOUND[low_sign.replace('<', '>')]} {low}"] if low else []
    return f"{value}: must be {' and '.join([*bounds, *([f'{_BOUND[sign]} {bound}'] if sign else [])])}"


def _refuse_not_finite(values: dict[str, Any]) -> None:
    """Raise UsageError for nan and inf, which pass every range check."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{option(name)} {value}: must be a finite number")


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
            _say(str(error) or "interrupted: no incomplete files were left")
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
        if known is None or not known.told:
            _let_the_first_speak()
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


def _let_the_first_speak() -> None:
    """Where the first process of several has failed too, the launcher ends the others while they wait here."""
    if is_main_process() or processes() == 1 or "LOCAL_RANK" not in os.environ:
        return
    try:
        time.sleep(LISTEN)
    except KeyboardInterrupt as stopped:
        raise typer.Exit(exit_code()) from stopped


def _tell(error: PrefcliError) -> None:
    from prefcli.text import shown

    _say(shown(f"error: {error.message}"))
    if error.hint:
        _say(shown(f"\nhint: {error.hint}"))


def _say(text: str) -> None:
    print(without_secrets(text), file=sys.stderr)

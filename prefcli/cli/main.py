"""The `prefcli` command: a table of commands, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from prefcli import __version__

# name → (module, config class, one line of help). The module has `run(config)`; its file is not read for --help.
COMMANDS = {
    "sft": ("sft", "prefcli.config.sft", "SFTConfig", "Fine-tune a model on demonstrations (stage 1 of both routes)."),
    "train-rm": ("train_rm", "prefcli.config.reward", "RewardConfig", "Train a reward model on pairs (RLHF, stage 2)."),
    "ppo": ("ppo", "prefcli.config.ppo", "PPOConfig", "Train against a reward with PPO (RLHF, stage 3)."),
    "dpo": ("dpo", "prefcli.config.dpo", "DPOConfig", "Train on pairs directly with DPO (stage 2 of the short route)."),
    "eval": ("eval", "prefcli.config.evaluate", "EvalConfig", "Measure models and reward models side by side."),
    "mem-estimate": ("mem_estimate", "prefcli.config.memory", "MemoryConfig", "Memory of PPO and DPO before you run."),
    "ls": ("ls", "prefcli.config.store", "ListConfig", "List the artifacts."),
    "show": ("show", "prefcli.config.store", "ShowConfig", "Show one artifact and what it was made from."),
}


class LazyGroup(TyperGroup):
    """A command group whose `--help` needs the table above alone."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = cmd_name.replace("_", "-")
        if name not in COMMANDS:
            return None
        if self._listing:
            return TyperCommand(name, help=COMMANDS[name][3])
        if name not in self.commands:
            from prefcli.cli.command import build

            module, config_module, config_class, help_text = COMMANDS[name]
            config = getattr(importlib.import_module(config_module), config_class)
            self.commands[name] = build(name, config, f"prefcli.cli.{module}", help_text)
        return self.commands[name]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        for name in COMMANDS:  # so that a mistyped name finds its nearest
            self.commands.setdefault(name, TyperCommand(name)) if args and args[0] not in COMMANDS else None
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=LazyGroup,
    name="prefcli",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Teach a language model human preferences, by RLHF (sft → train-rm → ppo) or by DPO (sft → dpo), "
    "and measure which route won.",
)


def _version(value: bool) -> None:
    if value:
        print(f"prefcli {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except KeyboardInterrupt:  # between two commands' own handling: while importing, say
        print("interrupted", file=sys.stderr)
        sys.exit(130)

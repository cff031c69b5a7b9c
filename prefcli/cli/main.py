"""The `prefcli` command: a table of commands, each imported only when it is asked for."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from prefcli import __version__
from prefcli.cli.interrupts import install, leave
from prefcli.errors import INTERRUPTED

# name → (module, config class, one line of help). The module has `run(config)`; its file is not read for --help.
COMMANDS = {
    "sft": ("sft", "prefcli.config.sft", "SFTConfig", "Fine-tune on demonstrations: stage 1 of both routes."),
    "train-rm": ("train_rm", "prefcli.config.reward", "RewardConfig", "Train a reward model on pairs: RLHF, stage 2."),
    "ppo": ("ppo", "prefcli.config.ppo", "PPOConfig", "Train against a reward with PPO: RLHF, stage 3."),
    "dpo": ("dpo", "prefcli.config.dpo", "DPOConfig", "Train on pairs directly with DPO: the short route."),
    "kto": ("kto", "prefcli.config.kto", "KTOConfig", "Train on answers labelled good or bad, with KTO."),
    "sweep": ("sweep", "prefcli.config.sweep", "SweepConfig", "Train one stage at several options, seeds and rows."),
    "eval": ("eval", "prefcli.config.evaluate", "EvalConfig", "Measure models and reward models side by side."),
    "compare": ("compare", "prefcli.config.compare", "CompareConfig", "Which route won: eight criteria, measured."),
    "sample": ("sample", "prefcli.config.sample", "SampleConfig", "Sample answers to prompts, as rows to score."),
    "chat": ("chat", "prefcli.config.chat", "ChatConfig", "Talk to a model, or to two side by side."),
    "score": ("score", "prefcli.config.score", "ScoreConfig", "Score answers or pairs with any reward source."),
    "label": ("label", "prefcli.config.label", "LabelConfig", "Make sampled answers into pairs, labels or demos."),
    "serve-rm": ("serve_rm", "prefcli.config.serve", "ServeConfig", "Serve a reward model over HTTP."),
    "export": ("export", "prefcli.config.export", "ExportConfig", "Write a finished model as one plain directory."),
    "advise": ("advise", "prefcli.config.advise", "AdviseConfig", "Which method fits your data, hardware and aims."),
    "report": ("report", "prefcli.config.report", "ReportConfig", "One page about finished runs, to read offline."),
    "mem-estimate": ("mem_estimate", "prefcli.config.memory", "MemoryConfig", "Memory of PPO and DPO before you run."),
    "ls": ("ls", "prefcli.config.store", "ListConfig", "List the artifacts."),
    "show": ("show", "prefcli.config.store", "ShowConfig", "Show one artifact and what it was made from."),
}


class LazyGroup(TyperGroup):
    """A command group whose `--help` and completion of names need the table above alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._listing = False
        self._built: dict[str, Any] = {}
        # Without their options: enough for a list, and for the nearest of a mistyped name.
        self.commands.update({name: TyperCommand(name, help=about[3]) for name, about in COMMANDS.items()})

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        name = cmd_name.replace("_", "-")
        if name not in COMMANDS or self._listing:
            return self.commands.get(name)
        if name not in self._built:
            from prefcli.cli.command import build

            module, config_module, config_class, help_text = COMMANDS[name]
            config = getattr(importlib.import_module(config_module), config_class)
            self._built[name] = build(name, config, f"prefcli.cli.{module}", help_text)
        return self._built[name]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with self._only_names():
            super().format_help(ctx, formatter)

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
    name="prefcli",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich to draw boxes would double the time it takes
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
    install()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path that is not UTF-8 is printed as the bytes it is
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        app()
    except KeyboardInterrupt:  # between two commands' own handling: while importing, say
        print("interrupted", file=sys.stderr)
        leave()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            leave()
        raise

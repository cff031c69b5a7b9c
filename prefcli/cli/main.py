"""The `prefcli` command: a table of commands, each imported only when it is asked for."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from prefcli import __version__
from prefcli.cli import data, stdout
from prefcli.cli.group import Entry, group
from prefcli.cli.interrupts import install, leave
from prefcli.config.stages import STAGES
from prefcli.errors import INTERRUPTED, TRY_AGAIN
from prefcli.stopping import exit_code

COMMANDS: dict[str, Entry] = {
    **{
        stage.command: ("train", stage.config.__module__, stage.config.__name__, stage.help)
        for stage in STAGES.values()
    },
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
    "rm": ("rm", "prefcli.config.store", "RemoveConfig", "Remove versions that no other was made from."),
    "gc": ("gc", "prefcli.config.store", "CollectConfig", "Free what nobody needs in the store."),
}
GROUPS = {"data": data.app}
# All of them by the words that call them, those of the groups too.
ALL = COMMANDS | {f"data {name}": entry for name, entry in data.COMMANDS.items()}

app = group(
    "prefcli",
    COMMANDS,
    "Teach a language model human preferences, by RLHF (sft → train-rm → ppo) or by DPO (sft → dpo), "
    "and measure which route won.",
    GROUPS,
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
    stdout.claim()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path that is not UTF-8 is printed as the bytes it is
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        app()
    except KeyboardInterrupt:  # between two commands' own handling: while importing, say
        print("interrupted", file=sys.stderr)
        leave(exit_code())
    except SystemExit as ended:
        if ended.code in (INTERRUPTED, TRY_AGAIN):
            leave(ended.code)
        raise

"""The `prefcli` command: a table of commands, each imported only when it is asked for."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from prefcli import __version__
from prefcli.cli import data, stdout
from prefcli.cli.group import Entry, group
from prefcli.cli.interrupts import install, leave
from prefcli.config.stages import STAGES
from prefcli.errors import INTERRUPTED, TRY_AGAIN
from prefcli.machine import share_cores
from prefcli.stopping import exit_code

COMMANDS: dict[str, Entry] = {
    **{
        stage.command: Entry("train", stage.config.__module__, stage.config.__name__, stage.help, stage.examples)
        for stage in STAGES.values()
    },
    "sweep": Entry(
        "sweep", "prefcli.config.sweep", "SweepConfig",
        "Train one stage with several option values, seeds or numbers of rows.",
        ("prefcli sweep dpo --data pairs.jsonl --grid beta=0.03,0.1,0.3",
         "prefcli sweep sft --data demos.jsonl --rows 100,1000 --seeds 3 --plot rows.png"),
    ),
    "eval": Entry(
        "eval", "prefcli.config.evaluate", "EvalConfig", "Measure models and reward models side by side.",
        ("prefcli eval --model dpo --against sft --prompts held_out.jsonl --reward rm",
         "prefcli eval --model ppo --model dpo --prompts held_out.jsonl --samples 3"),
    ),
    "compare": Entry(
        "compare", "prefcli.config.compare", "CompareConfig",
        "Compare finished policies by eight measured criteria: which route won?",
        ("prefcli compare ppo dpo --prompts held_out.jsonl --reward gold=judge@v1",
         "prefcli compare --data pairs.jsonl --model sft --budget seconds=120"),
    ),
    "frontier": Entry(
        "frontier", "prefcli.config.frontier", "FrontierConfig", "Plot reward against KL of many runs and kept steps.",
        ("prefcli frontier 'dpo@*' ppo --against sft --prompts p.jsonl --reward rm",
         "prefcli frontier ppo@v1:steps --against sft --prompts p.jsonl --reward rm"),
    ),
    "sample": Entry(
        "sample", "prefcli.config.sample", "SampleConfig", "Sample answers to prompts, as rows to score.",
        ("prefcli sample --model sft --prompts prompts.jsonl --out answers.jsonl",
         "prefcli sample --model dpo@v2 --prompts p.jsonl --num-generations 4 > a.jsonl"),
    ),
    "chat": Entry(
        "chat", "prefcli.config.chat", "ChatConfig", "Talk to a model, or to two side by side.",
        ("prefcli chat sft",
         "prefcli chat sft dpo --out preferred.jsonl"),
    ),
    "score": Entry(
        "score", "prefcli.config.score", "ScoreConfig", "Score answers or pairs with any reward source.",
        ("prefcli score --data answers.jsonl --reward rm --out scored.jsonl",
         "prefcli score --data pairs.jsonl --reward python:reward.py:score --json"),
    ),
    "label": Entry(
        "label", "prefcli.config.label", "LabelConfig", "Turn sampled answers into pairs, labels or demonstrations.",
        ("prefcli label --data answers.jsonl --by rm --out pairs.jsonl",
         "prefcli label --data answers.jsonl --by human --out pairs.jsonl"),
    ),
    "ui": Entry(
        "ui", "prefcli.config.ui", "UIConfig", "Give preferences, watch runs and chat, on a page in the browser.",
        ("prefcli ui",
         "prefcli ui --label answers.jsonl --out pairs.jsonl --overlap 0.2"),
    ),
    "serve-rm": Entry(
        "serve_rm", "prefcli.config.serve", "ServeConfig", "Serve a reward model over HTTP.",
        ("prefcli serve-rm rm",
         "prefcli serve-rm rm@v2 --host 0.0.0.0 --port 9000 --allow-host gpu1"),
    ),
    "export": Entry(
        "export", "prefcli.config.export", "ExportConfig", "Write a finished model as one plain directory.",
        ("prefcli export dpo ./my-model",
         "prefcli export dpo ./my-model --push-to-hub me/my-model --private"),
    ),
    "advise": Entry(
        "advise", "prefcli.config.advise", "AdviseConfig", "Recommend a method for your data, hardware and aims.",
        ("prefcli advise",
         "prefcli advise --data pairs.jsonl --params 7B --gpu H100 --aim stability"),
    ),
    "report": Entry(
        "report", "prefcli.config.report", "ReportConfig", "Write one page about finished runs, to read offline.",
        ("prefcli report ppo dpo",
         "prefcli report ppo dpo --prompts held_out.jsonl --reward rm -o report.html"),
    ),
    "mem-estimate": Entry(
        "mem_estimate", "prefcli.config.memory", "MemoryConfig",
        "Estimate the memory of PPO, DPO and the other methods before a run.",
        ("prefcli mem-estimate --params 7B --compare",
         "prefcli mem-estimate --params 7B --stage ppo --lora-rank 16 --gpu H100"),
    ),
    "ls": Entry(
        "ls", "prefcli.config.store", "ListConfig", "List the artifacts.",
        ("prefcli ls",
         "prefcli ls --sort name --runs /data/runs"),
    ),
    "show": Entry(
        "show", "prefcli.config.store", "ShowConfig", "Show one artifact and what it was made from.",
        ("prefcli show dpo",
         "prefcli show dpo@v1 --verify"),
    ),
    "rm": Entry(
        "rm", "prefcli.config.store", "RemoveConfig", "Delete versions that no other artifact was made from.",
        ("prefcli rm dpo@v1",
         "prefcli rm dpo@v1 dpo@v2 --dry-run"),
    ),
    "gc": Entry(
        "gc", "prefcli.config.store", "CollectConfig", "Delete caches, leftovers and unused versions from the store.",
        ("prefcli gc --dry-run",
         "prefcli gc --keep 2 --older-than 30 --yes"),
    ),
    "config": Entry(
        "defaults", "prefcli.config.about", "DefaultsConfig", "Print a command's options and defaults as a YAML file.",
        ("prefcli config dpo > dpo.yaml",
         "prefcli dpo --config dpo.yaml --data pairs.jsonl"),
    ),
    "info": Entry(
        "info", "prefcli.config.about", "InfoConfig", "Print versions, devices and the store, for bug reports.",
        ("prefcli info",
         "prefcli info --json"),
    ),
}  # fmt: skip
GROUPS = {"data": data.app}
# All of them by the words that call them, those of the groups too.
ALL = COMMANDS | {f"data {name}": entry for name, entry in data.COMMANDS.items()}

app = group(
    "prefcli",
    COMMANDS,
    "Teach a language model human preferences, by RLHF (sft → train-rm → ppo) or by DPO (sft → dpo), "
    "and measure which route won.",
    GROUPS,
    ("prefcli sft --data demos.jsonl --model tiny", "prefcli dpo --data pairs.jsonl --model sft"),
)


def _version(value: bool) -> None:
    if value:
        print(f"prefcli {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the console script."""
    install()
    share_cores()
    stdout.claim()
    try:
        app()
    except KeyboardInterrupt:  # between two commands' own handling: while importing, say
        print("interrupted", file=sys.stderr)
        leave(exit_code())
    except SystemExit as ended:
        distributed = sys.modules.get("torch.distributed")
        in_group = distributed is not None and distributed.is_initialized()
        if ended.code in (INTERRUPTED, TRY_AGAIN) or (in_group and ended.code):
            leave(int(ended.code))
        if distributed is not None and in_group:  # whose threads abort an interpreter that is taken apart around them
            distributed.destroy_process_group()
        raise

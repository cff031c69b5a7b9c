"""Options of `prefcli mem-estimate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from prefcli.config.stages import BY_COMMAND

if TYPE_CHECKING:
    Command = str
else:
    Command = Literal[tuple(BY_COMMAND)]

WHAT, HOW, SHOW = "What is asked", "The run", "Output"


@dataclass(frozen=True)
class MemoryConfig:
    """What training takes in memory, before anything is run."""

    params: Annotated[
        str | None,
        typer.Option(help="Size of the base model: 125M, 7B, 1.5e9.", metavar="COUNT", rich_help_panel=WHAT),
    ] = None
    model: Annotated[
        str | None,
        typer.Option(
            help="In place of --params: a model directory or config.json on disk, an artifact, or a hub id that was "
            "downloaded.",
            rich_help_panel=WHAT,
        ),
    ] = None
    stage: Annotated[
        Command | None,
        typer.Option(
            help="One stage: its parts, whether it fits and what would make it. Default: PPO against DPO.",
            rich_help_panel=WHAT,
        ),
    ] = None
    compare: Annotated[
        bool,
        typer.Option("--compare", help="All methods side by side, on this GPU.", rich_help_panel=WHAT),
    ] = False
    probe: Annotated[
        bool,
        typer.Option(
            "--probe",
            help="Run one real step of --stage at the longest length, and report that (needs --model).",
            rich_help_panel=WHAT,
        ),
    ] = False
    gpu: Annotated[
        str | None,
        typer.Option(help="The kind of GPU. Default: the one found here, else A100-80GB.", rich_help_panel=WHAT),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Rows on one device at a time.", rich_help_panel=HOW)] = 1
    max_length: Annotated[
        int, typer.Option(min=1, help="Tokens of prompt and answer together.", rich_help_panel=HOW)
    ] = 2048
    prompt_length: Annotated[
        int, typer.Option(min=0, help="Tokens of them that are the prompt, read once.", rich_help_panel=HOW)
    ] = 0
    lora_rank: Annotated[
        int, typer.Option(min=0, help="Rank of the adapter; 0 trains all weights.", rich_help_panel=HOW)
    ] = 0
    load_in_4bit: Annotated[
        bool, typer.Option("--load-in-4bit", help="The base below the adapter in 4 bits.", rich_help_panel=HOW)
    ] = False
    layout: Annotated[
        Literal["separate", "shared"] | None,
        typer.Option(help="Of PPO's roles. Default: shared with --lora-rank.", rich_help_panel=HOW),
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="What is computed in; trained weights are float32.", rich_help_panel=HOW),
    ] = "bfloat16"
    optim: Annotated[
        Literal["adamw", "adamw-8bit", "adafactor", "sgd"], typer.Option(help="Optimizer.", rich_help_panel=HOW)
    ] = "adamw"
    gradient_checkpointing: Annotated[
        bool, typer.Option(help="Recompute activations in the backward pass.", rich_help_panel=HOW)
    ] = True
    packed: Annotated[
        bool, typer.Option(help="Each prompt once and no padding; --no-packed is padded.", rich_help_panel=HOW)
    ] = True
    tokens_per_row: Annotated[int, typer.Option(min=1, help="Tokens of a packed row.", rich_help_panel=HOW)] = 16384
    num_generations: Annotated[int, typer.Option(min=1, help="PPO's answers to each prompt.", rich_help_panel=HOW)] = 1
    zero: Annotated[
        int,
        typer.Option(
            min=0, max=3, help="What --gpus split: 1 optimizer states, 2 gradients, 3 weights.", rich_help_panel=HOW
        ),
    ] = 0
    gpus: Annotated[int, typer.Option(min=1, help="GPUs that split them.", rich_help_panel=HOW)] = 1
    plot: Annotated[
        str | None, typer.Option(help="Draw it into this .png or .svg.", metavar="FILE", rich_help_panel=SHOW)
    ] = None
    runs: Annotated[
        str | None,
        typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.", rich_help_panel=SHOW),
    ] = None
    config: Annotated[str | None, typer.Option(help="YAML file of options.", metavar="FILE", rich_help_panel=SHOW)] = (
        None
    )
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=SHOW)] = False
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=SHOW)] = (
        False
    )

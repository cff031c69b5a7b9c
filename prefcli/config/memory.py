"""Options of `prefcli mem-estimate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from prefcli.config.base import Opt
from prefcli.config.shared import FromFile, Stored
from prefcli.config.stages import BY_COMMAND

if TYPE_CHECKING:
    Command = str
else:
    Command = Literal[tuple(BY_COMMAND)]


@dataclass(frozen=True)
class RunConfig:
    """The run whose memory is estimated."""

    GROUP = "The run"

    batch_size: Annotated[int, Opt("Rows on one device at a time.", min=1)] = 1
    max_length: Annotated[int, Opt("Tokens of prompt and answer together.", min=1)] = 2048
    prompt_length: Annotated[int, Opt("How many of them are the prompt, which is computed once.", min=0)] = 0
    lora_rank: Annotated[int, Opt("Rank of the LoRA adapter; 0 trains all weights.", min=0)] = 0
    load_in_4bit: Annotated[bool, Opt("Hold the base model of the adapter in 4 bits.")] = False
    layout: Annotated[
        Literal["separate", "shared"] | None, Opt("Of PPO's models. Default: shared with --lora-rank, else separate.")
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], Opt("Data type of computation; trained weights are float32.")
    ] = "bfloat16"
    optim: Annotated[Literal["adamw", "adamw-8bit", "adafactor", "sgd"], Opt("Optimizer.")] = "adamw"
    gradient_checkpointing: Annotated[bool, Opt("Recompute activations in the backward pass.")] = True
    packed: Annotated[bool, Opt("Compute each prompt once and no padding; --no-packed pads every row.")] = True
    tokens_per_row: Annotated[int, Opt("Maximum tokens in one forward pass.", min=1)] = 16384
    num_generations: Annotated[int, Opt("Answers per prompt, for PPO.", min=1)] = 1
    zero: Annotated[
        int,
        Opt("ZeRO stage: what the GPUs split: 1 optimizer states, 2 also gradients, 3 also weights.", min=0, max=3),
    ] = 0
    gpus: Annotated[int, Opt("Number of GPUs, for --zero.", min=1)] = 1


@dataclass(frozen=True)
class MemoryConfig(FromFile, Stored, RunConfig):
    """What training takes in memory, before anything is run."""

    params: Annotated[str | None, Opt("Size of the base model: 125M, 7B, 1.5e9.", metavar="COUNT")] = None
    model: Annotated[
        str | None,
        Opt(
            "Instead of --params: a model directory or config.json on disk, an artifact, or a hub id that was "
            "downloaded.",
            metavar="REF",
        ),
    ] = None
    stage: Annotated[
        Command | None,
        Opt("Details of one stage: its parts, whether it fits, what would make it fit. Default: PPO against DPO."),
    ] = None
    compare: Annotated[bool, Opt("Show all methods side by side on this GPU.")] = False
    probe: Annotated[
        bool, Opt("Run one real step of --stage at the maximum length and measure it (needs --model).")
    ] = False
    gpu: Annotated[
        str | None, Opt("Type of GPU. Default: the one in this machine, else A100-80GB.", metavar="TYPE")
    ] = None
    plot: Annotated[str | None, Opt("Plot it into this .png or .svg file.", metavar="FILE")] = None

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
    """The run whose memory is estimated: what is left out is the command's own default."""

    GROUP = "The run"

    batch_size: Annotated[int | None, Opt("Rows per step (ppo: answers per rollout), over all GPUs.", min=1)] = None
    max_length: Annotated[int | None, Opt("Tokens of prompt and answer together.", min=1)] = None
    prompt_length: Annotated[
        int | None, Opt("Tokens of the prompt among them; the prompt is computed once. Default: 0; 512 for ppo.", min=0)
    ] = None
    lora_rank: Annotated[int, Opt("Rank of the LoRA adapter; 0 trains all weights.", min=0)] = 0
    load_in_4bit: Annotated[bool, Opt("Hold the base model of the adapter in 4 bits.")] = False
    layout: Annotated[
        Literal["separate", "shared"] | None,
        Opt("Layout of PPO's models. Default: shared with --lora-rank, else separate."),
    ] = None
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        Opt("Data type of computation; trained weights are float32. Default: bfloat16 where the GPU supports it."),
    ] = None
    optim: Annotated[Literal["adamw", "adamw-8bit", "adafactor", "sgd"], Opt("Optimizer.")] = "adamw"
    gradient_checkpointing: Annotated[bool | None, Opt("Recompute activations in the backward pass.")] = None
    packed: Annotated[bool, Opt("Compute each prompt once and no padding; --no-packed pads every row.")] = True
    tokens_per_row: Annotated[int | None, Opt("Maximum tokens in one forward pass.", min=1)] = None
    generation_batch: Annotated[
        int | None, Opt("Answers that ppo samples at a time. Default: the whole rollout.", min=1)
    ] = None
    num_generations: Annotated[int | None, Opt("Answers per prompt, for PPO.", min=1)] = None
    advantage: Annotated[
        Literal["gae", "rloo", "grpo"] | None, Opt("PPO's advantages; rloo and grpo need no value model.")
    ] = None
    shard: Annotated[
        int, Opt("Number of GPUs that every model is split over, as the stages' own --shard does.", min=1)
    ] = 1


@dataclass(frozen=True)
class MemoryConfig(FromFile, Stored, RunConfig):
    """The memory that training needs, before anything is run."""

    params: Annotated[str | None, Opt("Size of the base model: 125M, 7B, 1.5e9.", metavar="COUNT")] = None
    model: Annotated[
        str | None,
        Opt(
            "Instead of --params: a model directory or config.json, an artifact, or a hub id, whose config.json "
            "alone is fetched.",
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
        str | None,
        Opt(
            "Type of GPU, the memory of one (16GB), cpu or mps (mps-16GB). Default: this machine's, else A100-80GB.",
            metavar="TYPE",
        ),
    ] = None
    plot: Annotated[str | None, Opt("Plot the estimate into this .png or .svg file.", metavar="FILE")] = None

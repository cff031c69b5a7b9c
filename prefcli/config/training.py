"""The options that all training commands share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

from prefcli.config.base import INCIDENTAL, Opt
from prefcli.config.shared import DATA, MODEL, READING, RUN, TRAINING, FromFile, Machine, Quiet, Reading, Split, Stored
from prefcli.errors import UsageError
from prefcli.progress import processes

Optimizer = Literal["adamw", "adamw-8bit", "adafactor", "sgd"]
Scheduler = Literal["linear", "cosine", "constant"]
Adapter = Literal["lora", "rslora", "dora"]
FSDP = "ACCELERATE_USE_FSDP"  # "true" in the environment of processes that `accelerate launch` starts for it


def asks_to_split(config: object) -> bool:
    """Whether --shard, or accelerate's file for FSDP, has the weights split over the processes."""
    return bool(getattr(config, "shard", False)) or os.environ.get(FSDP) == "true"


def not_split(optim: str, dtype: str) -> tuple[str, str] | None:
    """The option that runs neither with --shard nor under DeepSpeed, and what to do instead; None where both split."""
    if optim not in ("adamw", "sgd"):
        moments = "the others' moments are not shaped like the weights, and cannot be split"
        return f"--optim {optim}", f"use --optim adamw or sgd: {moments}"
    return ("--dtype float16", "use --dtype bfloat16") if dtype == "float16" else None


@dataclass(frozen=True)
class ModelConfig(Machine):
    """The model that is trained, and how it is held in memory."""

    GROUP = MODEL

    model: Annotated[
        str | None,
        Opt(
            "Model to start from: artifact (sft, sft@v2), directory, GGUF file, hub id or 'tiny'. "
            "Default: the highest version of sft, else tiny.",
            metavar="REF",
        ),
        INCIDENTAL,  # its digest is in the key
    ] = None
    lora_rank: Annotated[int, Opt("Train a LoRA adapter of this rank; 0 trains all weights.", min=0)] = 0
    lora_alpha: Annotated[float | None, Opt("LoRA scale is alpha / rank. Default: twice the rank.", min=0)] = None
    lora_target: Annotated[
        list[str],
        Opt(
            "Layers that LoRA adapts, by the last part of their name, e.g. q_proj. Repeatable. "
            "Default: all-linear, every linear layer except heads and routers.",
            metavar="NAME",
        ),
    ] = field(default_factory=list)
    lora_dropout: Annotated[float, Opt("Dropout on the adapter's input during training.", min=0, max=0.99)] = 0.0
    adapter: Annotated[
        Adapter,
        Opt("lora; rslora: scaled by alpha / sqrt(rank), for high ranks; dora: direction and magnitude separately."),
    ] = "lora"
    load_in_4bit: Annotated[
        bool,
        Opt("QLoRA: hold the base model and the reference in 4 bits (needs prefcli[qlora])."),
    ] = False
    gradient_checkpointing: Annotated[bool, Opt("Recompute activations in the backward pass: less memory, slower.")] = (
        False
    )
    packed: Annotated[bool, Opt("Compute each prompt once and no padding; --no-packed pads every row instead.")] = True
    tokens_per_row: Annotated[
        int | None,
        Opt("Maximum tokens in one forward pass; smaller: less memory, slower. Default: 768; 16384 on CUDA.",
            min=1),
    ] = None  # fmt: skip
    shard: Annotated[
        bool,
        Opt("Split weights, gradients and optimizer over the processes that torchrun or accelerate launch started."),
        INCIDENTAL,  # it makes the steps of one process
    ] = False


@dataclass(frozen=True)
class PolicyConfig(ModelConfig):
    """A language model that is trained."""

    GROUP = MODEL

    router_loss: Annotated[
        float,
        Opt(
            "Mixture of experts: weight of the loss that balances the routers (Switch Transformers, arXiv 2101.03961, "
            "equation 4); logged as router_loss, not in loss.",
            min=0,
        ),
    ] = 0.0


@dataclass(frozen=True)
class OptimizerConfig:
    """Length, batch size and optimizer of the training."""

    GROUP = TRAINING

    epochs: Annotated[float, Opt("Number of passes over the data.", min=0.001)] = 1.0
    max_steps: Annotated[int | None, Opt("Stop after N optimizer steps; overrides --epochs.", min=1)] = None
    batch_size: Annotated[int, Opt("Rows per optimizer step, summed over all processes.", min=1)] = 16
    grad_accum: Annotated[int, Opt("Split each batch into N parts: less memory, slower.", min=1)] = 1
    lr: Annotated[
        float | None, Opt("Learning rate. Default: by stage, model size and --lora-rank; the plan shows it.", min=0)
    ] = None
    optim: Annotated[
        Optimizer, Opt("Optimizer. adamw-8bit holds AdamW's moments in 8 bits (needs prefcli[qlora]).")
    ] = "adamw"
    lr_scheduler: Annotated[Scheduler, Opt("How the learning rate changes over the run.")] = "linear"
    warmup: Annotated[float, Opt("Fraction of the steps in which the learning rate rises.", min=0, max=1)] = 0.05
    weight_decay: Annotated[float, Opt("Weight decay.", min=0)] = 0.0
    max_grad_norm: Annotated[float, Opt("Clip the gradient to this norm; 0 does not clip.", min=0)] = 1.0
    seed: Annotated[int, Opt("Random seed.", min=0, max=2**32 - 1)] = 0
    on_alarm: Annotated[
        Literal["warn", "stop"],
        Opt("On a serious alarm of a training monitor: warn and continue, or stop (exit 6; the result so far stays)."),
    ] = "warn"

    def micro_batches(self) -> int:
        """Those of a step, over all processes. Raises UsageError: --batch-size is not a multiple of it."""
        parts = self.grad_accum * processes()
        if self.batch_size % parts:
            raise UsageError(
                f"--batch-size {self.batch_size} cannot be split into {self.grad_accum} parts (--grad-accum)"
                + (f" on each of {processes()} processes" if processes() > 1 else ""),
                f"use a multiple of {parts}",
            )
        return parts


@dataclass(frozen=True)
class OutputConfig(Quiet, FromFile, Stored):
    """Output options: nothing here changes the result."""

    GROUP = RUN

    name: Annotated[str | None, Opt("The artifact's name. Default: the stage's.", metavar="NAME"), INCIDENTAL] = None
    dry_run: Annotated[bool, Opt("Show the plan and train nothing."), INCIDENTAL] = False
    force: Annotated[bool, Opt("Train a new version even if the same run exists."), INCIDENTAL] = False
    save_every: Annotated[
        int | None,
        Opt(
            "Save a checkpoint every N steps (ppo: rollouts); the same command resumes from it. "
            "Default: every ten minutes.",
            min=1,
        ),
        INCIDENTAL,
    ] = None
    keep_state: Annotated[
        bool, Opt("Keep every checkpoint with the artifact; each is a model too: NAME@vN:stepK."), INCIDENTAL
    ] = False
    force_memory: Annotated[
        bool, Opt("Start a run even if its memory estimate exceeds the device's memory."), INCIDENTAL
    ] = False
    report_to: Annotated[
        Literal["none", "tensorboard", "wandb", "mlflow", "trackio"],
        Opt("Also send metrics to this tracker."),
        INCIDENTAL,
    ] = "none"


@dataclass(frozen=True)
class TrainingRows(Reading):
    """Options for reading the training rows."""

    GROUP = READING

    split: Annotated[Split, INCIDENTAL] = None  # the digest is of the split's own rows


@dataclass(frozen=True)
class DataConfig(TrainingRows):
    """The training data."""

    GROUP = DATA

    data: Annotated[
        list[str],
        Opt(
            "Training rows: .jsonl(.gz), .json, .csv, .tsv, .txt, .parquet, .arrow, a saved data set, a folder of such "
            "files, a hub id, or - for standard input. Repeat to mix several.",
            metavar="FILE",
        ),
        INCIDENTAL,  # its digest is in the key, its path is not
    ] = field(default_factory=list)
    data_weight: Annotated[
        list[float],
        Opt(
            "Fraction of each --data file in one pass, in their order; rows are sampled. Default: every row once.",
            metavar="NUMBER",
        ),
    ] = field(default_factory=list)
    max_rows: Annotated[int | None, Opt("Use only the first N rows of --data. Default: all.", min=1)] = None
    eval_data: Annotated[
        str | None,
        Opt("Held-out rows, evaluated during training.", metavar="FILE"),
        INCIDENTAL,  # its digest is in the key where it decides anything
    ] = None
    eval_every: Annotated[
        int | None, Opt("Evaluate on the held-out rows every N steps. Default: at the end.", min=1), INCIDENTAL
    ] = None
    max_length: Annotated[
        int, Opt("Maximum tokens of prompt and answer together; longer answers are cut at the end.", min=8)
    ] = 1024


# Learning rates where --lr is not given. Models this small (tiny) need, and stand, far larger ones; adapters of others
# about ten times that of all weights (Schulman et al. 2025, LoRA Without Regret).
SMALL_MODEL_PARAMETERS = 20_000_000
ADAPTER_RATE = 10

# Tokens of a packed row where --tokens-per-row is not given. CPU: measured, see docs/packed.md.
TOKENS_PER_ROW = {"cpu": 768, "cuda": 16384}

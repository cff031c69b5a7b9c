"""The options that all training commands share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import typer

from prefcli.config.base import INCIDENTAL

WHERE, DATA, TRAINING, MODEL, SAMPLING = "Output", "Data", "Training", "Model", "Sampling"

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Optimizer = Literal["adamw", "adafactor", "sgd"]
Scheduler = Literal["linear", "cosine", "constant"]
Adapter = Literal["lora", "rslora", "dora"]

# How rows are read, by every command that reads some (config/shared.py hands them on).
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out rows that do not fit, and say how many.", rich_help_panel=DATA)
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Which split of a saved or hub data set. Default: train, or the only one.",
        metavar="NAME",
        rich_help_panel=DATA,
    ),
]
Map = Annotated[
    list[str],
    typer.Option(
        help="A column under our name for it: chosen=good reads the column good as chosen; repeat for more.",
        metavar="OURS=THEIRS",
        rich_help_panel=DATA,
    ),
]

Label = Annotated[
    str | None,
    typer.Option(
        help="Of a reward model with several labels: the one that is the score, by name or number, or a weighted sum: "
        "helpfulness=0.7,verbosity=-0.3.",
        metavar="LABEL",
        rich_help_panel=MODEL,
    ),
]


@dataclass(frozen=True)
class ModelConfig:
    """Which model is trained, and how it is held in memory."""

    model: Annotated[
        str | None,
        typer.Option(
            help="Artifact (sft, sft@v2), directory, GGUF file, 'tiny' or hub id to start from. "
            "Default: the highest version of sft, else tiny.",
            rich_help_panel=MODEL,
        ),
        INCIDENTAL,  # its digest is in the key
    ] = None
    lora_rank: Annotated[
        int, typer.Option(min=0, help="Train a LoRA adapter of this rank; 0 trains all weights.", rich_help_panel=MODEL)
    ] = 0
    lora_alpha: Annotated[
        float | None,
        typer.Option(min=0, help="LoRA scale numerator. Default: twice the rank.", rich_help_panel=MODEL),
    ] = None
    lora_target: Annotated[
        list[str],
        typer.Option(
            help="Layers that LoRA adapts, by the last part of their names: q_proj; repeat for more. "
            "Default: all-linear, every linear layer but heads and routers.",
            metavar="NAME",
            rich_help_panel=MODEL,
        ),
    ] = field(default_factory=list)
    lora_dropout: Annotated[
        float,
        typer.Option(min=0, max=0.99, help="Dropout of the adapter's input while it trains.", rich_help_panel=MODEL),
    ] = 0.0
    adapter: Annotated[
        Adapter,
        typer.Option(
            help="lora; rslora: scaled by the root of the rank, for high ranks; dora: direction and length apart.",
            rich_help_panel=MODEL,
        ),
    ] = "lora"
    load_in_4bit: Annotated[
        bool,
        typer.Option(
            "--load-in-4bit",
            help="QLoRA: hold the base below the adapter, and the reference, in 4 bits (needs prefcli[qlora]).",
            rich_help_panel=MODEL,
        ),
    ] = False
    dtype: Annotated[
        Dtype,
        typer.Option(
            help="Weights' type; auto is float32 on a CPU, bfloat16 on a GPU that has it.", rich_help_panel=MODEL
        ),
    ] = "auto"
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes the best there is.", rich_help_panel=MODEL)
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(help="Recompute activations in the backward pass: less memory, slower.", rich_help_panel=MODEL),
    ] = False
    packed: Annotated[
        bool,
        typer.Option(
            help="Run each prompt once and no padding; --no-packed is the padded forward.", rich_help_panel=MODEL
        ),
    ] = True
    tokens_per_row: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of a packed row: a batch runs in rows of so many. Default: by device.",
            rich_help_panel=MODEL,
        ),
    ] = None


@dataclass(frozen=True)
class PolicyConfig(ModelConfig):
    """A language model that is trained."""

    router_loss: Annotated[
        float,
        typer.Option(
            min=0,
            help="Mixtures of experts: weight of the loss that balances the routers (Switch Transformers, arXiv "
            "2101.03961, equation 4); logged as router_loss, not in loss.",
            rich_help_panel=MODEL,
        ),
    ] = 0.0


@dataclass(frozen=True)
class OptimizerConfig:
    """How long and how hard it is trained."""

    epochs: Annotated[float, typer.Option(min=0.001, help="Passes over the data.", rich_help_panel=TRAINING)] = 1.0
    max_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Stop after this many optimizer steps, whatever --epochs says.", rich_help_panel=TRAINING
        ),
    ] = None
    batch_size: Annotated[
        int, typer.Option(min=1, help="Rows in one optimizer step, over all processes.", rich_help_panel=TRAINING)
    ] = 16
    grad_accum: Annotated[
        int, typer.Option(min=1, help="Split each batch into this many parts: less memory.", rich_help_panel=TRAINING)
    ] = 1
    lr: Annotated[
        float | None,
        typer.Option(
            min=0, help="Learning rate. Default: by stage and model size; the plan shows it.", rich_help_panel=TRAINING
        ),
    ] = None
    optim: Annotated[Optimizer, typer.Option(help="Optimizer.", rich_help_panel=TRAINING)] = "adamw"
    lr_scheduler: Annotated[
        Scheduler, typer.Option(help="Shape of the learning rate over the run.", rich_help_panel=TRAINING)
    ] = "linear"
    warmup: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the steps in which the rate rises.", rich_help_panel=TRAINING)
    ] = 0.05
    weight_decay: Annotated[float, typer.Option(min=0, help="Weight decay.", rich_help_panel=TRAINING)] = 0.0
    max_grad_norm: Annotated[
        float, typer.Option(min=0, help="Clip the gradient to this norm; 0 does not clip.", rich_help_panel=TRAINING)
    ] = 1.0
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Random seed.", rich_help_panel=TRAINING)] = 0
    on_alarm: Annotated[
        Literal["warn", "stop"],
        typer.Option(
            help="On a serious alarm of a watcher: go on, or stop (exit 6; what was trained stays).",
            rich_help_panel=TRAINING,
        ),
    ] = "warn"


@dataclass(frozen=True)
class OutputConfig:
    """Where the result goes and what is shown meanwhile: nothing here changes the result."""

    name: Annotated[
        str | None,
        typer.Option(help="The artifact's name. Default: the stage's.", rich_help_panel=WHERE),
        INCIDENTAL,
    ] = None
    runs: Annotated[
        str | None,
        typer.Option(help="Where artifacts live. Default: $PREFCLI_RUNS, else ./runs.", rich_help_panel=WHERE),
        INCIDENTAL,
    ] = None
    config: Annotated[
        str | None,
        typer.Option(
            help="YAML file of options; the command line overrides it.", metavar="FILE", rich_help_panel=WHERE
        ),
        INCIDENTAL,
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and train nothing.", rich_help_panel=WHERE), INCIDENTAL
    ] = False
    force: Annotated[
        bool,
        typer.Option("--force", help="Make a new version even where the same run exists.", rich_help_panel=WHERE),
        INCIDENTAL,
    ] = False
    save_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps (ppo: rollouts) between two saved states, from which the same command goes on after a stop. "
            "Default: after every ten minutes.",
            rich_help_panel=WHERE,
        ),
        INCIDENTAL,
    ] = None
    keep_state: Annotated[
        bool,
        typer.Option(
            "--keep-state",
            help="Keep every saved state with the artifact; each is a model too: NAME@vN:stepK.",
            rich_help_panel=WHERE,
        ),
        INCIDENTAL,
    ] = False
    force_memory: Annotated[
        bool,
        typer.Option(
            "--force-memory",
            help="Try a run that is estimated not to fit in the device's memory.",
            rich_help_panel=WHERE,
        ),
        INCIDENTAL,
    ] = False
    report_to: Annotated[
        Literal["none", "tensorboard", "wandb", "mlflow", "trackio"],
        typer.Option(help="Also send metrics to this tracker.", rich_help_panel=WHERE),
        INCIDENTAL,
    ] = "none"
    json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, not a path.", rich_help_panel=WHERE), INCIDENTAL
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No plan, progress or summary.", rich_help_panel=WHERE), INCIDENTAL
    ] = False
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=WHERE), INCIDENTAL
    ] = False


@dataclass(frozen=True)
class DataConfig:
    """What it is trained on."""

    data: Annotated[
        list[str],
        typer.Option(
            help="Training rows: .jsonl(.gz), .json, .csv, .parquet, .arrow, a saved data set, a folder of such "
            "files or a hub id; repeat to mix.",
            metavar="FILE",
            rich_help_panel=DATA,
        ),
        INCIDENTAL,  # its digest is in the key, its path is not
    ] = field(default_factory=list)
    data_weight: Annotated[
        list[float],
        typer.Option(
            help="Share of each --data file in a pass, in their order, by drawing rows. Default: every row once.",
            metavar="NUMBER",
            rich_help_panel=DATA,
        ),
    ] = field(default_factory=list)
    max_rows: Annotated[
        int | None,
        typer.Option(
            min=1, help="Use only the first so many rows of --data. Default: all.", metavar="N", rich_help_panel=DATA
        ),
    ] = None
    eval_data: Annotated[
        str | None,
        typer.Option(help="Held-out rows, measured while training.", metavar="FILE", rich_help_panel=DATA),
        INCIDENTAL,  # its digest is in the key where it decides anything
    ] = None
    eval_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Steps between two measurements on the held-out rows. Default: at the end.",
            rich_help_panel=DATA,
        ),
        INCIDENTAL,
    ] = None
    split: Annotated[Split, INCIDENTAL] = None  # the digest is of the split's own rows
    map: Map = field(default_factory=list)
    skip_bad: SkipBad = False
    max_length: Annotated[
        int,
        typer.Option(
            min=8,
            help="Longest prompt and answer together, in tokens; answers are cut at the end.",
            rich_help_panel=DATA,
        ),
    ] = 1024


# Learning rates where --lr is not given. Models this small (tiny) need, and stand, far larger ones.
SMALL_MODEL_PARAMETERS = 20_000_000

# Tokens of a packed row where --tokens-per-row is not given. CPU: measured, see docs/packed.md.
TOKENS_PER_ROW = {"cpu": 768, "cuda": 16384}

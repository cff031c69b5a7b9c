"""Options that several commands have alike, each written once: groups to inherit from, single ones to annotate with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from prefcli import urls
from prefcli.config.base import INCIDENTAL, WHETHER, Opt

# The groups in the order in which help and docs/options.md list them.
DATA, READING, MODEL, DEVICE, TRAINING, RUN, SAMPLING, OUTPUT = SHARED = (
    "Data", "Reading rows", "Model", "Device", "Training", "This run", "Sampling", "Output",
)  # fmt: skip

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

Split = Annotated[
    str | None,
    Opt("Which split of a saved or hub data set. Default: train, or the only one.", metavar="NAME"),
]
Map = Annotated[
    list[str],
    Opt("Rename an input column: chosen=good reads column 'good' as 'chosen'. Repeatable.", metavar="OURS=THEIRS"),
]
SkipBad = Annotated[bool, Opt("Leave out rows that do not fit the format, and print how many.")]
AsChat = Annotated[
    bool,
    Opt("Make each plain prompt a user's message, so that the model's chat template is applied."),
]
PairsOf = Annotated[
    Literal["best-worst", "all"],
    Opt(
        "Pairs of a row with several ranked or scored answers: the best against the worst, or every two that differ. "
        "Each pair is a row."
    ),
]
Label = Annotated[
    str | None,
    Opt(
        "For a reward model with several labels: the label that is the score, by name or number, or a weighted sum: "
        "helpfulness=0.7,verbosity=-0.3.",
        metavar="LABEL",
    ),
]
Template = Annotated[
    str | None,
    Opt(
        "Model whose chat template formats what is sent to a reward service. Default: none, `role: text` paragraphs.",
        metavar="REF",
    ),
]
Seed = Annotated[int, Opt("Random seed.", min=0, max=2**32 - 1)]
MaxNewTokens = Annotated[int, Opt("Maximum length of an answer, in tokens.", min=1)]
Temperature = Annotated[float, Opt("Sampling temperature.", min=1e-3)]
Generate = Annotated[
    str | None,
    Opt(
        "vLLM servers that answer the prompts (docs/engine.md). Default: this process.",
        metavar="URL[,URL…]",
    ),
    WHETHER,
]
Shard = Annotated[
    bool,
    Opt(
        "Split each model over the processes that torchrun or accelerate launch started, for models that do not fit on "
        "one device."
    ),
    INCIDENTAL,  # it computes what one process does
]
_SECONDS = 600.0  # that a server has for a request, and may be silent for


def addresses(generate: str) -> list[tuple[str, float]]:
    """The URLs of --generate, and the seconds of each. Raises UsageError."""
    form = "for example: http://127.0.0.1:8000, several with commas between them"
    return urls.read_several("--generate", generate, _SECONDS, form)


Runs = Annotated[str | None, Opt("The artifact store. Default: $PREFCLI_RUNS, else ./runs.", metavar="DIR"), INCIDENTAL]
QuietFlag = Annotated[bool, Opt("Print no progress and no notices.", short="-q"), INCIDENTAL]
Debug = Annotated[bool, Opt("Show the traceback of an error."), INCIDENTAL]


@dataclass(frozen=True)
class Reading:
    """Options for reading rows."""

    GROUP = READING

    split: Split = None
    map: Map = field(default_factory=list)
    skip_bad: SkipBad = False
    as_chat: AsChat = False


@dataclass(frozen=True)
class Ranking:
    """Of commands that take pairs."""

    GROUP = READING

    pairs_of: PairsOf = "best-worst"


# How rows are read: option → argument of data/scan.py.
READ_AS = {"split": "split", "map": "names", "as_chat": "as_chat", "pairs_of": "pairs_of"}


def read_as(config: Any) -> dict[str, Any]:
    """A command's options for reading rows, as arguments of data/scan.py."""
    return {argument: getattr(config, name) for name, argument in READ_AS.items() if hasattr(config, name)}


@dataclass(frozen=True)
class Machine:
    """The device of a model, and its number format."""

    GROUP = DEVICE

    dtype: Annotated[
        Dtype,
        Opt(
            "Data type to compute in; auto: bfloat16 on a GPU that supports it, and on a CPU that does to train or "
            "sample a model above 20M parameters; else float32."
        ),
    ] = "auto"
    device: Annotated[str, Opt("cpu, cuda, mps, cuda:1 (not in training); auto: the best.", metavar="NAME")] = "auto"


@dataclass(frozen=True)
class Answering:
    """Options for sampling answers to held-out prompts."""

    GROUP = SAMPLING

    max_prompts: Annotated[int | None, Opt("Use only the first N prompts.", min=1)] = None
    max_new_tokens: MaxNewTokens = 53
    temperature: Temperature = 0.7
    seed: Seed = 0


@dataclass(frozen=True)
class Sampling(Answering):
    """The same, of prompts of any length and number."""

    GROUP = SAMPLING

    max_prompt_length: Annotated[
        int, Opt("Skip prompts longer than N tokens; the number skipped is printed.", min=1)
    ] = 512
    batch_size: Annotated[int, Opt("Number of answers sampled at a time; less needs less memory.", min=1)] = 64


@dataclass(frozen=True)
class Printing:
    """Options for output and errors."""

    GROUP = OUTPUT

    json: Annotated[bool, Opt("Print the result as JSON."), INCIDENTAL] = False
    debug: Debug = False


@dataclass(frozen=True)
class Stored(Printing):
    """Of commands that read artifacts or write some."""

    GROUP = OUTPUT

    runs: Runs = None


@dataclass(frozen=True)
class FromFile:
    """Of commands whose options may come from a file."""

    GROUP = OUTPUT

    config: Annotated[
        str | None,
        Opt("YAML file of options; the command line overrides it. `prefcli config` prints one.", metavar="FILE"),
        INCIDENTAL,
    ] = None


@dataclass(frozen=True)
class Quiet:
    """Of commands that take long."""

    GROUP = OUTPUT

    quiet: QuietFlag = False

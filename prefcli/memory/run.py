"""One description of a training run that every command can ask for its memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prefcli.config.stages import BY_COMMAND, Role, Stage
from prefcli.config.training import TOKENS_PER_ROW
from prefcli.memory.architecture import Architecture
from prefcli.memory.devices import cpu_dtype
from prefcli.memory.gpus import Device

Dtype = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal["adamw", "adamw-8bit", "adafactor", "sgd"]
Kind = Literal["cuda", "cpu"]

DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
CHUNK_BYTES = 2**28  # of float32 logits that exist at a time: models/logps.py


@dataclass(frozen=True)
class Run:
    """Everything that decides the memory of a training run on one device.

    `batch_size` counts rows (for ppo, answers) that are on the device at a time: after --grad-accum, minibatches and
    processes have divided them; `grad_accum` such parts make a step. `rollout` are the answers of a
    whole rollout, where those are more, and `sampled` those of them that are sampled at a time; 0: all. `answers` of
    one prompt stand next to each other (ppo's --num-generations).
    `shared_prompt` are the tokens of a row that its answers share and a packed batch holds once; nothing reads their
    logits. `tokens_per_row` bounds the tokens of a pass: packed batches run in rows of so many; None is all of them.
    `packed` False is the padded forward. `logit_chunk` is the number of positions whose logits exist at a time; None:
    as many as CHUNK_BYTES hold.
    `shared_base` holds the base once, and each role as an adapter on it (needs `lora_rank`), but for the roles in
    `own_base`, which have one of their own.
    `reward_parameters` are those of the weights that ppo's reward models have for themselves, all together; None: of
    one as large as the policy, or of an adapter where the base is shared. `reward_model` False: no model is a reward.
    `autocast`: weights that an optimizer moves are float32, and computed with in `dtype`, as all stages here do; else
    they are in `dtype`, beside an fp32 copy of each with `master_weights`.
    `cached_reference`: dpo found the reference's values on disk, and holds none. `value_model` False is rloo and grpo.
    `buckets`: DDP copies the gradients into buckets as large, to add them up over the processes.
    `shards` of ZeRO or FSDP stage `zero`: 1 splits optimizer states, 2 gradients too, 3 weights too.
    `separate`: --layout separate was asked for, so that ppo's adapters share a base only where another option says so.
    `lockstep`: a rollout gathers one layer after the other for each pass, not all of them once (`fit.at_pace`).
    `device`: a CPU's optimizer goes weight by weight and needs room for the largest.
    """

    stage: str  # its command
    architecture: Architecture
    lora_rank: int = 0  # 0 trains all weights
    shared_base: bool = False
    own_base: frozenset[str] = frozenset()
    separate: bool = False
    dora: bool = False
    dropout: bool = False  # on the adapter's input
    in_4bit: bool = False  # the base below an adapter; a frozen reward model stays in `dtype`
    dtype: Dtype = "bfloat16"
    master_weights: bool = True  # an fp32 copy beside 16-bit weights; fp32 weights need none
    autocast: bool = False
    optimizer: Optimizer = "adamw"
    batch_size: int = 1
    rollout: int = 0
    sampled: int = 0
    grad_accum: int = 1
    answers: int = 0  # 0: the stage's own
    max_length: int = 2048
    shared_prompt: int = 0
    tokens_per_row: int | None = None
    packed: bool = True
    checkpointing: bool = True
    logit_chunk: int | None = None
    cached_reference: bool = False
    value_model: bool = True
    reward_model: bool = True
    reward_parameters: int | None = None
    buckets: bool = False
    zero: int = 0
    shards: int = 1
    lockstep: bool = False
    device: Kind = "cuda"

    @classmethod
    def of(
        cls,
        stage: Stage,
        options: Any,
        architecture: Architecture,
        device: Kind,
        length: int,
        prompt: int = 0,
        **more: Any,
    ) -> Run:
        """A stage with these options, its own or mem-estimate's, as its command runs it.

        `length` are the tokens of prompt and answer together, `prompt` those of them that answers share; both end where
        the model's positions do. `more` are fields that the caller knows better than the options say.
        """
        longest = max(1, min(length, architecture.positions or length))
        adapters_on_one = not (stage.samples and options.layout == "separate")
        auto = cpu_dtype(architecture.parameters) if device == "cpu" else "bfloat16"
        said: dict[str, Any] = {
            "lora_rank": options.lora_rank,
            "shared_base": options.lora_rank > 0 and stage.reference and adapters_on_one,
            "dora": options.adapter == "dora",
            "dropout": options.lora_dropout > 0,
            "in_4bit": options.load_in_4bit,
            "dtype": auto if options.dtype == "auto" else options.dtype,
            "optimizer": options.optim,
            "batch_size": options.batch_size,
            "answers": options.num_generations or 0 if stage.samples else 0,
            "sampled": options.generation_batch or 0 if stage.samples else 0,
            "max_length": longest,
            "shared_prompt": min(prompt, longest),
            "tokens_per_row": options.tokens_per_row or TOKENS_PER_ROW[device],
            "packed": options.packed,
            "checkpointing": options.gradient_checkpointing,
        }
        return cls(stage.command, architecture, autocast=True, device=device, **said | more)

    def __post_init__(self) -> None:
        if self.shared_base and not self.lora_rank:
            raise ValueError("roles share a base only as adapters: shared_base needs lora_rank")
        if not 0 <= self.shared_prompt <= self.max_length:
            raise ValueError("shared_prompt is a part of max_length")

    @property
    def about(self) -> Stage:
        return BY_COMMAND[self.stage]

    @property
    def roles(self) -> tuple[Role, ...]:
        absent = {
            "reference": self.cached_reference,
            "value": not self.value_model,
            "reward": self.about.samples and not self.reward_model,
        }
        return tuple(role for role in self.about.roles if not absent.get(role.name, False))

    def on_policys_base(self, role: Role) -> bool:
        """Whether the role is an adapter on the base that the policy holds."""
        return self.shared_base and role != self.roles[0] and role.name not in self.own_base

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def trained_bytes(self) -> int:
        """Bytes of a number among the weights that an optimizer moves."""
        return 4 if self.autocast else self.dtype_bytes

    @property
    def copies_weights(self) -> bool:
        """Whether an optimizer moves an fp32 copy of the trained weights."""
        return self.master_weights and self.trained_bytes < 4

    @property
    def sharded(self) -> bool:
        """Whether a process holds a part of every weight, and gathers them as they are needed."""
        return self.zero == 3 and self.shards > 1

    @property
    def casts(self) -> bool:
        """Whether computing differs in type from the trained weights."""
        return self.trained_bytes > self.dtype_bytes

    @property
    def answers_per_row(self) -> int:
        return self.answers or self.about.answers

    @property
    def row_tokens(self) -> int:
        """Tokens of one row: its prompt once, and its answers."""
        return self.shared_prompt + self.answers_per_row * (self.max_length - self.shared_prompt)

    @property
    def rows_of_batch(self) -> int:
        return -(-self.batch_size // self.unit)

    @property
    def unit(self) -> int:
        """What --batch-size counts of a row: ppo counts answers, and those to one prompt stay together."""
        return self.answers_per_row if self.about.samples else 1

    @property
    def least(self) -> int:
        """The smallest part of a batch that the stage takes: kto's KL needs another answer."""
        return 2 if self.stage == "kto" else self.unit

    @property
    def rows_of_pass(self) -> int:
        """Rows that go through a model together."""
        if self.tokens_per_row is None or (not self.packed and self.about.samples):
            return self.rows_of_batch
        return min(self.rows_of_batch, max(1, self.tokens_per_row // self.row_tokens))

    @property
    def tokens(self) -> int:
        """Tokens of a pass, every answer at its longest. Padded rows hold their prompt with each answer."""
        if not self.packed:
            return self.rows_of_pass * self.answers_per_row * self.max_length
        return self.rows_of_pass * self.row_tokens

    @property
    def read(self) -> int:
        """Positions of a pass whose logits a loss reads."""
        return self.rows_of_pass * self.answers_per_row * (self.max_length - self.shared_prompt)


def of_command(stage: Stage, given: Mapping[str, Any], architecture: Architecture, device: Device, **more: Any) -> Run:
    """The run of `prefcli STAGE` with the options that are given and its own defaults for the rest.

    `more` are fields that the caller knows better. Raises UsageError for options that do not go together.
    """
    options = stage.config(**given)
    kind: Kind = "cuda" if device.count else "cpu"
    if device.count and options.dtype == "auto":
        more = {"dtype": "bfloat16" if device.bf16 else "float32"} | more
    if not stage.samples:
        return Run.of(stage, options, architecture, kind, options.max_length, **more)
    options, prompt = options.resolved(), options.max_prompt_length
    length = prompt + options.max_new_tokens
    more = {"value_model": options.advantage == "gae", "separate": given.get("layout") == "separate"} | more
    return Run.of(stage, options, architecture, kind, length, prompt, **more)

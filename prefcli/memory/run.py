"""One description of a training run that every command can ask for its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefcli.memory.architecture import Architecture

Stage = Literal["sft", "train-rm", "dpo", "kto", "ppo"]
Dtype = Literal["float32", "bfloat16", "float16"]
Optimizer = Literal["adamw", "adafactor", "sgd"]

DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Role:
    """A part that a model plays in a stage, and whether it scores (one number) or speaks (a vocabulary)."""

    name: str
    trained: bool
    scores: bool = False


_POLICY, _REFERENCE = Role("policy", trained=True), Role("reference", trained=False)
ROLES: dict[str, tuple[Role, ...]] = {
    "sft": (_POLICY,),
    "train-rm": (Role("reward", trained=True, scores=True),),
    "dpo": (_POLICY, _REFERENCE),
    "kto": (_POLICY, _REFERENCE),
    "ppo": (
        _POLICY,
        Role("value", trained=True, scores=True),
        Role("reward", trained=False, scores=True),
        _REFERENCE,
    ),
}
# A row of pairs is two sequences: chosen and rejected.
ANSWERS: dict[str, int] = {"sft": 1, "train-rm": 2, "dpo": 2, "kto": 1, "ppo": 1}


@dataclass(frozen=True)
class Run:
    """What decides the memory of a training run on one device.

    `batch_size` counts rows that are on the device at a time: after --grad-accum and processes have divided them.
    `shared_prompt` are the tokens of a row that its answers share and a packed batch holds once.
    `tokens_per_row` bounds the tokens of a pass: packed batches run in rows of so many; None is all of them.
    `logit_chunk` is the number of positions whose logits exist at a time; None is all of them.
    `shared_base` holds the base once, and each role as an adapter on it (needs `lora_rank`).
    """

    stage: Stage
    architecture: Architecture
    lora_rank: int = 0  # 0 trains all weights
    shared_base: bool = False
    in_4bit: bool = False  # the base below an adapter; a frozen reward model stays in `dtype`
    dtype: Dtype = "bfloat16"
    master_weights: bool = True  # an fp32 copy beside 16-bit weights; fp32 weights need none
    optimizer: Optimizer = "adamw"
    batch_size: int = 1
    max_length: int = 2048
    shared_prompt: int = 0
    tokens_per_row: int | None = None
    checkpointing: bool = True
    logit_chunk: int | None = 1024

    def __post_init__(self) -> None:
        if self.shared_base and not self.lora_rank:
            raise ValueError("roles share a base only as adapters: shared_base needs lora_rank")
        if not 0 <= self.shared_prompt <= self.max_length:
            raise ValueError("shared_prompt is a part of max_length")

    @property
    def roles(self) -> tuple[Role, ...]:
        return ROLES[self.stage]

    @property
    def dtype_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def tokens(self) -> int:
        """Tokens on the device at a time, every answer at its longest."""
        row = self.shared_prompt + ANSWERS[self.stage] * (self.max_length - self.shared_prompt)
        batch = self.batch_size * row
        return batch if self.tokens_per_row is None else min(batch, max(row, self.tokens_per_row))

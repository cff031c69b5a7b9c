"""What benchmarks/memory.py measures: models by their shapes, and training runs of rows of known lengths. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from prefcli.config.training import TOKENS_PER_ROW
from prefcli.memory.architecture import Architecture
from prefcli.memory.families import FAMILIES
from prefcli.memory.run import Run


def _shape(name: str, family: str, *sizes: int, tied: bool = True, positions: int = 0) -> Architecture:
    layers, hidden, heads, kv_heads, ffn, vocab = sizes
    traits = FAMILIES[family]
    return Architecture(
        name, family, layers, hidden, heads, kv_heads, hidden // heads, ffn, vocab, tied, positions,
        qkv_bias=traits.qkv_bias is True, out_bias=traits.out_bias is True, mlp_bias=traits.mlp_bias is True,
    )  # fmt: skip


# layers, hidden, heads, of them for keys and values, MLP, vocabulary: those of SmolLM2-135M, TinyLlama-1.1B,
# Llama-2-7B, Qwen2.5-0.5B, -1.5B and -7B, and GPT-2 medium; and small ones of the same three kinds.
SHAPES = {
    shape.name: shape
    for shape in (
        _shape("llama-2M", "llama", 4, 160, 4, 2, 448, 4096),
        _shape("llama-20M", "llama", 8, 320, 5, 5, 896, 32000),
        _shape("llama-135M", "llama", 30, 576, 9, 3, 1536, 49152),
        _shape("llama-1.1B", "llama", 22, 2048, 32, 4, 5632, 32000, tied=False),
        _shape("llama-7B", "llama", 32, 4096, 32, 32, 11008, 32000, tied=False),
        _shape("qwen2-8M", "qwen2", 6, 128, 4, 2, 384, 40000),
        _shape("qwen2-70M", "qwen2", 10, 384, 6, 2, 1536, 120000),
        _shape("qwen2-0.5B", "qwen2", 24, 896, 14, 2, 4864, 151936),
        _shape("qwen2-1.5B", "qwen2", 28, 1536, 12, 2, 8960, 151936),
        _shape("qwen2-7B", "qwen2", 28, 3584, 28, 4, 18944, 152064, tied=False),
        _shape("gpt2-5M", "gpt2", 5, 192, 4, 4, 768, 12000, positions=1024),
        _shape("gpt2-30M", "gpt2", 6, 384, 6, 6, 1536, 50257, positions=1024),
        _shape("gpt2-355M", "gpt2", 24, 1024, 16, 16, 4096, 50257, positions=1024),
    )
}


@dataclass(frozen=True)
class Case:
    """One run: a stage's options, and rows whose prompts and answers all have these lengths in tokens.

    `cached`: dpo finds the reference's figures on disk. `reward`: "full" is a model of ppo's own, "lora" an adapter on
    the policy's base.
    """

    model: str
    stage: str
    batch_size: int
    prompt: int
    answer: int
    options: dict[str, Any] = field(default_factory=dict)
    cached: bool = False
    shards: int = 1  # processes that the models are split over (--shard)
    lockstep: bool = False  # the policy is not gathered whole for a rollout

    @property
    def name(self) -> str:
        told = {"lora_rank": "LoRA", "load_in_4bit": "4 bits", "gradient_checkpointing": "checkpointing"}
        words = [told.get(n, f"{n.replace('_', ' ')} {v}") for n, v in self.options.items() if v is not False]
        words += ["padded"] if self.options.get("packed") is False else []
        words += ["cached reference"] if self.cached else []
        words += [f"over {self.shards} processes"] if self.shards > 1 else []
        words += ["in lockstep"] if self.lockstep else []
        return ", ".join([f"{self.stage} {self.model}", f"{self.batch_size} × ({self.prompt} + {self.answer})", *words])


LORA: dict[str, Any] = {"lora_rank": 16}
CKPT: dict[str, Any] = {"gradient_checkpointing": True}
QLORA = LORA | {"load_in_4bit": True}
PADDED: dict[str, Any] = {"packed": False}
BF16: dict[str, Any] = {"dtype": "bfloat16"}
SHARED = LORA | {"layout": "shared"}

# In the order of their worth, should the time on the device end. Every third is held out of any fitting.
GPU = (
    Case("llama-135M", "sft", 8, 512, 512),
    Case("llama-1.1B", "sft", 4, 512, 512, LORA),
    Case("llama-1.1B", "dpo", 4, 512, 512),
    Case("qwen2-0.5B", "sft", 4, 512, 512),
    Case("llama-135M", "ppo", 64, 256, 53),
    Case("llama-1.1B", "ppo", 32, 256, 64, SHARED),
    Case("gpt2-355M", "dpo", 8, 256, 256),
    Case("qwen2-0.5B", "train-rm", 8, 256, 256),
    Case("llama-1.1B", "sft", 8, 512, 512, CKPT),
    Case("qwen2-0.5B", "ppo", 16, 256, 128),
    Case("llama-1.1B", "sft", 4, 512, 512, QLORA),
    Case("llama-135M", "kto", 16, 256, 256),
    Case("llama-1.1B", "dpo", 8, 512, 256, LORA | CKPT),
    Case("qwen2-0.5B", "dpo", 4, 512, 256, cached=True),
    Case("qwen2-0.5B", "kto", 16, 128, 256, LORA),
    Case("llama-7B", "sft", 4, 512, 512, LORA | CKPT),
    Case("llama-7B", "sft", 4, 512, 512, QLORA | CKPT),
    Case("llama-7B", "dpo", 2, 512, 512, LORA | CKPT),
)
CPU = (
    Case("llama-2M", "sft", 8, 64, 64),
    Case("qwen2-8M", "dpo", 8, 64, 64),
    Case("gpt2-5M", "train-rm", 8, 64, 64),
    Case("llama-20M", "kto", 8, 96, 64),
    Case("llama-2M", "ppo", 16, 64, 32),
    Case("qwen2-70M", "sft", 4, 128, 128),
    Case("gpt2-30M", "dpo", 4, 128, 128),
    Case("llama-20M", "train-rm", 8, 128, 128),
    Case("qwen2-8M", "ppo", 16, 64, 32, SHARED),
    Case("llama-20M", "sft", 8, 128, 128, LORA),
    Case("qwen2-70M", "dpo", 4, 128, 128, LORA),
    Case("gpt2-30M", "ppo", 8, 128, 32),
    Case("llama-20M", "dpo", 8, 128, 128, CKPT),
    Case("qwen2-70M", "train-rm", 4, 128, 128, LORA | CKPT),
    Case("llama-135M", "sft", 4, 128, 128),
    Case("llama-20M", "ppo", 16, 64, 32, {"advantage": "rloo"}),
    Case("qwen2-8M", "kto", 8, 64, 64, LORA),
    Case("gpt2-5M", "sft", 16, 64, 64, {"optim": "adafactor"}),
    Case("llama-20M", "dpo", 8, 128, 128, {}, cached=True),
    Case("qwen2-70M", "kto", 4, 128, 128, {"optim": "sgd"}),
    Case("llama-135M", "dpo", 2, 128, 128, LORA),
    Case("llama-20M", "ppo", 16, 64, 32, SHARED | CKPT),
    Case("qwen2-8M", "sft", 8, 64, 64, PADDED),
    Case("llama-20M", "train-rm", 4, 128, 128, PADDED),
)

# Measured when the terms were final: nobody had seen them.
BLIND: dict[str, tuple[Case, ...]] = {
    "cuda": (
        Case("llama-1.1B", "train-rm", 8, 256, 256, LORA),
        Case("gpt2-355M", "ppo", 32, 256, 64, CKPT),
        Case("qwen2-0.5B", "ppo", 32, 256, 64, SHARED | {"advantage": "rloo"}),
        Case("llama-135M", "dpo", 8, 256, 256, {"dtype": "float32"}),
        Case("llama-1.1B", "sft", 4, 512, 512, {"optim": "adafactor"}),
        Case("llama-1.1B", "ppo", 32, 256, 64, SHARED | CKPT),
        Case("llama-7B", "ppo", 16, 256, 64, SHARED | CKPT | {"load_in_4bit": True}),
        Case("gpt2-355M", "sft", 8, 256, 256, {"tokens_per_row": 1024}),
    ),
    "cpu": (
        Case("gpt2-5M", "ppo", 16, 64, 32, CKPT),
        Case("qwen2-8M", "sft", 12, 40, 80, LORA | CKPT),
        Case("gpt2-30M", "train-rm", 6, 100, 60),
        Case("gpt2-5M", "kto", 10, 50, 90),
        Case("qwen2-8M", "ppo", 12, 80, 24),
        Case("llama-20M", "dpo", 6, 60, 150, LORA),
        Case("llama-2M", "ppo", 16, 48, 40, SHARED | {"advantage": "rloo"}),
        Case("gpt2-5M", "sft", 10, 100, 60, {"tokens_per_row": 320}),
        Case("llama-20M", "dpo", 3, 80, 100, PADDED),
        Case("qwen2-8M", "train-rm", 9, 70, 50, {"optim": "adafactor"}),
    ),
}

# Two models, three stages, all weights and adapters, each over 2 or 4 processes; the last one in bfloat16.
SHARDED = tuple(
    Case(
        model,
        stage,
        batch,
        prompt,
        answer,
        options | (BF16 if turn and number == 5 else {}),
        shards=(2, 4)[(number + turn) % 2],
    )
    for turn, model in enumerate(("llama-2M", "llama-20M"))
    for number, (stage, batch, prompt, answer, options) in enumerate(
        (
            ("sft", 8, 64, 64, {}),
            ("sft", 8, 64, 64, LORA),
            ("dpo", 8, 64, 64, LORA),
            ("dpo", 8, 64, 64, {}),
            ("ppo", 16, 64, 32, {}),
            ("ppo", 16, 64, 32, SHARED),
        )
    )
)
# Rollouts of many answers, updates of few tokens: the peak is where the layers are not gathered at once.
SHARDED += tuple(
    Case("llama-2M", "ppo", answers, 16, 32, SHARED | CKPT | {"tokens_per_row": row}, shards=shards, lockstep=True)
    for answers, row, shards in ((64, 48, 4), (64, 48, 2), (128, 96, 4))
)


def held_out(cases: tuple[Case, ...], case: Case) -> bool:
    return cases in BLIND.values() or cases.index(case) % 3 == 2


def run_of(case: Case, device: Literal["cpu", "cuda"]) -> Run:
    """The case as mem-estimate is asked about it."""
    options = case.options
    answers = 4 if options.get("advantage") in ("rloo", "grpo") else 0
    return Run(
        stage=case.stage,  # type: ignore[arg-type]
        architecture=SHAPES[case.model],
        lora_rank=options.get("lora_rank", 0),
        shared_base=options.get("layout") == "shared" or (case.stage in ("dpo", "kto") and "lora_rank" in options),
        in_4bit=options.get("load_in_4bit", False),
        dtype=options.get("dtype", "float32" if device == "cpu" else "bfloat16"),
        autocast=True,
        optimizer=options.get("optim", "adamw"),
        batch_size=case.batch_size // case.shards,
        answers=answers,
        max_length=case.prompt + case.answer,
        shared_prompt=case.prompt,
        tokens_per_row=options.get("tokens_per_row", TOKENS_PER_ROW[device]),
        packed=options.get("packed", True),
        checkpointing=options.get("gradient_checkpointing", False),
        cached_reference=case.cached,
        value_model=not answers,
        zero=3 if case.shards > 1 else 0,
        shards=case.shards,
        lockstep=case.lockstep,
        device=device,
    )

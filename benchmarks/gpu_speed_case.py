"""One case of gpu_speed, in its process: rows, a random model on the device, and the training steps of one side."""

from __future__ import annotations

import copy
import importlib
import json
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from datasets import Dataset
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.utils import is_flash_attn_2_available
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from benchmarks import memory
from benchmarks.gpu_speed import LORA, ROWS, SIZES, Case
from benchmarks.machine import step_flops
from benchmarks.memory_cases import SHAPES
from prefcli.artifacts.references import TINY
from prefcli.errors import MemoryShortError, from_foreign
from prefcli.models import packed_attention
from prefcli.progress import Reporter
from prefcli.stages.measuring import PeakMemory

RANK, LR = 16, 1e-6
PEERS: dict[str, tuple[Any, Any]] = {
    "sft": (SFTTrainer, SFTConfig),
    "train-rm": (RewardTrainer, RewardConfig),
    "dpo": (DPOTrainer, DPOConfig),
}


def guarded(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """The function's result, or its error as one."""
    if torch.cuda._is_in_bad_fork():
        return {"cannot_fork": True}
    try:
        return function(*args)
    except Exception as error:
        traceback.print_exc()
        short = isinstance(from_foreign(error) or error, MemoryShortError)
        return {"error": f"{type(error).__name__}: {error}"[:400], "out_of_memory": short}


def device(kind: str, folder: Path) -> dict[str, Any]:
    """What it is, and the best of its dense bfloat16 products, in TFLOP/s."""
    side, times = (8192, 20) if kind == "cuda" else (1024, 2)
    left, right = (torch.randn(side, side, device=kind, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(5):
        _wait(kind)
        began = time.perf_counter()
        for _ in range(times):
            left @ right
        _wait(kind)
        best = max(best, 2 * side**3 * times / (time.perf_counter() - began) / 1e12)
    versions = {name: importlib.import_module(name).__version__ for name in ("torch", "transformers", "trl")}
    name = torch.cuda.get_device_name() if kind == "cuda" else "cpu"
    total = torch.cuda.mem_get_info()[1] if kind == "cuda" else None
    return {"name": name, "memory_bytes": total, "peak_tflops": best, **versions}


def _wait(kind: str) -> None:
    if kind == "cuda":
        torch.cuda.synchronize()


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """Rows and tokens a second, and peak memory, of the steps that are timed."""
    notices, ticks = Notices(), _ticks(case.device)
    _make_weights(case.device)
    place = _directory(case, folder)
    lengths = case.lengths()
    rows = _rows(case, lengths)
    with PeakMemory(torch.device(case.device)) as peak:
        more = theirs(case, place, rows) if case.side == "trl" else ours(case, place, rows, notices)
    before, timed = case.steps
    if len(ticks) != before + timed:
        raise RuntimeError(f"{len(ticks)} optimizer steps were made, {before + timed} were asked for")
    seconds = (ticks[-1] - ticks[before - 1]) / timed
    answers = 2 if case.stage in ("dpo", "train-rm") else 1
    tokens = sum(prompt + sum(both[:answers]) for prompt, *both in lengths) / sum(case.steps)
    return {
        "seconds_per_step": seconds,
        "rows_per_second": case.rows / seconds,
        "tokens_per_second": tokens / seconds,  # without padding, each prompt once, whatever the side computes
        "peak_bytes": peak.bytes,
        "reserved_bytes": torch.cuda.max_memory_reserved() if case.device == "cuda" else None,
        "tflop_per_step": needed(case, lengths) / sum(case.steps) / 1e12,
        "rows_per_step": case.rows,
        "mean_tokens": [round(sum(column) / len(lengths), 1) for column in zip(*lengths)],
        "timed_steps": timed,
        "notices": notices.told,
        **more,
    }


class Notices(Reporter):
    """Keeps the losses, and what a run says of a model that it could not pack."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.losses: list[float] = []

    def notice(self, text: str) -> None:
        if "on padded rows" in text:
            self.told.append(text)

    def advance(self, done: int, metrics: dict[str, float] | None = None) -> None:
        if metrics and "loss" in metrics:
            self.losses.append(metrics["loss"])


def _ticks(kind: str) -> list[float]:
    """The moments at which the device has done an optimizer step, of either side."""
    ticks: list[float] = []
    step = AcceleratedOptimizer.step

    def ticking(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        _wait(kind)
        ticks.append(time.perf_counter())
        return result

    AcceleratedOptimizer.step = ticking  # type: ignore[method-assign]
    return ticks


def _make_weights(kind: str) -> None:
    """From here on a model's weights are made on the device when it is opened, the same ones at every opening.

    They are bfloat16's numbers in whatever format, as those of a checkpoint in it.
    """

    def made(
        cls: Any, place: Any, *_: Any, config: Any, dtype: Any, output_loading_info: bool = False, **__: Any
    ) -> Any:
        config = copy.deepcopy(config)
        with torch.device(kind):
            model = cls._from_config(config, dtype=dtype)
        draw = torch.Generator(kind).manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    drawn = torch.empty(parameter.shape, device=kind).normal_(0, 0.02, generator=draw)
                    parameter.copy_(drawn.bfloat16())
        model.config._name_or_path = model.name_or_path = str(place)
        return (model.eval(), {}) if output_loading_info else model.eval()

    PreTrainedModel.from_pretrained = classmethod(made)  # type: ignore[assignment]


def _directory(case: Case, folder: Path) -> Path:
    """Of a model that has no weights: `_make_weights` has them."""
    place = folder / case.size
    if not place.is_dir():
        config = _config(case)
        config.architectures = [type(_empty(AutoModelForCausalLM, config)).__name__]
        _save(config, place)
    return place


def _save(config: Any, place: Path) -> None:
    """A model's directory, whose file of weights has none in it."""
    config.save_pretrained(place)
    save_file({}, place / "model.safetensors", {"format": "pt"})
    AutoTokenizer.from_pretrained(TINY).save_pretrained(place)


def _config(case: Case) -> Any:
    config = memory.transformers_config(SHAPES[SIZES[case.size]])
    config.head_dim = config.hidden_size // config.num_attention_heads
    return config


def _empty(kind: Any, config: Any) -> Any:
    with torch.device("meta"):
        return kind.from_config(config)


def _reward_model(case: Case, place: Path) -> Path:
    """Of the policy's shape; where the policy is an adapter, an adapter on the same base."""
    path = place.with_name(f"{case.size}-reward")
    if path.is_dir():
        return path
    config = memory.AutoConfig.from_pretrained(place, num_labels=1, pad_token_id=0)
    if case.size in LORA:
        model = AutoModelForSequenceClassification.from_pretrained(place, config=config, dtype=torch.bfloat16)
        model = get_peft_model(model, _lora(TaskType.SEQ_CLS, modules_to_save=["score"]))
        model.save_pretrained(path)
        AutoTokenizer.from_pretrained(TINY).save_pretrained(path)
        del model
        if case.device == "cuda":
            torch.cuda.empty_cache()
    else:
        config.architectures = [type(_empty(AutoModelForSequenceClassification, config)).__name__]
        _save(config, path)
    return path


def _lora(task: Any, **more: Any) -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type=task, **more)


def _rows(case: Case, lengths: list[tuple[int, int, int]]) -> list[dict[str, str]]:
    """As text, of N tokens with the token that ends an answer."""
    text = memory.writer()
    rows = []
    for prompt, first, second in lengths:
        row = {"prompt": text(prompt)}
        if case.stage == "sft":
            row["completion"] = text(first - 1)
        elif case.stage != "ppo":
            row |= {"chosen": text(first - 1), "rejected": text(second - 1)}
        rows.append(row)
    return rows


def ours(case: Case, place: Path, rows: list[dict[str, str]], notices: Notices) -> dict[str, Any]:
    """As its command runs it; nothing is saved."""
    runs = place.with_name(f"runs-{case.name}-{case.parts}")
    runs.mkdir()
    data = runs / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options: dict[str, Any] = {
        "model": str(place), "runs": str(runs), "device": case.device, "dtype": "bfloat16", "lr": LR,
        "batch_size": case.rows, "max_steps": sum(case.steps), "force": True, "quiet": True, "force_memory": True,
        "packed": case.side == "packed", "tokens_per_row": case.tokens_per_row,
        "lora_rank": RANK if case.size in LORA else 0,
    }  # fmt: skip
    if case.stage == "ppo":
        options |= {
            "prompts": [str(data)], "reward": [f"rm={_reward_model(case, place)}"], "ppo_epochs": 1,
            "max_prompt_length": ROWS[case.shape].prompt.most, "max_new_tokens": round(ROWS[case.shape].answer.mean),
            "grad_accum": 1 if case.side == "packed" else case.parts,
        }  # fmt: skip
    else:
        options |= {"data": [str(data)], "max_length": 4096}
    options |= {"eval_share": 0.0} if case.stage == "train-rm" else {}
    memory.SILENT, calls = notices, _attention_calls()
    memory.Bench(place.parent, case.device).run(memory.Case(case.size, case.stage, case.rows, 0, 0), options, None)
    return {"tokens_per_row": case.tokens_per_row, "losses": notices.losses, "attention": calls}


def _attention_calls() -> Counter[str]:
    """How often each way of packed attention is called: in one call of all, in groups of like length, one by one."""
    calls: Counter[str] = Counter()

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls[name.lstrip("_")] += 1
            return function(*args, **kwargs)

        return call

    for name in ("_all_at_once", "_in_groups", "_one_by_one"):
        setattr(packed_attention, name, counted(name, getattr(packed_attention, name)))
    return calls


def theirs(case: Case, place: Path, rows: list[dict[str, str]]) -> dict[str, Any]:
    """TRL's trainer in bfloat16, all weights float32 (with an adapter: its base bfloat16), no checkpointing."""
    trainer_of, config_of = PEERS[case.stage]
    adapted, flash = case.size in LORA, case.device == "cuda" and is_flash_attn_2_available()
    attention = "flash_attention_2" if flash else "sdpa"
    more: dict[str, Any] = {"padding_free": True} if case.stage == "sft" and flash else {}
    args = config_of(
        output_dir=str(place.with_name("trl")), per_device_train_batch_size=case.rows // case.parts,
        gradient_accumulation_steps=case.parts, max_steps=sum(case.steps), learning_rate=LR, bf16=True,
        gradient_checkpointing=False, use_cpu=case.device == "cpu", report_to="none", disable_tqdm=True,
        logging_steps=1, save_strategy="no", seed=0, data_seed=0, max_length=None, **more,
    )  # fmt: skip

    def opened(dtype: torch.dtype) -> Any:
        config = memory.AutoConfig.from_pretrained(place, attn_implementation=attention)
        kind: Any = AutoModelForCausalLM
        if case.stage == "train-rm":
            kind, config.num_labels, config.pad_token_id = AutoModelForSequenceClassification, 1, 0
        return kind.from_pretrained(place, config=config, dtype=dtype)

    extra: dict[str, Any] = {}
    if adapted:
        task = TaskType.SEQ_CLS if case.stage == "train-rm" else TaskType.CAUSAL_LM
        extra["peft_config"] = _lora(task, **({"modules_to_save": ["score"]} if case.stage == "train-rm" else {}))
    elif case.stage == "dpo":
        extra["ref_model"] = opened(torch.bfloat16)
    trainer = trainer_of(
        model=opened(torch.bfloat16 if adapted else torch.float32),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(place),
        **extra,
    )
    if case.device == "cuda":
        torch.cuda.reset_peak_memory_stats()  # as prefcli does where its training begins
    trainer.train()
    attention = trainer.model.config._attn_implementation
    return {"attention": attention, "losses": [row["loss"] for row in trainer.state.log_history if "loss" in row]}


def needed(case: Case, lengths: list[tuple[int, int, int]]) -> float:
    """Floating-point operations of all rows, each prompt once, the head at answers alone; none is made twice.

    Forward counts 1, gradients of what flows 1, of weights 1: those an adapter's base does not need. ppo samples,
    scores, and asks the reference; policy and value model make one forward and backward pass each.
    """
    config = _config(case)
    train = 2 if case.size in LORA else 3

    def flops(rows: list[tuple[int, list[int]]], passes: int, head: bool) -> float:
        return step_flops(config, rows, passes=passes, head=[sum(a) if head else 0 for _, a in rows])

    if case.stage in ("sft", "ppo"):
        rows = [(prompt, [answer]) for prompt, answer, _ in lengths]
    else:
        rows = [(prompt, [chosen, rejected]) for prompt, chosen, rejected in lengths]
    if case.stage == "ppo":
        return flops(rows, 2 + train, True) + flops(rows, 1 + train, False)
    return flops(rows, train + (case.stage == "dpo"), case.stage != "train-rm")

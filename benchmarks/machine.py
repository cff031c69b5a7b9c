"""What this machine can do, and what a step needs: the two sides of "share of the peak"."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def peak_gflops(hidden: int, inner: int, vocabulary: int, rows: int = 1500) -> float:
    """The best fp32 matrix product of [rows × hidden]·[hidden × inner or vocabulary], all cores, in GFLOP/s."""
    best = 0.0
    for columns in (inner, vocabulary):
        left, right = torch.randn(rows, hidden), torch.randn(columns, hidden).t()
        left @ right
        for _ in range(3):
            started = time.perf_counter()
            left @ right
            best = max(best, 2 * rows * hidden * columns / (time.perf_counter() - started) / 1e9)
    return best


def step_flops(config: Any, rows: Sequence[tuple[int, Sequence[int]]], *, passes: float, head: Sequence[int]) -> float:
    """Floating-point operations that these prompts with their answers need, each prompt once, without padding.

    `rows`: (prompt tokens, tokens of each answer). `passes`: 3 for forward and backward, 4 with a reference. `head`:
    positions of each row at which the language-model head runs; none for a reward model.
    """
    a = config
    kv = a.num_key_value_heads * a.head_dim
    width = a.num_attention_heads * a.head_dim
    weights = a.num_hidden_layers * (
        a.hidden_size * (2 * width + 2 * kv) + 3 * a.hidden_size * a.intermediate_size
    )  # fmt: skip
    total = 0.0
    for (prompt, answers), positions in zip(rows, head):
        tokens = prompt + sum(answers)
        seen = prompt * prompt / 2 + sum(prompt * n + n * n / 2 for n in answers)
        total += 2 * weights * tokens + 4 * a.num_hidden_layers * width * seen
        total += 2 * a.hidden_size * a.vocab_size * positions
    return passes * total


def write(name: str, result: dict[str, Any]) -> Path:
    """results/NAME.json, with what machine made it."""
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n", encoding="utf-8")
    return path


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor()

"""What all training stages do around the training itself: plan, metrics, measuring, the artifact and its card."""

from __future__ import annotations

import datetime
import json
import math
import platform
import resource
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl

from prefcli import __version__
from prefcli.artifacts.manifest import Manifest
from prefcli.artifacts.store import Artifact, Draft
from prefcli.config.base import as_dict
from prefcli.models.adapters import merged
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.models.tokenizers import template_digest, tokenizer_digest
from prefcli.progress import Reporter
from prefcli.stages.card import model_card
from prefcli.stages.inputs import Inputs, parents_of
from prefcli.stages.plan import predicted_bytes


class MetricsLog:
    """metrics.jsonl: one object a logged step."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self.last: dict[str, float] = {}

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        numbers = {name: float(value) for name, value in metrics.items() if _is_number(value)}
        self.last |= {name: value for name, value in numbers.items() if math.isfinite(value)}
        row = {"step": step} | {n: v if math.isfinite(v) else str(v) for n, v in numbers.items()}  # JSON has no NaN
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


@dataclass
class Session:
    """One stage's run, from its inputs to its artifact."""

    inputs: Inputs
    reporter: Reporter
    draft: Draft
    log: MetricsLog
    device: torch.device
    dtype: torch.dtype
    started: float = field(default_factory=time.monotonic)
    train_seconds: float = 0.0

    @property
    def trained_dtype(self) -> torch.dtype:
        """Weights that an optimizer moves are float32, computed with in `dtype`: steps of 1e-6 vanish in bfloat16.
        Below an adapter the base is frozen, and in `dtype` like all frozen models."""
        return torch.float32 if self.inputs.config.lora_rank == 0 else self.dtype

    @contextmanager
    def training(self) -> Iterator[None]:
        """Times what is inside, and only that."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        started = time.monotonic()
        with PeakMemory(self.device) as self.peak:
            yield
        self.train_seconds += time.monotonic() - started
        self.reporter.end()

    def finish(
        self,
        model: Any,
        tokenizer: Any,
        *,
        metrics: dict[str, Any],
        steps: int,
        tokens: int,
        about: dict[str, Any],
        saves_merged: bool = False,
        value: Any = None,
    ) -> Artifact:
        """Save everything and let the version appear."""
        self.log.close()
        shutil.rmtree(self.draft.path / "state", ignore_errors=True)
        save_model(merged(model) if saves_merged else model, self.draft.path / "model")
        tokenizer.save_pretrained(self.draft.path / "model")
        if value is not None:
            save_model(value, self.draft.path / "value")
        manifest = Manifest(
            stage=self.inputs.stage,
            name=self.inputs.name,
            version=self.draft.version,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            key=self.inputs.key,
            parents=parents_of(self.inputs),
            data=self.inputs.data.sources + (self.inputs.eval_data.sources if self.inputs.eval_data else []),
            config=as_dict(self.inputs.config),
            metrics=metrics,
            resources={
                "predicted_peak_bytes": predicted_bytes(self.inputs),
                "measured_peak_bytes": self.peak.bytes,
                "train_seconds": round(self.train_seconds, 3),
                "steps": steps,
                "tokens_per_second": round(tokens / self.train_seconds, 1) if self.train_seconds else None,
            },
            environment=environment(self.device, self.dtype),
            model={
                "tokenizer_digest": tokenizer_digest(tokenizer),
                "template_digest": template_digest(tokenizer),
                "base": self.inputs.model.shown,
                **about,
            },
        )
        (self.draft.path / "README.md").write_text(model_card(manifest), encoding="utf-8", errors="replace")
        return self.draft.finish(manifest)


@contextmanager
def session(inputs: Inputs, reporter: Reporter) -> Iterator[Session]:
    """A locked new version, its metrics log, the device and the number format."""
    device = pick_device(inputs.config.device)
    dtype = pick_dtype(inputs.config.dtype, device)
    for note in inputs.notes:
        reporter.notice(note)
    with inputs.store.writer(inputs.name) as draft:
        log = MetricsLog(draft.path / "metrics.jsonl")
        try:
            yield Session(inputs, reporter, draft, log, device, dtype)
        finally:
            log.close()
            reporter.end()


class PeakMemory:
    """The most memory that was in use while it ran: allocated on a GPU, resident on a CPU.

    On Linux the kernel's own high-water mark is reset first; elsewhere it is sampled.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self.bytes = device, 0
        self._stop = threading.Event()

    def __enter__(self) -> PeakMemory:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        except OSError:
            pass
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        else:
            self.bytes = _resident_peak()


def _resident_peak() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def save_model(model: Any, path: Path) -> None:
    """safetensors, in a form that plain transformers or peft opens."""
    model.save_pretrained(path, **({"selected_adapters": ["default"]} if isinstance(model, peft.PeftModel) else {}))


def environment(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "prefcli": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "peft": peft.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

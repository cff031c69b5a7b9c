"""What all training stages do around the training itself: plan, metrics, measuring, the artifact and its card."""

from __future__ import annotations

import copy
import datetime
import functools
import gc
import json
import math
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import peft
import torch
import transformers
import trl
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from prefcli import __version__, stopping
from prefcli.artifacts.bases import Base, base_at
from prefcli.artifacts.hub import unasked
from prefcli.artifacts.lineage import hub_root, lineage
from prefcli.artifacts.manifest import Manifest
from prefcli.artifacts.metrics import row_of
from prefcli.artifacts.store import LOG, RUN, STOP, Artifact, Draft
from prefcli.config.base import as_dict
from prefcli.config.training import TOKENS_PER_ROW
from prefcli.errors import AlarmError, ArtifactError, MemoryShortError, from_foreign
from prefcli.files import write_atomically
from prefcli.machine import memory_limit
from prefcli.memory.run import Run
from prefcli.memory.sizes import format_bytes
from prefcli.models.adapters import config_of, merged
from prefcli.models.classes import opens_as
from prefcli.models.devices import pick_device, pick_dtype, prepare_cpu
from prefcli.models.packed import pack
from prefcli.models.tokenizers import template_digest, tokenizer_digest
from prefcli.progress import Reporter, is_main_process
from prefcli.stages.card import Weights, model_card
from prefcli.stages.inputs import Inputs, parents_of
from prefcli.stages.plan import WARNS, advice, by_part, check_memory, peak, run_of
from prefcli.stages.state import read_state
from prefcli.stages.trackers import Tracker, lineage_tags, open_tracker
from prefcli.stopping import Phase

SAVE_SECONDS = 600.0


class MetricsLog:
    """metrics.jsonl: one object a logged step. A run that goes on keeps the lines up to the step it goes on from."""

    def __init__(self, path: Path, kept: int = 0, tracker: Tracker | None = None) -> None:
        self.tracker = tracker
        lines = path.read_text(encoding="utf-8").splitlines() if kept else []
        # A line that was cut is of a later step: a state is saved after its step was logged.
        self.rows = [row for row in map(row_of, lines) if row is not None and row["step"] <= kept]
        self._path = path
        self._file = self._opened()
        self.last: dict[str, float] = {
            name: value for row in self.rows for name, value in row.items() if name != "step" and _is_number(value)
        }

    def cut(self, step: int) -> None:
        """Forget what came after `step`: the run has gone back to it."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        self._file.close()
        self._file = self._opened()

    def _opened(self) -> TextIO:
        """The file with `rows` in it, at no moment with fewer: a run may be killed now."""
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        return self._path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        numbers = {name: float(value) for name, value in metrics.items() if _is_number(value)}
        self.last |= {name: value for name, value in numbers.items() if math.isfinite(value)}
        row = {"step": step} | {n: v if math.isfinite(v) else str(v) for n, v in numbers.items()}  # JSON has no NaN
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self.tracker is not None:
            self.tracker.log(step, numbers)

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
    train_seconds: float = 0.0
    peak_bytes: int = 0
    memory: Run | None = None  # this run as the memory model reads it
    alarm: AlarmError | None = None  # what stopped the training before its end
    ended: int = 0  # the last step that ended, of this process
    _saved: float = field(default_factory=time.monotonic)
    _began: float | None = None

    @functools.cached_property
    def saved(self) -> dict[str, Any]:
        """The saved state to go on from, read once. Raises ArtifactError where it cannot be read."""
        assert self.resumed is not None
        return read_state(self.resumed)

    @property
    def seconds(self) -> float:
        """Of training until now, with what came before a stop."""
        return self.train_seconds + (0.0 if self._began is None else time.monotonic() - self._began)

    @property
    def resumed(self) -> Path | None:
        """The saved state to go on from."""
        steps = self.draft.steps
        return self.draft.state(steps[-1]) if steps else None

    def save_is_due(self, step: int) -> bool:
        """After every so many steps where --save-every says so, else after every ten minutes."""
        every = self.inputs.config.save_every
        return step % every == 0 if every else time.monotonic() - self._saved > SAVE_SECONDS

    @contextmanager
    def saving(self, step: int, *, due: bool = True, keep: bool = False) -> Iterator[Path]:
        """A folder for the state after `step`. One that is not `due` is there for a stop, and goes with the next; with
        `keep` the older ones stay. Raises DataError where a file of rows was changed meanwhile."""
        self.inputs.check_rows()
        with self.draft.save(step, keep=keep or self.inputs.config.keep_state) as folder:
            yield folder
            if not due:
                (folder / STOP).touch()
        self._saved = time.monotonic()
        stopping.kept = step

    def enter(self, phase: Phase) -> None:
        """What a signal meets from now on. Where weights are split no state is written: it is raised at once."""
        if not sharded():
            stopping.enter(phase)

    @property
    def trained_dtype(self) -> torch.dtype:
        """Weights that an optimizer moves are float32, computed with in `dtype`: steps of 1e-6 vanish in bfloat16.
        Below an adapter the base is frozen, and in `dtype` like all frozen models."""
        return torch.float32 if self.inputs.config.lora_rank == 0 else self.dtype

    def packs(self, model: Any, role: str) -> bool:
        """Prepare a model for packed rows; where it cannot take them that is said, and it stays on padded ones."""
        if not self.inputs.config.packed:
            return False
        wrapper = sharded()
        reason = f"{wrapper} holds its weights" if wrapper else pack(model)
        if reason:
            self.reporter.notice(f"the {role} runs on padded rows: {reason}")
        return reason is None

    @property
    def tokens_per_row(self) -> int:
        return self.inputs.config.tokens_per_row or TOKENS_PER_ROW.get(self.device.type, TOKENS_PER_ROW["cpu"])

    @contextmanager
    def training(self) -> Iterator[None]:
        """Times what is inside, and only that."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        gc.enable()  # off since the command began
        self._began = time.monotonic()
        peak = PeakMemory(self.device)
        self.enter(Phase.WHOLE)
        try:
            with peak:
                yield
            self.enter(Phase.BUSY)  # it is finished, whatever comes
        finally:
            self.peak_bytes = max(self.peak_bytes, peak.bytes)
            self.train_seconds, self._began = self.seconds, None
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
        value_saves_merged: bool = False,
        weights: dict[str, Any] | None = None,
    ) -> Artifact | None:
        """Save everything and let the version appear; None in all processes but the first.

        `weights` are the model's where it does not hold them whole itself (`trl_trainer.whole_weights`).
        Raises AlarmError once it is saved, as `stopped`, where an alarm ended the training. DataError where a file of
        rows was changed meanwhile.
        """
        self.log.close()
        self.inputs.check_rows()
        if not is_main_process():
            if self.alarm is not None:
                raise self.alarm
            return None
        if value is not None:  # first: it may stand on the policy's base, which merging the policy changes
            value = merged(value) if saves_merged or value_saves_merged else value
            save_model(value, self.draft.path / "value")
        save_model(merged(model) if saves_merged else model, self.draft.path / "model", weights)
        tokenizer.save_pretrained(self.draft.path / "model")
        bases = {} if saves_merged else self._bases(model=model, value=value)
        manifest = Manifest(
            stage=self.inputs.stage.name,
            name=self.inputs.name,
            version=self.draft.version,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            key=self.inputs.key,
            parents=parents_of(self.inputs),
            data=self.inputs.data.sources + (self.inputs.eval_data.sources if self.inputs.eval_data else []),
            config=as_dict(self.inputs.config),
            metrics=metrics,
            resources={
                "predicted_peak_bytes": self.memory and peak(self.memory),
                "measured_peak_bytes": self.peak_bytes,
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
                **({"bases": {part: base.notes(self.draft.path) for part, base in bases.items()}} if bases else {}),
            },
            status="stopped" if self.alarm else "complete",
        )
        base = bases["model"].place if "model" in bases else None
        tree = lineage(Artifact(self.draft.path, manifest), self.inputs.store)
        plain = model.get_base_model() if isinstance(model, peft.PeftModel) else model
        opens, backbone = opens_as(plain.config, manifest.scores)
        weights_of = Weights("model", manifest.scores, base, hub_root(tree), opens, backbone)
        card = model_card(manifest, weights_of, tree=tree, rows=self.log.rows)
        (self.draft.path / "README.md").write_text(card, encoding="utf-8", errors="replace")
        artifact = self.draft.finish(manifest, keep_state=self.inputs.config.keep_state)
        if self.log.tracker is not None:
            self.log.tracker.log(steps, {f"final/{n}": float(v) for n, v in metrics.items() if _is_number(v)})
        if self.alarm is not None:
            told = f"{self.alarm.message}. What was trained until then is {artifact.ref}"
            stopped = AlarmError(told, self.alarm.hint)
            stopped.kept = artifact
            raise stopped
        return artifact

    def _bases(self, **saved: Any) -> dict[str, Base]:
        """What the adapters among what is saved stand on, with the digest that was taken before it was trained."""
        references = [*self.inputs.references.values(), *(spec.reference for spec in self.inputs.rewards)]
        known = {(r.base.place, r.base.revision): r.base for r in references if r is not None and r.base is not None}
        configs = {part: config for part, model in saved.items() if (config := config_of(model)) is not None}
        return {
            part: known.get((config.base_model_name_or_path, config.revision))
            or base_at(config.base_model_name_or_path, config.revision, self.inputs.store)
            for part, config in configs.items()
        }


def sharded() -> str | None:
    """What splits the weights over processes, as `accelerate launch` was told; on a CPU it splits nothing."""
    if os.environ.get("ACCELERATE_USE_CPU") == "true":
        return None
    return next((name for name in ("FSDP", "DEEPSPEED") if os.environ.get(f"ACCELERATE_USE_{name}") == "true"), None)


@contextmanager
def session(inputs: Inputs, reporter: Reporter) -> Iterator[Session]:
    """A locked new version, its metrics log, the device and the number format."""
    device = pick_device(inputs.config.device)
    dtype = pick_dtype(inputs.config.dtype, device)
    if device.type == "cpu":
        prepare_cpu(thrifty=inputs.config.gradient_checkpointing)
    memory = run_of(inputs, device.type, str(dtype).removeprefix("torch."))
    have = _bytes_of(device)
    if warning := check_memory(inputs, memory, have, "this machine" if device.type == "cpu" else str(device)):
        reporter.notice(warning)
    torch.manual_seed(inputs.config.seed)  # new adapters and heads
    for note in inputs.notes:
        reporter.notice(note)
    with _draft(inputs, device) as draft:
        under = environment(device, dtype)
        if draft.before:
            reporter.notice(draft.before)
        last = draft.steps[-1] if draft.run else 0
        if last:
            _refuse_elsewhere(draft, under)
            draft.check(last)
            reporter.notice(f"going on from step {last} of an unfinished run ({draft.path})")
            stopping.kept = last
        else:
            draft.note({"key": inputs.key, "environment": under, "parents": parents_of(inputs)})
        tracker = _tracker(inputs, draft, last, reporter) if is_main_process() else None
        log = MetricsLog(draft.path / LOG, last, tracker)
        run = Session(inputs, reporter, draft, log, device, dtype, memory=memory)
        try:
            yield run
            if stopping.asked is not None:  # too late to stop it, and what called it shall not go on with more
                raise stopping.leave()
        except KeyboardInterrupt as error:
            error.args = (_what_is_kept(run),)
            raise
        except BaseException as error:
            if draft.steps and not draft.finished:
                reporter.notice(f"kept up to step {draft.steps[-1]}: the same command resumes there")
            if isinstance(error, Exception) and (short := _memory_short(error, memory, have)) is not None:
                raise short from error
            raise
        finally:
            stopping.enter(Phase.IDLE)
            stopping.kept = None
            for data in (inputs.data, inputs.eval_data):
                if data is not None and data.left_out:
                    reporter.notice(data.left_out)
            if tracker is not None:
                tracker.close(well=draft.finished)
            reporter.end()
            log.close()


def _what_is_kept(run: Session) -> str:
    """Of a run that a signal ends, in a sentence."""
    draft = run.draft
    if draft.finished:
        return f"interrupted as it ended: {run.inputs.name}@v{draft.version} is finished"
    if wrapper := sharded():
        return f"interrupted: no state is saved under {wrapper}, the same command starts anew"
    kept = draft.steps[-1] if draft.steps else 0
    when = f" in the middle of step {run.ended + 1}, too late to drop it" if run.ended > kept else ""
    if kept:
        return f"interrupted{when}: kept up to step {kept}; the same command resumes"
    if run.ended:
        return f"interrupted{when}: nothing was kept (--save-every N saves on the way)"
    return "interrupted before the first step ended: nothing was kept"


def _bytes_of(device: torch.device) -> int | None:
    """All memory that a device has; a CPU's is the machine's, or the limit that is set on it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return memory_limit() if device.type == "cpu" else None


def _memory_short(error: Exception, memory: Run | None, have: int | None) -> MemoryShortError | None:
    """For an allocation that failed: with what the estimate says of its parts, and what to change."""
    known = from_foreign(error)
    if not isinstance(known, MemoryShortError) or memory is None or not have:
        return None
    message = f"{known.message.splitlines()[0]} (estimated: {format_bytes(peak(memory))}; {by_part(memory)})"
    # Where the estimate fits, others hold memory or a limit is set: less is needed all the same.
    return MemoryShortError(message, advice(memory, min(have, int(peak(memory) / WARNS * 0.8))))


def _tracker(inputs: Inputs, draft: Draft, last: int, reporter: Reporter) -> Tracker | None:
    return open_tracker(
        inputs.config.report_to,
        root=inputs.store.root,
        ref=f"{inputs.name}@v{draft.version}",
        config=as_dict(inputs.config),
        lineage=lineage_tags(inputs.stage.name, inputs.name, inputs.key, parents_of(inputs)),
        resumed_at=last,
        reporter=reporter,
    )


@contextmanager
def _draft(inputs: Inputs, device: torch.device) -> Iterator[Draft]:
    """The version to write. Of several processes the first writes it, the others a folder that is thrown away.

    Those go on from the state that the first goes on from.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if is_main_process():
        with inputs.store.writer(inputs.name, None if inputs.config.force else inputs.key) as draft:
            if several:
                _told(device, draft.path if draft.run else None)
            yield draft
        return
    with tempfile.TemporaryDirectory() as folder:
        before = _told(device)
        if before is not None:
            os.symlink((before / "state").resolve(), Path(folder) / "state")
            for name in (RUN, LOG):
                if (before / name).is_file():  # else it is named where the state is checked
                    shutil.copy(before / name, folder)
        yield Draft(Path(folder), 0, None)


def _told(device: torch.device, unfinished: Path | None = None) -> Path | None:
    """The unfinished version that the first process takes up, in all of them."""
    PartialState(cpu=device.type == "cpu")  # makes them a group; whoever comes later finds it made
    said: list[Path | None] = [unfinished]
    broadcast_object_list(said)
    return said[0]


def _refuse_elsewhere(draft: Draft, under: dict[str, Any]) -> None:
    """Raise ArtifactError where an unfinished run would not end as it would have: other versions, device or threads."""
    before = draft.run.get("environment", {})
    changed = [f"{name} {before.get(name)}, now {value}" for name, value in under.items() if before.get(name) != value]
    if changed:
        raise ArtifactError(
            f"{draft.path} was begun under {'; '.join(changed)}",
            "run it under those again, or start anew with --force",
        )


class PeakMemory:
    """The most memory that was in use while it ran: allocated on a GPU, resident on a CPU.

    On Linux the kernel's own high-water mark is reset first.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self.bytes = device, 0

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


def save_model(model: Any, path: Path, weights: dict[str, Any] | None = None) -> None:
    """safetensors, in a form that plain transformers or peft opens."""
    options: dict[str, Any] = {} if weights is None else {"state_dict": weights}
    if isinstance(model, peft.PeftModel):
        options["selected_adapters"] = ["default"]
    with unasked():
        model.save_pretrained(path, **options)


def save_step(model: Any, path: Path, saves_merged: bool, tokenizer: Any = None) -> None:
    """A model in the middle of its training, in the form that the finished one will have."""
    save_model(merged(copy.deepcopy(model)) if saves_merged else model, path)  # of what is trained on a copy is merged
    if tokenizer is not None:
        tokenizer.save_pretrained(path)


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
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

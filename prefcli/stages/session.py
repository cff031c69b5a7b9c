"""A run of any stage, from its inputs to its artifact: what all stages do around the training itself."""

from __future__ import annotations

import datetime
import functools
import gc
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from transformers import set_seed

from prefcli import stopping
from prefcli.artifacts.manifest import Manifest
from prefcli.artifacts.references import Reference
from prefcli.artifacts.store import STOP, Artifact, Draft
from prefcli.artifacts.unfinished import LOG
from prefcli.config.base import as_dict
from prefcli.config.training import TOKENS_PER_ROW
from prefcli.errors import AlarmError, UsageError
from prefcli.memory.fit import LOCKSTEP
from prefcli.memory.run import Run
from prefcli.models.adapters import merged, save_model
from prefcli.models.devices import pick_dtype, prepare_cpu, training_device
from prefcli.models.loading import configuration
from prefcli.models.packed import pack
from prefcli.models.sharding import at_rest, most, shard, source_device
from prefcli.models.tokenizers import template_digest, tokenizer_digest
from prefcli.progress import Reporter, is_main_process, processes, under_deepspeed
from prefcli.stages.environment import environment, refuse_elsewhere
from prefcli.stages.inputs import Inputs, parents_of
from prefcli.stages.measuring import PeakMemory, bytes_of, memory_short
from prefcli.stages.metrics_log import MetricsLog, is_number
from prefcli.stages.plan import check_memory, peak, run_of
from prefcli.stages.processes import draft_of, without_accelerates_fsdp
from prefcli.stages.saving import bases_of, write_card
from prefcli.stages.state import read_state
from prefcli.stages.trackers import Tracker, lineage_tags, open_tracker
from prefcli.stopping import Phase

SAVE_SECONDS = 600.0


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
    noted: dict[str, Any] = field(default_factory=dict)  # what its version says of it while it is written
    ended: int = 0  # the last step that ended, of this process
    _saved: float = field(default_factory=time.monotonic)
    _began: float | None = None

    @functools.cached_property
    def saved(self) -> dict[str, Any]:
        """The checkpoint to resume from, read once. Raises ArtifactError where it cannot be read."""
        assert self.resumed is not None
        return read_state(self.resumed)

    @property
    def seconds(self) -> float:
        """Of training until now, with what came before a stop."""
        return self.train_seconds + (0.0 if self._began is None else time.monotonic() - self._began)

    @property
    def resumed(self) -> Path | None:
        """The checkpoint to resume from."""
        steps = self.draft.steps
        return self.draft.state(steps[-1]) if steps else None

    def save_is_due(self, step: int) -> bool:
        """Whether --save-every steps have passed, or ten minutes where that is not given."""
        every = self.inputs.config.save_every
        return step % every == 0 if every else time.monotonic() - self._saved > SAVE_SECONDS

    @contextmanager
    def saving(self, step: int, *, due: bool = True, keep: bool = False) -> Iterator[Path]:
        """A folder for the state after `step`. One that is not `due` is there for a stop, and goes with the next; with
        `keep` the older ones stay. Raises DataError where a file of rows was changed meanwhile."""
        self.inputs.check_rows()
        self._make_good()
        with self.draft.save(step, keep=keep or self.inputs.config.keep_state) as folder:
            yield folder
            if not due:
                (folder / STOP).touch()
        self._saved = time.monotonic()
        stopping.kept = step

    def _make_good(self) -> None:
        """Go on in a new version where ours was taken away. With its folder went what was written there until now; but
        the run is in memory, and the log with it."""
        if self.draft.is_gone():
            before = self.draft.path
            self.draft.claim_anew()
            self.draft.note(self.noted)
            self.log.move(self.draft.path / LOG)
            self.reporter.notice(f"{before} was removed or moved meanwhile: the run is written to {self.draft.path}")

    def enter(self, phase: Phase) -> None:
        """Set what a signal does from now on."""
        stopping.enter(phase)

    @property
    def trained_dtype(self) -> torch.dtype:
        """Weights that an optimizer moves are float32, computed with in `dtype`: steps of 1e-6 vanish in bfloat16.
        Below an adapter the base is frozen, and in `dtype` like all frozen models."""
        return torch.float32 if self.inputs.config.lora_rank == 0 else self.dtype

    @functools.cached_property
    def mesh(self) -> DeviceMesh | None:
        """The processes that the weights are split over; None where each holds them whole. Raises UsageError: 4 bits on
        a CPU."""
        if not self.inputs.config.shard:
            return None
        if processes() == 1:
            self.reporter.notice("--shard splits nothing in one process: torchrun --nproc-per-node N starts several")
            return None
        if self.inputs.config.load_in_4bit and self.device.type == "cpu":
            raise UsageError(
                "--load-in-4bit does not run with --shard on a CPU: bitsandbytes rewrites the weights there as it uses "
                "them, and this change is lost when a weight is gathered again",
                "leave one of the two out, or use GPUs",
            )
        return init_device_mesh(self.device.type, (processes(),))

    @property
    def opens_on(self) -> torch.device:
        """Where a model is opened: on the device, where 4 bits are made too, or where `split` takes it."""
        return self.device if self.mesh is None or self.inputs.config.load_in_4bit else source_device()

    def opens_in(self, reference: Reference, tokenizer: Any = None) -> torch.dtype | str:
        """The number format in which a model is opened that is trained, or the reference. "auto", its files' own, holds
        no weight in float32 before it is split; not where anything is computed of the weights first."""
        grows = tokenizer is not None and len(tokenizer) > configuration(reference).get_text_config().vocab_size
        computes = reference.is_adapter or reference.kind == "gguf" or grows or self.inputs.config.lora_rank > 0
        return self.trained_dtype if self.mesh is None or computes else "auto"

    def split(self, model: Any) -> None:
        """Over the processes, where --shard says so; once its adapters are there."""
        if self.mesh is not None:
            gathers = not most(int(self.memory is not None and self.memory.lockstep))  # devices may differ in size
            shard(model, self.mesh, self.dtype, self.trained_dtype, gathers=gathers)

    def packs(self, model: Any, role: str) -> bool:
        """Split a model where --shard says so, and prepare it for packed rows; where it cannot take them a notice says
        so, and it stays on padded ones."""
        self.split(model)
        if not self.inputs.config.packed:
            return False
        reason: str | None = "DeepSpeed holds its weights"
        if not under_deepspeed():
            with self.as_gathered():
                reason = pack(model)
            at_rest(model)  # what trains it is to find its parts
        if reason:
            self.reporter.notice(f"the {role} runs on padded rows: {reason}")
        return reason is None

    def as_gathered(self) -> AbstractContextManager[Any]:
        """Weights that are split are gathered in the number format of the computation, which is this."""
        mixed = self.mesh is not None and self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype) if mixed else nullcontext()

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
        value_weights: dict[str, Any] | None = None,
    ) -> Artifact | None:
        """Save everything and let the version appear; None in all processes but the first.

        `weights` are those of models that do not hold them whole themselves (`resuming.whole_weights`).
        Raises AlarmError once it is saved, as `stopped`, where an alarm ended the training. DataError where a file of
        rows was changed meanwhile.
        """
        self.inputs.check_rows()
        self._make_good()
        self.log.close()
        if not is_main_process():
            if self.alarm is not None:
                raise self.alarm
            return None
        if value is not None:  # first: it may stand on the policy's base, which merging the policy changes
            value = merged(value) if saves_merged or value_saves_merged else value
            save_model(value, self.draft.path / "value", value_weights)
        save_model(merged(model) if saves_merged else model, self.draft.path / "model", weights)
        tokenizer.save_pretrained(self.draft.path / "model")
        bases = {} if saves_merged else bases_of(self.inputs, model=model, value=value)
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
                "measured_peak_bytes": self.peak_bytes or None,  # resumed after its last step
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
        write_card(self.draft.path, manifest, model, base, self.inputs.store, self.log.rows)
        artifact = self.draft.finish(manifest, keep_state=self.inputs.config.keep_state)
        if self.log.tracker is not None:
            self.log.tracker.log(steps, {f"final/{n}": float(v) for n, v in metrics.items() if is_number(v)})
        if self.alarm is not None:
            told = f"{self.alarm.message}. What was trained until then is {artifact.ref}"
            stopped = AlarmError(told, self.alarm.hint)
            stopped.kept = artifact
            raise stopped
        return artifact


@contextmanager
def session(inputs: Inputs, reporter: Reporter) -> Iterator[Session]:
    """A locked new version, its metrics log, the device and the number format."""
    device = training_device(inputs.config.device)
    size = inputs.architecture.parameters if inputs.architecture else 0
    dtype = pick_dtype(inputs.config.dtype, device, size)
    if device.type == "cpu":
        prepare_cpu(thrifty=inputs.config.gradient_checkpointing)
    in_words = str(dtype).removeprefix("torch.")
    if inputs.config.dtype == "auto" and dtype != torch.float32:  # which the plan could not know without torch
        reporter.notice(f"--dtype auto: {in_words} on {device} (--dtype float32 computes in full precision)")
    have = bytes_of(device)
    memory = run_of(inputs, device.type, in_words, have)
    if memory is not None and memory.lockstep:
        reporter.notice(LOCKSTEP)
    if warning := check_memory(inputs, memory, have, "this machine" if device.type == "cpu" else str(device)):
        reporter.notice(warning)
    set_seed(inputs.config.seed)  # new adapters and heads, and what a reward function draws
    for note in inputs.notes:
        reporter.notice(note)
    with without_accelerates_fsdp(), draft_of(inputs, device) as draft:
        under = environment(device, dtype)
        noted = {"key": inputs.key, "environment": under, "parents": parents_of(inputs)}
        if draft.before:
            reporter.notice(draft.before)
        stopping.again = _again(inputs)
        last = draft.steps[-1] if draft.run else 0
        if last:
            refuse_elsewhere(draft, under | ({"processes": None} if inputs.config.shard else {}))
            draft.check(last)
            reporter.notice(f"resuming from step {last} of an unfinished run ({draft.path})")
            stopping.kept = last
        else:
            draft.note(noted)
        tracker = _tracker(inputs, draft, last, reporter) if is_main_process() else None
        log = MetricsLog(draft.path / LOG, last, tracker)
        run = Session(inputs, reporter, draft, log, device, dtype, memory=memory, noted=noted)
        try:
            yield run
            if stopping.asked is not None:  # too late to stop it, and what called it shall not continue with more
                raise stopping.leave()
        except KeyboardInterrupt as error:
            error.args = (_what_is_kept(run),)
            raise
        except BaseException as error:
            if draft.steps and not draft.finished:
                reporter.notice(f"kept up to step {draft.steps[-1]}: {stopping.again} there")
            if isinstance(error, Exception) and (short := memory_short(error, memory, have)) is not None:
                raise short from error
            raise
        finally:
            stopping.enter(Phase.IDLE)
            stopping.kept, stopping.again = None, stopping.RESUMES
            for data in (inputs.data, inputs.eval_data):
                if data is not None and data.left_out:
                    reporter.notice(data.left_out)
            if tracker is not None:
                tracker.close(well=draft.finished)
            reporter.end()
            log.close()


def _again(inputs: Inputs) -> str:
    """What resumes this run, in words: --force never does."""
    if not inputs.config.force:
        return stopping.RESUMES
    without = "the same command without --force resumes"
    handed_back = None if inputs.asks_a_service else inputs.store.finished(inputs.name, inputs.key)
    return without if handed_back is None else f"once {handed_back.ref} is removed, {without}"


def _what_is_kept(run: Session) -> str:
    """Of a run that a signal ends, in a sentence."""
    draft = run.draft
    if draft.finished:
        return f"interrupted as it ended: {run.inputs.name}@v{draft.version} is finished"
    kept = draft.steps[-1] if draft.steps else 0
    when = f" in the middle of step {run.ended + 1}, too late to drop it" if run.ended > kept else ""
    if kept:
        return f"interrupted{when}: kept up to step {kept}; {stopping.again}"
    if run.ended:
        return f"interrupted{when}: nothing was kept (--save-every N saves checkpoints)"
    return "interrupted before the first step ended: nothing was kept"


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

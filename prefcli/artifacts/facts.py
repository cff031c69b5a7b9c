"""The facts of a finished run, the only source of the report and the model card.

A fact is what a manifest or a metrics log says, with the place where it says so; nothing is worked out here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefcli.artifacts.commands import command, options
from prefcli.artifacts.manifest import Manifest
from prefcli.artifacts.metrics import Row, alarms
from prefcli.config.stages import STAGES

HELD_OUT = "eval_"  # how names of metrics on held-out rows begin; a reward model's accuracy always is one


def in_a_line(manifest: Manifest, most: int, digits: int) -> str:
    """As many metrics as a line has room for, first what its stage is judged by: those of held-out rows alone, with the
    95 % interval where it is recorded; where none were held out, those of the last step (ppo: of the last rollouts)."""
    metrics, stage = manifest.metrics, STAGES.get(manifest.stage)
    first = [stage.recorded.held_out, "eval_loss", stage.recorded.training] if stage else []
    names = [name for name in dict.fromkeys([*first, *metrics]) if isinstance(metrics.get(name), (int, float))]
    held_out = [name for name in names if name.startswith(HELD_OUT)]
    if stage and stage.scores and stage.recorded.held_out in metrics:
        held_out = [name for name in names if name != "loss"]
    if not names:
        return ""
    parts = []
    for name in (held_out or names)[:most]:
        interval = metrics.get(f"{name}_ci95")
        ends = f" [{', '.join(f'{end:.2g}' for end in interval)}]" if isinstance(interval, list) else ""
        parts.append(f"{name.removeprefix(HELD_OUT)} {metrics[name]:.{digits}g}{ends}")
    of = "held out" if held_out else "last rollouts" if stage and stage.samples else "last step"
    return f"{of}: {', '.join(parts)}"


@dataclass(frozen=True)
class Figure:
    """One recorded value. `source`: `REF:section.name` of a manifest, `REF:log@STEP.name` of a metrics log, or a path
    into the evaluation or the comparison."""

    source: str
    value: Any
    unit: str = ""  # bytes, seconds, share, tokens a second; nothing for a plain number


@dataclass(frozen=True)
class Run:
    """One artifact. `alarms` are (step, watcher); `rows` the whole log."""

    ref: str
    stage: str
    title: str
    status: str
    created: str
    command: str
    parents: list[dict[str, Any]]  # role, ref, digest
    data: list[dict[str, Any]]  # path, format, rows, digest
    options: dict[str, Any]
    metrics: dict[str, Any]
    resources: dict[str, Any]
    environment: dict[str, Any]
    model: dict[str, Any]
    alarms: list[tuple[int, str]]
    rows: list[Row]

    @property
    def alarms_said(self) -> str:
        """Each watcher with the steps at which it raised an alarm: "explosion at 1, 3; mode collapse at 10"."""
        steps: dict[str, list[str]] = {}
        for step, watcher in self.alarms:
            steps.setdefault(watcher, []).append(str(step))
        return "; ".join(f"{watcher} at {', '.join(at)}" for watcher, at in steps.items())

    def figure(self, section: str, name: str, unit: str = "") -> Figure:
        """A value of the manifest; None where it does not say."""
        return Figure(f"{self.ref}:{section}.{name}", getattr(self, section).get(name), unit)

    def logged(self, step: int, name: str) -> Figure:
        """A value of the log. Raises StopIteration where that step logged no such metric."""
        return Figure(
            f"{self.ref}:log@{step}.{name}", next(r[name] for r in self.rows if r["step"] == step and name in r)
        )


def run_facts(manifest: Manifest, rows: Sequence[Row]) -> Run:
    """The facts in a manifest and the rows of its metrics log."""
    return Run(
        ref=f"{manifest.name}@v{manifest.version}",
        stage=manifest.stage,
        title=STAGES[manifest.stage].title,
        status=manifest.status,
        created=manifest.created,
        command=command(manifest),
        parents=[{"role": role, **parent} for role, parent in sorted(manifest.parents.items())],
        data=manifest.data,
        options=options(manifest),
        metrics=manifest.metrics,
        resources=manifest.resources,
        environment=manifest.environment,
        model=manifest.model,
        alarms=alarms(rows),
        rows=list(rows),
    )

"""What the training commands share: reuse, plan, dry run, the one line on stdout."""

from __future__ import annotations

import gc
import importlib
import json
from dataclasses import asdict
from typing import Any

from prefcli.artifacts.store import CURVES, Artifact
from prefcli.cli.console import ConsoleReporter, print_result, reporter
from prefcli.cli.findings import refuse, tables
from prefcli.data.checks.rows import SKIPPABLE
from prefcli.data.checks.run import quick
from prefcli.data.formats import Purpose
from prefcli.data.lazy import LazyRows
from prefcli.data.shown import counted
from prefcli.errors import AlarmError
from prefcli.progress import Reporter, is_main_process
from prefcli.stages.inputs import Inputs, prepare
from prefcli.stages.plan import summary


def run_stage(stage: str, module: str, config: Any, *, purpose: Purpose, rates: tuple[float, float]) -> None:
    """Run one stage, or hand back the artifact that the same run made before.

    No garbage is collected until training begins (stages/session.py): what is made until then is imports, which stay,
    and looking through them took an eighth of the time to the first step.
    """
    gc.disable()
    try:
        _run_stage(stage, module, config, purpose, rates)
    finally:
        gc.enable()


def _run_stage(stage: str, module: str, config: Any, purpose: Purpose, rates: tuple[float, float]) -> None:
    report = reporter(config.quiet)
    inputs = prepare(stage, config, purpose=purpose, rates=rates)
    if config.dry_run:
        dry_run(inputs, report)
        return
    if inputs.existing is not None:
        report.notice(f"nothing to do: the same run is there as {inputs.existing.ref} (--force makes a new version)")
        if inputs.existing.manifest.resources.get("steps", 0) > 1 and not (inputs.existing.path / CURVES).is_file():
            draw_curves(inputs.existing)  # it was stopped before it drew them
        print_artifact(inputs.existing, config.json, reused=True)
        return
    report.plan(summary(inputs))
    if (told := cautions(inputs, purpose)) is not None:
        report.notice(told)
    try:
        artifact = importlib.import_module(module).train(inputs, report)
    except AlarmError as error:
        if error.kept is not None:
            _draw(error.kept, report)
        raise
    if artifact is None:  # another process writes it, and says so
        return
    seconds = artifact.manifest.resources["train_seconds"]
    report.notice(f"{artifact.ref} finished: {seconds:.0f} s of training; {_shown(artifact)}")
    _draw(artifact, report)
    print_artifact(artifact, config.json, reused=False)


def _draw(artifact: Artifact, report: Reporter) -> None:
    try:
        curves = draw_curves(artifact)
    except KeyboardInterrupt as error:  # the same command draws them
        error.args = (f"interrupted as it ended: {artifact.ref} is finished",)
        raise
    if curves is not None:
        report.notice(f"its curves: {curves}")


def draw_curves(artifact: Artifact) -> Any:
    return importlib.import_module("prefcli.report.curves").draw(artifact.path, artifact.ref)


def dry_run(inputs: Inputs, report: Reporter) -> None:
    """The plan, the rows as tokens and what is wrong with them, on stderr; with --json on stdout.

    Raises DataError once all is shown, where a run would refuse the rows.
    """
    config, console = inputs.config, ConsoleReporter()
    found = importlib.import_module("prefcli.stages.preview").preview(inputs, report)
    plan = summary(inputs) | found.lines
    if config.skip_bad and isinstance(inputs.data.rows, LazyRows):
        bad = sum(one.count for one in found.findings if one.name in SKIPPABLE)
        plan |= {"left out": f"{counted(bad, 'row')} of these (--skip-bad)"} if bad else {}
    console.plan(plan)
    for part in tables(found.findings)[:1]:
        console.console.print(part)
    for note in inputs.notes:
        console.notice(note)
    if inputs.existing:
        console.notice(f"this very run is there already, as {inputs.existing.ref}: it would be reused")
    if config.json:
        existing = inputs.existing.ref if inputs.existing else None
        findings = [one.as_dict() for one in found.findings]
        print_result(json.dumps({"plan": plan, "findings": findings, "existing": existing}))
    refuse([one for one in found.findings if not (config.skip_bad and one.name in SKIPPABLE)])


def cautions(inputs: Inputs, purpose: Purpose) -> str | None:
    """In a line what the quick checks find: some 20 µs a row, and more than 20,000 are not in a list."""
    if not isinstance(inputs.data.rows, list):
        return None
    rows = {id(row): row for row in inputs.data.rows}.values()  # --data-weight has some in it more than once
    found = ", ".join(f"{one.name} ({one.count:,})" for one in quick(rows, labelled=purpose == "labelled"))
    files = " ".join(dict.fromkeys(source["path"] for source in inputs.data.sources))
    return f"in the rows: {found}; prefcli data check {files} says where" if found else None


def print_artifact(artifact: Artifact, as_json: bool, *, reused: bool) -> None:
    if not is_main_process():
        return
    if as_json:
        print_result(
            json.dumps({"path": str(artifact.path), "ref": artifact.ref, "reused": reused, **asdict(artifact.manifest)})
        )
    else:
        print_result(str(artifact.path))


def _shown(artifact: Artifact) -> str:
    numbers = {n: v for n, v in artifact.manifest.metrics.items() if isinstance(v, (int, float))}
    return ", ".join(f"{name} {value:.4g}" for name, value in list(numbers.items())[:6])

"""Shared by the training commands: reuse, plan, dry run, the one line on stdout."""

from __future__ import annotations

import gc
import importlib
import json
from dataclasses import asdict
from typing import Any

from prefcli.artifacts.facts import in_a_line
from prefcli.artifacts.store import Artifact
from prefcli.cli.console import ConsoleReporter, print_result, reporter
from prefcli.cli.findings import refuse, tables
from prefcli.data.checks.rows import SKIPPABLE
from prefcli.data.checks.run import quick
from prefcli.progress import Reporter, is_main_process
from prefcli.stages.inputs import Inputs, prepare
from prefcli.stages.plan import summary
from prefcli.stages.run import reused
from prefcli.stages.run import run as train
from prefcli.text import counted


def run(config: Any) -> None:
    """Run the stage of these options, or hand back the artifact that the same run made before.

    No garbage is collected until training begins (stages/session.py): what is made until then is imports, which stay,
    and looking through them took an eighth of the time to the first step.
    """
    gc.disable()
    try:
        _run(config)
    finally:
        gc.enable()


def _run(config: Any) -> None:
    report = reporter(config.quiet)
    inputs = prepare(config)
    if config.dry_run:
        dry_run(inputs, report)
        return
    if inputs.reusable is not None:
        report.notice(
            f"nothing to do: the same run exists already as {inputs.reusable.ref} (--force makes a new version)"
        )
        print_artifact(reused(inputs.reusable), config.json, reused=True)
        return
    report.plan(summary(inputs))
    if (told := cautions(inputs)) is not None:
        report.notice(told)
    artifact = train(inputs, report)
    if artifact is None:  # another process writes it, and says so
        return
    seconds = artifact.manifest.resources["train_seconds"]
    report.notice(f"{artifact.ref} finished: {seconds:.0f} s of training; {in_a_line(artifact.manifest, 6, 4)}")
    print_artifact(artifact, config.json, reused=False)


def dry_run(inputs: Inputs, report: Reporter) -> None:
    """The plan, the rows as tokens and what is wrong with them, on stderr; with --json on stdout. The first process of
    several speaks.

    Raises DataError once all is shown, where a run would refuse the rows.
    """
    config = inputs.config
    found = importlib.import_module("prefcli.stages.preview").preview(inputs, report)
    if is_main_process():
        _show(inputs, found)
    refuse([one for one in found.findings if not (config.skip_bad and one.name in SKIPPABLE)])


def _show(inputs: Inputs, found: Any) -> None:
    config, console = inputs.config, ConsoleReporter()
    plan = summary(inputs) | found.lines
    if config.skip_bad and not inputs.data.rows.whole:
        bad = sum(one.count for one in found.findings if one.name in SKIPPABLE)
        plan |= {"left out": f"{counted(bad, 'row')} of these (--skip-bad)"} if bad else {}
    console.plan(plan)
    for part in tables(found.findings)[:1]:
        console.console.print(part)
    for note in inputs.notes:
        console.notice(note)
    if inputs.reusable:
        console.notice(f"this run exists already as {inputs.reusable.ref}, which would be reused")
    if config.json:
        existing = inputs.reusable.ref if inputs.reusable else None
        findings = [one.as_dict() for one in found.findings]
        print_result(json.dumps({"plan": plan, "findings": findings, "existing": existing}))


def cautions(inputs: Inputs) -> str | None:
    """In a line what the quick checks find: some 20 µs a row, and more than 20,000 are not in a list."""
    data = inputs.data.rows
    if not data.whole:
        return None
    rows = dict(zip(data.positions, data)).values()  # --data-weight has some in it more than once
    found = ", ".join(f"{one.name} ({one.count:,})" for one in quick(rows, labelled=inputs.stage.purpose == "labelled"))
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

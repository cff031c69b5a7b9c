"""`prefcli sweep`: one stage at several options, seeds and numbers of rows, and what they say together."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from typing import Any

from prefcli.artifacts.store import Store
from prefcli.cli.command import command_of
from prefcli.cli.console import print_result, reporter, result_console
from prefcli.cli.out import draw_picture, picture_file
from prefcli.cli.passing_on import parse, stage_of
from prefcli.cli.sweep_table import dry_table, tables
from prefcli.config.base import option, typed_options
from prefcli.config.evaluate import EvalConfig
from prefcli.config.stages import Stage
from prefcli.config.sweep import SweepConfig
from prefcli.data.dataset import read_dataset
from prefcli.errors import AlarmError, UsageError
from prefcli.experiments.grid import parse_grid, parse_rows
from prefcli.experiments.points import Planned, pinned_reward, plan, points_of
from prefcli.experiments.scores import Score, recorded_figure, recorded_score
from prefcli.experiments.summary import summarise
from prefcli.experiments.sweep import Measure, Outcome
from prefcli.experiments.sweep import run as run_points
from prefcli.progress import Reporter
from prefcli.rewards.grammar import parse_rewards, refuse_language_model
from prefcli.rewards.python import try_functions

SWITCH = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}


def run(config: SweepConfig) -> None:
    """stdout carries the tables, or with --json one object; exit code 6 where every point failed."""
    plot = picture_file("--plot", config.plot)
    report = reporter(config.quiet)
    stage = stage_of(config.stage)
    base = _base(config, stage)
    grid = {name: _values(stage, *given) for name, given in _grid(config, stage).items()}
    rows = parse_rows(config.rows)
    points = points_of(stage, base, grid, config.seeds, rows)
    score = _score(config, stage, base)
    planned = [plan(point) for point in points]
    if config.dry_run:
        print_dry(config, stage, score, planned)
        return
    report.plan(_in_words(stage, base, score, planned))
    measure = _measure(config, stage, score, report)
    outcomes: list[Outcome] = []
    try:
        run_points(points, measure, report, outcomes)
    except KeyboardInterrupt:  # the process is about to leave: nothing is planned again
        there = sum(one.artifact is not None for one in outcomes)
        there += sum(one.existing is not None for one in planned[len(outcomes) :])
        report.notice(f"{there} of {len(points)} points are finished; the same command continues with the others")
        raise
    result = summarise(stage.command, score, outcomes)
    if config.json:
        print_result(json.dumps(result, ensure_ascii=False))
    else:
        tables(result_console(), result)
    if plot is not None and any(outcome.figure for outcome in outcomes):
        from prefcli.report.sweep_chart import draw

        draw_picture("--plot", plot, partial(draw, result), quiet=config.quiet)
    if not any(outcome.figure for outcome in outcomes):
        raise AlarmError(f"all {len(points)} points failed; the first: {outcomes[0].reason}", "see the table")


def _base(config: SweepConfig, stage: Stage) -> Any:
    """The stage's own options, where it runs and how it is shown taken from sweep's."""
    given = parse(stage, config.options, partial(command_of, tells=not config.quiet))
    files = "prompts" if stage.samples else "data"
    if not getattr(given, files):
        hint = "for ppo they are --data here; --prompts are those held out" if stage.samples else "--data FILE"
        raise UsageError(f"the {'prompts' if stage.samples else 'rows'} to train on are missing", hint)
    return dataclasses.replace(
        given, runs=config.runs or given.runs, dry_run=False, json=False, quiet=config.quiet, debug=config.debug
    )


def _grid(config: SweepConfig, stage: Stage) -> dict[str, tuple[str, list[str]]]:
    if not config.grid and config.rows is None and config.seeds == 1:
        raise UsageError("no values to sweep", "give --grid NAME=VALUE,VALUE, --rows N,N or --seeds N")
    if config.rows is not None and not stage.samples and "max_rows" not in typed_options(stage.config):
        raise UsageError(f"--rows does not go with {stage.command}")
    return parse_grid(config.grid, typed_options(stage.config))


def _values(stage: Stage, name: str, texts: list[str]) -> list[Any]:
    """The values of one --grid as the stage's command line reads them. Raises UsageError: a type, a range, twice."""
    found: list[Any] = []
    known = typed_options(stage.config)
    for text in texts:
        field = parse_grid([f"{name}={text}"], known)
        (own,) = field
        if known[own][0] is bool:
            if text.lower() not in SWITCH:
                raise UsageError(f"--grid {name}: {text!r} is neither true nor false")
            value: Any = SWITCH[text.lower()]
        else:
            value = getattr(parse(stage, [f"--{name}", text], command_of), own)
        if value in found:
            raise UsageError(f"--grid {option(own)[2:]}: {text} is given twice", "leave one out")
        found.append(value)
    return found


def _score(config: SweepConfig, stage: Stage, base: Any) -> Score:
    """The score of the points. Raises UsageError for what does not go together, ArtifactError, DataError."""
    if config.max_prompts is not None and not (config.score or config.prompts):
        raise UsageError("--max-prompts is about the prompts of --score", "leave it out, or give --score and --prompts")
    if stage.scores:
        if config.score or config.prompts:
            raise UsageError("train-rm is scored on pairs, not by --score", "give --pairs FILE, or nothing")
        if config.pairs:
            read_dataset(config.pairs, "pairs")  # a mistake in it costs a second here, and a training run later
            return Score("accuracy", f"on {', '.join(config.pairs)}")
        return recorded_score(stage, base)
    if config.pairs:
        raise UsageError(f"--pairs is for train-rm, and {stage.command} makes no reward model", "give --score")
    if bool(config.score) != bool(config.prompts):
        missing = "--prompts" if config.score else "--score"
        raise UsageError(
            f"{missing} is missing: a score is the mean of a reward over held-out prompts",
            "--score gold=python:sample_data/gold.py:score --prompts sample_data/held_out_prompts.jsonl",
        )
    if config.score is None:
        return recorded_score(stage, base)
    (spec,) = parse_rewards([config.score], Store(base.runs), "--score")
    refuse_language_model(spec)
    try_functions([spec], read_dataset(config.prompts, "prompts").rows[0])
    source = spec.reference.shown if spec.reference else spec.text
    return Score(spec.name, f"{source}, on {', '.join(config.prompts)}")


def _measure(config: SweepConfig, stage: Stage, score: Score, report: Reporter) -> Measure:
    if not config.score and not config.pairs:
        return partial(recorded_figure, score=score)
    from prefcli.experiments.measuring import on_pairs, on_prompts

    base = parse(stage, config.options, command_of)
    runs = config.runs or base.runs
    settings = EvalConfig(
        reward=[pinned_reward(config.score, Store(runs))] if config.score else [],  # a point may become its newest
        prompts=config.prompts,
        pairs=config.pairs,
        max_prompts=config.max_prompts,
        generate=getattr(base, "generate", None),
        dtype=base.dtype,
        device=base.device,
        runs=runs,
    )
    on = on_prompts if config.score else on_pairs
    return lambda artifact: on(settings, artifact, report)


def _in_words(stage: Stage, base: Any, score: Score, planned: list[Planned]) -> dict[str, str]:
    points = [one.point for one in planned]
    there = sum(one.existing is not None for one in planned)
    lines = {
        "stage": stage.command,
        "points": f"{len(points)}, of which {there} {'is' if there == 1 else 'are'} there already",
        "artifacts": str(Store(base.runs).root / (base.name or stage.name)),
        "score": f"{score.name} ({score.source}), {score.better} is better",
    }
    if points[0].retrains:
        lines["rows"] = (
            "pairs: the reward model of --reward is trained again on the first N of its own pairs, with its own "
            "options and the point's seed, and ppo runs against it"
        )
    return lines


def print_dry(config: SweepConfig, stage: Stage, score: Score, planned: list[Planned]) -> None:
    if config.json:
        points = [
            {
                "options": one.point.options,
                "rows": one.point.rows,
                "seed": one.point.seed,
                "ref": one.existing.ref if one.existing else None,
                "status": "complete" if one.existing else "missing",
            }
            for one in planned
        ]
        print_result(json.dumps({"stage": stage.command, "score": dataclasses.asdict(score), "points": points}))
        return
    reporter(config.quiet).plan(_in_words(stage, planned[0].point.config, score, planned))
    result_console().print(dry_table(planned))

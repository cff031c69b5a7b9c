"""`--report-to`: the metrics of metrics.jsonl sent to a tracker too, with the run's options and lineage. No torch here.

All stages log through one place (metrics_log.MetricsLog), and so does this: the same names at the same steps. What a
tracker writes lies in RUNS/TRACKER/, outside the artifact; one that fails while training continues is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from prefcli.errors import PrefcliError, SurroundingsError, UsageError
from prefcli.progress import Reporter

PROJECT = "prefcli"
TAG_LENGTH = 64  # wandb's limit
PARAM_LENGTH = 500  # mlflow's, where its server is an old one


class Tracker:
    """One run at one tracker. `log` and `close` never raise: a failure is reported once."""

    def __init__(self, name: str, send: Callable[[dict[str, float], int], None], end: Callable[[bool], None]) -> None:
        self._name, self._send, self._end = name, send, end
        self._reporter = Reporter()
        self._working = True

    def told_by(self, reporter: Reporter) -> Tracker:
        self._reporter = reporter
        return self

    def log(self, step: int, metrics: dict[str, float]) -> None:
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._try(lambda: self._send(finite, step))

    def close(self, *, well: bool) -> None:
        self._try(lambda: self._end(well))
        self._working = False

    def _try(self, what: Callable[[], None]) -> None:
        if not self._working:
            return
        try:
            with redirect_stdout(sys.stderr):  # stdout is the result's, and trackers greet and take leave there
                what()
        except Exception as error:
            self._working = False
            self._reporter.notice(
                f"--report-to {self._name} failed and is left out now: {error or type(error).__name__}"
            )


def require(name: str) -> None:
    """Raise UsageError where the tracker's package is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UsageError(f"--report-to {name}: the package {name} is not installed", f"pip install {name}")


def open_tracker(
    name: str,
    *,
    root: Path,
    ref: str,
    config: dict[str, Any],
    lineage: dict[str, str],
    resumed_at: int,
    reporter: Reporter,
) -> Tracker | None:
    """A run called `ref` at the tracker; None for `none`. A resumed run continues after step `resumed_at`.

    `lineage` becomes its tags. Raises SurroundingsError where the tracker does not start (no login, no server).
    """
    if name == "none":
        return None
    folder = root / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with redirect_stdout(sys.stderr):
            tracker = TRACKERS[name](folder.resolve(), ref, config, lineage, resumed_at)
        return tracker.told_by(reporter)
    except PrefcliError:
        raise
    except Exception as error:
        hint = f"look at its settings, or leave --report-to {name} out"
        raise SurroundingsError(f"--report-to {name} does not start: {error or type(error).__name__}", hint) from error


def lineage_tags(stage: str, name: str, key: str, parents: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Tags of a run and its lineage: stage, name, key, and each parent's role and reference."""
    return {"stage": stage, "name": name, "key": key} | {role: str(p["ref"]) for role, p in sorted(parents.items())}


def _tensorboard(folder: Path, ref: str, config: dict[str, Any], lineage: dict[str, str], resumed: int) -> Tracker:
    own = folder / ref
    if not resumed:  # what a run left that came to nothing, and whose number this is now
        shutil.rmtree(own, ignore_errors=True)
    purge = {"purge_step": resumed + 1} if resumed else {}
    writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(own), **purge)
    writer.add_text("config", _fenced(config), resumed)
    writer.add_text("lineage", _fenced(lineage), resumed)

    def send(metrics: dict[str, float], step: int) -> None:
        for metric, value in metrics.items():
            writer.add_scalar(metric, value, step)
        writer.flush()

    return Tracker("tensorboard", send, lambda _: writer.close())


def _wandb(folder: Path, ref: str, config: dict[str, Any], lineage: dict[str, str], resumed: int) -> Tracker:
    known = _run_id(folder, ref, resumed)
    run = importlib.import_module("wandb").init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=ref,
        id=known,
        resume="allow" if known else None,
        dir=str(folder),
        config=config | {"lineage": lineage},
        tags=[f"{role}={value}"[:TAG_LENGTH] for role, value in lineage.items()],
    )
    _remember(folder, ref, run.id)
    return Tracker(
        "wandb", lambda metrics, step: run.log(metrics, step=step), lambda well: run.finish(exit_code=0 if well else 1)
    )


def _mlflow(folder: Path, ref: str, config: dict[str, Any], lineage: dict[str, str], resumed: int) -> Tracker:
    mlflow = importlib.import_module("mlflow")
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
    known = _run_id(folder, ref, resumed)
    run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=ref, tags=lineage)
    _remember(folder, ref, run.info.run_id)
    if known is None:  # it refuses to change one, and a resumed run may have another --eval-every
        mlflow.log_params({name: str(value)[:PARAM_LENGTH] for name, value in config.items()})
    return Tracker(
        "mlflow",
        lambda metrics, step: mlflow.log_metrics(metrics, step=step),
        lambda well: mlflow.end_run("FINISHED" if well else "FAILED"),
    )


def _trackio(folder: Path, ref: str, config: dict[str, Any], lineage: dict[str, str], resumed: int) -> Tracker:
    os.environ.setdefault("TRACKIO_DIR", str(folder))  # read when it is imported
    trackio = importlib.import_module("trackio")
    trackio.init(
        project=PROJECT, name=ref, config=config | {"lineage": lineage}, resume="allow" if resumed else "never"
    )
    return Tracker(
        "trackio", lambda metrics, step: trackio.log(metrics, step=step), lambda _: trackio.finish()
    )  # it has no tags: the lineage stands in the config


TRACKERS: dict[str, Callable[[Path, str, dict[str, Any], dict[str, str], int], Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}


def _run_id(folder: Path, ref: str, resumed: int) -> str | None:
    """The tracker's own name of a resumed run; None for a new one."""
    file = folder / f"{ref}.id"
    return file.read_text(encoding="utf-8").strip() if resumed and file.is_file() else None


def _remember(folder: Path, ref: str, run_id: str) -> None:
    (folder / f"{ref}.id").write_text(run_id, encoding="utf-8")


def _fenced(value: dict[str, Any]) -> str:
    return "    " + json.dumps(value, indent=1, default=str).replace("\n", "\n    ")  # Markdown: as it is

"""metrics.jsonl as a stage writes it (artifacts/metrics.py reads it)."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from prefcli.artifacts.metrics import row_of
from prefcli.artifacts.store import SAMPLES
from prefcli.files import write_atomically
from prefcli.stages.trackers import Tracker


class MetricsLog:
    """One object a logged step. A run that resumes keeps the lines up to the step it resumes from."""

    def __init__(self, path: Path, kept: int = 0, tracker: Tracker | None = None) -> None:
        self.tracker = tracker
        lines = path.read_text(encoding="utf-8").splitlines() if kept else []
        # A line that was cut is of a later step: a state is saved after its step was logged.
        self.rows = [row for row in map(row_of, lines) if row is not None and row["step"] <= kept]
        self._path = path
        self._file = self._opened()
        self.last: dict[str, float] = {
            name: value for row in self.rows for name, value in row.items() if name != "step" and is_number(value)
        }

    def cut(self, step: int) -> None:
        """Forget what came after `step`: the run has gone back to it."""
        self.rows = [row for row in self.rows if row["step"] <= step]
        self.move(self._path)

    def move(self, path: Path) -> None:
        """Write to another file from here on, with all rows until now."""
        self._path = path
        self._file.close()
        self._file = self._opened()

    def _opened(self) -> TextIO:
        """The file with `rows` in it, at no moment with fewer: a run may be killed now."""
        write_atomically(self._path, "".join(json.dumps(row) + "\n" for row in self.rows))
        return self._path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: dict[str, Any]) -> None:
        numbers = {name: float(value) for name, value in metrics.items() if is_number(value)}
        self.last |= {name: value for name, value in numbers.items() if math.isfinite(value)}
        row = {"step": step} | {n: v if math.isfinite(v) else str(v) for n, v in numbers.items()}  # JSON has no NaN
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self.tracker is not None:
            self.tracker.log(step, numbers)

    def show(self, step: int, samples: list[dict[str, Any]]) -> None:
        """Keep the newest answers beside the log, for whoever watches: `prefcli ui` shows them."""
        with suppress(OSError):  # its folder may have been taken away: that is made good where a state is saved
            write_atomically(self._path.with_name(SAMPLES), json.dumps({"step": step, "samples": samples}))

    def close(self) -> None:
        self._file.close()


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

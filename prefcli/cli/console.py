"""Output for a person on stderr: the plan, a progress bar (plain lines without a terminal), notices, a summary."""

from __future__ import annotations

import io
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from prefcli.cli.stdout import print_result as print_result
from prefcli.cli.stdout import result
from prefcli.errors import without_secrets
from prefcli.progress import SILENT, Reporter, is_main_process
from prefcli.text import counted, shown

SHOWN = ("loss", "rewards/margins", "rewards/accuracies", "accuracy", "objective/scores", "objective/kl")
PIPE_WIDTH = 100_000  # columns of what is piped: no row is folded
PLAIN_EVERY = 10.0  # seconds between two plain progress lines


class ConsoleReporter(Reporter):
    """Draws on stderr; stdout stays free for the result."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        if not self.console.is_terminal:
            self.console = _Piped(stderr=True, highlight=False, width=PIPE_WIDTH)
        self._bar: Progress | None = None
        self._what, self._total, self._done = "", 0, 0
        self._started = self._spoke = 0.0

    def notice(self, text: str) -> None:
        self.console.print(
            f"[yellow]note:[/yellow] {escape(shown(without_secrets(text)))}", soft_wrap=not self.console.is_terminal
        )

    def plan(self, plan: dict[str, Any]) -> None:
        table = Table.grid(padding=(0, 2))
        for key, value in plan.items():
            table.add_row(f"[bold]{escape(shown(key))}[/bold]", escape(shown(str(value))))
        self.console.print(table)

    def begin(self, what: str, total: int | None, unit: str = "steps") -> None:
        self.end()
        what = shown(what)
        self._what, self._total, self._done = what, total or 0, 0
        self._started = self._spoke = time.monotonic()
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
                console=self.console,
                transient=True,
            )
            self._bar.add_task(what, total=total, metrics="")
            self._bar.start()
        else:
            told = f"{what}: {counted(total, unit.removesuffix('s'))}" if total else what
            self.console.print(escape(told), soft_wrap=True)

    def advance(self, done: int, metrics: dict[str, float] | None = None) -> None:
        self._done = done
        now = time.monotonic()
        line = describe(metrics or {})
        if self._bar is not None:
            fields: dict[str, Any] = {"metrics": line} if line else {}
            self._bar.update(self._bar.task_ids[0], completed=done, **fields)
        elif now - self._spoke >= PLAIN_EVERY:
            self._spoke = now
            left = (now - self._started) / max(done, 1) * max(self._total - done, 0)
            self.console.print(
                escape(f"{self._what}: {done}/{self._total or '?'}  {line}  {left:.0f} s left"), soft_wrap=True
            )

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def describe(metrics: dict[str, float]) -> str:
    """The few metrics that a person watches, on one line."""
    return "  ".join(f"{name} {metrics[name]:.3g}" for name in SHOWN if name in metrics)


def result_console() -> Console:
    """For tables on stdout: as wide as they are where no terminal folds them; what its encoding lacks is escaped."""
    stream = result()
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    console = Console(file=stream, highlight=False)
    return console if console.is_terminal else _Piped(file=stream, highlight=False, width=PIPE_WIDTH)


class _Piped(Console):
    """Without the blanks that fill a table's last column."""

    def print(self, *objects: Any, **options: Any) -> None:
        with self.capture() as drawn:
            super().print(*objects, **options)
        print("\n".join(line.rstrip(" ") for line in drawn.get().split("\n")), end="", file=self.file, flush=True)


def reporter(quiet: bool) -> Reporter:
    return SILENT if quiet or not is_main_process() else ConsoleReporter()

"""The command line in this process, and what a command left: its exit, its words, its artifact, its first step."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from typer.testing import CliRunner

from prefcli.cli.main import app

_PADDED = re.compile(r"the (\S.*?) runs on padded rows: (.*)")


@dataclass
class Ran:
    """`first` are the figures of the first step; `began` says that a step was trained, whatever came of it."""

    words: list[str]
    code: int
    out: str
    err: str
    artifact: Path | None = None
    first: dict[str, Any] = field(default_factory=dict)
    began: bool = False

    @property
    def padded(self) -> str | None:
        """Why the policy, or the reward model, runs on padded rows; None where nothing says that it does."""
        found = {role: reason.strip() for role, reason in _PADDED.findall(self.err)}
        return next((found[role] for role in ("policy", "reward model") if role in found), None)

    @property
    def error(self) -> str:
        """What it said of its failure, on one line."""
        lines = self.err.strip().splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith("error:")]
        said = " ".join(line.strip() for line in lines[starts[-1] :] if line.strip()) if starts else ""
        return said.removeprefix("error: ")

    @property
    def exception(self) -> str:
        """The last line of the last traceback; empty where there is none."""
        found = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt|Warning)\b.*$", self.err, re.M)
        return found[-1][:200] if "Traceback" in self.err and found else ""


def prefcli(*words: Any, runs: Path) -> Ran:
    spelt = [str(word) for word in (*words, "--runs", runs)]
    before = {path for path in runs.glob("*/*") if path.is_dir()}
    with patch("prefcli.stages.curves.draw", return_value=None):  # a second of each run, and nothing that is judged
        result = CliRunner().invoke(app, spelt, prog_name="prefcli")
    err = result.stderr
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        err += f"Traceback: {type(result.exception).__name__}: {result.exception}\n"
    ran = Ran(spelt, result.exit_code, result.stdout, err)
    lines = result.stdout.strip().splitlines()
    if result.exit_code == 0 and lines and os.path.isfile(os.path.join(lines[-1], "manifest.json")):
        ran.artifact = Path(lines[-1])
    new = [path for path in runs.glob("*/*") if path.is_dir() and path not in before]
    rows = [row for path in [ran.artifact, *new] if path is not None for row in _rows(path / "metrics.jsonl")]
    ran.first, ran.began = (rows[0] if rows else {}), bool(rows)
    return ran


def _rows(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]

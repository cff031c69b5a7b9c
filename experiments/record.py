"""What all experiments share: prefcli's commands run one after another, and a result with all that it came from."""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from prefcli import __version__
from prefcli.files import digest_file

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
HOLDS, DOES_NOT, CANNOT_TELL = "holds", "does not", "cannot tell"


@dataclass
class Question:
    """A question, and the rule by which its answer is found: written before anything was run."""

    asks: str
    rule: str
    answer: str = CANNOT_TELL
    why: str = ""

    def answered(self, answer: str, why: str) -> None:
        self.answer, self.why = answer, why


@dataclass
class Record:
    """One experiment: its commands as they were typed, and how long they ran in all (a finished one is not run again).

    `folder` holds everything that is made; the seconds of earlier starts are kept in it. `model` is the start where it
    is not the experiment's own.
    """

    name: str
    folder: Path
    model: str | None = None
    commands: list[str] = field(default_factory=list)

    def settle(self, size: str, pairs: Path | None = None) -> None:
        """Refuse a start that asks for something else than what this folder was made with: files and runs of both would
        be mixed. A folder that does not say was made as it is asked for now."""
        asked = {"size": size, "model": self.model, "pairs": digest_file(pairs) if pairs else None}
        path = self.folder / "made_with.json"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(asked) + "\n", encoding="utf-8")
        made = json.loads(path.read_text(encoding="utf-8"))
        if other := [f"{name} {made[name]} and not {asked[name]}" for name in asked if made[name] != asked[name]]:
            raise SystemExit(f"{self.folder} was made with {', '.join(other)}: give this start another --work")

    def prefcli(self, *words: Any) -> str:
        """The command's stdout; its progress goes to ours."""
        typed = [str(word) for word in words]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.commands.append(shlex.join(["prefcli", *typed]))
        print("$", self.commands[-1], file=sys.stderr, flush=True)
        started, cpu = time.monotonic(), cpu_of_children()
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PREFCLI_RUNS": str(self.folder / "runs"), "PYTHONPATH": path}
        out = subprocess.run(
            [sys.executable, "-m", "prefcli", *typed], env=environment, stdout=subprocess.PIPE, text=True
        )
        self._spent(time.monotonic() - started, cpu_of_children() - cpu)
        if out.returncode:
            raise SystemExit(out.returncode)  # the same command resumes
        return out.stdout.strip()

    @property
    def seconds(self) -> float:
        return self._times()[0]

    def _times(self) -> list[float]:
        """Seconds by the clock and of the processor, of all starts."""
        try:
            return [float(text) for text in (self.folder / f"{self.name}.seconds").read_text().split()]
        except OSError:
            return [0.0, 0.0]

    def _spent(self, *seconds: float) -> None:
        told = " ".join(f"{before + now:.1f}" for before, now in zip(self._times(), seconds))
        (self.folder / f"{self.name}.seconds").write_text(told + "\n")

    def results(self, size: str) -> Path:
        """Where a result goes: into results/, but for a smoke test's, which says nothing."""
        return self.folder if size == "smoke" else RESULTS

    def write(self, size: str, questions: Sequence[Question], **found: Any) -> Path:
        """The result as JSON."""
        path = self.results(size) / f"{self.name}.json"
        told = {
            "experiment": self.name,
            "size": size,
            "questions": [vars(question) for question in questions],
            "seconds": self.seconds,
            **({"processor_seconds": self._times()[1]} if self.commands else {}),
            **found,
            "commit": commit(),
            "versions": {"prefcli": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
            "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
            "commands": self.commands,
        }  # fmt: skip
        text = json.dumps(rounded(told), ensure_ascii=False, indent=1) + "\n"
        for folder in (self.folder, ROOT):  # where somebody keeps them says nothing
            text = text.replace(f"{folder}/", "")
        path.write_text(text, encoding="utf-8")
        for question in questions:
            print(f"{question.asks}\n  {question.answer}: {question.why}")
        return path


def cpu_of_children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def commit() -> str:
    """The commit that runs, marked where a file but a result was changed since."""
    said = subprocess.run(["git", "describe", "--always"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    others = [".", ":!experiments/results", ":!docs/evidence.md"]
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", *others], cwd=ROOT).returncode
    return said + "-dirty" * bool(changed)


def rounded(value: Any) -> Any:
    """Numbers with four digits: a file that a person can read."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A jsonl file, the same bytes each time, so that what was made of it is found again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path

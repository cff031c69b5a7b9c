"""A judge's verdicts, kept beside --out until it is written: a judge that was stopped is not asked, or paid, twice."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from prefcli.evaluation.judge import Verdict
from prefcli.files import digest_json


class Verdicts:
    """A file of JSON lines, [digest of judge and question, verdict]; a last line that was cut off is passed over."""

    def __init__(self, out: str, judge: str) -> None:
        self.path, self._judge = kept_at(out), judge
        self._known: dict[str, Verdict] = {}
        for line in self.path.read_bytes().splitlines() if self.path.is_file() else []:
            try:
                question, verdict = json.loads(line)
                self._known[question] = verdict
            except (ValueError, TypeError):
                continue

    def of(self, questions: Sequence[str], ask: Callable[[list[str]], list[Verdict]]) -> list[Verdict]:
        """One verdict a question: those on record, and what `ask` says of the others."""
        keys = [digest_json([self._judge, question]) for question in questions]
        new = {key: question for key, question in zip(keys, questions) if key not in self._known}
        if new:
            found = dict(zip(new, ask(list(new.values())), strict=True))
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join("\n" + json.dumps(entry) for entry in found.items()) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._known |= found
        return [self._known[key] for key in keys]


def kept_at(out: str) -> Path:
    return Path(f"{out}.verdicts")

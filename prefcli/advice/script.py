"""Lines for a shell, one command each: quoted, with the options that make a stage fit, chained by variables."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from prefcli.advice.facts import Facts
from prefcli.memory.methods import TORCHRUN


@dataclass(frozen=True)
class Variable:
    """A value that an earlier line put into a shell variable."""

    name: str


Word = str | Variable


@dataclass
class Script:
    facts: Facts
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, command: str, *words: Word, stage: str | None = None, into: str | None = None) -> Variable:
        """One more line; `stage` adds the options that it takes to fit, `into` keeps what is printed."""
        fit = self.facts.fits.get(stage) if stage else None
        start = TORCHRUN.format(fit.processes) if fit and fit.processes > 1 else "prefcli"
        line = " ".join([start, command, *map(shown, words), *(fit.options if fit else ())])
        given = {path for paths in self.facts.files.values() for path in paths}
        if self.facts.reading and any(word in given for word in words if isinstance(word, str)):
            line += " " + shlex.join(self.facts.reading)
        if any(word in self.facts.unclean for word in words if isinstance(word, str)):
            line += " --skip-bad"
        self.lines.append(f"{into}=$({line})" if into else line)
        return Variable(into or "")


def shown(word: Word) -> str:
    """A word as a shell reads it."""
    return f'"${word.name}"' if isinstance(word, Variable) else shlex.quote(word)


def each(option: str, values: Sequence[str]) -> list[str]:
    return [word for value in values for word in (option, value)]

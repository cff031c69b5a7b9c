"""Findings: what was found, how often, where first, with an example."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prefcli.data.checks.kinds import KINDS, OTHER_TEMPLATE, Kind
from prefcli.text import shown

PLACES = 3  # of a finding in each file
EXAMPLE = 100  # characters


@dataclass
class Finding:
    """One kind of finding in all files. `places`: file → its first rows' numbers, or lines."""

    name: str
    count: int = 0
    places: dict[str, list[int]] = field(default_factory=dict)
    example: str = ""
    most: bool = False  # of all rows

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    @property
    def remedy(self) -> str:
        """What to do: no leaving out of most rows."""
        return OTHER_TEMPLATE if self.most and self.name == "template refuses" else self.kind.remedy

    @property
    def is_error(self) -> bool:
        return self.kind.severity == "error"

    @property
    def where(self) -> str:
        """pairs.jsonl:12, 40, 77 and 12 more"""
        text = "; ".join(f"{file}:{', '.join(map(str, numbers))}" for file, numbers in self.places.items())
        more = self.count - sum(map(len, self.places.values()))
        return f"{text} and {more:,} more" if more > 0 and text else text

    def as_dict(self) -> dict[str, Any]:
        return {
            "finding": self.name,
            "severity": self.kind.severity,
            "count": self.count,
            "places": [{"file": file, "row": number} for file, numbers in self.places.items() for number in numbers],
            "example": self.example,
            "means": self.kind.means,
            "remedy": self.remedy,
        }


class Found:
    """Findings as they come in."""

    def __init__(self) -> None:
        self._by_name: dict[str, Finding] = {}

    def add(self, name: str, example: str = "", file: str | None = None, number: int = 0, count: int = 1) -> None:
        """One more of this kind, or `count` of them; the first has the example."""
        finding = self._by_name.setdefault(name, Finding(name, example=shortened(example)))
        finding.count += count
        if file is not None and len(numbers := finding.places.setdefault(file, [])) < PLACES:
            numbers.append(number)

    @property
    def findings(self) -> list[Finding]:
        """Errors first, each kind in the table's order."""
        order = list(KINDS)
        return sorted(self._by_name.values(), key=lambda found: (not found.is_error, order.index(found.name)))


def shortened(text: str) -> str:
    """On one line, without control characters."""
    line = " ".join(shown(text[: 4 * EXAMPLE]).split())
    return line if len(line) <= EXAMPLE else line[: EXAMPLE - 1] + "…"

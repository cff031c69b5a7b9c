"""Findings about rows as tables, and the error that the worse ones are."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from prefcli.data.checks.found import Finding
from prefcli.errors import DataError
from prefcli.text import shown


def tables(findings: Sequence[Finding]) -> list[Table]:
    """A table of the findings and one of their meanings; nothing where there are none."""
    if not findings:
        return []
    found, meaning = Table(box=None, pad_edge=False), Table(box=None, pad_edge=False)
    for title in ("finding", "", "count", "where", "for example"):
        found.add_column(title, justify="right" if title == "count" else "left", overflow="fold")
    for title in ("finding", "means", "to do"):
        meaning.add_column(title, overflow="fold")
    for one in findings:
        severity = "[red]error[/red]" if one.is_error else "[yellow]caution[/yellow]"
        found.add_row(one.name, severity, f"{one.count:,}", escape(shown(one.where)), escape(one.example))
        meaning.add_row(one.name, escape(one.kind.means), escape(one.remedy))
    return [found, meaning]


def refuse(findings: Sequence[Finding]) -> None:
    """Raise DataError where there are errors."""
    errors = [one for one in findings if one.is_error]
    if errors:
        told = ", ".join(f"{one.name} ({one.count:,})" for one in errors)
        raise DataError(f"rows that cannot be trained on: {told}", "the table says where and what to do")

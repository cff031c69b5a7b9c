"""`prefcli data formats`: the formats that rows may come in, as a table."""

from __future__ import annotations

import json
import re

from rich.markup import escape
from rich.table import Table

from prefcli.cli.console import print_result, result_console
from prefcli.config.data import FormatsConfig
from prefcli.config.stages import STAGES
from prefcli.data.formats.form import Form
from prefcli.data.formats.registry import FORMS, recognise
from prefcli.errors import DataError


def run(config: FormatsConfig) -> None:
    """stdout carries the table, or with --json an array of its rows with an example each."""
    if config.json:
        entries = [
            {
                "name": form.name,
                "columns": form.columns,
                "gives": form.gives,
                "for": commands(form),
                "about": form.about,
                "examples": form.examples,
            }
            for form in FORMS
        ]
        print_result(json.dumps(entries, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False)
    console = result_console()
    for column in ("format", "columns", "for", "where it is used"):
        table.add_column(column, overflow="fold")
    for form in FORMS:
        name, columns = form.name, ", ".join(form.columns)
        if console.is_terminal:  # a word is broken where its parts meet: rich folds at blanks alone
            name, columns = parted(name, "/", console.width // 4 - 2), parted(columns, "_", console.width // 4 - 2)
        table.add_row(*map(escape, (name, columns, ", ".join(commands(form)), form.about)))
    console.print(table)


def parted(text: str, mark: str, width: int) -> str:
    """Words longer than the width on several lines, each but the last ended by the mark."""
    return " ".join(_lines(word, mark, width) if len(word) > width else word for word in text.split(" "))


def _lines(word: str, mark: str, width: int) -> str:
    lines = [""]
    for part in re.findall(f"[^{mark}]*{mark}?", word):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def commands(form: Form) -> list[str]:
    """The training commands that take rows of this form."""
    found = []
    for stage in STAGES.values():
        try:
            recognise("", form.examples[0], stage.purpose)
            found.append(stage.command)
        except DataError:
            pass
    return found

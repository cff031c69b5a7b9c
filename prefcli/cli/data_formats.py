"""`prefcli data formats`: the forms that rows may come in, as a table."""

from __future__ import annotations

import json

from rich.markup import escape
from rich.table import Table

from prefcli.cli.console import print_result, result_console
from prefcli.config.data import FormatsConfig
from prefcli.data.formats import FORMS, Form, recognise
from prefcli.errors import DataError
from prefcli.stages.table import STAGES


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
    for column in ("form", "columns", "for", "where it is met"):
        table.add_column(column, overflow="fold")
    for form in FORMS:
        table.add_row(*map(escape, (form.name, ", ".join(form.columns), ", ".join(commands(form)), form.about)))
    result_console().print(table)


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

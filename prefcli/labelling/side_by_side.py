"""Two texts in two columns of a terminal, for a person to choose between."""

from __future__ import annotations

from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from prefcli.text import shown

NARROW = 80  # columns; on a terminal that has fewer the answers stand one below the other


def side_by_side(console: Console, one: tuple[str, str], other: tuple[str, str]) -> None:
    """Two texts with their titles in two columns; on a narrow terminal one below the other."""
    titles, texts = zip(*((Text(shown(title)), Text(shown(text))) for title, text in (one, other)))
    if console.width < NARROW:
        for title, text in zip(titles, texts):
            console.print(Rule(title, align="left"), text)
        return
    table = Table(expand=True)
    for title in titles:
        table.add_column(title, ratio=1, overflow="fold")
    table.add_row(*texts)
    console.print(table)

"""A source's rows, written in a format of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefcli.data.records import raise_for
from prefcli.data.row import BadRow, Tie
from prefcli.data.rows import halves_of
from prefcli.data.scan import scan
from prefcli.data.writing import READ_AS, Made, Target, in_form, target_of, write_rows, writing_to


@dataclass
class Converted:
    """Counts of rows read and written. `left_out` are rows that do not fit, `not_to_imitate` answers labelled false."""

    source: str
    format: str
    to: Target
    rows: int = 0
    left_out: int = 0
    ties: int = 0
    not_to_imitate: int = 0
    made_dialogues: int = 0
    notes: list[str] = field(default_factory=list)


def convert(
    source: str,
    out: Path,
    to: Target | None = None,
    *,
    skip_bad: bool = False,
    **options: Any,
) -> Converted:
    """Write the rows of `source` to `out` as `to`, or as what keeps most of them. `options` are `scan`'s.

    Raises DataError and UsageError as `scan` does, DataError where a row does not fit the source's format or the other,
    or where none is left; nothing is written then. SurroundingsError: `out` cannot be written.
    """
    found = scan(source, READ_AS[to] if to else None, **options)
    to = to or target_of(found.purpose, found.first())
    done = Converted(source, found.format, to, notes=found.notes)
    problems: list[str] = []

    def rows() -> Iterator[Made]:
        problems.clear()
        done.rows = done.left_out = done.ties = done.not_to_imitate = done.made_dialogues = 0
        for position in range(len(found)):
            row = found.row(position)
            try:
                if isinstance(row, BadRow):
                    raise row
                if found.purpose == "demos" and not row.to_imitate:
                    done.not_to_imitate += 1
                    continue
                made = [in_form(part, to) for part in (halves_of(row) if found.in_halves else (row,))]
            except Tie:
                done.ties += 1
                continue
            except BadRow as error:
                problems.append(f"{found.place(position)}: {error}")
                continue
            done.made_dialogues += to in ("pairs", "messages") and isinstance(row.prompt, str)
            done.rows += len(made)
            yield from made
        done.left_out = len(problems)
        if not (done.rows or problems or done.not_to_imitate):
            found.refuse_ties()
        if not (skip_bad and done.rows):
            raise_for(found.path, problems, found.hint)

    with writing_to(f"OUT {out}", "free some space, or choose another place"):
        write_rows(out, rows)
    done.notes += Tie.told(source, done.ties, len(found))
    if problems:
        done.notes.append(f"{source}: {len(problems)} of {len(found)} rows left out (--skip-bad); {problems[0]}")
    if done.not_to_imitate:
        done.notes.append(
            f"{source}: {done.not_to_imitate} rows labelled false are not demonstrations and are left out"
        )
    if done.made_dialogues:
        done.notes.append(
            f"{done.made_dialogues} plain prompts became a user's message each: a chat template is applied to them now"
        )
    return done

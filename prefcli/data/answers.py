"""Rows whose answers are judged: by a reward source, a model or a person."""

from __future__ import annotations

import json
from collections.abc import Sequence

from prefcli.data.formats import EXPECTED, BadRow, Row, recognise
from prefcli.data.reading import raise_for, read_file, unit
from prefcli.progress import Reporter


def read_rows(paths: Sequence[str], skip_bad: bool, reporter: Reporter) -> list[Row]:
    """Every row that holds an answer, or two: the forms of `sft`, `dpo` and `kto`.

    A row labelled false is no demonstration, which is why `read_dataset` leaves it out; here it is scored.
    Raises DataError as `read_dataset` does.
    """
    rows: list[Row] = []
    for path in paths:
        lines, _ = read_file(path)
        _, convert = recognise(f"{path}, {unit(path)} {lines[0][0]}", lines[0][1], "demos")
        good, problems = [], []
        for number, raw in lines:
            try:
                row = convert(raw)
                json.dumps([row.prompt, row.completion, row.rejected], ensure_ascii=False).encode()
                good.append(row)
            except BadRow as error:
                problems.append(f"{unit(path)} {number}: {error}")
            except UnicodeEncodeError:
                problems.append(f"{unit(path)} {number}: half of a surrogate pair stands in the text")
        if problems and skip_bad and good:
            reporter.notice(f"{path}: {len(problems)} of {len(lines)} rows left out (--skip-bad); {problems[0]}")
        else:
            raise_for(path, problems, f"every row needs: {EXPECTED['demos']}; --skip-bad leaves such rows out")
        rows += good
    return rows

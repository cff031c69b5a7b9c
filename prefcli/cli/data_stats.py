"""`prefcli data stats`: rows, lengths, labels and repeats of files, as tables with bars or one JSON object."""

from __future__ import annotations

import json
from typing import Any

from rich.markup import escape
from rich.table import Table

from prefcli.cli.console import ConsoleReporter, print_result, result_console
from prefcli.cli.out import draw_picture, picture_file
from prefcli.config.data_checks import StatsConfig
from prefcli.config.shared import read_as
from prefcli.text import counted, shown

BAR = 40  # characters of the longest


def run(config: StatsConfig) -> None:
    picture = picture_file("--plot", config.plot)
    reporter = ConsoleReporter()
    encoder = _encoder(config, reporter) if config.model else None
    from prefcli.data.stats import measure

    stats = measure(config.files, config.kind, encoder, reporter, **read_as(config))
    if not len(stats.rows):
        from prefcli.errors import DataError

        raise DataError("no row of these files fits", "prefcli data check says why")
    found = stats.as_dict()
    if config.json:
        print_result(json.dumps(found))
    else:
        console = result_console()
        for table in (_files(found), _facts(found), _lengths(found)):
            console.print(table)
        for name, values in stats.lengths.items():
            console.print(_bars(name, values, stats.unit))
    if picture is not None:
        from prefcli.report.data_lengths import draw

        draw_picture("--plot", picture, lambda path: draw(stats.lengths, stats.unit, path))


def _files(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("file", "rows", "bad", "ties", "for", "format"):
        table.add_column(title, justify="right" if title in ("rows", "bad", "ties") else "left")
    for file in found["files"]:
        numbers = (f"{file[name]:,}" for name in ("rows", "bad", "ties"))
        table.add_row(escape(shown(file["path"])), *numbers, file["for"], file["format"])
    return table


def _facts(found: dict[str, Any]) -> Table:
    from prefcli.data.stats import MOST_TURNS

    table = Table.grid(padding=(0, 2))
    table.add_row("prompts", f"{found['prompts']:,} different")
    table.add_row("duplicates", counted(found["duplicates"], "row"))
    turns = {"0": "plain text", "1": "1 message", str(MOST_TURNS): f"{MOST_TURNS} or more messages"}
    table.add_row(
        "prompts of", ", ".join(f"{turns.get(n, f'{n} messages')}: {count:,}" for n, count in found["turns"].items())
    )
    if labels := found.get("labels"):
        table.add_row("labels", f"{labels['true']:,} true, {labels['false']:,} false")
    if bias := found.get("length_bias"):
        low, high = bias["share_ci95"]
        table.add_row("longer chosen", f"{bias['share']:.0%} [{low:.0%}, {high:.0%}] of the pairs, ties counted half")
    of = "answer" if found.get("labels") else "pair"
    if (agreement := found.get("agreement")) and agreement["relabelled"]:
        table.add_row(
            "labelled again", f"{counted(agreement['relabelled'], of)}, {agreement['contradicted']:,} both ways"
        )
    return table


def _lengths(found: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    names = {"mean": "mean", "q0": "shortest", "q5": "5 %", "q50": "median", "q95": "95 %", "q99": "99 %"}
    names["q100"] = "longest"
    table.add_column(found["unit"])
    for title in names.values():
        table.add_column(title, justify="right")
    for part, values in found["lengths"].items():
        table.add_row(part, *(f"{values[name]:,.0f}" for name in names))
    return table


def _bars(part: str, values: Any, unit: str) -> Table:
    from prefcli.data.stats import histogram

    table = Table(box=None, pad_edge=False)
    table.add_column(f"{part}, {unit}", justify="right")
    table.add_column("rows", justify="right")
    table.add_column("")
    bins = histogram(values)
    most = max(count for *_, count in bins)
    for start, end, count in bins:
        bar = "█" * round(BAR * count / most)
        table.add_row(f"{start:,}–{end:,}", f"{count:,}", bar or ("▏" if count else ""))
    return table


def _encoder(config: StatsConfig, reporter: ConsoleReporter) -> Any:
    from prefcli.cli.data_check import encoder_of

    assert config.model is not None
    return encoder_of(config.model, reporter)

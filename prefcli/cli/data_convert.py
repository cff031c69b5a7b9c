"""`prefcli data convert`: a file's rows in another format, its path on stdout."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from prefcli.cli.console import ConsoleReporter, print_result
from prefcli.config.data import ConvertConfig
from prefcli.config.shared import read_as
from prefcli.data.converting import convert
from prefcli.data.scan import parse_names
from prefcli.data.writing import WRITERS, ending
from prefcli.errors import UsageError
from prefcli.text import counted


def run(config: ConvertConfig) -> None:
    """stdout carries the path of the file that was written; with --json what was read and written."""
    parse_names(config.map)
    out = _checked(config)
    to = None if config.to == "auto" else config.to
    done = convert(config.source, out, to, skip_bad=config.skip_bad, **read_as(config))
    report = ConsoleReporter()
    for note in done.notes:
        report.notice(note)
    report.notice(f"{counted(done.rows, 'row')} ({done.format}) written as {done.to}")
    print_result(json.dumps(asdict(done) | {"out": config.out}, ensure_ascii=False) if config.json else config.out)


def _checked(config: ConvertConfig) -> Path:
    """The file to write. Raises UsageError: an unknown ending, no directory for it, one that is there, the source."""
    out = Path(config.out)
    if ending(config.out) is None:
        raise UsageError(f"{config.out}: unknown kind of file", f"known endings: {', '.join(WRITERS)}")
    if not os.path.isdir(out.parent):
        raise UsageError(f"{config.out}: there is no directory {out.parent}", f"make it: mkdir -p {out.parent}")
    if os.path.exists(out):
        if os.path.isdir(out) or (os.path.exists(config.source) and os.path.samefile(out, config.source)):
            raise UsageError(
                f"{config.out} is {'a directory' if os.path.isdir(out) else 'what is read'}", "name another"
            )
        if not config.force:
            raise UsageError(f"{config.out} exists already", "name another file, or overwrite it with --force")
    return out

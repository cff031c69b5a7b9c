"""`prefcli data split`: a file in two, the two paths on stdout."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from prefcli.cli.console import ConsoleReporter, print_result
from prefcli.config.data_checks import SplitConfig
from prefcli.errors import UsageError
from prefcli.text import counted


def run(config: SplitConfig) -> None:
    """Raises UsageError: no such folder, a file that exists already. DataError as `splitting.split` does.

    SurroundingsError: a part cannot be written.
    """
    from prefcli.data.dataset import check_split
    from prefcli.data.row import Tie
    from prefcli.data.scan import scan
    from prefcli.data.splitting import part_file, split, write_part
    from prefcli.data.writing import writing_to

    own = os.path.dirname(config.file) if os.path.exists(config.file) else ""  # of a hub id there is none
    folder = Path(own if config.out_dir is None else config.out_dir)
    if not os.path.isdir(folder):
        raise UsageError(f"--out-dir {folder}: no such directory", f"make it: mkdir -p {folder}")
    files = {name: part_file(config.file, name, folder) for name in ("train", "held_out")}
    for path in files.values():
        if os.path.lexists(path) and not config.force:
            raise UsageError(f"{path} exists already", "--force overwrites it; --out-dir names another folder")
    check_split([config.file], config.split)
    source = scan(config.file, config.kind, split=config.split, names=config.map)
    parts = split(source, config.held_out, config.seed, config.skip_bad)
    told: dict[str, dict[str, Any]] = {
        name: {"path": str(files[name]), "rows": len(rows), "prompts": prompts}
        for (name, rows), prompts in zip((("train", parts.train), ("held_out", parts.held_out)), parts.prompts)
    }
    for name, rows in (("train", parts.train), ("held_out", parts.held_out)):
        with writing_to(str(files[name]), "free some space, or choose another place with --out-dir"):
            write_part(source, rows, files[name])
    reporter = ConsoleReporter()
    for note in source.notes:
        reporter.notice(note)
    reporter.plan(
        {
            part["path"]: f"{counted(part['rows'], 'row')}, {counted(part['prompts'], 'prompt')}"
            for part in told.values()
        }
    )
    for note in Tie.told(config.file, parts.ties, len(source)):
        reporter.notice(note)
    if parts.left_out:
        reporter.notice(f"{config.file}: {counted(parts.left_out, 'bad row')} left out, in neither file (--skip-bad)")
    if config.json:
        print_result(json.dumps(told | {"left_out": parts.left_out, "ties": parts.ties}))
    else:
        print_result("\n".join(part["path"] for part in told.values()))

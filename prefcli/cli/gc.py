"""`prefcli gc`: delete unneeded files from a store."""

from __future__ import annotations

import json
import sys

from prefcli.artifacts.garbage import Garbage, collect, garbage
from prefcli.artifacts.store import Store
from prefcli.cli.console import print_result
from prefcli.config.store import CollectConfig
from prefcli.errors import UsageError


def run(config: CollectConfig) -> None:
    """stdout carries what was removed, one a line: references of versions, and paths of files.

    Raises UsageError where there is something to remove, --yes is not given, and there is no terminal to ask at.
    """
    store = Store(config.runs)
    found = garbage(store, keep=config.keep, unfinished=config.unfinished, days=config.older_than)
    refs, size = [version.ref for version in found.versions], found.bytes
    removed = not config.dry_run and (config.yes or not (refs or found.files) or _agreed(refs, found, size))
    if removed:
        size = collect(found, store)
    files = [str(path) for path in found.files]
    if config.json:
        print_result(json.dumps({"versions": refs, "files": files, "bytes": size, "dry_run": not removed}))
        return
    if removed or config.dry_run:
        for line in (*refs, *files):
            print_result(line)
    print(f"{'freed' if removed else 'would free'} {_in_words(found, size)}", file=sys.stderr)


def _terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _in_words(found: Garbage, size: int) -> str:
    return f"{len(found.versions)} versions and {len(found.files)} files, {size / 1e6:,.1f} MB"


def _agreed(refs: list[str], found: Garbage, size: int) -> bool:
    said = _in_words(found, size)
    print("\n".join([*refs, *map(str, found.files)]), file=sys.stderr)
    if not _terminal():
        raise UsageError(f"gc would remove {said}, and there is no terminal to ask at", "give --yes, or --dry-run")
    print(f"remove {said}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")

"""`prefcli rm REF…`: remove versions that no other was made from."""

from __future__ import annotations

import json
import sys

from prefcli.artifacts.removing import named, remove
from prefcli.artifacts.store import Store
from prefcli.cli.console import print_result
from prefcli.config.store import RemoveConfig


def run(config: RemoveConfig) -> None:
    """stdout carries the references of what was removed, one a line."""
    store = Store(config.runs)
    versions = [named(ref, store) for ref in config.refs]
    freed = remove(versions, store, dry_run=config.dry_run)
    refs = sorted({version.ref for version in versions})
    if config.json:
        print_result(json.dumps({"removed": refs, "bytes": freed, "dry_run": config.dry_run}))
        return
    print_result("\n".join(refs))
    print(f"{'would free' if config.dry_run else 'freed'} {freed / 1e6:,.1f} MB", file=sys.stderr)

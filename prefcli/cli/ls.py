"""`prefcli ls`: the artifacts of a store, one a line."""

from __future__ import annotations

import json
import sys

from rich.markup import escape
from rich.table import Table

from prefcli.artifacts.facts import in_a_line
from prefcli.artifacts.store import Artifact, Store
from prefcli.cli.console import print_result, result_console
from prefcli.config.store import ListConfig
from prefcli.errors import ArtifactError


def run(config: ListConfig) -> None:
    store = Store(config.runs)
    found: list[Artifact | tuple[str, str]] = []
    for name in store.names():
        for version in store.versions(name):
            try:
                found.append(store.open(name, version))
            except ArtifactError as error:
                found.append((f"{name}@v{version}", error.message))
    if config.json:
        print_result(json.dumps([_entry(item) for item in found]))
        return
    if not found:
        print(f"no artifacts in {store.root} yet: start with prefcli sft --data demos.jsonl", file=sys.stderr)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("artifact", "stage", "made", "from", "result"):
        table.add_column(column)
    for item in found:
        entry = _entry(item)
        table.add_row(*(escape(str(entry.get(name, ""))) for name in ("ref", "stage", "created", "from", "result")))
    result_console().print(table)


def _entry(item: Artifact | tuple[str, str]) -> dict[str, object]:
    if isinstance(item, tuple):
        return {"ref": item[0], "damaged": item[1], "result": f"damaged: {item[1]}"}
    manifest = item.manifest
    parents = {f"{role}={parent['ref']}" for role, parent in manifest.parents.items() if role != "reference"}
    return {
        "ref": item.ref,
        "path": str(item.path),
        "stage": manifest.stage,
        "created": manifest.created,
        "status": manifest.status,
        "from": " ".join(sorted(parents)),
        "result": in_a_line(manifest, 2, 3),
        "metrics": manifest.metrics,
    }

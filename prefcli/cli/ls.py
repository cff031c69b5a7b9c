"""`prefcli ls`: the artifacts of a store, the newest first."""

from __future__ import annotations

import json
import sys
from datetime import datetime

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
    entries = [_entry(item) for item in found]
    if config.sort == "time":  # of two of one second the later made one first; a damaged one has no time
        entries = sorted(reversed(entries), key=lambda entry: str(entry.get("created", "")), reverse=True)
    if config.json:
        print_result(json.dumps(entries))
        return
    if not found:
        print(f"no artifacts in {store.root} yet: start with prefcli sft --data demos.jsonl", file=sys.stderr)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("artifact", "made", "from", "result"):
        table.add_column(column, no_wrap=column in ("artifact", "made"))
    for entry in entries:
        name, stage = str(entry["ref"]).partition("@")[0], entry.get("stage")
        artifact = f"{entry['ref']} ({stage})" if stage and stage != name else str(entry["ref"])
        stopped = "stopped; " if entry.get("status") == "stopped" else ""
        cells = (artifact, _minute(entry.get("created")), str(entry.get("from", "")), f"{stopped}{entry['result']}")
        table.add_row(*map(escape, cells))
    result_console().print(table)


def _minute(created: object) -> str:
    """On this machine's clock."""
    try:
        return datetime.fromisoformat(str(created)).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return ""


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
        "result": in_a_line(manifest, 1, 3),
        "metrics": manifest.metrics,
    }

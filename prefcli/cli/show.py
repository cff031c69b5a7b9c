"""`prefcli show REF`: an artifact's manifest, and what it was made from as a tree."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from prefcli.artifacts.commands import command, told
from prefcli.artifacts.lineage import Node, lineage
from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.cli.console import print_result, result_console
from prefcli.config.store import ShowConfig
from prefcli.errors import ArtifactError


def run(config: ShowConfig) -> None:
    store = Store(config.runs)
    artifact = resolve(config.ref, store, with_base=config.verify).artifact  # without: the tree says how it stands
    if artifact is None:
        raise ArtifactError(f"{config.ref} is a model, not an artifact of prefcli: there is no manifest to show")
    if config.verify:
        store.verify(artifact, read_all=True)
    tree = lineage(artifact, store)
    manifest = asdict(artifact.manifest)
    if config.json:
        print_result(
            json.dumps({"path": str(artifact.path), "ref": artifact.ref, **manifest, "lineage": tree.as_dict()})
        )
        return
    console = result_console()
    made = escape(f"{artifact.path}  ({manifest['stage']}, {manifest['created']}, {manifest['status']})")
    console.print(f"[bold]{artifact.ref}[/bold]  {made}")
    console.print(_drawn(tree))
    for heading in ("metrics", "resources", "config", "environment"):
        table = Table.grid(padding=(0, 2))
        values = told(artifact.manifest) if heading == "config" else manifest[heading]
        for name, value in values.items():
            if value is not None and (value is not False or heading == "config") and value != []:
                table.add_row("  " + escape(name), escape(_shown(name, value)))
        console.print(f"[bold]{heading}[/bold]")
        console.print(table)
    console.print("[bold]the same run again[/bold]")
    console.print(f"  {escape(command(artifact.manifest))}", soft_wrap=True)
    console.print("[bold]data[/bold]")
    for source in manifest["data"]:
        digest = str(source["digest"])[:12]
        console.print(escape(f"  {source['path']}  {source['rows']} rows ({source['format']}) {digest}"))
    if config.verify:
        console.print(f"all {len(manifest['files'])} files are as they were written")


def _drawn(node: Node, tree: Tree | None = None) -> Tree:
    state = "" if node.state == "ok" else f" [red]({node.state})[/red]"
    label = f"{node.role + ': ' if node.role else ''}[bold]{escape(node.ref)}[/bold]{state}"
    branch = Tree(label) if tree is None else tree.add(label)
    for parent in node.parents:
        _drawn(parent, branch)
    return branch


def _shown(name: str, value: Any) -> str:
    if name.endswith("_bytes") and isinstance(value, (int, float)):
        return f"{value / 1e6:,.0f} MB"
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return " … ".join(_shown("", item) for item in value)
    return str(value)

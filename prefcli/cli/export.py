"""`prefcli export REF OUT`: a finished model as one plain directory, checked, and to the hub if asked for."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

from prefcli.artifacts.folders import out_folder, whole_folder
from prefcli.artifacts.lineage import hub_root, lineage
from prefcli.artifacts.metrics import read_log
from prefcli.artifacts.places import around
from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.cli.console import print_result, reporter
from prefcli.config.export import ExportConfig
from prefcli.errors import UsageError
from prefcli.stages.card import Weights, model_card, plain_card


def run(config: ExportConfig) -> None:
    if config.private and config.push_to_hub is None:
        raise UsageError("--private is for --push-to-hub", "leave it out, or add --push-to-hub OWNER/NAME")
    store = Store(config.runs)
    reference = resolve(config.ref, store)
    out = out_folder(config.out, force=config.force, needed=[Path(), *([reference.path] if reference.path else [])])
    from prefcli.models.export import export
    from prefcli.models.hub import push, token_for

    token = token_for(config.push_to_hub) if config.push_to_hub is not None else ""
    report = reporter(config.quiet)
    if reference.note:
        report.notice(reference.note)
    base = reference.place
    if reference.is_adapter:
        _refuse_in_base(str(base), config)
    elif not config.merge:
        report.notice(f"{reference.shown} has no adapter: --no-merge changes nothing")
    with whole_folder(out) as folder:
        done = export(reference, folder, dtype=config.dtype, merge=config.merge, reporter=report, label=config.label)
        place = config.push_to_hub or out.name
        weights = Weights(place, done.scorer, done.base, opens=done.opens, backbone=done.backbone)
        card = _card(reference, store, weights, reference.base.hub if reference.base is not None else None)
        (folder / "README.md").write_text(card, encoding="utf-8", errors="replace")
    value = reference.path is not None and reference.path.name == "value"
    what = f"a {'value' if value else 'reward'} model" if done.scorer else "a language model"
    what = f"an adapter of {what}" if done.base else what
    report.notice(
        f"{what}, {done.dtype}, {done.parameters / 1e6:.2f}M parameters"
        f"{', its adapter merged' if done.merged else ''}: "
        f"read back with {'peft' if done.base else 'transformers'}, all {done.tensors} tensors are equal bit for bit"
    )
    if done.base:
        report.notice(f"the adapter needs its base model {done.base}, which is not in {config.out}")
    url = None
    if config.push_to_hub is not None:
        url = push(out, config.push_to_hub, token=token, private=config.private)
        report.notice(f"uploaded: {url}")
    if config.json:
        files = sorted(os.listdir(out))
        print_result(
            json.dumps({"path": config.out, "ref": reference.shown, **asdict(done), "url": url, "files": files})
        )
    else:
        print_result(config.out)


def _refuse_in_base(base: str, config: ExportConfig) -> None:
    if os.path.isdir(base):
        out_folder(config.out, force=config.force, needed=[Path(base)])


def _card(reference: Reference, store: Store, weights: Weights, hub: str | None) -> str:
    """`hub` is the hub's model below a reference without an artifact."""
    artifact = reference.artifact or (around(reference.path) if reference.path else None)
    if artifact is None or reference.path is None:
        return plain_card(reference.shown, replace(weights, hub_root=hub))
    tree = lineage(artifact, store)
    part = str(reference.path.resolve().relative_to(artifact.path.resolve()))
    return model_card(
        artifact.manifest, replace(weights, hub_root=hub_root(tree)), part=part, tree=tree, rows=read_log(artifact.path)
    )

"""The files of a finished run: models that plain transformers or peft opens, their bases, the card."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft

from prefcli.artifacts.bases import Base, base_at
from prefcli.artifacts.lineage import hub_root, lineage
from prefcli.artifacts.manifest import Manifest
from prefcli.artifacts.store import Artifact, Store
from prefcli.models.adapters import config_of, merged, save_model
from prefcli.models.classes import opens_as
from prefcli.stages.card import Weights, model_card
from prefcli.stages.inputs import Inputs


def save_step(
    model: Any, path: Path, saves_merged: bool, tokenizer: Any = None, weights: dict[str, Any] | None = None
) -> None:
    """A model in the middle of its training, in the form that the finished one will have."""
    model = merged(copy.deepcopy(model)) if saves_merged else model  # of what is trained on a copy is merged
    save_model(model, path, weights)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)


def bases_of(inputs: Inputs, **saved: Any) -> dict[str, Base]:
    """The bases of the saved adapters, with the digest that was taken before it was trained."""
    references = [*inputs.references.values(), *(spec.reference for spec in inputs.rewards)]
    known = {(r.base.place, r.base.revision): r.base for r in references if r is not None and r.base is not None}
    configs = {part: config for part, model in saved.items() if (config := config_of(model)) is not None}
    return {
        part: known.get((config.base_model_name_or_path, config.revision))
        or base_at(config.base_model_name_or_path, config.revision, inputs.store)
        for part, config in configs.items()
    }


def write_card(
    folder: Path, manifest: Manifest, model: Any, base: str | None, store: Store, rows: list[dict[str, Any]]
) -> None:
    """README.md of a version that is about to be finished. `rows` are those of its metrics log."""
    tree = lineage(Artifact(folder, manifest), store)
    plain = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    opens, backbone = opens_as(plain.config, manifest.scores)
    weights = Weights("model", manifest.scores, base, hub_root(tree), opens, backbone)
    card = model_card(manifest, weights, tree=tree, rows=rows)
    (folder / "README.md").write_text(card, encoding="utf-8", errors="replace")

"""A model by its reference, as plain transformers objects: for notebooks and scripts."""

from __future__ import annotations

import os
from typing import Any

from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.models.loading import is_scorer, load_policy, load_scorer
from prefcli.models.quiet import quiet
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import SILENT, Reporter


def open_model(
    model: str | os.PathLike[str],
    *,
    runs: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Reporter = SILENT,
) -> tuple[Any, Any]:
    """(model, tokenizer) of an artifact, a reference (sft, sft@v2, tiny), a directory, a GGUF file or a hub id.

    In evaluation mode; an adapter is on its base. A reward model is a sequence classifier with one label, its score
    read at an answer's last token. Raises ArtifactError: it is not there, or damaged. UsageError: no such device.
    """
    with quiet():
        reference = resolve(os.fspath(model), Store(runs))
        where = pick_device(device)
        kind = pick_dtype(dtype, where)
        tokenizer = load_tokenizer(reference, progress)
        if is_scorer(reference):
            opened = load_scorer(reference, tokenizer, dtype=kind, device=where)
        else:
            opened = load_policy(reference, dtype=kind, device=where, trainable=False, tokenizer_size=len(tokenizer))
    return opened.eval(), tokenizer

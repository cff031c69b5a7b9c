"""`--reward [NAME=]REF`: what a reward source is written as. No torch here."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.errors import ArtifactError, UsageError

_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(.+)", re.DOTALL)
_PYTHON = re.compile(r"python:(?P<file>.+):(?P<function>[A-Za-z_][A-Za-z0-9_]*)")


@dataclass(frozen=True)
class RewardSpec:
    """One reward source: a reference to a model, or a Python file and the function in it."""

    name: str
    text: str
    reference: Reference | None
    file: Path | None = None
    function: str | None = None
    digest: str | None = None


def parse_rewards(texts: list[str], store: Store) -> list[RewardSpec]:
    """The sources in order. Raises UsageError (grammar, a name twice), ArtifactError (nothing there)."""
    specs = [_parse(text, store) for text in texts]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--reward: the name {name!r} is given twice", f"name them apart: --reward {name}2=…")
    return specs


def _parse(text: str, store: Store) -> RewardSpec:
    named = _NAMED.fullmatch(text)
    name, what = (named[1], named[2]) if named else (None, text)
    python = _PYTHON.fullmatch(what)
    if python:
        file = Path(python["file"])
        if not os.path.isfile(file):
            raise ArtifactError(f"--reward {text}: no such file {file}", "the form is python:FILE:FUNCTION")
        digest = store.digests.digest(file)
        store.digests.save()
        return RewardSpec(name or python["function"], what, None, file, python["function"], digest)
    if what.startswith("python:"):
        raise UsageError(f"--reward {text}: the form is python:FILE:FUNCTION", "name the function after a second colon")
    reference = resolve(what, store)
    path = reference.path.resolve() if reference.path else Path(what.split("@")[0])
    default = reference.artifact.manifest.name if reference.artifact else path.name
    return RewardSpec(name or default, what, reference, digest=reference.digest)


def refuse_reward_model(reference: Reference) -> None:
    """Raise ArtifactError where a reward-model artifact stands in a language model's place."""
    if reference.artifact is not None and reference.artifact.manifest.stage == "rm":
        raise ArtifactError(
            f"{reference.text} is a reward model, not a language model",
            "give an sft, dpo or ppo artifact; reward models go to --reward",
        )


def refuse_language_model(spec: RewardSpec) -> None:
    """Raise ArtifactError where an artifact that gives no score stands in a reward model's place."""
    if spec.reference is not None and spec.reference.artifact is not None:
        stage = spec.reference.artifact.manifest.stage
        if stage != "rm":
            raise ArtifactError(
                f"--reward {spec.text} is not a reward model: {spec.reference.artifact.ref} was made by {stage}",
                "train one with: prefcli train-rm --data pairs.jsonl, or give python:FILE:FUNCTION",
            )

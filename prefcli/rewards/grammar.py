"""`--reward [NAME=]REF` (and `label --by`) and `--reward-weight NAME=0.5`: how reward sources are written. No torch."""

from __future__ import annotations

import ast
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefcli import urls
from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.config.stages import STAGES
from prefcli.errors import ArtifactError, UsageError
from prefcli.rewards.siblings import digest_with_siblings
from prefcli.urls import is_url, number

_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(.+)", re.DOTALL)
_PYTHON = re.compile(r"python:(?P<file>.+):(?P<function>[A-Za-z_][A-Za-z0-9_]*)")
TIMEOUT = 60.0  # seconds that a service has for one request, where its URL does not end in #timeout=SECONDS
LARGEST_SCORE = 2.0**128 - 2.0**104  # of float32, in which scores are kept
SCORE_FORM = f"a score is a finite number, at most {LARGEST_SCORE:.2g} (float32)"
URL_FORM = "for example: http://127.0.0.1:8000/get_reward"


@dataclass(frozen=True)
class RewardSpec:
    """One reward source: a reference to a model, a Python file and the function in it, or the URL of a service."""

    name: str
    text: str
    reference: Reference | None
    file: Path | None = None
    function: str | None = None
    digest: str | None = None
    url: str | None = None
    timeout: float = TIMEOUT  # seconds; of a service
    label: str | None = None  # of a model with several
    option: str = "--reward"  # where it was given

    @property
    def pinned(self) -> str:
        """What the same source has in common, for a run's key; a service, whose answers may change, its address."""
        return self.reference.pinned if self.reference is not None else self.digest or urls.address(self.text)


@dataclass(frozen=True)
class Scale:
    """The scaling of a source's raw scores before all sources are added up: weight · (score − mean) / std.

    A source of weight 0 judges: it is asked and shown, and moves nothing.
    """

    weight: float = 1.0
    mean: float = 0.0
    std: float = 1.0

    def apply(self, scores: Any) -> Any:
        """A tensor of scores, of any shape; the result has the same."""
        return self.weight * (scores - self.mean) / self.std


def parse_rewards(
    texts: list[str], store: Store, option: str = "--reward", label: str | None = None
) -> list[RewardSpec]:
    """The sources in order; `label` is that of the models which name none themselves (REF#label=helpfulness).

    Raises UsageError (grammar, a name twice), ArtifactError (nothing there).
    """
    specs = [_parse(text, store, option) for text in texts]
    specs = [replace(spec, label=spec.label or label) if spec.reference is not None else spec for spec in specs]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{option}: the name {name!r} is given twice", f"name them apart: {option} {name}2=…")
    return specs


def split_name(text: str) -> tuple[str | None, str]:
    """NAME, if there is one, and what stands after NAME=."""
    named = _NAMED.fullmatch(text)
    return (named[1], named[2]) if named else (None, text)


def _parse(text: str, store: Store, option: str) -> RewardSpec:
    name, what = split_name(text)
    python = _PYTHON.fullmatch(what)
    if python:
        file = Path(python["file"])
        if not os.path.isfile(file):
            raise ArtifactError(f"{option} {text}: no such file {file}", "write python:FILE:FUNCTION")
        digest = digest_with_siblings(file, store.digests)
        store.digests.save()
        return RewardSpec(name or python["function"], what, None, file, python["function"], digest, option=option)
    if what.startswith("python:") or (what.endswith(".py") and os.path.isfile(what)):
        raise _no_function(option, text, what.removeprefix("python:"))
    if is_url(what):
        return service(option, text, name or "http", what)
    what, marked, label = what.partition("#label=")
    reference = resolve(what, store)
    path = reference.path.resolve() if reference.path else Path(what.split("@")[0])
    default = reference.artifact.manifest.name if reference.artifact else path.name
    return RewardSpec(
        name or default, what, reference, digest=reference.digest, option=option, label=label if marked else None
    )


def _no_function(option: str, text: str, file: str) -> UsageError:
    """The hint for a Python file that is given without one of its functions. The file is read, and not run."""
    form = f"{option} {text}: expected python:FILE:FUNCTION"
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return UsageError(form, "name the function after a second colon")
    there = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    return UsageError(form, f"{option} python:{file}:FUNCTION; functions there: {', '.join(there) or 'none'}")


def service(option: str, text: str, name: str, what: str) -> RewardSpec:
    """The spec of a URL that was given as `text`. Raises UsageError as `urls.read`."""
    url, timeout = urls.read(option, text, what, TIMEOUT, URL_FORM)
    return RewardSpec(name, what, None, url=url, timeout=timeout, option=option)


def reward_scales(specs: list[RewardSpec], weights: list[str], standardise: bool) -> dict[str, Scale]:
    """Source name → its scale, from the texts of --reward-weight and from what the reward models' manifests recorded.

    A source of weight 0 is not standardised: it only judges. Raises UsageError: no NAME=NUMBER, an unknown NAME, a NAME
    twice, all weights 0, another source of unknown mean or standard deviation.
    """
    given: dict[str, float] = {}
    names = [spec.name for spec in specs]
    for text in weights:
        name, equals, value = text.rpartition("=")
        weight = number(value)
        if not equals or weight is None:
            raise UsageError(f"--reward-weight {text}: expected NAME=NUMBER", "for example: --reward-weight rm=0.5")
        if name not in names:
            raise UsageError(f"--reward-weight {text}: no --reward is called {name!r}", f"known: {', '.join(names)}")
        if name in given:
            raise UsageError(f"--reward-weight: the weight of {name!r} is given twice", "leave one out")
        given[name] = weight
    if names and all(given.get(name) == 0 for name in names):
        raise UsageError(
            "--reward-weight: every reward has weight 0", "a reward of weight 0 only judges; weigh one more"
        )
    standardised = {name for name in names if standardise and given.get(name) != 0}
    return {
        spec.name: replace(_recorded(spec) if spec.name in standardised else Scale(), weight=given.get(spec.name, 1.0))
        for spec in specs
    }


def _recorded(spec: RewardSpec) -> Scale:
    """The scale that takes a reward model's scores on its held-out pairs to mean 0 and standard deviation 1."""
    artifact = spec.reference.artifact if spec.reference else None
    if artifact is None:
        raise UsageError(
            f"--standardise-rewards: {spec.name} ({spec.text}) is not an artifact of train-rm, so no mean and "
            "standard deviation of its scores are recorded",
            "leave --standardise-rewards out and weigh the sources with --reward-weight NAME=…",
        )
    mean, std = (number(artifact.manifest.metrics.get(metric)) for metric in ("score_mean", "score_std"))
    if mean is None or std is None:
        raise UsageError(
            f"--standardise-rewards: {spec.name} ({artifact.ref}) has no mean and standard deviation of its scores",
            "they are measured on held-out pairs: train it with --eval-share above 0, or with --eval-data",
        )
    if std <= 0:
        raise UsageError(
            f"--standardise-rewards: {spec.name} ({artifact.ref}) gave all its held-out answers the same score",
            "train it on more pairs, or leave --standardise-rewards out",
        )
    return Scale(mean=mean, std=std)


def sent_template(given: str | None, specs: list[RewardSpec], store: Store) -> Reference | None:
    """The model of --tokenizer, whose chat template renders what services are sent; None where none is given.

    Raises UsageError: no source is a service. ArtifactError: no such model.
    """
    if given is not None and not any(spec.url for spec in specs):
        raise UsageError(
            "--tokenizer has no effect: it formats what is sent to a reward service, and no reward here is one (a "
            "judge is sent its own question)",
            "leave it out",
        )
    return resolve(given, store) if given else None


def refuse_reward_model(reference: Reference) -> None:
    """Raise ArtifactError where a reward-model artifact stands in a language model's place."""
    if reference.artifact is not None and reference.artifact.manifest.scores:
        raise ArtifactError(
            f"{reference.text} is a reward model, not a language model",
            "give an sft, dpo or ppo artifact; reward models go to --reward",
        )


def refuse_language_model(spec: RewardSpec) -> None:
    """Raise ArtifactError where an artifact that gives no score stands in a reward model's place."""
    if spec.reference is not None and spec.reference.artifact is not None:
        stage = spec.reference.artifact.manifest.stage
        if not STAGES[stage].scores:
            raise ArtifactError(
                f"{spec.option} {spec.text} is not a reward model: {spec.reference.artifact.ref} was made by {stage}",
                "train one with: prefcli train-rm --data pairs.jsonl, or give python:FILE:FUNCTION",
            )

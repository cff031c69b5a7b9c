"""The routes to compare: each a finished artifact and everything it was made from, down to where they part."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from prefcli.artifacts.places import refuse_elsewhere
from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Artifact, Store
from prefcli.config.stages import STAGES
from prefcli.errors import ArtifactError, UsageError
from prefcli.experiments.siblings import parent_of, siblings

VERSIONED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*@v[0-9]+")


@dataclass(frozen=True)
class Route:
    """`artifacts` are what was made after the ancestor, in the order in which they were made; the last is `final`."""

    final: Artifact
    artifacts: tuple[Artifact, ...]

    @property
    def ref(self) -> str:
        return self.final.ref

    @property
    def kind(self) -> str:
        """The kind that the common claims are about: RLHF or DPO."""
        return str(STAGES[self.final.manifest.stage].route)

    @property
    def rewards(self) -> list[Artifact]:
        """The reward models that it was trained against."""
        return [artifact for artifact in self.artifacts if artifact.manifest.scores]

    @property
    def stopped(self) -> list[str]:
        """Those of its artifacts that a watcher stopped before their end."""
        return [artifact.ref for artifact in self.artifacts if artifact.manifest.stopped]


@dataclass(frozen=True)
class Routes:
    """The routes that are compared. `start` is the model where they part."""

    routes: tuple[Route, ...]
    start: Reference
    store: Store
    shared: frozenset[str]  # the ancestor and what is above it

    @property
    def refs(self) -> list[str]:
        return [route.ref for route in self.routes]

    @cached_property
    def repetitions(self) -> dict[str, list[list[Artifact]]]:
        """Each route and its repetitions with other seeds (none of a policy that was stopped): what was made after the
        ancestor, the policy last."""
        found: dict[str, list[list[Artifact]]] = {route.ref: [] for route in self.routes}
        for route in self.routes:
            for final in siblings(route.final, self.store, over="seed"):
                with suppress(ArtifactError):  # something that it was made from is gone: it cannot be counted
                    found[route.ref].append(_made(final, self.store, self.shared))
        return found

    def __iter__(self) -> Iterator[Route]:
        return iter(self.routes)


def read_routes(texts: list[str], store: Store) -> Routes:
    """Raises UsageError: fewer than two, the same twice. ArtifactError: no artifact of the store, a reward model, no
    common ancestor, or one made from the other."""
    finals = [_policy(text, store) for text in texts]
    if len({artifact.ref for artifact in finals}) < max(2, len(finals)):
        raise UsageError("compare needs two different artifacts or more", "prefcli compare ppo dpo")
    chains = [above(artifact, store) for artifact in finals]
    common = [ref for ref in chains[0] if all(ref in chain and chain[ref] == chains[0][ref] for chain in chains[1:])]
    ends = " and ".join(artifact.ref for artifact in finals)
    if not common:
        raise ArtifactError(
            f"{ends} have no common ancestor: what differs may be where they started, not the route",
            "train both from the same --model, and keep that artifact in the store",
        )
    ancestor = common[0]
    if ancestor in {artifact.ref for artifact in finals}:
        raise ArtifactError(f"{ends}: one was made from the other", "compare what was made from the same model")
    start = resolve(ancestor, store)
    if start.digest != chains[0][ancestor]:
        raise ArtifactError(
            f"{ancestor} is not what {ends} were made from: it has changed since", "restore it, or train both again"
        )
    refs = list(chains[0])
    shared = frozenset(refs[refs.index(ancestor) :])
    routes = tuple(Route(final, tuple(_made(final, store, shared))) for final in finals)
    return Routes(routes, start, store, shared)


def _policy(text: str, store: Store) -> Artifact:
    artifact = resolve(text, store).artifact
    if artifact is None:
        raise ArtifactError(f"{text} is not a finished artifact", "see: prefcli ls")
    refuse_elsewhere(text, artifact, store)
    if artifact.manifest.scores:
        raise ArtifactError(f"{text} is a reward model", "give the trained policies: prefcli compare ppo dpo")
    return artifact


def above(artifact: Artifact, store: Store) -> dict[str, str | None]:
    """The models that its weights went through, newest first, itself the first: reference → digest."""
    found: dict[str, str | None] = {artifact.ref: artifact.digest}
    model: Artifact | None = artifact
    while model is not None:
        parent = model.manifest.parents.get("model")
        if parent is None or parent["ref"] in found:
            break
        found[str(parent["ref"])] = parent["digest"]
        model = parent_of(model.manifest, "model", store)
    return found


def _made(artifact: Artifact, store: Store, shared: frozenset[str]) -> list[Artifact]:
    """Everything it was made from, itself last, except the common ancestor and what is above it. Each once."""
    found: list[Artifact] = []
    for role in sorted(artifact.manifest.parents):
        parent = artifact.manifest.parents[role]
        held = parent_of(artifact.manifest, role, store)
        if parent["ref"] in shared:
            continue
        if held is None:
            if VERSIONED.fullmatch(str(parent["ref"])):
                raise ArtifactError(
                    f"{artifact.ref} was made from {parent['ref']}, which is not in the store as it was then",
                    "restore it: the cost of that stage cannot be counted without it",
                )
            continue
        found += [item for item in _made(held, store, shared) if item not in found]
    return [*found, artifact]

"""Flexibility: what a changed preference costs, in seconds from new pairs to a policy that follows them.

RLHF retrains the reward model on the new pairs and runs ppo again from the same start; DPO trains again. The runs are
found in the store: later ones of the same stage that end in other pairs than the route did.
"""

from __future__ import annotations

import shlex

from prefcli.artifacts.store import Artifact, Store
from prefcli.comparison.figures import Criterion, Samples, over_runs
from prefcli.comparison.routes import Route, Routes, above
from prefcli.comparison.scores import Scores
from prefcli.comparison.training_time import by_steps
from prefcli.errors import ArtifactError
from prefcli.evaluation.paired import paired_difference
from prefcli.experiments.siblings import parent_of


def flexibility(routes: Routes, scores: Scores | None) -> Criterion:
    changed = {route.ref: change(route, routes) for route in routes}
    seconds = {ref: by_steps(again) if again else [] for ref, again in changed.items()}
    source = {
        ref: "train_seconds of " + ", ".join(a.ref for a in again.artifacts) if again else ""
        for ref, again in changed.items()
    }
    told = []
    for route in routes:
        again = changed[route.ref]
        if again is not None and scores is not None:
            moves = [
                f"{spec.name} {found['mean']:+.2f} [{found['ci95'][0]:+.2f}, {found['ci95'][1]:+.2f}]"
                for spec in scores.specs
                for found in [
                    paired_difference(scores.values(again.final, spec.name), scores.values(route.final, spec.name))
                ]
            ]
            told.append(f"{again.ref} against {route.ref}: {', '.join(moves)}.")
    return Criterion(
        "flexibility",
        "RLHF",
        (over_runs("from new pairs to a new policy", "seconds", Samples(seconds, source), "lower"),),
        measure_with=tuple(c for route in routes if changed[route.ref] is None for c in again_commands(route)),
        why=" ".join(told) or "It needs a policy that was trained again for other pairs, from the same start.",
    )


def change(route: Route, routes: Routes) -> Route | None:
    """The newest run of the store that took the same route for other pairs: what was made for it, itself last."""
    store, pairs = routes.store, pairs_of(route.final, route.artifacts)
    mine = {artifact.ref for artifact in route.artifacts}
    for artifact in sorted(policies(store, route.final.manifest.stage), key=lambda a: a.manifest.created, reverse=True):
        chain = above(artifact, store)
        start = routes.start.shown
        if artifact.ref in mine or start not in chain or chain[start] != routes.start.digest:
            continue
        behind = parents(artifact, store)
        if pairs_of(artifact, [*behind, artifact]) not in (pairs, []):
            return Route(artifact, (*(a for a in behind if a.ref not in mine), artifact))
    return None


def policies(store: Store, stage: str) -> list[Artifact]:
    """All of that stage; one whose manifest is damaged is none."""
    found = []
    for name in store.names():
        for version in store.versions(name):
            try:
                artifact = store.open(name, version)
            except ArtifactError:
                continue
            if artifact.manifest.stage == stage:
                found.append(artifact)
    return found


def parents(artifact: Artifact, store: Store) -> list[Artifact]:
    """The reward models that it was trained against."""
    roles = [role for role in sorted(artifact.manifest.parents) if role.startswith("reward/")]
    return [found for role in roles if (found := parent_of(artifact.manifest, role, store)) is not None]


def pairs_of(final: Artifact, artifacts: tuple[Artifact, ...] | list[Artifact]) -> list[str]:
    """Digests of the pairs that preferences were learnt from: the reward models', or the policy's own.

    Empty where there are none: ppo's own rows are prompts.
    """
    models = [a for a in artifacts if a.manifest.stage == "rm"]
    learners = models or ([] if final.manifest.stage == "ppo" else [final])
    return sorted({str(source["digest"]) for a in learners for source in a.manifest.data})


def again_commands(route: Route) -> list[str]:
    """What would measure it."""
    manifest = route.final.manifest
    start = manifest.parents["model"]["ref"]
    if manifest.stage != "ppo":
        return [shlex.join(["prefcli", manifest.stage, "--model", route.ref, "--data", "NEW_PAIRS.jsonl"])]
    reward = route.rewards[0].ref if route.rewards else start
    return [
        f"RM=$(prefcli train-rm --model {reward} --data NEW_PAIRS.jsonl)",
        f'prefcli ppo --model {start} --reward "$RM" --prompts PROMPTS.jsonl',
    ]

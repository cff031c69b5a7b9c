"""Flexibility: what a changed preference costs, in seconds from new pairs to a policy that follows them.

RLHF retrains the reward model on the new pairs and runs ppo again from the same start; DPO trains again. The runs are
found in the store: those of the same stage and options that end in other pairs than the route did, the same for all.
"""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from prefcli.artifacts.commands import REWARD, altered, rewards_of
from prefcli.artifacts.lineage import own_files
from prefcli.artifacts.store import Artifact, Store
from prefcli.comparison.figures import Criterion, Samples, over_runs
from prefcli.comparison.routes import Route, Routes, above
from prefcli.comparison.scores import Scores
from prefcli.comparison.stability import elsewhere
from prefcli.comparison.training_time import by_steps, seconds_of
from prefcli.config.stages import STAGES
from prefcli.experiments.siblings import SEED, causal_options, of_stage, reward_models, siblings
from prefcli.statistics.paired import paired_difference


def flexibility(routes: Routes, scores: Scores | None) -> Criterion:
    found = {route.ref: changes(route, routes) for route in routes}
    common = [pairs for pairs in found[routes.refs[0]] if all(pairs in others for others in found.values())]
    any_of = next((pairs for others in found.values() for pairs in others), None)
    pairs = common[0] if common else any_of
    changed = {ref: others.get(pairs) if pairs else None for ref, others in found.items()}
    runs = {route.ref: _repeated(changed[route.ref], route, routes.store) for route in routes}
    single = any(len(found) < 2 for found in runs.values())
    if single:
        seconds = {ref: by_steps(again) if again else [] for ref, again in changed.items()}
    else:
        seconds = {ref: [sum(map(seconds_of, run)) for run in found] for ref, found in runs.items()}
    source = {
        ref: "train_seconds of " + ", ".join(a.ref for a in (again.artifacts if single else [r[-1] for r in runs[ref]]))
        if again
        else ""
        for ref, again in changed.items()
    }
    told = []
    for route in routes:
        again = changed[route.ref]
        if again is not None and scores is not None:
            moves = [
                f"{spec.name} {moved['mean']:+.2f} [{moved['ci95'][0]:+.2f}, {moved['ci95'][1]:+.2f}]"
                for spec in scores.specs
                for moved in [
                    paired_difference(scores.values(again.final, spec.name), scores.values(route.final, spec.name))
                ]
            ]
            told.append(f"{again.ref} against {route.ref}: {', '.join(moves)}.")
    return Criterion(
        "flexibility",
        "RLHF",
        (
            replace(
                over_runs("from new pairs to a new policy", "seconds", Samples(seconds, source), "lower"),
                of_single_runs=single,
            ),
        ),
        measure_with=tuple(
            line for route in routes if changed[route.ref] is None for line in again_commands(route, routes.store)
        ),
        why=" ".join(told)
        or "To measure it, run both routes again on the same other pairs, with the same options and start.",
    )


def changes(route: Route, routes: Routes) -> dict[tuple[str, ...], Route]:
    """The runs of the store that took the same route, with the same options, for other pairs: by those pairs, what was
    made for them, the policy last. The newest first, and of the same pairs the newest alone; none that was stopped."""
    store, own = routes.store, pairs_of(route.final, route.artifacts)
    mine = {artifact.ref for artifact in route.artifacts}
    start, asked = routes.start.shown, _asked(route.final)
    found: dict[tuple[str, ...], Route] = {}
    for artifact in sorted(of_stage(route.final.manifest.stage, store), key=lambda a: a.manifest.created, reverse=True):
        chain = above(artifact, store)
        if artifact.ref in mine or start not in chain or chain[start] != routes.start.digest:
            continue
        behind = reward_models(artifact.manifest, store)
        if any(made.manifest.stopped for made in (*behind, artifact)):
            continue
        pairs = pairs_of(artifact, [*behind, artifact])
        if pairs and pairs != own and _asked(artifact) == asked:
            found.setdefault(tuple(pairs), Route(artifact, tuple(_made_again(artifact, route, store))))
    return found


def _made_again(final: Artifact, route: Route, store: Store) -> list[Artifact]:
    """What new pairs cost: the reward models that the route did not have, and the policy."""
    mine = {artifact.ref for artifact in route.artifacts}
    return [*(reward for reward in reward_models(final.manifest, store) if reward.ref not in mine), final]


def _repeated(again: Route | None, route: Route, store: Store) -> list[list[Artifact]]:
    """The same with all seeds."""
    finals = siblings(again.final, store, over="seed") if again else []
    return [_made_again(final, route, store) for final in finals]


def _asked(artifact: Artifact) -> dict[str, Any]:
    """The options that decide what a run costs and comes to, but for the seed."""
    return {name: value for name, value in causal_options(artifact.manifest).items() if name != SEED}


def pairs_of(final: Artifact, artifacts: tuple[Artifact, ...] | list[Artifact]) -> list[str]:
    """Digests of the pairs that preferences were learnt from: the reward models', or the policy's own; held-out ones
    are none of them.

    Empty where there are none: ppo's own rows are prompts.
    """
    models = [a for a in artifacts if a.manifest.scores]
    learners = models or ([] if STAGES[final.manifest.stage].samples else [final])
    return sorted({digest for a in learners for digest in own_files(a)})


def again_commands(route: Route, store: Store) -> list[str]:
    """The commands that would measure it: the route's own, on new pairs."""
    manifest, new, runs = route.final.manifest, ["NEW_PAIRS.jsonl"], elsewhere(store)
    stage = STAGES[manifest.stage]
    if not stage.samples:
        words = altered(manifest, {"data": new, "model": [route.ref]})
        return [shlex.join(["prefcli", stage.command, *words, *runs])]
    if not route.rewards:
        return []
    reward = route.rewards[0]
    words = altered(reward.manifest, {"data": new, "model": [reward.ref]})
    replaced = [role for role, parent in manifest.parents.items() if parent["ref"] == reward.ref]
    kept = [f"{name}={ref}" for name, ref in rewards_of(manifest).items() if REWARD + name not in replaced]
    others = {"reward": kept}
    options = [f'--reward {role[len(REWARD) :]}="$RM"' for role in replaced if role.startswith(REWARD)]
    if "value_init" in replaced:
        others["value_init"] = []
        options.append('--value-init "$RM"')
    policy = shlex.join(["prefcli", stage.command, *altered(manifest, others), *runs])
    return [
        f"RM=$({shlex.join(['prefcli', 'train-rm', *words, *runs])})",
        " ".join([policy, *options]),
    ]

"""`--order uncertain`: every answer's score by each reward source, once; they are kept beside --out. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefcli.artifacts.references import Reference
from prefcli.artifacts.store import Store
from prefcli.config.shared import read_as
from prefcli.config.stages import STAGES
from prefcli.config.ui import UIConfig
from prefcli.data.dataset import read_dataset
from prefcli.data.row import Prompt
from prefcli.errors import ArtifactError, UsageError
from prefcli.evaluation.causes import of_model, of_rewards
from prefcli.evaluation.measured import anchor_of
from prefcli.files import digest_json, write_atomically
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.models.loading import load_policy
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import RewardSpec, parse_rewards
from prefcli.rewards.implicit import ImplicitReward
from prefcli.rewards.preflight import refuse_not_finite
from prefcli.rewards.sources import Answer, RewardSource, load_reward
from prefcli.ui.questions import Question

AT_A_TIME = 64


def scores(config: UIConfig, todo: Sequence[Question], reporter: Reporter) -> list[list[list[float]]]:
    """[sources][questions][answers]: the scores of each question's answers by each --reward, in their order.

    Raises as `load_reward` does, ArtifactError for a score that is not finite and for a policy whose reference is gone,
    UsageError for a policy where answers are judged alone.
    """
    assert config.out is not None
    store, kept = Store(config.runs), Path(config.out + ".scores")
    specs = parse_rewards(config.reward, store)
    references = [_reference(spec, config, store) for spec in specs]
    digests = [digest_json([of_rewards([spec]), of_model(one)]) for spec, one in zip(specs, references)]
    # What has no digest, a service or a model of the hub, may be another by now: its scores are not kept.
    fixed = [digest for spec, digest in zip(specs, digests) if spec.digest is not None]
    known = {digest: some for digest, some in _read(kept).items() if digest in fixed}
    columns = _columns(config) if any(spec.function for spec in specs) else {}
    asked = [[Answer(q.prompt, text, columns=columns.get(_digest(q.prompt, text))) for text in q.answers] for q in todo]
    wanted = {_digest(answer.prompt, answer.completion, answer.columns): answer for some in asked for answer in some}
    for spec, reference, digest in zip(specs, references, digests):
        own = known.setdefault(digest, {})
        missing = [answer for answer in wanted if answer not in own]
        if not missing:
            continue
        source = _loaded(spec, reference, config, reporter)
        reporter.begin(f"scoring by {source.name}", len(missing), "answers")
        for start in range(0, len(missing), AT_A_TIME):
            part = missing[start : start + AT_A_TIME]
            answers = [wanted[answer] for answer in part]
            found = source.score(answers).tolist()
            refuse_not_finite(source.name, found, answers)
            own |= dict(zip(part, found))
            reporter.advance(start + len(part))
        reporter.end()
        write_atomically(kept, json.dumps({"sources": {digest: known[digest] for digest in known if digest in fixed}}))
    named = [[_digest(answer.prompt, answer.completion, answer.columns) for answer in some] for some in asked]
    return [[[known[digest][name] for name in some] for some in named] for digest in digests]


def _reference(spec: RewardSpec, config: UIConfig, store: Store) -> Reference | None:
    """What a policy was tied to while it was trained; None of a reward source."""
    artifact = spec.reference.artifact if spec.reference is not None else None
    if artifact is None or artifact.manifest.scores:
        return None
    assert spec.reference is not None
    if not STAGES[artifact.manifest.stage].reference or "reference" not in artifact.manifest.parents:
        raise ArtifactError(
            f"--reward {spec.text}: {artifact.ref} was made by {artifact.manifest.stage}, and neither scores nor has a "
            "reference to be compared with",
            "give a reward model, python:FILE:FUNCTION, or a policy made by dpo, kto or ppo",
        )
    if config.to == "binary":
        raise UsageError(
            f"--reward {spec.text} is a policy, which compares answers to one prompt: --to binary judges each alone",
            "give a reward model",
        )
    anchor = anchor_of(spec.reference, store)
    if anchor is None:
        raise ArtifactError(
            f"--reward {spec.text}: the reference of {artifact.ref} is no longer there, or another",
            "give a reward model, or train the policy again",
        )
    return anchor


def _loaded(
    spec: RewardSpec, reference: Reference | None, config: UIConfig, reporter: Reporter
) -> RewardSource | ImplicitReward:
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    if reference is None:
        return load_reward(spec, None, dtype=dtype, device=device, reporter=reporter)
    assert spec.reference is not None
    tokenizer = load_tokenizer(spec.reference, reporter)

    def model(of: Reference) -> Any:
        return load_policy(of, dtype=dtype, device=device, trainable=False, tokenizer_size=len(tokenizer))

    return ImplicitReward(spec.name, model(spec.reference), model(reference), tokenizer)


def _columns(config: UIConfig) -> dict[str, dict[str, Any]]:
    """The other columns of each answer's first row, which functions in Python read, by the answer's digest."""
    found: dict[str, dict[str, Any]] = {}
    for row in read_dataset(config.label, "demos", config.skip_bad, every=True, **read_as(config)).rows:
        for text in row.answers:
            found.setdefault(_digest(row.prompt, text), row.columns)
    return found


def _digest(prompt: Prompt, text: str, columns: dict[str, Any] | None = None) -> str:
    return digest_json([prompt, text] + ([columns] if columns else []))


def _read(path: Path) -> dict[str, dict[str, float]]:
    """What was scored before, by source; nothing where the file is damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {digest: dict(some) for digest, some in found["sources"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}

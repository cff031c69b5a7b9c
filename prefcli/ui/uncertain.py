"""`--order uncertain`: every answer's score by a reward source, once; they are kept beside --out. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefcli.artifacts.store import Store
from prefcli.config.ui import UIConfig
from prefcli.data.row import Prompt
from prefcli.evaluation.causes import of_rewards
from prefcli.files import digest_json, write_atomically
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.progress import Reporter
from prefcli.rewards.grammar import parse_rewards, refuse_language_model
from prefcli.rewards.preflight import refuse_not_finite
from prefcli.rewards.sources import Answer, load_reward
from prefcli.ui.desk import Question

AT_A_TIME = 64


def scores(config: UIConfig, todo: Sequence[Question], reporter: Reporter) -> list[list[float]]:
    """The scores of each question's answers. Raises as `load_reward` does, and ArtifactError for one that is not
    finite."""
    assert config.reward is not None and config.out is not None
    (spec,) = parse_rewards([config.reward], Store(config.runs))
    refuse_language_model(spec)
    kept = Path(config.out + ".scores")
    source_digest = digest_json(of_rewards([spec]))
    known = _read(kept, source_digest)
    wanted = {_digest(q.prompt, text): Answer(q.prompt, text) for q in todo for text in q.answers}
    missing = [digest for digest in wanted if digest not in known]
    if missing:
        device = pick_device(config.device)
        source = load_reward(spec, None, dtype=pick_dtype(config.dtype, device), device=device, reporter=reporter)
        reporter.begin(f"scoring by {source.name}", len(missing), "answers")
        for start in range(0, len(missing), AT_A_TIME):
            part = missing[start : start + AT_A_TIME]
            answers = [wanted[digest] for digest in part]
            found = source.score(answers).tolist()
            refuse_not_finite(source.name, found, answers)
            known |= dict(zip(part, found))
            reporter.advance(start + len(part))
        reporter.end()
        write_atomically(kept, json.dumps({"reward": source_digest, "scores": known}))
    return [[known[_digest(q.prompt, text)] for text in q.answers] for q in todo]


def _digest(prompt: Prompt, text: str) -> str:
    return digest_json([prompt, text])


def _read(path: Path, source: str) -> dict[str, float]:
    """What was scored before by this source; nothing where the file is another's, or damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return dict(found["scores"]) if found["reward"] == source else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}

"""The models of a report on held-out prompts: `eval`, with the answers to be shown chosen from all of them."""

from __future__ import annotations

from typing import Any

from prefcli.artifacts.references import Reference
from prefcli.config.evaluate import EvalConfig
from prefcli.config.report import ReportConfig
from prefcli.errors import UsageError
from prefcli.evaluation.run import evaluate
from prefcli.progress import Reporter
from prefcli.report.answers import as_dict, choose, compare
from prefcli.report.facts import Facts

ALL = 10**9  # answers: which are shown is decided when all are scored


def measure(config: ReportConfig, references: list[Reference], facts: Facts, reporter: Reporter) -> dict[str, Any]:
    """The results of `evaluate`, its samples chosen (see `answers.choose`), and "difference" of the first two models.

    The first two are the first two models named; where one alone is, it and the baseline. Raises as `evaluate` does;
    UsageError: nothing but reward models is named.
    """
    named = list(dict.fromkeys(r.shown for r in references if not _is_reward_model(r)))
    if not named:
        raise UsageError("--prompts: there is no model to answer them", "name a language model: prefcli report ppo …")
    against = config.against or baseline(named, facts)
    found = evaluate(
        EvalConfig(
            model=[reference.text for reference in references if not _is_reward_model(reference)],
            against=against,
            reward=config.reward,
            prompts=config.prompts,
            max_prompts=config.max_prompts,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=config.seed,
            samples=ALL,
            runs=config.runs,
        ),
        reporter,
    )
    measured = [entry["ref"] for entry in found["models"]]
    order = named + [ref for ref in measured if ref not in named]
    first, second = order[0], order[1] if len(order) > 1 else None
    difference = compare(found["samples"], first, second) if second else None
    found["compared"] = {"first": first, "second": second}
    found["difference"] = as_dict(difference) if difference else None
    found["samples"] = choose(found["samples"], first, second, config.samples)
    for sample in found["samples"]:
        sample["answers"] = sorted(sample["answers"], key=lambda answer: order.index(answer["ref"]))
    found["against"] = measured[0] if against else None
    return found


def baseline(named: list[str], facts: Facts) -> str | None:
    """The reference of the first model's training, else the model it was made from; None where no artifact says so."""
    run = facts.run(named[0])
    parents = {parent["role"]: parent["ref"] for parent in run.parents} if run else {}
    ref: str | None = parents.get("reference") or parents.get("model")
    return None if ref in facts.missing else ref


def _is_reward_model(reference: Reference) -> bool:
    return reference.artifact is not None and reference.artifact.manifest.scores

"""`eval` as a function: every model and every reward source that a user names, measured on the same rows."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from torch import Tensor

from prefcli.artifacts.references import Reference, expand, resolve
from prefcli.artifacts.store import Store
from prefcli.config.evaluate import EvalConfig
from prefcli.config.label import JUDGE
from prefcli.data.row import Row
from prefcli.errors import UsageError
from prefcli.evaluation import curves, models, prompts
from prefcli.evaluation.agreement import agreement
from prefcli.evaluation.judge import Judge, load_judge
from prefcli.evaluation.judged import judged_win_rate
from prefcli.evaluation.measured import Measured, Setting, anchor_of, measure
from prefcli.evaluation.rewards import accuracy_of, pair_scores
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import parse_rewards, refuse_language_model, refuse_reward_model
from prefcli.rewards.python import try_functions
from prefcli.rewards.sources import RewardSource, load_reward
from prefcli.statistics.paired import differences


def evaluate(config: EvalConfig, reporter: Reporter) -> dict[str, Any]:
    """What `eval --json` prints; the shapes are in docs/eval.md.

    Raises UsageError: nothing to measure, or an option that asks for more than is given. DataError, ArtifactError and
    SurroundingsError as everywhere.
    """
    store = Store(config.runs)
    references = _named_models(config, store)
    specs = parse_rewards(config.reward, store, label=config.label)
    for spec in specs:
        refuse_language_model(spec)
    if not (references and config.prompts) and not (specs and config.pairs):
        raise UsageError(
            "nothing to measure: give --model with --prompts, or --reward with --pairs",
            "prefcli eval --model ppo --against sft --prompts held_out_prompts.jsonl --reward rm",
        )
    curves.check(config, [reference.shown for reference in references], len(specs))
    if config.judge is not None and (config.against is None or len(references) < 2):
        raise UsageError("--judge compares models with a baseline", "name both: --model ppo --against sft")
    rows = prompts.read(config.prompts, "prompts", config, reporter)[: config.max_prompts]
    pairs = prompts.read(config.pairs, "pairs", config, reporter)
    try_functions(specs, (rows or pairs)[0])
    device = pick_device(config.device)
    setting = Setting(config, store, pick_dtype(config.dtype, device), device, reporter)
    if references:  # by the first model's tokenizer, so that all models answer the same ones
        tokenizer = load_tokenizer(references[0], reporter)
        rows = [row for _, row in prompts.short_enough(rows, tokenizer, config.max_prompt_length, reporter)]
    sources = [load_reward(spec, None, dtype=setting.dtype, device=device, reporter=reporter) for spec in specs]
    judge = _judge(config.judge, setting) if config.judge is not None else None
    result: dict[str, Any] = {
        "prompts": len(rows),
        "answers": config.best_of,
        "temperature": config.temperature,
        "models": [],
        "differences": [],
        "judge": None,
        "overoptimisation": [],
        "reward_models": [],
        "agreement": [],
        "samples": [],
    }
    if references and rows:
        measured = _measured(references, sources, rows, setting)
        baseline = measured[0] if config.against else None
        result["models"] = [_entry(one, baseline) for one in measured]
        result["differences"] = differences({one.ref: one.means for one in measured})
        result["agreement"] = agreement(_over_answers(measured), "answers")
        result["overoptimisation"] = curves.curves(measured, baseline, config.best_of, reporter)
        if judge is not None:
            result["judge"] = _judged(judge, measured, rows, reporter)
        result["samples"] = _samples(measured, rows[: config.samples])
    if pairs and specs:
        scores = _on_pairs(sources, pairs, reporter)
        result["reward_models"] = [
            {"ref": spec.reference.shown if spec.reference else spec.text, "name": spec.name}
            | accuracy_of(scores[spec.name])
            for spec in specs
        ]
        result["agreement"] += agreement({name: values.tolist() for name, values in scores.items()}, "pairs")
    return result


def _on_pairs(sources: list[RewardSource], pairs: list[Row], reporter: Reporter) -> dict[str, Tensor]:
    reporter.begin("scoring pairs", len(sources))
    found = {}
    for done, source in enumerate(sources, 1):
        found[source.name] = pair_scores(source, pairs)
        reporter.advance(done)
    reporter.end()
    return found


def _judge(what: str, setting: Setting) -> Judge:
    return load_judge(
        what.removeprefix(JUDGE),
        f"--judge {what}",
        None,
        score_with="--reward",
        dtype=setting.dtype,
        device=setting.device,
        store=setting.store,
        reporter=setting.reporter,
    )


def _named_models(config: EvalConfig, store: Store) -> list[Reference]:
    """The baseline first, each model once."""
    if config.against and len(expand(config.against, store)) > 1:
        raise UsageError(f"--against {config.against} names several models", "name one: it is the baseline")
    texts = ([config.against] if config.against else []) + config.model
    found: dict[str, Reference] = {}
    for text in [one for named in texts for one in expand(named, store)]:
        reference = resolve(text, store)
        refuse_reward_model(reference)
        found.setdefault(reference.shown, reference)
    if config.prompts and not found:
        raise UsageError("--prompts without --model", "name at least one model: --model sft")
    if found and not config.prompts:
        raise UsageError("--model without --prompts", "name the prompts to answer: --prompts held_out_prompts.jsonl")
    return list(found.values())


def _measured(
    references: list[Reference], sources: list[RewardSource], rows: list[Row], setting: Setting
) -> list[Measured]:
    baseline = references[0] if setting.config.against else None
    for reference in references:
        if reference.note:
            setting.reporter.notice(reference.note)
    setting.reporter.begin("answering", len(rows) * setting.config.best_of * len(references))
    progress = models.adding_up(setting.reporter)
    found = [
        measure(reference, anchor_of(reference, setting.store) or baseline, rows, sources, setting, progress)
        for reference in references
    ]
    setting.reporter.end()
    return found


def _entry(one: Measured, baseline: Measured | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "ref": one.ref,
        "reward": {name: models.summary(values) for name, values in one.means.items()},
        "win_rate": None,
        "win_rate_ci95": None,
        "kl": None if one.kl is None else fmean(one.kl),
        "kl_to": one.kl_to,
        **one.measures,
    }
    if one.scores and baseline is not None and one is not baseline:
        first = next(iter(one.scores))
        entry["win_rate"], interval = models.win_rate_of_many(one.scores[first], baseline.scores[first])
        entry["win_rate_ci95"] = list(interval)
    return entry


def _samples(measured: list[Measured], rows: list[Row]) -> list[dict[str, Any]]:
    """Each of these prompts with every model's first answer."""
    return [
        {
            "prompt": row.prompt_text,
            "answers": [
                {
                    "ref": one.ref,
                    "text": one.texts[i][0],
                    "reward": {name: values[i][0] for name, values in one.scores.items()},
                }
                for one in measured
            ],
        }
        for i, row in enumerate(rows)
    ]


def _over_answers(measured: list[Measured]) -> dict[str, list[list[float]]]:
    """Source → [prompts][all answers of all models]."""
    return {
        name: [[value for row in rows for value in row] for rows in zip(*(one.scores[name] for one in measured))]
        for name in measured[0].scores
    }


def _judged(judge: Judge, measured: list[Measured], rows: list[Row], reporter: Reporter) -> dict[str, Any]:
    """Every model's first answers against the baseline's."""
    baseline, *others = measured
    prompts = [row.prompt_text for row in rows]
    reporter.begin("judging", len(rows) * len(others))
    progress = models.adding_up(reporter)
    firsts = {one.ref: [texts[0] for texts in one.texts] for one in measured}
    found = [
        {"ref": one.ref} | judged_win_rate(judge, prompts, firsts[one.ref], firsts[baseline.ref], progress)
        for one in others
    ]
    reporter.end()
    return {"ref": judge.ref, "against": baseline.ref, "models": found}

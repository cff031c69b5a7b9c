"""`eval` as a function: every model and every reward source that a user names, measured on the same rows."""

from __future__ import annotations

from typing import Any

from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.config.evaluate import EvalConfig
from prefcli.data.formats import Row
from prefcli.errors import ArtifactError, UsageError
from prefcli.evaluation import models, prompts
from prefcli.evaluation.rewards import pair_accuracy
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.models.loading import load_policy
from prefcli.models.tokenizers import load_tokenizer, tokenizer_digest
from prefcli.progress import Reporter
from prefcli.rewards.grammar import parse_rewards, refuse_language_model, refuse_reward_model
from prefcli.rewards.sources import RewardSource, load_reward


def evaluate(config: EvalConfig, reporter: Reporter) -> dict[str, Any]:
    """{"prompts", "models": […], "reward_models": […], "samples": […]}; the shapes are in docs/eval.md.

    Raises UsageError: nothing to measure. DataError, ArtifactError as everywhere.
    """
    store = Store(config.runs)
    references = _named_models(config, store)
    specs = parse_rewards(config.reward, store)
    for spec in specs:
        refuse_language_model(spec)
    if not (references and config.prompts) and not (specs and config.pairs):
        raise UsageError(
            "nothing to measure: give --model with --prompts, or --reward with --pairs",
            "prefcli eval --model ppo --against sft --prompts held_out_prompts.jsonl --reward rm",
        )
    rows = prompts.read(config.prompts, "prompts", config.skip_bad, reporter)[: config.max_prompts]
    pairs = prompts.read(config.pairs, "pairs", config.skip_bad, reporter)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    if references:  # by the first model's tokenizer, so that all models answer the same ones
        tokenizer = load_tokenizer(references[0], reporter)
        rows = [row for _, row in prompts.short_enough(rows, tokenizer, config.max_prompt_length, reporter)]
    sources = [load_reward(spec, None, dtype=dtype, device=device, reporter=reporter) for spec in specs]
    result: dict[str, Any] = {
        "prompts": len(rows),
        "temperature": config.temperature,
        "models": [],
        "reward_models": [],
        "samples": [],
    }
    if references and rows:
        _models(config, references, sources, rows, result, store, (dtype, device), reporter)
    if pairs:
        reporter.begin("scoring pairs", len(sources))
        for done, (spec, source) in enumerate(zip(specs, sources), 1):
            shown = spec.reference.shown if spec.reference else spec.text
            result["reward_models"].append({"ref": shown, "name": spec.name, **pair_accuracy(source, pairs)})
            reporter.advance(done)
        reporter.end()
    return result


def _named_models(config: EvalConfig, store: Store) -> list[Reference]:
    """The baseline first, each model once."""
    texts = ([config.against] if config.against else []) + config.model
    found: dict[str, Reference] = {}
    for text in texts:
        reference = resolve(text, store)
        refuse_reward_model(reference)
        found.setdefault(reference.shown, reference)
    if config.prompts and not found:
        raise UsageError("--prompts without --model", "name at least one model: --model sft")
    if found and not config.prompts:
        raise UsageError("--model without --prompts", "name the prompts to answer: --prompts held_out_prompts.jsonl")
    return list(found.values())


def _models(
    config: EvalConfig,
    references: list[Reference],
    sources: list[RewardSource],
    rows: list[Row],
    result: dict[str, Any],
    store: Store,
    placed: tuple[Any, Any],
    reporter: Reporter,
) -> None:
    dtype, device = placed
    baseline = references[0] if config.against else None
    baseline_scores: list[float] = []
    answered: list[list[str]] = []
    reporter.begin("answering", len(rows) * len(references))
    progress = models.adding_up(reporter)
    for reference in references:
        tokenizer = load_tokenizer(reference, reporter)
        model = load_policy(reference, dtype=dtype, device=device, trainable=False, tokenizer_size=len(tokenizer))
        answers = models.answer(
            model,
            tokenizer,
            rows,
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            batch_size=config.batch_size,
            seed=config.seed,
            progress=progress,
        )
        answered.append(answers.completions)
        by_source = {source.name: models.scores(source, rows, answers, same_ids=False) for source in sources}
        entry: dict[str, Any] = {
            "ref": reference.shown,
            "reward": {name: models.summary(values) for name, values in by_source.items()},
            "win_rate": None,
            "win_rate_ci95": None,
            **_kl(config, reference, baseline, model, tokenizer, answers, store, placed, reporter),
            **models.measures(answers),
        }
        if by_source and baseline is not None:
            first = next(iter(by_source.values()))
            if reference is baseline:
                baseline_scores = first
            else:
                entry["win_rate"], interval = models.win_rate(first, baseline_scores)
                entry["win_rate_ci95"] = list(interval)
        entry["reward_values"] = by_source
        result["models"].append(entry)
    reporter.end()
    for i, row in enumerate(rows[: config.samples]):
        result["samples"].append(
            {
                "prompt": row.prompt_text,
                "answers": [
                    {
                        "ref": entry["ref"],
                        "text": texts[i],
                        "reward": {name: values[i] for name, values in entry["reward_values"].items()},
                    }
                    for entry, texts in zip(result["models"], answered)
                ],
            }
        )
    for entry in result["models"]:
        del entry["reward_values"]


def _kl(
    config: EvalConfig,
    reference: Reference,
    baseline: Reference | None,
    model: Any,
    tokenizer: Any,
    answers: models.Answers,
    store: Store,
    placed: tuple[Any, Any],
    reporter: Reporter,
) -> dict[str, Any]:
    """KL to the reference in the manifest, else to the baseline; None where there is neither, or it reads other ids."""
    anchor = _anchor(reference, store) or baseline
    if anchor is None:
        return {"kl": None, "kl_to": None}
    if anchor.shown == reference.shown:
        return {"kl": 0.0, "kl_to": anchor.shown}
    dtype, device = placed
    if tokenizer_digest(load_tokenizer(anchor, reporter)) != tokenizer_digest(tokenizer):
        return {"kl": None, "kl_to": None}
    frozen = load_policy(anchor, dtype=dtype, device=device, trainable=False, tokenizer_size=len(tokenizer))
    values = models.kl_to(frozen, model, answers, config.temperature, config.batch_size)
    return {"kl": sum(values) / len(values), "kl_to": anchor.shown}


def _anchor(reference: Reference, store: Store) -> Reference | None:
    """The reference model that an artifact was tied to while it was trained, if it is still there."""
    if reference.artifact is None:
        return None
    parent = reference.artifact.manifest.parents.get("reference")
    try:
        return resolve(str(parent["ref"]), store) if parent else None
    except ArtifactError:
        return None

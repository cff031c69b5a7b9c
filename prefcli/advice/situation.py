"""From what somebody says to facts: files are measured, the reward is asked, the model is held against the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any

from prefcli.advice.data import PURPOSE, Measured, measure
from prefcli.advice.facts import Facts
from prefcli.advice.hardware import fits
from prefcli.artifacts.references import default_model, resolve
from prefcli.artifacts.store import Store
from prefcli.config.advise import AIMS, AdviseConfig
from prefcli.config.label import JUDGE
from prefcli.data.agreement import agreement
from prefcli.data.lengths import length_bias
from prefcli.errors import ArtifactError, UsageError
from prefcli.memory.architecture import Architecture
from prefcli.memory.devices import device
from prefcli.memory.gpus import Device
from prefcli.memory.model_files import read_architecture
from prefcli.memory.references import architecture_of, config_file
from prefcli.memory.shapes import by_name, typical
from prefcli.memory.sizes import parse_count
from prefcli.progress import Reporter
from prefcli.rewards.grammar import RewardSpec, is_url, parse_rewards
from prefcli.rewards.python import load_function
from prefcli.statistics.intervals import wilson_interval

SCORED = 1_000  # pairs that a Python reward is asked about


def situation(config: AdviseConfig, reporter: Reporter) -> Facts:
    """The facts, all mistakes in the options found on the way.

    Raises UsageError (an aim, a size, a kind of GPU), DataError (a file), ArtifactError (a model, a reward).
    """
    store = Store(config.runs)
    aims = aims_of(config.aim)
    judge = judge_of(config.judge)
    where = device(config.gpu, config.gpus)
    specs = parse_rewards(config.reward, store)
    paths = [*dict.fromkeys(config.data), *(path for path in dict.fromkeys(config.prompts) if path not in config.data)]
    read = partial(measure, split=config.split, names=config.map, beside=len(paths) > 1)
    measured = [read(path, None if path in config.data else "prompts") for path in paths]
    counts = {kind: sum(len(m.rows) for m in measured if m.kind == kind) for kind in PURPOSE}
    files: dict[str, tuple[str, ...]] = {kind: tuple(m.path for m in measured if m.kind == kind) for kind in PURPOSE}
    files["answered"] = tuple(m.path for m in measured if m.kind == "demos" and m.form != "text")
    facts = Facts(
        pairs=counts["pairs"],
        labels=counts["labels"],
        demos=counts["demos"],
        prompts=counts["prompts"],
        ties=sum(m.ties for m in measured),
        same_sides=sum(m.same_sides for m in measured),
        rewards=tuple(config.reward),
        judge=judge,
        aims=aims,
        device=where.shown,
        gpus=where.count,
        files=files,
        unclean=frozenset(m.path for m in measured if m.unread),
        reading=tuple(
            [word for name in config.map for word in ("--map", name)]
            + (["--split", config.split] if config.split else [])
        ),
    )
    for m in measured:
        for note in m.notes:
            reporter.notice(note)
        if m.unread:
            reporter.notice(f"{m.path}: {m.unread:,} rows cannot be used as {m.kind}; the commands leave them out")
    return _with_model(_with_labels(facts, measured, specs), config, where, specs, store, reporter)


def aims_of(names: Sequence[str]) -> frozenset[str]:
    """Raises UsageError: not an aim, with the nearest."""
    found = [name.strip().lower().replace("_", "-") for name in names]
    for name, given in zip(found, names):
        if name not in AIMS:
            near = get_close_matches(name, list(AIMS), n=1, cutoff=0.5)
            known = f"one of: {', '.join(AIMS)}"
            raise UsageError(f"--aim {given}: no such aim", f"did you mean {near[0]}? It is {known}" if near else known)
    return frozenset(found)


def judge_of(judge: str | None) -> str | None:
    """A judge as `label --by judge:…` names it, without that prefix. Raises UsageError: a URL that names no model."""
    if judge is None:
        return None
    judge = judge.removeprefix(JUDGE).strip()
    if not judge:
        raise UsageError("--judge: no model is named", "for example: --judge Qwen/Qwen3-8B")
    if is_url(judge) and not judge.partition("#")[2]:
        raise UsageError(f"--judge {judge}: which model?", "add its name after a #: https://HOST/v1#MODEL")
    return judge


def _with_labels(facts: Facts, measured: Sequence[Measured], specs: Sequence[RewardSpec]) -> Facts:
    pairs = [row for m in measured if m.kind == "pairs" for row in m.rows]
    found, length = agreement(pairs), length_bias((len(row.chosen or ""), len(row.rejected or "")) for row in pairs)
    return replace(
        facts,
        noise=found.least,
        noise_estimate=found.estimate,
        relabelled=found.relabelled,
        contradicted=found.contradicted,
        confirmed=found.confirmed,
        copies=found.copies,
        longer_chosen=length.share if length else None,
        longer_interval=length.share_ci95 if length else None,
        reward_right=_right(specs[0], pairs) if len(specs) == 1 else None,
    )


def _right(spec: RewardSpec, pairs: Sequence[Any]) -> tuple[float, float, float] | None:
    """Accuracy of the reward on the pairs: a program is run on them, a reward model's is in its manifest."""
    if spec.reference is not None and spec.reference.artifact is not None:
        metrics = spec.reference.artifact.manifest.metrics
        interval = metrics.get("accuracy_ci95")
        return (metrics["accuracy"], *interval) if "accuracy" in metrics and interval else None
    if spec.file is None or not pairs:
        return None
    asked = pairs[:SCORED]
    shared = set.intersection(*(set(row.columns) for row in asked)) - {"prompts", "completions"}
    columns = {name: [row.columns[name] for row in asked] for name in shared}
    score, prompts = load_function(spec), [row.prompt_text for row in asked]
    chosen = score(prompts, [row.chosen for row in asked], **columns)
    rejected = score(prompts, [row.rejected for row in asked], **columns)
    apart = [a > b for a, b in zip(chosen, rejected) if a != b]
    return (sum(apart) / len(apart), *wilson_interval(sum(apart), len(apart))) if apart else None


def _with_model(
    facts: Facts,
    config: AdviseConfig,
    where: Device,
    specs: Sequence[RewardSpec],
    store: Store,
    reporter: Reporter,
) -> Facts:
    """The model, its size, and what fits. Of a model whose size is not known nothing is ruled out, with a notice."""
    model = config.model
    if model is None and config.params is None:
        model, note = default_model(store)
        reporter.notice(note)
    architecture = _architecture(model, config.params, store, reporter)
    facts = replace(facts, model=model)
    if architecture is None:
        reporter.notice(f"the size of {model} is not known, so memory was not checked: give --params 7B")
        return facts
    start = resolve(model, store) if model is not None and config.params is None else None
    rewards = [spec.reference for spec in specs if spec.reference is not None]
    sizes = [(architecture_of(one) or architecture).scorer_parameters for one in rewards]
    apart = sum(size for one, size in zip(rewards, sizes) if start is None or not one.is_adapter_on(start))
    trained = 0 if specs else facts.reward_models
    return replace(facts, params=architecture.parameters, fits=fits(architecture, where, trained, sum(sizes), apart))


def _architecture(model: str | None, params: str | None, store: Store, reporter: Reporter) -> Architecture | None:
    if params is not None:
        return typical(parse_count(params))
    assert model is not None
    try:
        path, note = config_file(model, store, fetch=False)
    except ArtifactError:
        if resolve(model, store).kind not in ("hub", "gguf"):
            raise
        return by_name(model, reporter)
    if note:
        reporter.notice(note)
    return read_architecture(path)

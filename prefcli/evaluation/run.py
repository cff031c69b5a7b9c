"""`eval` as a function: every model and every reward source that a user names, measured on the same rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from operator import sub
from statistics import fmean
from typing import Any

from prefcli.artifacts.lineage import trained_on
from prefcli.artifacts.parts import ALONE, Share, Work, open_in_store
from prefcli.artifacts.references import Reference, expand, resolve
from prefcli.artifacts.store import Store
from prefcli.config.base import option
from prefcli.config.evaluate import EvalConfig
from prefcli.config.label import JUDGE
from prefcli.config.stages import Purpose
from prefcli.data.dataset import read_again, read_checked
from prefcli.data.row import Row
from prefcli.errors import UsageError
from prefcli.evaluation import curves, harness, models, prompts, served
from prefcli.evaluation.agreement import agreement
from prefcli.evaluation.causes import causes, of_judge, of_model, of_rewards
from prefcli.evaluation.judge import Judge, load_judge
from prefcli.evaluation.judged import PROMPTS_AT_A_TIME, Wins, ask_both
from prefcli.evaluation.measured import Measured, Setting, anchor_of, measure, measuring
from prefcli.evaluation.placement import placement_of
from prefcli.evaluation.rewardbench import Sides
from prefcli.evaluation.rewards import about, firsts, pair_scores, summary
from prefcli.evaluation.score import A_PART
from prefcli.evaluation.together import tell, together
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import parse_rewards, refuse_language_model, refuse_reward_model
from prefcli.rewards.python import try_functions
from prefcli.rewards.sources import RewardSource
from prefcli.statistics.length_controlled import length_controlled
from prefcli.statistics.paired import differences
from prefcli.statistics.pairs import right

PURPOSES: tuple[Purpose, Purpose] = ("prompts", "pairs")


def evaluate(config: EvalConfig, reporter: Reporter, *, share: Share = ALONE) -> dict[str, Any]:
    """Evaluate; returns what `eval --json` prints, with the shapes of docs/eval.md; {} in all processes but the first.

    Until it is finished, answers, scores and verdicts are kept in the artifact store's cache.

    Raises UsageError: nothing to measure, or an option that asks for more than is given. DataError, ArtifactError and
    SurroundingsError as everywhere.
    """
    with together(share, reporter) as (work, plan):
        store = Store(config.runs)
        references = _named_models(config, store)
        specs = parse_rewards(config.reward, store, label=config.label)
        for spec in specs:
            refuse_language_model(spec)
        tasks = None
        if config.lm_eval is not None:
            tasks = harness.check(config.lm_eval, config.against, len(references), share.world)
        if not (references and config.prompts) and not (specs and config.pairs) and not tasks:
            raise UsageError(
                "nothing to measure: give --model with --prompts, or --reward with --pairs",
                "prefcli eval --model ppo --against sft --prompts held_out_prompts.jsonl --reward rm",
            )
        served.check(config.generate, share.world)
        curves.check(config, [reference.shown for reference in references], len(specs))
        if config.judge is not None and (config.against is None or len(references) < 2):
            raise UsageError("--judge compares models with a baseline", "name both: --model ppo --against sft")
        _refuse_unread(config)
        place = placement_of(config, work, reporter)
        setting = Setting(config, store, place, reporter)
        baseline = references[0] if config.against else None
        anchors = anchors_of(references, baseline, store)
        if plan is None:
            data, on_pairs = (read_checked(getattr(config, name), name, config, reporter) for name in PURPOSES)
            _say_seen(references, data.sources, store, reporter)
            rows, pairs = data.rows[: config.max_prompts], on_pairs.rows
            if rows or pairs:
                try_functions(specs, (rows or pairs)[0])
            if references and rows:  # by the first model's tokenizer, so that all models answer the same ones
                tokenizer = load_tokenizer(references[0], reporter)
                reading = [*references[1:], *(spec.reference for spec in specs if spec.reference)]
                rows, _ = prompts.short_ones(rows, tokenizer, config.max_prompt_length, reporter, reading)
            named = {
                "model": [of_model(reference) for reference in references],
                "against": of_model(baseline),
                "reward": of_rewards(specs),
                "judge": of_judge(config.judge.removeprefix(JUDGE), store) if config.judge else None,
                "prompts": data.digests,
                "pairs": on_pairs.digests,
                "kl_to": [of_model(anchor) for anchor in anchors],
            }
            open_in_store(work, store.root, causes("eval", config, place.device, place.dtype, **named))
            tell(work, (rows.positions, pairs.positions))
        else:
            data, on_pairs = (
                read_again(getattr(config, purpose), purpose, positions, config)
                for purpose, positions in zip(PURPOSES, plan)
            )
            rows, pairs = data.rows, on_pairs.rows

        def check() -> None:
            data.check()
            on_pairs.check()

        work.check = check
        sources = [place.reward(spec, None, reporter) for spec in specs]
        judge = _judge(config.judge, setting) if config.judge is not None else None
        measured: list[Measured] = []
        judged, scored = None, None
        if references and rows:
            measured = _measured(references, anchors, sources, rows, setting, work)
            if judge is not None:
                judged = _judged(judge, measured, rows, work)
        if pairs and specs:
            scored = _on_pairs(sources, pairs, work)
        lost = harness.measure(references, tasks, setting, work) if tasks else None
        reporter.end()
        if not share.first:
            return {}
        result: dict[str, Any] = {
            "prompts": len(rows),
            "answers": config.best_of,
            "temperature": config.temperature,
            "models": [],
            "differences": [],
            "judge": judged,
            "overoptimisation": [],
            "reward_models": [],
            "agreement": [],
            "lm_eval": lost,
            "samples": [],
        }
        if measured:
            first = measured[0] if config.against else None
            result["models"] = [_entry(one, first) for one in measured]
            result["differences"] = differences({one.ref: one.means for one in measured})
            result["agreement"] = agreement(_over_answers(measured), "answers")
            result["overoptimisation"] = curves.curves(measured, first, config.best_of, reporter)
            result["samples"] = _samples(measured, rows[: config.samples])
        if scored is not None:
            told, scores = scored
            result["reward_models"] = [
                {"ref": spec.reference.shown if spec.reference else spec.text, "name": spec.name}
                | summary(told, scores[spec.name])
                for spec in specs
            ]
            result["agreement"] += agreement({name: firsts(found).tolist() for name, found in scores.items()}, "pairs")
        work.remove()
    return result


def _refuse_unread(config: EvalConfig) -> None:
    """Raise UsageError: an option that reads what is not there."""
    prompts = "name the prompts to answer: --prompts held_out_prompts.jsonl"
    if config.pairs and not config.reward:
        raise UsageError("--pairs without --reward", "name what scores them: --reward rm")
    if config.reward and not (config.prompts or config.pairs):
        raise UsageError("--reward without --prompts or --pairs", prompts)
    for name in ("judge", "best_of", "samples"):
        if getattr(config, name) != getattr(EvalConfig, name) and not config.prompts:
            raise UsageError(f"{option(name)} without --prompts", prompts)


def _on_pairs(
    sources: list[RewardSource], pairs: Sequence[Row], work: Work
) -> tuple[list[list[Any]], dict[str, list[Sides]]]:
    """What is told of each pair, and source → its scores; of the pairs whose parts this process sees."""
    job = work.job("pairs", len(pairs), A_PART, "pairs")
    work.begin("scoring pairs", job)

    def make(span: range) -> tuple[bytes, Any]:
        some = [pairs[i] for i in span]
        scores = {source.name: pair_scores(source, some) for source in sources}
        return b"", {"about": [about(row) for row in some], "scores": scores}

    told: list[list[Any]] = []
    found: dict[str, list[Sides]] = {source.name: [] for source in sources}
    for part in job.run(make):
        told += part.noted["about"]
        for name, values in part.noted["scores"].items():
            found[name] += values
    return told, found


def _judge(what: str, setting: Setting) -> Judge:
    return load_judge(
        what.removeprefix(JUDGE),
        f"--judge {what}",
        None,
        score_with="--reward",
        place=setting.place,
        store=setting.store,
        reporter=setting.reporter,
    )


def anchors_of(references: Sequence[Reference], baseline: Reference | None, store: Store) -> list[Reference | None]:
    """The reference of each model's KL: the one of its training, else the baseline."""
    return [anchor_of(reference, store) or baseline for reference in references]


def _say_seen(
    references: Sequence[Reference], sources: Sequence[dict[str, Any]], store: Store, reporter: Reporter
) -> None:
    """Notice which files of prompts a model, or what it was made from, was trained on."""
    found = [(who, digest) for one in references if one.artifact for who, digest in trained_on(one.artifact, store)]
    for source in sources:
        if names := [*dict.fromkeys(who for who, digest in found if digest == source["digest"])]:
            reporter.notice(
                f"{source['path']}: {' and '.join(names)} was trained on these prompts, so the figures say little "
                "about other prompts; prefcli data split holds some out"
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
        if not found.setdefault(reference.shown, reference).same_as(reference):
            raise UsageError(
                f"two different models are called {reference.shown}: {found[reference.shown].text} and {text}",
                "train one again with another --name, or evaluate them one at a time",
            )
    if config.prompts and not found:
        raise UsageError("--prompts without --model", "name at least one model: --model sft")
    if found and not (config.prompts or config.lm_eval):
        raise UsageError("--model without --prompts", "name the prompts to answer: --prompts held_out_prompts.jsonl")
    return list(found.values())


def _measured(
    references: list[Reference],
    anchors: Sequence[Reference | None],
    sources: list[RewardSource],
    rows: Sequence[Row],
    setting: Setting,
    work: Work,
) -> list[Measured]:
    for reference in references:
        if reference.note:
            setting.reporter.notice(reference.note)
    jobs = [measuring(work, number, rows, setting.config) for number in range(len(references))]
    work.begin("answering", *jobs)
    return [
        measure(reference, anchor, rows, sources, setting, job)
        for reference, anchor, job in zip(references, anchors, jobs)
    ]


def _entry(one: Measured, baseline: Measured | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "ref": one.ref,
        "reward": {name: models.summary(values) for name, values in one.means.items()},
        "win_rate": None,
        "win_rate_ci95": None,
        "win_rate_lc": None,
        "win_rate_lc_ci95": None,
        "kl": None if one.kl is None else fmean(one.kl),
        "kl_to": one.kl_to,
        **one.measures,
    }
    if one.scores and baseline is not None and one is not baseline:
        first = next(iter(one.scores))
        entry["win_rate"], interval = models.win_rate_of_many(one.scores[first], baseline.scores[first])
        entry["win_rate_ci95"] = list(interval)
        wins = [list(map(right, map(sub, *both))) for both in zip(one.scores[first], baseline.scores[first])]
        entry |= length_controlled(wins, _longer_by(one.texts, baseline.texts))
    return entry


def _longer_by(texts: Iterable[list[str]], baseline: Iterable[list[str]]) -> list[list[int]]:
    """[prompts][answers] by how many characters an answer is longer than the baseline's of the same number."""
    return [[len(mine) - len(theirs) for mine, theirs in zip(*both)] for both in zip(texts, baseline)]


def _samples(measured: list[Measured], rows: Sequence[Row]) -> list[dict[str, Any]]:
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


def _judged(judge: Judge, measured: list[Measured], rows: Sequence[Row], work: Work) -> dict[str, Any]:
    """Every model's first answers against the baseline's."""
    baseline, *others = measured
    jobs = [work.job(f"judge-{number}", len(rows), PROMPTS_AT_A_TIME, "comparisons") for number in range(len(others))]
    work.begin("judging", *jobs)
    found = []
    for one, job in zip(others, jobs):
        wins = Wins()
        for part in job.run(partial(_asked, judge, one.texts, baseline.texts, rows)):
            wins.add(part.noted)
        if work.share.first:
            longer_by = [row[:1] for row in _longer_by(one.texts, baseline.texts)]
            found.append({"ref": one.ref} | wins.summary() | length_controlled(wins.outcomes, longer_by))
    return {"ref": judge.ref, "against": baseline.ref, "models": found}


def _asked(
    judge: Judge, texts: Sequence[list[str]], baseline: Sequence[list[str]], rows: Sequence[Row], span: range
) -> tuple[bytes, Any]:
    firsts = ([answers[i][0] for i in span] for answers in (texts, baseline))
    return b"", ask_both(judge, [rows[i].prompt_text for i in span], *firsts)

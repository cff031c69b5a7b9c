"""`label` as a function: sampled answers, judged by a reward source or a language model, as rows to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.config.label import JUDGE, LabelConfig
from prefcli.data.answers import read_rows
from prefcli.data.row import Row
from prefcli.errors import ArtifactError, DataError
from prefcli.evaluation.judge import load_judge, read_template
from prefcli.evaluation.score import score_rows, summary, texts_of
from prefcli.labelling.preferences import Place, Values, as_best, as_binary, as_pairs, different_answers, extremes
from prefcli.labelling.shares import win_shares
from prefcli.labelling.verdicts import Verdicts
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.models.loading import is_scorer
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import RewardSpec, parse_rewards
from prefcli.rewards.python import try_functions
from prefcli.rewards.sources import RewardSource, load_reward
from prefcli.statistics.intervals import wilson_interval

# Of two answers: above 0 where the first is better, below 0 where the second is, 0 where neither is known to be.
Preference = Callable[[Place, Place], float]


def label(config: LabelConfig, reporter: Reporter) -> dict[str, Any]:
    """{"rows": [row, …], "prompts", "left_out": {reason: count}, "by": {…}, "gold": {…} or None}: docs/label.md.

    Raises DataError: no prompt has two different answers where that is needed. UsageError, DataError, ArtifactError and
    SurroundingsError as everywhere.
    """
    assert config.by is not None
    store = Store(config.runs)
    judged = config.by.startswith(JUDGE)
    template = read_template(config.judge_prompt)
    by = None if judged else parse_rewards([config.by], store, "--by")[0]
    gold = parse_rewards([config.gold], store, "--gold")[0] if config.gold else None
    tokenizer = resolve(config.tokenizer, store) if config.tokenizer else None
    rows = read_rows(config.data, config.skip_bad, reporter, split=config.split, names=config.map)
    prompts = different_answers(rows, [texts_of(row) for row in rows])
    needs_two = judged or config.to == "pairs" or (config.to == "binary" and config.threshold is None)
    if not any(len(answers) > needs_two for answers in prompts):
        raise DataError(
            f"no prompt of {', '.join(config.data)} has {'two different answers' if needs_two else 'an answer'}",
            "sample several: prefcli sample --num-generations 4",
        )
    try_functions([spec for spec in (by, gold) if spec], rows[0])
    gold_source = _source(gold, tokenizer, config, reporter) if gold else None
    values: Values
    if by is None:
        device = pick_device(config.device)
        judge = load_judge(
            config.by.removeprefix(JUDGE),
            f"--by {config.by}",
            config.judge_key_env,
            score_with="--by",
            dtype=pick_dtype(config.dtype, device),
            device=device,
            store=store,
            reporter=reporter,
        )
        name, ref = "judge", judge.ref
        asked = [(rows[next(iter(answers.values()))[0]].prompt_text, list(answers)) for answers in prompts]
        values, tally = win_shares(judge, asked, template, Verdicts(str(config.out), judge.digest), reporter)
        measured = tally.summary()
    else:
        name, ref = by.name, by.reference.shown if by.reference else by.text
        scores = score_rows([_source(by, tokenizer, config, reporter)], rows, reporter)[name]
        values = [{text: scores[row][side] for text, (row, side) in answers.items()} for answers in prompts]
        measured = summary(rows, scores)
    if gold_source is None:
        preference = _carried(rows)
    else:
        found = score_rows([gold_source], rows, reporter)[gold_source.name]
        preference = lambda a, b: found[a[0]][a[1]] - found[b[0]][b[1]]  # noqa: E731
    if config.to == "pairs":
        made = as_pairs(rows, prompts, values)
    elif config.to == "binary":
        made = as_binary(rows, prompts, values, name, config.threshold)
    else:
        made = as_best(rows, prompts, values, name, config.threshold)
    return {
        "rows": made.rows,
        "prompts": len(prompts),
        "left_out": dict(made.left_out),
        "by": {"name": name, "ref": ref} | measured,
        "gold": agreement(prompts, values, preference),
    }


def agreement(prompts: Sequence[dict[str, Place]], values: Values, preference: Preference) -> dict[str, Any] | None:
    """How often gold, too, prefers each prompt's best answer to its worst, with the Wilson interval.

    One pair a prompt, so that pairs are independent. Where gold prefers neither, a pair says nothing, and is counted
    apart. None where gold says nothing at all.
    """
    known = [
        preference(answers[both[0]], answers[both[1]])
        for answers, value in zip(prompts, values)
        if (both := extremes(value)) is not None
    ]
    right, said = sum(sign > 0 for sign in known), sum(sign != 0 for sign in known)
    if not said:
        return None
    return {
        "pairs": said,
        "no_preference": len(known) - said,
        "agreement": right / said,
        "agreement_ci95": list(wilson_interval(right, said)),
    }


def _carried(rows: Sequence[Row]) -> Preference:
    """What the rows themselves say: the sides of a pair, and labels that are true or false."""

    def preference(a: Place, b: Place) -> float:
        if a[0] == b[0]:
            return b[1] - a[1]
        one, other = (rows[place].columns.get("label") for place, _ in (a, b))
        return one - other if isinstance(one, bool) and isinstance(other, bool) else 0

    return preference


def _source(spec: RewardSpec, template: Reference | None, config: LabelConfig, reporter: Reporter) -> RewardSource:
    """A reward source, loaded. Raises ArtifactError: a language model in its place, or what `load_reward` raises."""
    if spec.reference is not None and not is_scorer(spec.reference):
        raise ArtifactError(
            f"{spec.option} {spec.text} is a language model, not a reward model",
            f"it can be a judge: --by {JUDGE}{spec.text}",
        )
    device = pick_device(config.device)
    return load_reward(
        spec,
        load_tokenizer(template, reporter) if template and spec.url else None,
        dtype=pick_dtype(config.dtype, device),
        device=device,
        reporter=reporter,
    )

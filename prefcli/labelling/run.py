"""`label` as a function: sampled answers, judged by a reward source or a language model, as rows to train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from prefcli.artifacts.parts import ALONE, Job, Make, Share, Work, open_beside, write_file
from prefcli.artifacts.references import Reference
from prefcli.artifacts.store import Store
from prefcli.config.label import JUDGE, LabelConfig
from prefcli.data.dataset import Dataset, read_again, read_checked
from prefcli.data.decisions import refuse_decided
from prefcli.data.row import Row, is_verdict, label_of
from prefcli.data.writing import as_line
from prefcli.errors import ArtifactError, DataError
from prefcli.evaluation.causes import causes, of_judge, of_model, of_rewards
from prefcli.evaluation.judge import Judge, Tally, load_judge, read_template
from prefcli.evaluation.placement import Placement, placement_of
from prefcli.evaluation.score import A_PART, Scores, scorer
from prefcli.evaluation.together import tell, together
from prefcli.files import digest_json
from prefcli.labelling.preferences import Place, Values, as_best, as_binary, as_pairs, extremes
from prefcli.labelling.prompts import Loaded, Prompts
from prefcli.labelling.shares import ask, win_shares
from prefcli.models.loading import is_scorer
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import RewardSpec, parse_rewards, sent_template
from prefcli.rewards.python import try_functions
from prefcli.rewards.sources import RewardSource
from prefcli.statistics.intervals import wilson_interval

# Of two answers: above 0 where the first is better, below 0 where the second is, 0 where neither is known to be.
Preference = Callable[[Place, Place], float]
PROMPTS_AT_A_TIME = 16
LATER = ("to", "threshold", "seed", "judge_key_env")  # options that no score and no verdict depends on


def label(config: LabelConfig, reporter: Reporter, *, share: Share = ALONE) -> dict[str, Any]:
    """{"rows": their number, "prompts", "left_out": {reason: count}, "by": {…}, "gold": {…} or None}: docs/label.md.

    {} in all processes but the first. The rows are written to `config.out` when all is judged; scores and verdicts are
    kept beside it until then, and where there is no row to write.

    Raises DataError: no prompt has two different answers where that is needed. UsageError, DataError, ArtifactError and
    SurroundingsError as everywhere.
    """
    assert config.by is not None and config.out is not None
    with together(share, reporter) as (work, plan):
        store = Store(config.runs)
        judged = config.by.startswith(JUDGE)
        template = read_template(config.judge_prompt)
        by = None if judged else parse_rewards([config.by], store, "--by")[0]
        gold = parse_rewards([config.gold], store, "--gold")[0] if config.gold else None
        tokenizer = sent_template(config.tokenizer, [spec for spec in (by, gold) if spec], store)
        place = placement_of(config, work, reporter)
        if plan is None:
            refuse_decided(Path(config.out))
            data, prompts = _read(config, judged, reporter)
            work.check = data.check
            _open(work, config, [spec for spec in (by, gold) if spec], tokenizer, data, store, place)
            tell(work, (data.rows.positions, prompts.parts if judged else None))
        else:
            positions, parts = plan
            prompts = Prompts.of(*parts) if parts is not None else Prompts()
            data = read_again(config.data, "demos", positions, config)
            work.check = data.check
        rows = data.rows
        try_functions([spec for spec in (by, gold) if spec], rows[0])
        gold_source = _source(gold, tokenizer, place, reporter) if gold else None
        by_judge, by_scores, gold_scores = None, None, None
        if by is None:
            judge = _judge(config, store, place, reporter)
            name, ref = "judge", judge.ref
            by_judge = work.job("verdicts", len(prompts), PROMPTS_AT_A_TIME, "prompts")
            work.begin("judging", by_judge)
            for _ in by_judge.run(_asker(judge, template, rows, prompts)):
                pass
        else:
            name, ref = by.name, by.reference.shown if by.reference else by.text
            by_scores = _scores("scores", _source(by, tokenizer, place, reporter), rows, work)
        if gold_source is not None:
            gold_scores = _scores("gold", gold_source, rows, work)
        reporter.end()
        if not share.first:
            return {}
        made = _Rows(config, name, gold_scores)
        tally = Tally()
        valued = (
            _by_verdicts(by_judge, rows, prompts, tally) if by_judge else _by_scores(by_scores, name, rows, prompts)
        )
        lines = made.of(valued)
        if (first := next(lines, None)) is not None:
            write_file(Path(config.out), chain([first], lines))
            work.remove()
        elif (kept := work.kept_in_words()) is not None:
            reporter.notice(f"{kept}: another --to or --threshold reuses them")
    measured = tally.summary() if by_scores is None else by_scores.summary(name)
    return {
        "rows": made.count,
        "prompts": len(prompts),
        "left_out": dict(made.left_out),
        "by": {"name": name, "ref": ref} | measured,
        "gold": made.agreement.summary(),
    }


class Agreement:
    """Agreement with gold: how often it, too, prefers each prompt's best answer to its worst, with the Wilson interval.

    One pair a prompt, so that pairs are independent. Where gold prefers neither, a pair says nothing, and is counted
    apart.
    """

    def __init__(self) -> None:
        self._pairs, self._right, self._said = 0, 0, 0

    def add(self, prompts: Sequence[dict[str, Place]], values: Values, preference: Preference) -> None:
        for answers, value in zip(prompts, values):
            if (both := extremes(value)) is not None:
                sign = preference(answers[both[0]], answers[both[1]])
                self._pairs += 1
                self._right += sign > 0
                self._said += sign != 0

    def summary(self) -> dict[str, Any] | None:
        """None where gold says nothing at all."""
        if not self._said:
            return None
        return {
            "pairs": self._said,
            "no_preference": self._pairs - self._said,
            "agreement": self._right / self._said,
            "agreement_ci95": list(wilson_interval(self._right, self._said)),
        }


class _Rows:
    """The rows made of valued answers, and the counts."""

    def __init__(self, config: LabelConfig, name: str, gold: Scores | None) -> None:
        self._config, self._name, self._gold = config, name, gold
        self.count, self.left_out, self.agreement = 0, Counter[str](), Agreement()

    def of(self, valued: Iterator[tuple[Loaded, Values]]) -> Iterator[bytes]:
        """JSON lines."""
        config = self._config
        for (rows, prompts), values in valued:
            if config.to == "pairs":
                made = as_pairs(rows, prompts, values)
            elif config.to == "binary":
                made = as_binary(rows, prompts, values, self._name, config.threshold)
            else:
                made = as_best(rows, prompts, values, self._name, config.threshold)
            self.left_out += made.left_out
            self.agreement.add(prompts, values, _carried(rows) if self._gold is None else _scored(self._gold))
            self.count += len(made.rows)
            yield from (as_line(row) + b"\n" for row in made.rows)


def _read(config: LabelConfig, judged: bool, reporter: Reporter) -> tuple[Dataset, Prompts]:
    """Raises DataError: no prompt has as many different answers as are needed."""
    prompts = Prompts()
    data = read_checked(config.data, "demos", config, reporter, look=prompts.add)
    prompts.sort()
    needs_two = judged or config.to == "pairs" or (config.to == "binary" and config.threshold is None)
    spans = prompts.spans(PROMPTS_AT_A_TIME)
    if not any(len(answers) > needs_two for span in spans for answers in prompts.load(data.rows, span)[1]):
        raise DataError(
            f"no prompt of {', '.join(config.data)} has {'two different answers' if needs_two else 'an answer'}",
            "sample several: prefcli sample --num-generations 4",
        )
    return data, prompts


def _open(
    work: Work,
    config: LabelConfig,
    specs: list[RewardSpec],
    tokenizer: Reference | None,
    data: Dataset,
    store: Store,
    place: Placement,
) -> None:
    assert config.by is not None and config.out is not None
    named = {
        "data": data.digests,
        "by": of_judge(config.by.removeprefix(JUDGE), store) if config.by.startswith(JUDGE) else of_rewards(specs[:1]),
        "gold": of_rewards(specs[-1:]) if config.gold else None,
        "judge_prompt": digest_json(read_template(config.judge_prompt)),
        "tokenizer": of_model(tokenizer),
    }
    found = causes("label", config, place.device, place.dtype, **named)
    open_beside(work, Path(config.out), {name: value for name, value in found.items() if name not in LATER})


def _scores(job_name: str, source: RewardSource, rows: Sequence[Row], work: Work) -> Scores:
    job = work.job(job_name, len(rows), A_PART, "rows" if job_name == "scores" else "rows by gold")
    found = Scores([source.name])
    work.begin("scoring" if job_name == "scores" else "scoring by gold", job)
    for part in job.run(scorer([source], rows, job, lines=False)):
        found.add(part.noted)
    return found


def _judge(config: LabelConfig, store: Store, place: Placement, reporter: Reporter) -> Judge:
    assert config.by is not None
    return load_judge(
        config.by.removeprefix(JUDGE),
        f"--by {config.by}",
        config.judge_key_env,
        score_with="--by",
        place=place,
        store=store,
        reporter=reporter,
    )


def _asker(judge: Judge, template: str, rows: Sequence[Row], prompts: Prompts) -> Make:
    """From a span of prompts to the verdicts on the pairs of each one's answers, which are noted."""

    def make(span: range) -> tuple[bytes, Any]:
        found, part = prompts.load(rows, span)
        asked = [(found[next(iter(answers.values()))[0]].prompt_text, list(answers)) for answers in part]
        return b"", ask(judge, asked, template)

    return make


def _by_verdicts(
    job: Job, rows: Sequence[Row], prompts: Prompts, tally: Tally
) -> Iterator[tuple[Loaded, list[dict[str, float]]]]:
    """All prompts, some at a time, the value of an answer being the fraction of the others that it beats."""
    for part in job.read():
        found, some = prompts.load(rows, part.span)
        yield (
            (found, some),
            [win_shares(list(answers), said, tally) for answers, said in zip(some, part.noted, strict=True)],
        )


def _by_scores(
    scores: Scores | None, name: str, rows: Sequence[Row], prompts: Prompts
) -> Iterator[tuple[Loaded, list[dict[str, float]]]]:
    """All prompts, some at a time, the value of an answer being its score."""
    assert scores is not None
    for span in prompts.spans(PROMPTS_AT_A_TIME):
        found, some = prompts.load(rows, span)
        yield (found, some), [{text: scores.of(name, *place) for text, place in answers.items()} for answers in some]


def _scored(gold: Scores) -> Preference:
    """Labels from a reward source's scores."""
    (name,) = gold.sources
    return lambda a, b: gold.of(name, *a) - gold.of(name, *b)


def _carried(rows: Mapping[int, Row]) -> Preference:
    """Labels that the rows carry: the sides of a pair, and labels that say good or bad; 1 does so beside -1."""

    def preference(a: Place, b: Place) -> float:
        if a[0] == b[0]:
            return b[1] - a[1]
        labels = [rows[place].columns.get("label") for place, _ in (a, b)]
        one, other = map(label_of, labels)
        if one is None or other is None or not any(map(is_verdict, labels)):
            return 0
        return one - other

    return preference


def _source(spec: RewardSpec, template: Reference | None, place: Placement, reporter: Reporter) -> RewardSource:
    """A reward source, loaded. Raises ArtifactError: a language model in its place, or what `load_reward` raises."""
    if spec.reference is not None and not is_scorer(spec.reference):
        raise ArtifactError(
            f"{spec.option} {spec.text} is a language model, not a reward model",
            f"it can be a judge: --by {JUDGE}{spec.text}",
        )
    tokenizer = load_tokenizer(template, reporter) if template and spec.url else None
    return place.reward(spec, tokenizer, reporter)

"""`sample` as a function: a model's answers to prompts, as rows that `score` and `sft` read."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefcli.artifacts.parts import ALONE, Job, Make, Share, join, open_beside
from prefcli.artifacts.references import Reference, resolve
from prefcli.artifacts.store import Store
from prefcli.config.sample import SampleConfig
from prefcli.data.dataset import read_again, read_checked
from prefcli.data.decisions import refuse_decided
from prefcli.data.formats.fields import for_other_answers
from prefcli.data.row import Row
from prefcli.data.writing import as_line
from prefcli.errors import ArtifactError, UsageError
from prefcli.evaluation import models, prompts
from prefcli.evaluation.causes import causes, of_model
from prefcli.evaluation.placement import Placement, placement_of
from prefcli.evaluation.served import check, sampler_of
from prefcli.evaluation.together import tell, together
from prefcli.memory.references import parameters_of
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import refuse_reward_model


def sample(
    config: SampleConfig,
    reporter: Reporter,
    *,
    share: Share = ALONE,
    out: Path | None = None,
    show: Callable[[bytes], None] = lambda lines: None,
) -> dict[str, Any]:
    """{"ref", "prompts", "rows": their number, "empty", "length", "distinct_2", "ended", "seconds"}.

    {} in all processes but the first.

    The answers to a prompt stand next to each other. They are written to `out` when all are there, part by part beside
    it until then; without it, they are shown. An empty one is left out, since no command reads it, and is counted in
    "empty"; the four measures are of all answers, as in eval. "seconds" are those of all processes together.

    Raises UsageError: no model or no prompts. ArtifactError: a reward model, or only empty answers. DataError as
    everywhere.
    """
    with together(share, reporter) as (work, plan):
        if not config.model:
            raise UsageError("--model is missing", "name the model that answers: --model sft")
        if not config.prompts:
            raise UsageError("--prompts is missing", "name a file of prompts: --prompts FILE")
        check(config.generate, share.world)
        store = Store(config.runs)
        reference = resolve(config.model, store)
        refuse_reward_model(reference)
        if reference.note:
            reporter.notice(reference.note)
        place = placement_of(config, work, reporter, parameters_of(reference))
        if plan is None:
            data = read_checked(config.prompts, "prompts", config, reporter)
            tokenizer = load_tokenizer(reference, reporter)
            rows, longest = prompts.short_ones(
                data.rows[: config.max_prompts], tokenizer, config.max_prompt_length, reporter
            )
            if out is not None:
                refuse_decided(out)
                named = {"model": of_model(reference), "prompts": data.digests}
                open_beside(work, out, causes("sample", config, place.device, place.dtype, **named))
            tell(work, (rows.positions, longest))
        else:
            positions, longest = plan
            data = read_again(config.prompts, "prompts", positions, config)
            tokenizer, rows = load_tokenizer(reference, reporter), data.rows
        work.check = data.check
        job = models.answering(work, "answers", rows, config, config.num_generations)
        make = _sampler(config, reference, tokenizer, rows, longest, place, job, reporter)
        measured, found = models.Measures(), 0
        work.begin("answering", job)
        for part in job.run(make):
            texts = [json.loads(line)["completion"] for line in part.lines.splitlines()]
            measured.add(part.noted, texts)
            found += len(texts)
            show(part.lines)
        reporter.end()
        if not share.first:
            return {}
        empty = measured.answers - found
        if not found:
            work.remove()
            raise ArtifactError(
                f"{config.model} gave only empty answers ({empty})",
                "check the prompts' format: a chat model wants lists of messages, a base model plain strings",
            )
        if empty:
            reporter.notice(f"{empty} of {measured.answers} answers are empty and left out")
        if out is not None:
            join(job, out)
        work.remove()
    return {"ref": reference.shown, "prompts": len(rows), "rows": found, "empty": empty, **measured.summary()}


def _sampler(
    config: SampleConfig,
    reference: Reference,
    tokenizer: Any,
    rows: Sequence[Row],
    longest: int,
    place: Placement,
    job: Job,
    reporter: Reporter,
) -> Make:
    """From a span of prompts to their answers, by a model that is loaded when the first is wanted."""
    if job.idle:
        return lambda span: (b"", None)  # is not called
    model = place.policy(reference, len(tokenizer))
    models.refuse_too_long(model, longest, config.max_new_tokens)
    sampler = sampler_of(model, tokenizer, config.generate, Store(config.runs).root, reporter, job.work.at_end)
    answered = models.answerer(model, tokenizer, rows, config, config.num_generations, job, sampler)

    def make(span: range) -> tuple[bytes, Any]:
        asked, answers = answered(span)
        found = [_object(row, text) for row, text in zip(asked, answers.completions) if text.strip()]
        return b"".join(as_line(row) + b"\n" for row in found), models.Measures.noted(answers)

    return make


def _object(row: Row, completion: str) -> dict[str, Any]:
    """A row as JSON: the columns that do not belong to an earlier answer, prompt, answer."""
    return for_other_answers(row.columns) | {"prompt": row.prompt, "completion": completion}

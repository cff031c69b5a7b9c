"""`sample` as a function: a model's answers to prompts, as rows that `score` and `sft` read."""

from __future__ import annotations

from typing import Any

from prefcli.artifacts.references import resolve
from prefcli.artifacts.store import Store
from prefcli.config.sample import SampleConfig
from prefcli.data.row import Row
from prefcli.errors import ArtifactError, UsageError
from prefcli.evaluation import models, prompts
from prefcli.models.devices import pick_device, pick_dtype
from prefcli.models.loading import load_policy
from prefcli.models.tokenizers import load_tokenizer
from prefcli.progress import Reporter
from prefcli.rewards.grammar import refuse_reward_model


def sample(config: SampleConfig, reporter: Reporter) -> dict[str, Any]:
    """{"ref", "prompts", "rows": [row with an answer, …], "empty", "length", "distinct_2", "ended", "seconds"}.

    The answers to a prompt stand next to each other. An empty one is no row, since no command reads it, and is counted
    in "empty"; the four measures are of all answers, as in eval.

    Raises UsageError: no model or no prompts. ArtifactError: a reward model, or only empty answers. DataError as
    everywhere.
    """
    if not config.model:
        raise UsageError("--model is missing", "name the model that answers: --model sft")
    if not config.prompts:
        raise UsageError("--prompts is missing", "name a file of prompts: --prompts FILE")
    store = Store(config.runs)
    reference = resolve(config.model, store)
    refuse_reward_model(reference)
    if reference.note:
        reporter.notice(reference.note)
    rows = prompts.read(config.prompts, "prompts", config, reporter)[: config.max_prompts]
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    tokenizer = load_tokenizer(reference, reporter)
    rows = [row for _, row in prompts.short_enough(rows, tokenizer, config.max_prompt_length, reporter)]
    asked = [row for row in rows for _ in range(config.num_generations)]
    model = load_policy(reference, dtype=dtype, device=device, trainable=False, tokenizer_size=len(tokenizer))
    reporter.begin("answering", len(asked))
    answers = models.answer(
        model,
        tokenizer,
        asked,
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        batch_size=config.batch_size,
        seed=config.seed,
        progress=models.adding_up(reporter),
    )
    reporter.end()
    found = [_object(row, text) for row, text in zip(asked, answers.completions) if text.strip()]
    empty = len(asked) - len(found)
    if not found:
        raise ArtifactError(
            f"{config.model} gave nothing but empty answers ({empty})",
            "look at the prompts' form: a chat model wants lists of messages, a base model plain strings",
        )
    if empty:
        reporter.notice(f"{empty} of {len(asked)} answers are empty and left out")
    return {
        "ref": reference.shown,
        "prompts": len(rows),
        "rows": found,
        "empty": empty,
        **models.measures(answers),
    }


def _object(row: Row, completion: str) -> dict[str, Any]:
    """A row as JSON: the other columns, prompt, answer. What belongs to an earlier answer to the prompt is left out:
    the dialogue that holds it, its scores, and whether it was good."""
    columns = {
        name: value
        for name, value in row.columns.items()
        if name not in ("messages", "scores") and not (name == "label" and isinstance(value, bool))
    }
    return columns | {"prompt": row.prompt, "completion": completion}

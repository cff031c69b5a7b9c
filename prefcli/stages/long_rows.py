"""Rows that a model has no positions for, refused before its weights are loaded."""

from __future__ import annotations

from prefcli.config.ppo import PPOConfig
from prefcli.config.training import DataConfig
from prefcli.data.rows import Example, Examples
from prefcli.models.positions import refuse_longer
from prefcli.stages.inputs import Inputs


def refuse_long_rows(inputs: Inputs, *parts: Examples) -> None:
    """Raise UsageError where a row has more tokens than the model, or its reference, has positions for."""
    assert isinstance(inputs.config, DataConfig)
    limit = inputs.config.max_length
    longest = max((_length(example) for examples in parts for example in examples.first), default=0)
    if not all(examples.whole for examples in parts):
        longest = limit  # of rows that were not looked at
    refuse_longer(inputs.references, longest, "cut them: --max-length {}")


def refuse_long_answers(inputs: Inputs, longest_prompt: int) -> None:
    """Raise UsageError where a prompt with its answer may have more tokens than a model has positions for."""
    assert isinstance(inputs.config, PPOConfig)
    refuse_longer(
        inputs.references,
        longest_prompt + inputs.config.max_new_tokens,
        "prompt and answer together must fit into {}: lower --max-prompt-length or --max-new-tokens",
    )


def _length(example: Example) -> int:
    """Tokens of the longest text of an example."""
    if "input_ids" in example:
        return len(example["input_ids"])
    answers = [len(ids) for name, ids in example.items() if name.endswith("_ids") and name != "prompt_ids"]
    return len(example["prompt_ids"]) + max(answers)

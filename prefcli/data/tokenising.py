"""From rows to token ids. The boundary between prompt and answer is the same in training, scoring and sampling.

The prompt is tokenised alone, as it is when the model is sampled, and the answer apart: no token spans the two. An
answer ends with the end-of-sequence token and nothing after it (chat templates like to add a newline there, which
a sampled answer never has).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from prefcli.data.formats import Message, Prompt, Row
from prefcli.data.lazy import LazyExamples, LazyRows
from prefcli.errors import DataError


@dataclass
class Encoder:
    """A tokenizer, used the one way the project uses it."""

    tokenizer: PreTrainedTokenizerBase

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt that awaits an answer."""
        if isinstance(prompt, str):
            ids = self.tokenizer(prompt)["input_ids"] if prompt else _bos(self.tokenizer)
            return ids[:-1] if ids and ids[-1] == self.tokenizer.eos_token_id else ids
        return self._ids(self._render(prompt, True))

    def completion_ids(self, prompt: Prompt, completion: str) -> list[int]:
        """Ids of an answer, ending with the end-of-sequence token."""
        text = completion
        if not isinstance(prompt, str):
            rendered = self._render([*prompt, {"role": "assistant", "content": completion}], False)
            before = self._render(prompt, True)
            # A template that renders the prompt otherwise once an answer follows (it drops thoughts, say) is not
            # used for the answer: what the model would be sampled after is the generation prompt.
            text = rendered[len(before) :] if rendered.startswith(before) else completion
        ids = self._ids(text)
        eos = self.tokenizer.eos_token_id
        if eos in ids:
            ids = ids[: len(ids) - ids[::-1].index(eos)]
            return ids
        return [*ids, eos]

    def demo(self, row: Row, train_on_prompt: bool) -> tuple[list[int], list[int]]:
        """(ids, mask) of a demonstration; the mask is 1 where the loss reads: every answer of a dialogue."""
        assert row.completion is not None
        prompt = self.prompt_ids(row.prompt)
        answer = self.completion_ids(row.prompt, row.completion)
        mask = [1] * len(prompt) if train_on_prompt else self._earlier_answers(row.prompt, prompt)
        return prompt + answer, mask + [1] * len(answer)

    def _earlier_answers(self, prompt: Prompt, ids: list[int]) -> list[int]:
        mask = [0] * len(ids)
        if isinstance(prompt, str):
            return mask
        for position, message in enumerate(prompt):
            if message["role"] == "assistant" and position:
                start = _common(self._ids(self._render(prompt[:position], True)), ids)
                end = start + len(self.completion_ids(prompt[:position], message["content"]))
                if ids[start:end] == self.completion_ids(prompt[:position], message["content"]):
                    mask[start:end] = [1] * (end - start)
        return mask

    def _render(self, messages: list[Message], add_generation_prompt: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, add_generation_prompt=add_generation_prompt, tokenize=False
                )
            )
        except Exception as error:  # the template's own raise_exception, or any jinja error
            raise DataError(
                f"the model's chat template refuses a dialogue ({error}): roles "
                + ", ".join(message["role"] for message in messages),
                "most templates want user and assistant to take turns, with at most one system message first",
            ) from error

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


Example = dict[str, Any]
Encoded = tuple[Sequence[Example], int, int]  # examples, how many rows were cut, how many left out


def encode_demos(rows: Sequence[Row], encoder: Encoder, max_length: int, train_on_prompt: bool) -> Encoded:
    """Rows for TRL's SFTTrainer {"input_ids", "completion_mask"}."""

    def encode(row: Row) -> tuple[Example | None, bool]:
        ids, mask = encoder.demo(row, train_on_prompt)
        if not any(mask[:max_length]):
            return None, False
        return {"input_ids": ids[:max_length], "completion_mask": mask[:max_length]}, len(ids) > max_length

    return _encoded(rows, encode)


def encode_pairs(rows: Sequence[Row], encoder: Encoder, max_length: int) -> Encoded:
    """{"prompt_ids", "chosen_ids", "rejected_ids", "weight", "margin"}: answers without the prompt."""

    def encode(row: Row) -> tuple[Example | None, bool]:
        assert row.chosen is not None and row.rejected is not None
        prompt = encoder.prompt_ids(row.prompt)
        room = max_length - len(prompt)
        sides = [encoder.completion_ids(row.prompt, answer) for answer in (row.chosen, row.rejected)]
        if room < 1 or sides[0][:room] == sides[1][:room]:
            return None, False  # nothing is left that tells the two apart
        example = {"prompt_ids": prompt, "chosen_ids": sides[0][:room], "rejected_ids": sides[1][:room],
                   "weight": row.weight, "margin": row.margin}  # fmt: skip
        return example, any(len(side) > room for side in sides)

    return _encoded(rows, encode)


def encode_labelled(rows: Sequence[Row], encoder: Encoder, max_length: int) -> Encoded:
    """{"prompt_ids", "completion_ids", "label", "weight"}."""

    def encode(row: Row) -> tuple[Example | None, bool]:
        assert row.completion is not None
        prompt = encoder.prompt_ids(row.prompt)
        room = max_length - len(prompt)
        if room < 1:
            return None, False
        answer = encoder.completion_ids(row.prompt, row.completion)
        example = {
            "prompt_ids": prompt,
            "completion_ids": answer[:room],
            "label": bool(row.label),
            "weight": row.weight,
        }
        return example, len(answer) > room

    return _encoded(rows, encode)


def _encoded(rows: Sequence[Row], encode: Callable[[Row], tuple[Example | None, bool]]) -> Encoded:
    """All rows now; or, where they are read as they are needed, each then: the counts are over the first rows."""
    if isinstance(rows, LazyRows):
        lazy = LazyExamples(rows, encode)
        return lazy, lazy.cut, lazy.dropped
    found = [encode(row) for row in rows]
    examples = [example for example, _ in found if example is not None]
    return examples, sum(cut for _, cut in found), len(found) - len(examples)


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a plain text without a prompt starts with: a token must stand before the first that is predicted."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return [first]


def _common(first: list[int], second: list[int]) -> int:
    length = 0
    for a, b in zip(first, second):
        if a != b:
            break
        length += 1
    return length

"""One example as every stage takes it, whatever the form it came in.

    a row for      its fields
    sft            prompt, completion
    train-rm, dpo  prompt, chosen, rejected
    kto            prompt, completion, label   (a pair is two of these)
    ppo, eval      prompt                      (and the other columns, for Python rewards)

A `prompt` is a list of messages (a dialogue that awaits an answer) or a plain string (continued as it is, with no
chat template, as TRL does). Answers are plain strings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, str]
Prompt = str | list[Message]
ROLES = ("system", "user", "assistant", "tool")


@dataclass
class Row:
    """One example. Unused answers are None; `columns` are the file's other columns.

    `weight` is the row's in the loss; `margin` what other rewards say of a pair (chosen less rejected, weighted).
    """

    prompt: Prompt
    completion: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    label: bool | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    margin: float = 0.0

    @property
    def prompt_text(self) -> str:
        """The prompt as a reward function in Python sees it: see `text_of`."""
        return text_of(self.prompt)

    @property
    def to_imitate(self) -> bool:
        """Whether its answer is a demonstration: not where a column of the file says that it is a bad one."""
        return self.columns.get("label", self.columns.get("kto_tag")) is not False


# Why a row is none; data/checks/kinds.py says what each means.
BadKind = Literal["not UTF-8", "broken line", "missing column", "wrong type", "empty", "same sides", "prompts differ",
                  "bad role", "bad turns", "bad label", "not to be trained", "does not fit"]  # fmt: skip


class BadRow(Exception):
    """One row does not fit; the file's error gathers them."""

    def __init__(self, kind: BadKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def text_of(prompt: Prompt) -> str:
    """A plain prompt as it is; the text of a sole user message; else `role: text` paragraphs."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def whole(row: Row) -> Row:
    """The row as it is. Raises BadRow for text that no tokenizer takes: half of a character, which JSON lets pass."""
    prompt = [row.prompt] if isinstance(row.prompt, str) else [message["content"] for message in row.prompt]
    for text in (*prompt, row.completion, row.chosen, row.rejected):
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])[1:-1]
            raise BadRow("not UTF-8", f"half of a surrogate pair ({half}) stands in the text") from error
    return row

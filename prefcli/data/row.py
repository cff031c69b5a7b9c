"""One example as every stage takes it, whatever the format it came in.

    a row for      its fields
    sft            prompt, completion
    train-rm, dpo  prompt, chosen, rejected
    kto            prompt, completion, label   (a pair is two of these)
    ppo, eval      prompt                      (and the other columns, for Python rewards)

A `prompt` is a list of messages (a dialogue that awaits an answer) or a plain string (continued as it is, with no
chat template, as TRL does). A message is what the file has, whole: the chat template reads what it knows of it. The
tools of a dialogue stand in its first message. An answer is its text; one whose message has more is an `AnswerMessage`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

Message = dict[str, Any]  # "role" and "content", which are text, and whatever else a chat template reads
Prompt = str | list[Message]
ROLES = ("system", "developer", "user", "assistant", "tool")
# Labels as CSV, JSON and people spell them; what is not a letter or a sign counts as a blank.
GOOD = {"true", "1", "1 0", "+1", "yes", "y", "good", "up", "thumbs up", "thumb up", "thumbsup", "like", "liked",
        "positive", "desirable", "👍"}  # fmt: skip
BAD = {"false", "0", "0 0", "-1", "-1 0", "no", "n", "bad", "down", "thumbs down", "thumb down", "thumbsdown",
       "dislike", "disliked", "negative", "undesirable", "👎"}  # fmt: skip
CLASSES = {
    "0",
    "0 0",
    "1",
    "1 0",
    "no",
    "yes",
    "n",
    "y",
    "negative",
    "positive",
}  # beside a demonstration perhaps others
_TONES = re.compile("[\U0001f3fb-\U0001f3ff\ufe0f]")  # of an emoji's skin, and that it is one
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
CALLS = ("tool_calls", "function_call")


def label_of(value: Any) -> bool | None:
    """A label as true or false, in the spellings of files and people; None for what is not a label."""
    spelt = _spelt(value)
    return True if spelt in GOOD else False if spelt in BAD else None


def is_verdict(value: Any) -> bool:
    """Whether a label says good or bad wherever it stands: 0 or "no" may be a class of the prompt, too."""
    return label_of(value) is not None and _spelt(value) not in CLASSES


def _spelt(value: Any) -> str:
    text = _TONES.sub("", str(value).strip().lower())
    return " ".join(re.split(r"[\s_.]+|(?<=\w)-(?=\w)", text))


class AnswerMessage(str):
    """An answer that calls tools, or whose thoughts stand apart: `message` is what the chat template is given, the
    string itself what a person or a reward function reads (see `said`)."""

    message: Message

    def __new__(cls, message: Message) -> AnswerMessage:
        answer = super().__new__(cls, said(message))
        answer.message = message
        return answer

    def __reduce__(self) -> tuple[Any, ...]:
        return AnswerMessage, (self.message,)


def has_parts(answer: str) -> bool:
    """Whether an answer calls tools, or has thoughts that stand apart, which need a chat template."""
    return isinstance(answer, AnswerMessage) and any(answer.message.get(name) for name in (*CALLS, *THOUGHTS))


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
    def answers(self) -> list[str]:
        return [text for text in (self.completion, self.chosen, self.rejected) if text is not None]

    @property
    def to_imitate(self) -> bool:
        """Whether its answer is a demonstration: not where a column of the file says that it is a bad one."""
        label = self.columns.get("label", self.columns.get("kto_tag"))
        return label_of(label) is not False or not is_verdict(label)


# Why a row is none; data/checks/kinds.py says what each means.
BadKind = Literal["not UTF-8", "broken line", "missing column", "wrong type", "empty", "not text", "same sides",
                  "prompts differ", "bad role", "bad turns", "bad label", "not to be trained",
                  "does not fit"]  # fmt: skip


class BadRow(Exception):
    """One row does not fit; the file's error gathers them."""

    def __init__(self, kind: BadKind | Literal["tie", "template refuses"], text: str) -> None:
        super().__init__(text)
        self.kind = kind


# What a conversion of a row raises whose parts are of other kinds than the first rows' are.
ODD = (TypeError, AttributeError, KeyError, ValueError, OverflowError)


def odd(error: Exception) -> BadRow:
    """A row that a conversion does not get through, for one of `ODD`."""
    return BadRow("wrong type", f"a part of the row is not of the kind that the format has there ({error})")


class Tie(BadRow):
    """Answers of which none is better: nothing to learn and nothing wrong. It is left out and counted, but where the
    prompt alone is wanted: `row` has that, None where it is not known."""

    def __init__(self, text: str, row: Row | None = None) -> None:
        super().__init__("tie", text)
        self.row = row

    @staticmethod
    def told(path: str, ties: int, rows: int) -> list[str]:
        """The note on ties among a source's rows, where there are any."""
        return [f"{path}: {ties} of {rows} rows are ties, and left out"] if ties else []


def text_of(prompt: Prompt) -> str:
    """A plain prompt as it is; the text of a sole user message; else `role: text` paragraphs."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return said(prompt[0])
    return "\n\n".join(f"{message['role']}: {said(message)}" for message in prompt)


def said(message: Message) -> str:
    """A message as text: its content, thoughts that stand apart before it between <think> tags, calls behind it as
    JSON."""
    thoughts = [f"<think>\n{message[name]}\n</think>\n" for name in THOUGHTS if message.get(name)]
    calls = [json.dumps(message[name], ensure_ascii=False, default=str) for name in CALLS if message.get(name)]
    return "\n".join(filter(None, (*thoughts, message["content"], *calls)))


def answer_of(message: Message) -> str:
    """An assistant's message as an answer."""
    return AnswerMessage(message) if len(message) > 2 else message["content"]


def message_of(answer: str) -> Message:
    """An answer as the assistant's message."""
    return answer.message if isinstance(answer, AnswerMessage) else {"role": "assistant", "content": answer}


def written(answer: str) -> str | list[Message]:
    """An answer as rows hold it: its text, or the message that has more."""
    return [answer.message] if isinstance(answer, AnswerMessage) else answer


def tools_apart(messages: list[Message]) -> tuple[list[Message], list[Any] | None]:
    """A dialogue without its tools, and these; None where it has none."""
    if not messages or "tools" not in messages[0]:
        return messages, None
    first = dict(messages[0])
    tools = first.pop("tools")
    return [first, *messages[1:]], tools


def whole(row: Row) -> Row:
    """The row as it is. Raises BadRow for text that no tokenizer takes: half of a character, which JSON lets pass."""
    prompt = [row.prompt] if isinstance(row.prompt, str) else [_text(message) for message in row.prompt]
    answers = (_text(text.message) if isinstance(text, AnswerMessage) else text for text in row.answers)
    for text in (*prompt, *answers):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])[1:-1]
            raise BadRow("not UTF-8", f"the text contains half of a surrogate pair ({half})") from error
    return row


def _text(message: Message) -> str:
    """All text of a message."""
    return message["content"] if len(message) == 2 else json.dumps(message, ensure_ascii=False, default=str)

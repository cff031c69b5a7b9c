"""The forms rows come in, and the one form each stage trains on.

    a row for      its fields
    sft            prompt, completion          (and `turns`, where a dialogue has several answers)
    train-rm, dpo  prompt, chosen, rejected
    kto            prompt, completion, label   (a pair is two of these)
    ppo, eval      prompt                      (and the other columns, for Python rewards)

A `prompt` is a list of messages (a dialogue that awaits an answer) or a plain string (continued as it is, with no
chat template, as TRL does). Answers are plain strings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from prefcli.errors import DataError

Message = dict[str, str]
Prompt = str | list[Message]
Purpose = Literal["demos", "pairs", "labelled", "prompts"]
ROLES = ("system", "user", "assistant", "tool")
_TURN = re.compile(r"\n\n(Human|Assistant):[ ]?")

EXPECTED = {
    "demos": "messages, or prompt and completion, or text (or pairs, whose chosen side is taken)",
    "pairs": "prompt, chosen and rejected, or whole dialogues in chosen and rejected",
    "labelled": "prompt, completion and label, or messages and label (or pairs, each side of which is taken)",
    "prompts": "prompt (or any row that holds one: messages, pairs)",
}


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


class BadRow(Exception):
    """One row does not fit; the file's error gathers them."""


def text_of(prompt: Prompt) -> str:
    """A plain prompt as it is; the text of a sole user message; else `role: text` paragraphs."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return prompt[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def recognise(where: str, row: dict[str, Any], purpose: Purpose) -> tuple[str, Any]:
    """The name of a file's form and the function that turns its rows into `Row`s, judged by the first row."""
    columns = set(row)
    if purpose == "demos":
        if "messages" in columns:
            return "messages", _from_messages
        if {"prompt", "completion"} <= columns:
            return "prompt/completion", _from_prompt_completion
        if "text" in columns:
            return "text", lambda raw: Row("", completion=_string(raw, "text"), columns=_others(raw, "text"))
    if purpose == "labelled" and "label" in columns:
        if "messages" in columns:
            return "messages/label", lambda raw: _labelled(_from_messages, raw)
        if {"prompt", "completion"} <= columns:
            return "prompt/completion/label", lambda raw: _labelled(_from_prompt_completion, raw)
    if {"chosen", "rejected"} <= columns:
        name, convert = _pair_form(row)
        if purpose == "demos":  # as the DPO paper does where there are pairs alone (arXiv 2305.18290, section 6)
            return f"{name}, the chosen side", lambda raw: replace(pair := convert(raw), completion=pair.chosen)
        return name, convert
    if purpose == "prompts":
        if "messages" in columns:
            return "messages", _from_messages
        if "prompt" in columns:
            return "prompt", lambda raw: Row(_prompt(raw, "prompt"), columns=_others(raw, "prompt", "completion"))
    found = ", ".join(sorted(map(str, columns))) or "none"
    raise DataError(
        f"{where}: expected columns {EXPECTED[purpose]}; found: {found}",
        "rename the columns, or give another file",
    )


def _pair_form(row: dict[str, Any]) -> tuple[str, Any]:
    if "prompt" in row:
        return "prompt/chosen/rejected", _from_pair
    if isinstance(row["chosen"], str) and _TURN.match(row["chosen"]):
        return "HH dialogues", _from_hh
    return "implicit prompt", _from_implicit


def _from_messages(raw: dict[str, Any]) -> Row:
    messages = _messages(raw, "messages")
    if messages[-1]["role"] != "assistant":
        raise BadRow("'messages' must end with the assistant's answer")
    if len(messages) == 1:
        raise BadRow("'messages' holds an answer and no question")
    return Row(messages[:-1], completion=messages[-1]["content"], columns=_others(raw, "messages"))


def _from_prompt_completion(raw: dict[str, Any]) -> Row:
    return Row(
        _prompt(raw, "prompt"), completion=_answer(raw, "completion"), columns=_others(raw, "prompt", "completion")
    )


LABELS = {"true": True, "1": True, "false": False, "0": False}  # as CSV and JSON spell them


def _labelled(convert: Callable[[dict[str, Any]], Row], raw: dict[str, Any]) -> Row:
    label = LABELS.get(str(raw.get("label")).strip().lower())
    if label is None:
        raise BadRow(f"'label' must be true or false, and is {raw.get('label')!r}")
    return replace(convert({name: value for name, value in raw.items() if name != "label"}), label=label)


def _from_pair(raw: dict[str, Any]) -> Row:
    prompt = _prompt(raw, "prompt")
    if isinstance(prompt, str) and isinstance(raw.get("chosen"), list) and len(raw["chosen"]) > 1:
        return _from_repeated(prompt, raw)
    sides = []
    for side in ("chosen", "rejected"):
        value = raw.get(side)
        if isinstance(prompt, list) and isinstance(value, list) and len(value) > len(prompt):
            # The sides repeat the prompt's turns.
            messages = _messages(raw, side)
            if messages[: len(prompt)] == prompt:
                value = messages[len(prompt) :]
                sides.append(_answer({side: value}, side))
                continue
        sides.append(_answer(raw, side))
    return _pair(prompt, sides[0], sides[1], _others(raw, "prompt", "chosen", "rejected"))


def _from_repeated(prompt: str, raw: dict[str, Any]) -> Row:
    """UltraFeedback's form: the prompt in words, and again as a turn of the whole dialogues in both sides."""
    pair = _from_implicit({name: value for name, value in raw.items() if name != "prompt"})
    assert isinstance(pair.prompt, list)
    if not any(turn["role"] == "user" and turn["content"].strip() == prompt.strip() for turn in pair.prompt):
        raise BadRow("'chosen' and 'rejected' are dialogues in which no user says the 'prompt'")
    return pair


def _from_hh(raw: dict[str, Any]) -> Row:
    sides = [_hh_messages(raw, side) for side in ("chosen", "rejected")]
    return _split_common(sides[0], sides[1], _others(raw, "chosen", "rejected"))


def _from_implicit(raw: dict[str, Any]) -> Row:
    if isinstance(raw.get("chosen"), str) and isinstance(raw.get("rejected"), str):
        raise BadRow("'chosen' and 'rejected' are plain strings and there is no 'prompt' column")
    return _split_common(_messages(raw, "chosen"), _messages(raw, "rejected"), _others(raw, "chosen", "rejected"))


def _split_common(chosen: list[Message], rejected: list[Message], columns: dict[str, Any]) -> Row:
    """Whole dialogues: the prompt is all but the last turn, and must be the same on both sides."""
    for side, messages in (("chosen", chosen), ("rejected", rejected)):
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise BadRow(f"'{side}' must be a dialogue that ends with the assistant's answer")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("'chosen' and 'rejected' differ before their last answer")
    return _pair(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"], columns)


def _pair(prompt: Prompt, chosen: str, rejected: str, columns: dict[str, Any]) -> Row:
    if chosen == rejected:
        raise BadRow("'chosen' and 'rejected' are the same")
    return Row(prompt, chosen=chosen, rejected=rejected, columns=columns)


def _hh_messages(raw: dict[str, Any], side: str) -> list[Message]:
    text = _string(raw, side)
    parts = _TURN.split(text)
    if parts[0].strip() or len(parts) < 3:
        raise BadRow(f"'{side}' must start with '\\n\\nHuman:'")
    roles = {"Human": "user", "Assistant": "assistant"}
    messages: list[Message] = []
    for speaker, content in zip(parts[1::2], parts[2::2]):
        role, content = roles[speaker], content.strip()
        # HH-RLHF has rows where one side speaks twice running: chat templates refuse those, so they are joined.
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n\n" + content
        else:
            messages.append({"role": role, "content": content})
    if not messages[-1]["content"]:
        raise BadRow(f"the last answer of '{side}' is empty")
    return messages


def _prompt(raw: dict[str, Any], column: str) -> Prompt:
    value = raw.get(column)
    if isinstance(value, str):
        if not value.strip():
            raise BadRow(f"'{column}' is empty")
        return value
    messages = _messages(raw, column)
    if messages[-1]["role"] == "assistant":
        raise BadRow(f"'{column}' must end before the assistant's answer")
    return messages


def _answer(raw: dict[str, Any], column: str) -> str:
    """An answer: a string, or a list of one assistant message."""
    value = raw.get(column)
    if isinstance(value, list):
        messages = _messages(raw, column)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise BadRow(f"'{column}' must be one assistant message (or a string)")
        value = messages[0]["content"]
    if not isinstance(value, str):
        raise BadRow(
            f"'{column}' must be a string or a list of messages, not {type(value).__name__}"
            if column in raw
            else f"there is no '{column}'"
        )
    if not value.strip():
        raise BadRow(f"'{column}' is empty")
    return value


def _messages(raw: dict[str, Any], column: str) -> list[Message]:
    value = raw.get(column)
    if column not in raw:
        raise BadRow(f"there is no '{column}'")
    if not isinstance(value, list) or not value:
        raise BadRow(f"'{column}' must be a list of messages")
    messages = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise BadRow(f'\'{column}\' must hold messages {{"role": …, "content": …}} with text in them')
        if message.get("role") not in ROLES:
            raise BadRow(f"'{column}' has the role {message.get('role')!r}; known: {', '.join(ROLES)}")
        messages.append({"role": message["role"], "content": message["content"]})
    if not messages[-1]["content"].strip():
        raise BadRow(f"the last message of '{column}' is empty")
    return messages


def _string(raw: dict[str, Any], column: str) -> str:
    value = raw.get(column)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"'{column}' must be a string that is not empty" if column in raw else f"there is no '{column}'")
    return value


def whole(row: Row) -> Row:
    """The row as it is. Raises BadRow for text that no tokenizer takes: half of a character, which JSON lets pass."""
    prompt = [row.prompt] if isinstance(row.prompt, str) else [message["content"] for message in row.prompt]
    for text in (*prompt, row.completion, row.chosen, row.rejected):
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])[1:-1]
            raise BadRow(f"half of a surrogate pair ({half}) stands in the text") from error
    return row


def _others(raw: dict[str, Any], *used: str) -> dict[str, Any]:
    return {str(name): value for name, value in raw.items() if name not in used}

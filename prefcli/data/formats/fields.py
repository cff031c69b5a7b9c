"""What the forms have in common: reading a column as a prompt, an answer, a list of messages or a label."""

from __future__ import annotations

import json
from typing import Any

from prefcli.data.row import ROLES, BadRow, Message, Prompt, Row

Raw = dict[str, Any]
LABELS = {"true": True, "1": True, "false": False, "0": False}  # as CSV and JSON spell them


def _given(raw: Raw, column: str) -> Any:
    if column not in raw:
        raise BadRow("missing column", f"there is no '{column}'")
    return raw[column]


def prompt_in(raw: Raw, column: str) -> Prompt:
    value = raw.get(column)
    if isinstance(value, str):
        if not value.strip():
            raise BadRow("empty", f"'{column}' is empty")
        return value
    return awaiting(messages_in(raw, column), column)


def awaiting(messages: list[Message], column: str) -> list[Message]:
    """A dialogue that the assistant has not answered yet."""
    if messages[-1]["role"] == "assistant":
        raise BadRow("bad turns", f"'{column}' must end before the assistant's answer")
    return messages


def answer_in(raw: Raw, column: str) -> str:
    """An answer: a string, or a list of one assistant message."""
    value = _given(raw, column)
    if isinstance(value, list):
        messages = messages_in(raw, column)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise BadRow("bad role", f"'{column}' must be one assistant message (or a string)")
        value = messages[0]["content"]
    if not isinstance(value, str):
        raise BadRow("wrong type", f"'{column}' must be a string or a list of messages, not {type(value).__name__}")
    if not value.strip():
        raise BadRow("empty", f"'{column}' is empty")
    return value


def messages_in(raw: Raw, column: str) -> list[Message]:
    value = as_list(_given(raw, column))
    if not isinstance(value, list) or not value:
        raise BadRow("wrong type", f"'{column}' must be a list of messages")
    messages = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise BadRow("wrong type", f'\'{column}\' must hold messages {{"role": …, "content": …}} with text in them')
        if message.get("role") not in ROLES:
            raise BadRow("bad role", f"'{column}' has the role {message.get('role')!r}; known: {', '.join(ROLES)}")
        messages.append({"role": message["role"], "content": message["content"]})
    if not messages[-1]["content"].strip():
        raise BadRow("empty", f"the last message of '{column}' is empty")
    return messages


def trained(raw: Raw, *columns: str) -> Raw:
    """The row as it is. Raises BadRow for an answer marked as none to learn, as OpenAI and ms-swift mark it."""
    for column in columns:
        messages = as_list(raw.get(column))
        for message in messages if isinstance(messages, list) else []:
            if not isinstance(message, dict) or message.get("role") != "assistant":
                continue
            for name, value in (("weight", message.get("weight")), ("loss", message.get("loss"))):
                if value is not None and not value:
                    which = "its answer" if message is messages[-1] else f"an earlier answer of '{column}'"
                    raise BadRow(
                        "not to be trained", f"{which} is marked as not to be trained ({name!r}: {json.dumps(value)})"
                    )
    return raw


def as_list(value: Any) -> Any:
    """A table's column of lists, {"role": […], "content": […]}, as `datasets` once wrote lists of objects."""
    if isinstance(value, dict) and value and all(isinstance(part, list) for part in value.values()):
        return [dict(zip(value, parts)) for parts in zip(*value.values())]
    return value


def answered(messages: list[Message], column: str) -> tuple[list[Message], str]:
    """A dialogue and the assistant's answer that ends it."""
    if messages[-1]["role"] != "assistant":
        raise BadRow("bad turns", f"'{column}' must end with the assistant's answer")
    if len(messages) == 1:
        raise BadRow("bad turns", f"'{column}' holds an answer and no question")
    return messages[:-1], messages[-1]["content"]


def string_in(raw: Raw, column: str) -> str:
    value = _given(raw, column)
    if not isinstance(value, str) or not value.strip():
        raise BadRow("empty", f"'{column}' must be a string that is not empty")
    return value


def optional_in(raw: Raw, column: str) -> str:
    """A text that may be missing, null or empty."""
    value = raw.get(column)
    if value is not None and not isinstance(value, str):
        raise BadRow("wrong type", f"'{column}' must be a string, not {type(value).__name__}")
    return value if value and value.strip() else ""


def label_in(raw: Raw, column: str) -> bool:
    label = LABELS.get(str(raw.get(column)).strip().lower())
    if label is None:
        raise BadRow("bad label", f"'{column}' must be true or false, and is {raw.get(column)!r}")
    return label


def pair(prompt: Prompt, chosen: str, rejected: str, columns: Raw) -> Row:
    if chosen == rejected:
        raise BadRow("same sides", "'chosen' and 'rejected' are the same")
    return Row(prompt, chosen=chosen, rejected=rejected, columns=columns)


def split_common(chosen: list[Message], rejected: list[Message], columns: Raw) -> Row:
    """Whole dialogues: the prompt is all but the last turn, and must be the same on both sides."""
    for side, messages in (("chosen", chosen), ("rejected", rejected)):
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise BadRow("bad turns", f"'{side}' must be a dialogue that ends with the assistant's answer")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("prompts differ", "'chosen' and 'rejected' differ before their last answer")
    return pair(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"], columns)


def others(raw: Raw, *used: str) -> Raw:
    return {str(name): value for name, value in raw.items() if name not in used}

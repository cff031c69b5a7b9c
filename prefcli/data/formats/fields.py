"""Shared by the formats: reading a column as a prompt, an answer, a list of messages or a label."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from prefcli.data.row import CALLS, ROLES, THOUGHTS, BadRow, Message, Prompt, Row, Tie, answer_of, label_of, said

Raw = dict[str, Any]
OTHER_ROLES = {"tool_call": "assistant", "tool_response": "tool"}  # ms-swift's
# Words in the name of a column that says which answer is better, or that belongs to the prompt.
VOTES = {"winner", "preference", "preferences", "preferred", "choice", "choices", "vote", "votes", "label", "labels",
         "feedback", "rating", "ratings", "rank", "ranks", "ranking", "thumb", "thumbs", "like", "liked", "upvotes",
         "downvotes", "score", "scores", "better", "worse", "best", "stars", "grade", "quality", "helpfulness",
         "correctness", "coherence", "complexity", "verbosity"}  # fmt: skip
PARTS = {"tool", "tools", "function", "functions", "image", "images", "picture", "pictures", "audio", "video"}
SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"))  # as columns beside a pair
MARKS = ("weight", "loss")  # about training, not for the template
TEXT_PARTS = ("text", "input_text", "output_text")


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
        value = answer_of(messages[0])
    if not isinstance(value, str):
        raise BadRow("wrong type", f"'{column}' must be a string or a list of messages, not {type(value).__name__}")
    if not value.strip():
        raise BadRow("empty", f"'{column}' is empty")
    return value


def messages_in(raw: Raw, column: str) -> list[Message]:
    """A dialogue, each message whole but for what is null in it (a table has every key in every row)."""
    value = as_list(_given(raw, column))
    if not isinstance(value, list) or not value:
        raise BadRow("wrong type", f"'{column}' must be a list of messages")
    messages = [_message(message, column) for message in value]
    if not said(messages[-1]).strip():
        raise BadRow("empty", f"the last message of '{column}' is empty")
    return messages


def _message(value: Any, column: str) -> Message:
    if not isinstance(value, dict):
        raise BadRow("wrong type", f'\'{column}\' must hold messages {{"role": …, "content": …}} with text in them')
    message = {
        str(name): part
        for name, part in value.items()
        if name not in MARKS and (name in ("role", "content") or part not in (None, []))
    }
    role, content = message.get("role"), message.get("content")
    if isinstance(content, list):
        content = _joined(content, column)
    if role == "tool_call" and isinstance(content, str) and (calls := calls_in(content)):
        message["tool_calls"], content = calls, ""
    if "tool_calls" in message:
        message["tool_calls"] = _calls(message["tool_calls"], column)
    if content is None and any(message.get(name) for name in (*CALLS, *THOUGHTS)):
        content = ""  # as OpenAI writes a call
    if not isinstance(content, str):
        raise BadRow("wrong type", f'\'{column}\' must hold messages {{"role": …, "content": …}} with text in them')
    role = OTHER_ROLES.get(str(role), role)
    if role not in ROLES:
        raise BadRow("bad role", f"'{column}' has the role {role!r}; known: {', '.join(ROLES)}")
    return {"role": role, "content": content, **{k: v for k, v in message.items() if k not in ("role", "content")}}


def _joined(parts: list[Any], column: str) -> str:
    """Content in parts, each on a line of its own, as vLLM has it for templates that read text."""
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else "text" if isinstance(part, str) else None
        if kind not in TEXT_PARTS:
            raise not_text(f"'{column}' holds a part of type {kind!r}")
    texts = [part if isinstance(part, str) else part.get("text") for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise BadRow("wrong type", f'\'{column}\' must hold parts {{"type": "text", "text": …}}')
    return "\n".join(texts)


def not_text(what: str) -> BadRow:
    return BadRow(
        "not text",
        f"{what}: images, audio and video are not read, a model is trained on text alone; drop the column, or take "
        "rows without such parts",
    )


def calls_in(text: str) -> list[Any] | None:
    """Calls of tools that are written as JSON {"name": …, "arguments": …}, one or a list; None for another text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, dict) and "name" in call and "arguments" in call for call in calls):
        return None
    return [{"type": "function", "function": call} for call in calls]


def _calls(value: Any, column: str) -> list[Any]:
    """Calls with their arguments as an object, which most templates write as JSON themselves; OpenAI's are a string."""
    calls = listed(value, f"tool_calls of '{column}'")
    for call in calls:
        function = call.get("function", call)
        if isinstance(function, dict) and isinstance(arguments := function.get("arguments"), str):
            try:
                parsed = json.loads(arguments)
            except (ValueError, RecursionError):
                continue  # the template has it as it is
            if isinstance(parsed, dict):
                function["arguments"] = parsed
    return calls


def listed(value: Any, name: str) -> list[dict[str, Any]]:
    """Objects in a list, or that as JSON, without what is null in them. Raises BadRow."""
    try:
        found = json.loads(value) if isinstance(value, str) else as_list(value)
        found = [found] if isinstance(found, dict) else found
        found = [json.loads(one) if isinstance(one, str) else one for one in found]
    except (ValueError, TypeError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise BadRow("wrong type", f"{name} must be a list of objects, or that as JSON")
    return [_without_nulls(one) for one in found]


def _without_nulls(value: Any) -> Any:
    """A table's objects have each key that any row has: those that this one lacks are null there."""
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


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


def words_of(column: str) -> set[str]:
    """The words of a column's name, whatever stands between them."""
    return set(re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower()))


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
    return messages[:-1], answer_of(messages[-1])


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


def number_of(value: Any) -> float | None:
    """A value as a finite number, which a sheet has as text; None where it is not one."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def label_in(raw: Raw, column: str) -> bool:
    label = label_of(raw.get(column))
    if label is None:
        raise BadRow("bad label", f"'{column}' must be true or false, good or bad, 1 or -1, and is {raw.get(column)!r}")
    return label


def pair(prompt: Prompt, chosen: str, rejected: str, columns: Raw) -> Row:
    if chosen == rejected:
        raise BadRow("same sides", "'chosen' and 'rejected' are the same")
    for names in SCORES:
        one, other = (columns.get(name) for name in names)
        if isinstance(one, int | float) and not isinstance(one, bool) and one == other:
            raise Tie(f"both answers have the score {one:g}", Row(prompt, columns=columns))
    return Row(prompt, chosen=chosen, rejected=rejected, columns=columns)


def split_common(chosen: list[Message], rejected: list[Message], columns: Raw) -> Row:
    """Whole dialogues: the prompt is all but the last turn, and must be the same on both sides."""
    for side, messages in (("chosen", chosen), ("rejected", rejected)):
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise BadRow("bad turns", f"'{side}' must be a dialogue that ends with the assistant's answer")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("prompts differ", "'chosen' and 'rejected' differ before their last answer")
    return pair(chosen[:-1], answer_of(chosen[-1]), answer_of(rejected[-1]), columns)


def others(raw: Raw, *used: str) -> Raw:
    return {str(name): value for name, value in raw.items() if name not in used}

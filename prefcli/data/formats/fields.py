"""Shared by the formats: reading a column as a prompt, an answer, a list of messages or a label."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from prefcli.data.row import (
    CALLS,
    ROLES,
    THOUGHTS,
    BadRow,
    Message,
    Prompt,
    Row,
    Tie,
    answer_of,
    is_verdict,
    label_of,
    said,
)

Raw = dict[str, Any]
OTHER_ROLES = {"tool_call": "assistant", "tool_response": "tool"}  # ms-swift's
# Words in the name of a column that says which answer is better, or that belongs to the prompt.
VOTES = {"winner", "preference", "preferences", "preferred", "choice", "choices", "vote", "votes", "label", "labels",
         "feedback", "rating", "ratings", "rank", "ranks", "ranking", "thumb", "thumbs", "like", "liked", "upvotes",
         "downvotes", "score", "scores", "better", "worse", "best", "stars", "grade", "quality", "helpfulness",
         "correctness", "coherence", "complexity", "verbosity", "safe", "safer"}  # fmt: skip
# How good one answer is, which does not say that it is the better one.
GRADES = {"rating", "ratings", "score", "scores", "stars", "grade", "quality", "helpfulness", "correctness",
          "coherence"}  # fmt: skip
# Not of these: a higher number, or being named, does not make an answer the better one.
CENSURE = {"downvotes", "down", "dislikes", "worse", "worst", "loser", "rejected", "not", "non"}
NO_PRAISE = {*CENSURE, "rank", "ranks", "ranking", "least", "loss", "error", "errors", "toxicity", "toxic",
             "perplexity", "complexity", "verbosity"}  # fmt: skip
# A label whose name has one of these beside censure, thumbs_up_down, says which of the two it is.
PRAISE = {"upvotes", "up", "like", "likes", "liked", "better", "best", "winner", "chosen", "good"}
PARTS = {"tool", "tools", "function", "functions", "image", "images", "picture", "pictures", "audio", "video"}
# As columns beside a pair, by Argilla and distilabel, too: score_chosen, chosen_score, chosen-rating …
SCORES = tuple(
    (name.format("chosen"), name.format("rejected"))
    for word in ("score", "rating", "avg_rating")
    for spelt in (f"{word}_{{}}", f"{{}}_{word}")
    for name in (spelt, spelt.replace("_", "-"))
)
ALL = {"chosen": "all_chosen", "rejected": "all_rejected"}  # columns of RewardBench 2's right and wrong answers
# Columns that belong to a row's own answers: what they score, how far apart they are, where they stand.
OF_ANSWERS = {"messages", "scores", "margin", "kto_tag", *(name for names in SCORES for name in names), *ALL.values()}
BY_WHOM = {"by", "at", "seconds"}  # who decided between the answers, and when
DECIDED = {*BY_WHOM, "shown", "edited", "comment", "reasons", "objectives"}  # with what else such a row says
SAID = ("role", "content", "name", "tool_call_id", "tools")  # in a message, beside calls and thoughts
MARKS = ("weight", "loss")  # about training, not for the template
_PRINTED = re.compile(r"\s*\[\s*\{'(role|content|from|value)': ['\"]")
TEXT_PARTS = ("text", "input_text", "output_text")


def _given(raw: Raw, column: str) -> Any:
    if column not in raw:
        raise BadRow("missing column", f"there is no '{column}'")
    return raw[column]


def _not_printed(value: Any, column: str) -> Any:
    """The value as it is. Raises BadRow for messages as Python prints them, which a sheet made of a table may hold."""
    if isinstance(value, str) and _PRINTED.match(value):
        raise BadRow(
            "wrong type", f"'{column}' holds messages as Python prints them: save the rows as .jsonl or .parquet"
        )
    return value


def prompt_in(raw: Raw, column: str) -> Prompt:
    value = _not_printed(raw.get(column), column)
    if isinstance(value, str):
        if not value.strip():
            raise BadRow("empty", f"'{column}' is empty")
        return value
    return awaiting(messages_in(raw, column), column)


def question_of(raw: Raw, column: str) -> tuple[Raw, tuple[str, ...]]:
    """The row with its question whole, and the columns that it stands in: an instruction continues in `input`, on a
    line of its own, as Alpaca has it."""
    text, more = raw.get(column), raw.get("input")
    if column != "instruction" or not isinstance(text, str) or not isinstance(more, str):
        return raw, (column,)
    return (raw | {column: f"{text}\n{more}"} if more.strip() else raw), (column, "input")


def awaiting(messages: list[Message], column: str) -> list[Message]:
    """A dialogue that the assistant has not answered yet."""
    if messages[-1]["role"] == "assistant":
        raise BadRow("bad turns", f"'{column}' must end before the assistant's answer")
    return messages


def answer_in(raw: Raw, column: str) -> str:
    """An answer: a string, or an assistant message, alone or as a list of one."""
    value = as_list(_not_printed(_given(raw, column), column))
    value = [value] if isinstance(value, dict) else value
    if isinstance(value, list):
        messages = messages_in({column: value}, column)
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
    value = as_list(_not_printed(_given(raw, column), column))
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
    for place, call in enumerate(calls):
        function = call.get("function", call)
        if isinstance(function, dict) and isinstance(arguments := function.get("arguments"), str):
            try:
                parsed = json.loads(arguments)
            except (ValueError, RecursionError):
                continue  # the template has it as it is
            if isinstance(parsed, dict):
                function = function | {"arguments": parsed}
                calls[place] = call | {"function": function} if "function" in call else function
    return calls


def listed(value: Any, name: str) -> list[dict[str, Any]]:
    """Objects in a list, or that as JSON. Raises BadRow."""
    try:
        found = json.loads(value) if isinstance(value, str) else as_list(value)
        found = [found] if isinstance(found, dict) else found
        found = [json.loads(one) if isinstance(one, str) else one for one in found]
    except (ValueError, TypeError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise BadRow("wrong type", f"{name} must be a list of objects, or that as JSON")
    return list(found)


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


def for_other_answers(columns: Raw) -> Raw:
    """The columns without those that belong to the row's own answers, or say how good they are: of other answers, or
    where these are judged anew, they would be wrong."""
    gone = OF_ANSWERS | DECIDED if columns.keys() >= BY_WHOM else OF_ANSWERS
    return {
        name: value
        for name, value in columns.items()
        if name not in gone and not (words_of(name) & VOTES and is_verdict(value))
    }


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


def question_in(messages: list[Message], column: str) -> list[Message]:
    """A dialogue without the answer that may end it."""
    return answered(messages, column)[0] if messages[-1]["role"] == "assistant" else messages


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


def score_of(value: Any) -> float | None:
    """A score beside an answer; None for what is not a number: true and false are not."""
    return None if isinstance(value, bool) else number_of(value)


def label_in(raw: Raw, column: str) -> bool:
    label = label_of(raw.get(column))
    if label is None:
        raise BadRow("bad label", f"'{column}' must be true or false, good or bad, 1 or -1, and is {raw.get(column)!r}")
    return label


def pair(prompt: Prompt, chosen: str, rejected: str, columns: Raw) -> Row:
    if chosen == rejected:
        raise BadRow("same sides", "'chosen' and 'rejected' are the same")
    if (scores := _scores_in(columns)) and not margin_in(columns):
        raise Tie(f"both answers have the score {scores[0][0]:g}", Row(prompt, columns=columns))
    return Row(prompt, chosen=chosen, rejected=rejected, columns=columns)


def margin_in(columns: Raw) -> float | None:
    """By how much a pair's other columns say that chosen is better: a `margin`, or the first two scores that differ."""
    found = [score_of(columns.get("margin")), *(one - other for one, other in _scores_in(columns))]
    return next(filter(None, found), None if found == [None] else 0.0)


def _scores_in(columns: Raw) -> list[tuple[float, float]]:
    found = [(score_of(columns.get(one)), score_of(columns.get(other))) for one, other in SCORES]
    return [(one, other) for one, other in found if one is not None and other is not None]


def split_common(chosen: list[Message], rejected: list[Message], columns: Raw) -> Row:
    """Whole dialogues: the prompt is all but the last turn, and must be the same on both sides."""
    for side, messages in (("chosen", chosen), ("rejected", rejected)):
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise BadRow("bad turns", f"'{side}' must be a dialogue that ends with the assistant's answer")
    if [_heard(message) for message in chosen[:-1]] != [_heard(message) for message in rejected[:-1]]:
        raise BadRow("prompts differ", "'chosen' and 'rejected' differ before their last answer")
    return pair(chosen[:-1], answer_of(chosen[-1]), answer_of(rejected[-1]), columns)


def _heard(message: Message) -> Message:
    """What is said in a message, without an id or a number of tokens beside it."""
    return {name: value for name, value in message.items() if name in (*SAID, *CALLS, *THOUGHTS)}


def others(raw: Raw, *used: str) -> Raw:
    return {str(name): value for name, value in raw.items() if name not in used}

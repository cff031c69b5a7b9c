"""ShareGPT, as LLaMA-Factory reads it: `conversations` of {"from", "value"}, with chosen/rejected or kto_tag."""

from __future__ import annotations

from typing import Any

from prefcli.data.formats.fields import (
    Raw,
    answer_in,
    answered,
    as_list,
    awaiting,
    calls_in,
    label_in,
    messages_in,
    optional_in,
    others,
    pair,
    question_in,
    trained,
)
from prefcli.data.formats.form import Form
from prefcli.data.row import BadRow, Message, Row

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "system": "system",
}


def _turns(raw: Raw, column: str) -> list[Message]:
    turns = as_list(raw.get(column))
    turns = [turns] if isinstance(turns, dict) else turns
    if isinstance(turns, list):
        turns = [_turn(turn, column) for turn in turns]
    return messages_in({column: turns} if column in raw else {}, column)


def _demo_alone(raw: Raw) -> Row:
    turns = as_list(raw.get("conversations"))
    marked = [_turn(turn, "conversations") | turn for turn in turns] if isinstance(turns, list) else []
    trained({"conversations": marked}, "conversations")
    return _demo(raw)


def _turn(turn: Any, column: str) -> Message:
    if isinstance(turn, dict) and {"role", "content"} <= set(turn):  # messages under ShareGPT's name
        return turn
    if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
        raise BadRow("wrong type", f'\'{column}\' must hold turns {{"from": …, "value": …}} with text in them')
    speaker = turn.get("from")
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise BadRow("bad role", f"'{column}' has a turn from {speaker!r}; known: {', '.join(_ROLES)}")
    if speaker == "function_call" and (calls := calls_in(turn["value"])):
        return {"role": "assistant", "content": "", "tool_calls": calls}
    return {"role": _ROLES[speaker], "content": turn["value"]}


def _dialogue(raw: Raw) -> list[Message]:
    """The turns, after the system's of its own column where the dialogue has none."""
    messages = _turns(raw, "conversations")
    system = optional_in(raw, "system")
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _demo(raw: Raw, *used: str) -> Row:
    prompt, answer = answered(_dialogue(raw), "conversations")
    return Row(prompt, completion=answer, columns=others(raw, "conversations", "system", *used))


def _labelled(raw: Raw) -> Row:
    row = _demo(raw, "kto_tag")
    row.label = label_in(raw, "kto_tag")
    return row


def _pair(raw: Raw) -> Row:
    prompt = awaiting(_dialogue(raw), "conversations")
    sides = [
        raw[side] if isinstance(raw.get(side), str) else _turns(raw, side)  # LLaMA-Factory: one turn
        for side in ("chosen", "rejected")
    ]
    chosen, rejected = (answer_in({side: value}, side) for side, value in zip(("chosen", "rejected"), sides))
    return pair(prompt, chosen, rejected, others(raw, "conversations", "system", "chosen", "rejected"))


def _asks(row: Raw) -> bool:
    turns = as_list(row["conversations"])
    last = turns[-1] if isinstance(turns, list) and turns and isinstance(turns[-1], dict) else {}
    return last.get("from", last.get("role")) in ("human", "user")


def _question(raw: Raw) -> Row:
    return Row(question_in(_dialogue(raw), "conversations"), columns=others(raw, "conversations", "system"))


_ASKED = [{"from": "human", "value": "Where is the cup?"}]
_GOOD, _BAD = {"from": "gpt", "value": "On the shelf."}, {"from": "gpt", "value": "No idea."}
FORMS = (
    Form(
        "ShareGPT pairs",
        ("conversations", "chosen", "rejected"),
        "pairs",
        "LLaMA-Factory's ShareGPT preference rows",
        ({"conversations": _ASKED, "chosen": _GOOD, "rejected": _BAD},),
        _pair,
    ),
    Form(
        "ShareGPT/kto_tag",
        ("conversations", "kto_tag"),
        "labelled",
        "LLaMA-Factory's ShareGPT KTO rows",
        ({"conversations": [*_ASKED, _GOOD], "kto_tag": True},),
        _labelled,
    ),
    Form(
        "ShareGPT",
        ("conversations",),
        "demos",
        "dialogues of turns from human and gpt; optionally a system column",
        ({"conversations": [*_ASKED, _GOOD]},),
        _demo_alone,
    ),
    Form(
        "ShareGPT to answer",
        ("conversations",),
        "prompts",
        "dialogues of turns that end before the answer",
        ({"conversations": _ASKED},),
        _question,
        _asks,
    ),
)

"""ms-swift: messages with rejected_response, and the query/response rows of its second version."""

from __future__ import annotations

from prefcli.data.formats.alpaca import dialogue
from prefcli.data.formats.fields import Raw, answer_in, answered, messages_in, others, pair
from prefcli.data.formats.form import Form
from prefcli.data.row import BadRow, Row

_PROMPT = ("query", "system", "history")


def _pair(raw: Raw) -> Row:
    prompt, chosen = answered(messages_in(raw, "messages"), "messages")
    return pair(prompt, chosen, answer_in(raw, "rejected_response"), others(raw, "messages", "rejected_response"))


def _whole_pair(raw: Raw) -> Row:
    prompt, chosen = answered(messages_in(raw, "messages"), "messages")
    other, rejected = answered(messages_in(raw, "rejected_messages"), "rejected_messages")
    if prompt != other:
        raise BadRow("prompts differ", "'messages' and 'rejected_messages' differ before their last answer")
    return pair(prompt, chosen, rejected, others(raw, "messages", "rejected_messages"))


def _query_pair(raw: Raw) -> Row:
    columns = others(raw, *_PROMPT, "response", "rejected_response")
    return pair(dialogue(raw, "query"), answer_in(raw, "response"), answer_in(raw, "rejected_response"), columns)


def _query(raw: Raw) -> Row:
    return Row(dialogue(raw, "query"), completion=answer_in(raw, "response"), columns=others(raw, *_PROMPT, "response"))


_ASKED = {"role": "user", "content": "Where is the cup?"}
_GOOD, _BAD = ({"role": "assistant", "content": text} for text in ("On the shelf.", "No idea."))
FORMS = (
    Form(
        "ms-swift pairs",
        ("messages", "rejected_response"),
        "pairs",
        "ms-swift's preference rows: a dialogue, and the answer that was rejected",
        ({"messages": [_ASKED, _GOOD], "rejected_response": "No idea."},),
        _pair,
    ),
    Form(
        "ms-swift, two dialogues",
        ("messages", "rejected_messages"),
        "pairs",
        "ms-swift's preference rows with whole dialogues",
        ({"messages": [_ASKED, _GOOD], "rejected_messages": [_ASKED, _BAD]},),
        _whole_pair,
    ),
    Form(
        "ms-swift queries, pairs",
        ("query", "response", "rejected_response"),
        "pairs",
        "ms-swift 2's preference rows; optionally system and history",
        ({"query": "Where is the cup?", "response": "On the shelf.", "rejected_response": "No idea."},),
        _query_pair,
    ),
    Form(
        "ms-swift queries",
        ("query", "response"),
        "demos",
        "ms-swift's query and response",
        ({"query": "Where is the cup?", "response": "On the shelf."},),
        _query,
    ),
)

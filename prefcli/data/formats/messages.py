"""messages: a dialogue that ends with the assistant's answer, alone or with a label."""

from __future__ import annotations

from dataclasses import replace

from prefcli.data.formats.fields import Raw, answered, as_list, label_in, messages_in, others, question_in, trained
from prefcli.data.formats.form import Form
from prefcli.data.row import Row


def convert(raw: Raw) -> Row:
    prompt, answer = answered(messages_in(raw, "messages"), "messages")
    return Row(prompt, completion=answer, columns=others(raw, "messages"))


def _labelled(raw: Raw) -> Row:
    label = label_in(raw, "label")
    return replace(convert(others(raw, "label")), label=label)


def asks(row: Raw) -> bool:
    """Whether its messages end before the answer."""
    turns = as_list(row["messages"])
    return isinstance(turns, list) and bool(turns) and isinstance(turns[-1], dict) and turns[-1].get("role") == "user"


_DIALOGUE = [{"role": "user", "content": "Where is the cup?"}, {"role": "assistant", "content": "On the shelf."}]
FORMS = (
    Form(
        "messages/label",
        ("messages", "label"),
        "labelled",
        "ms-swift's KTO rows: a dialogue, and whether its last answer is good",
        ({"messages": _DIALOGUE, "label": True},),
        _labelled,
    ),
    Form(
        "messages",
        ("messages",),
        "demos",
        "TRL, ms-swift and OpenAI: a dialogue whose answers are learnt",
        ({"messages": _DIALOGUE},),
        lambda raw: convert(trained(raw, "messages")),
    ),
    Form(
        "messages to answer",
        ("messages",),
        "prompts",
        "dialogues that end before the answer, as those for rewards that can be verified",
        ({"messages": _DIALOGUE[:1]},),
        lambda raw: Row(question_in(messages_in(raw, "messages"), "messages"), columns=others(raw, "messages")),
        asks,
    ),
)

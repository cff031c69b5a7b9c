"""OpenAI's preference fine-tuning: input.messages, preferred_output, non_preferred_output."""

from __future__ import annotations

from prefcli.data.formats.fields import Raw, answer_in, awaiting, messages_in, others, pair
from prefcli.data.formats.form import Form
from prefcli.data.row import BadRow, Row

_SIDES = ("preferred_output", "non_preferred_output")


def _convert(raw: Raw) -> Row:
    asked = raw.get("input")
    if not isinstance(asked, dict):
        raise BadRow("wrong type", "'input' must be an object {\"messages\": […]}")
    prompt = awaiting(messages_in(asked, "messages"), "input.messages")
    chosen, rejected = (answer_in(raw, side) for side in _SIDES)
    tools = {"tools": asked["tools"]} if asked.get("tools") else {}
    return pair(prompt, chosen, rejected, others(raw, "input", *_SIDES) | tools)


FORMS = (
    Form(
        "OpenAI preferences",
        ("input", *_SIDES),
        "pairs",
        "OpenAI's preference fine-tuning rows",
        (
            {
                "input": {"messages": [{"role": "user", "content": "Where is the cup?"}]},
                "preferred_output": [{"role": "assistant", "content": "On the shelf."}],
                "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
            },
        ),
        _convert,
    ),
)

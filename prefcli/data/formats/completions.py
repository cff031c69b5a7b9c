"""prompt/completion: plain or conversational (TRL), alone or with a label."""

from __future__ import annotations

from dataclasses import replace

from prefcli.data.formats.fields import Raw, answer_in, label_in, others, prompt_in, trained
from prefcli.data.formats.form import Form
from prefcli.data.row import Row


def convert(raw: Raw) -> Row:
    return Row(
        prompt_in(raw, "prompt"), completion=answer_in(raw, "completion"), columns=others(raw, "prompt", "completion")
    )


def _labelled(raw: Raw) -> Row:
    label = label_in(raw, "label")
    return replace(convert(others(raw, "label")), label=label)


_PROMPT = [{"role": "user", "content": "Where is the cup?"}]
_ANSWER = [{"role": "assistant", "content": "On the shelf."}]
FORMS = (
    Form(
        "prompt/completion/label",
        ("prompt", "completion", "label"),
        "labelled",
        "TRL's unpaired preference rows: an answer, and whether it is good",
        (
            {"prompt": "Where is the cup?", "completion": "On the shelf.", "label": True},
            {"prompt": _PROMPT, "completion": _ANSWER, "label": False},
        ),
        _labelled,
    ),
    Form(
        "prompt/completion",
        ("prompt", "completion"),
        "demos",
        "TRL: an answer to imitate, plain or as messages",
        (
            {"prompt": "Where is the cup?", "completion": "On the shelf."},
            {"prompt": _PROMPT, "completion": _ANSWER},
        ),
        lambda raw: convert(trained(raw, "prompt", "completion")),
    ),
)

"""chosen/rejected as whole dialogues, the prompt being what both share: as message lists, and as in HH-RLHF."""

from __future__ import annotations

import re
from typing import Any

from prefcli.data.formats.fields import Raw, awaiting, messages_in, others, split_common, string_in
from prefcli.data.formats.form import Form
from prefcli.data.row import BadRow, Message, Prompt, Row

_TURN = re.compile(r"\n\n(Human|Assistant):[ ]?")
_HELPSTEER = re.compile(r"\n*<extra_id_1>(User|Assistant)\n")
_ROLES = {"Human": "user", "User": "user", "Assistant": "assistant"}


def from_dialogues(raw: Raw) -> Row:
    if isinstance(raw.get("chosen"), str) and isinstance(raw.get("rejected"), str):
        raise BadRow("missing column", "'chosen' and 'rejected' are plain strings and there is no 'prompt' column")
    return split_common(messages_in(raw, "chosen"), messages_in(raw, "rejected"), others(raw, "chosen", "rejected"))


def _from_hh(raw: Raw) -> Row:
    sides = [_hh_messages(raw, side) for side in ("chosen", "rejected")]
    return split_common(sides[0], sides[1], others(raw, "chosen", "rejected"))


def turns_of(text: str, column: str) -> Prompt:
    """A prompt as messages, where it is a dialogue written as HH-RLHF or HelpSteer2 writes them; else as it is."""
    if text.startswith("\n\nHuman:"):
        return hh_prompt(text, column)
    first, *rest = _HELPSTEER.split(text)
    turns = [("User", first), *zip(rest[::2], rest[1::2])]
    turns = turns[:-1] if turns[-1][0] == "Assistant" and not turns[-1][1].strip() else turns
    return awaiting([{"role": _ROLES[who], "content": said} for who, said in turns], column) if rest else text


def hh_prompt(text: str, column: str) -> list[Message]:
    """A prompt as HH-RLHF writes it, with the answer's turn open behind it or not."""
    return awaiting(_hh_messages({column: re.sub(r"\n\nAssistant:\s*$", "", text)}, column), column)


def _hh_messages(raw: Raw, side: str) -> list[Message]:
    text = string_in(raw, side)
    parts = _TURN.split(text)
    if parts[0].strip() or len(parts) < 3:
        raise BadRow("bad turns", f"'{side}' must start with '\\n\\nHuman:'")
    messages: list[Message] = []
    for speaker, content in zip(parts[1::2], parts[2::2]):
        role, content = _ROLES[speaker], content.strip()
        # HH-RLHF has rows where one side speaks twice running: chat templates refuse those, so they are joined.
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += "\n\n" + content
        else:
            messages.append({"role": role, "content": content})
    if not messages[-1]["content"]:
        raise BadRow("empty", f"the last turn of '{side}' is empty")
    return messages


def is_hh(side: Any) -> bool:
    """Whether a side of a pair is a dialogue as HH-RLHF writes it."""
    return isinstance(side, str) and _TURN.match(side) is not None


_QUESTION = {"role": "user", "content": "Where is the cup?"}
FORMS = (
    Form(
        "HH dialogues",
        ("chosen", "rejected"),
        "pairs",
        "HH-RLHF: dialogues as text with \\n\\nHuman: and \\n\\nAssistant:",
        (
            {
                "chosen": "\n\nHuman: Where is the cup?\n\nAssistant: On the shelf.",
                "rejected": "\n\nHuman: Where is the cup?\n\nAssistant: No idea.",
            },
        ),
        _from_hh,
        lambda row: "prompt" not in row and is_hh(row["chosen"]),
    ),
    Form(
        "implicit prompt",
        ("chosen", "rejected"),
        "pairs",
        "TRL's preference rows without a prompt: whole dialogues on both sides",
        (
            {
                "chosen": [_QUESTION, {"role": "assistant", "content": "On the shelf."}],
                "rejected": [_QUESTION, {"role": "assistant", "content": "No idea."}],
            },
        ),
        from_dialogues,
        lambda row: "prompt" not in row and not isinstance(row["chosen"], str),
    ),
)
